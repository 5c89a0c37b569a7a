"""What happened to a table, version by version, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from infra.lake import KEPT, MODE, NUM_ROWS, RESTORED, ROWS_OF, Lake, reached
from infra.vacuum import committed_at, waste


@dataclass(frozen=True)
class Logged:
    """One version of a table.

    `num_rows`: that the commit wrote, of an append the added ones; None where it does not say. `what`: what happened, `inputs`:
    table path -> version it was built from, `holders`: who pins it. `stands`: no later restore took it back; `readable`: its files
    are there.
    """

    version: int
    at: datetime
    num_rows: int | None
    what: str
    inputs: Mapping[str, int]
    holders: tuple[str, ...]
    stands: bool
    readable: bool


def log(lake: Lake, path: str) -> list[Logged]:
    """Every version of a table, newest first.

    Raises:
        TableContractError: the table does not exist, or a pin cannot be read.
    """
    history = lake.history(path)
    standing = {int(entry["version"]) for entry in reached(history)}
    kept = {kept.version: kept for kept in waste(lake, path, timedelta(0)).versions}
    return [
        Logged(
            version := int(entry["version"]),
            committed_at(entry),
            int(entry[NUM_ROWS]) if NUM_ROWS in entry else None,
            _what(entry),
            json.loads(entry.get("inputs", "{}")),
            kept[version].holders if version in kept else (),
            version in standing,
            version not in kept or kept[version].fate != "gone",
        )
        for entry in history
    ]


def _what(entry: Mapping[str, Any]) -> str:
    mode = entry.get(MODE)
    if mode == "restore":
        restored, kept = json.loads(entry[RESTORED]), json.loads(entry[KEPT])
        told = "taken back to before version 0" if restored is None else f"taken back to version {restored}"
        return told + (f", with what versions {', '.join(map(str, kept))} appended" if kept else "")
    if mode == "compact":
        return f"compacted, rows of version {entry[ROWS_OF]}"
    told = {"append": "appended", "overwrite": "written anew"}.get(str(mode), str(entry.get("operation", "unknown")).lower())
    if "sources" in entry:
        return f"{told}: ingest of {', '.join(json.loads(entry['sources']))}"
    if "between" in entry:
        return f"{told}: built from {' to '.join(json.loads(entry['between']))}"
    return f"{told}: built" if "inputs" in entry else told
