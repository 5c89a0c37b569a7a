"""Pins: who still needs which versions of a shop's tables.

A registered model is only worth something while the rows it was trained on can be read, so a vacuum leaves the versions that are
pinned. One small JSON file per holder beside the tables: whoever shares the lake sees them, and no server has to run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow.fs as pafs

from infra.errors import TableContractError
from infra.lake import Lake

FOLDER = "pins"
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Pin:
    """The versions that one holder needs. `kind` is run, model or graph; `tables`: path -> version; `since`: ISO 8601, UTC."""

    kind: str
    name: str
    tables: Mapping[str, int]
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def holder(self) -> str:
        """What people call it: `model sample.demand-3`."""
        return f"{self.kind} {self.name}"


def pin(lake: Lake, kind: str, name: str, tables: Mapping[str, int]) -> None:
    """Keep these versions from being vacuumed, in place of what the holder pinned before.

    Raises:
        ValueError: a name that is no file name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a pin")
    lake.save(_path(kind, name), json.dumps(vars(Pin(kind, name, dict(tables))), sort_keys=True, ensure_ascii=False))


def unpin(lake: Lake, kind: str, name: str) -> bool:
    """Let go of what a holder pinned; whether it had pinned anything."""
    path = lake.on_filesystem(lake.uri(_path(kind, name)))
    if lake.filesystem.get_file_info(path).type is not pafs.FileType.File:
        return False
    lake.filesystem.delete_file(path)
    return True


def pins(lake: Lake) -> list[Pin]:
    """Every pin of the shop, in order of kind and name.

    Raises:
        TableContractError: a file among them is none of ours: what it held cannot be known.
    """
    selector = pafs.FileSelector(lake.on_filesystem(lake.uri(FOLDER)), allow_not_found=True)
    found = []
    for info in lake.filesystem.get_file_info(selector):
        if not info.base_name.endswith(".json"):
            continue
        with lake.filesystem.open_input_file(info.path) as file:
            try:
                content = json.loads(file.read())
                found.append(
                    Pin(content["kind"], content["name"], {p: int(v) for p, v in content["tables"].items()}, content["since"])
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                raise TableContractError(f"{info.path} is no pin of ours; restore it from a backup, or delete it.") from None
    return sorted(found, key=lambda pin: (pin.kind, pin.name))


def _path(kind: str, name: str) -> str:
    return f"{FOLDER}/{kind}-{name}.json"
