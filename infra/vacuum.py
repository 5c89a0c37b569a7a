"""Retention: which old versions of a table somebody still needs, and the files that nobody does.

A version stays while it is the newest, was replaced a short while ago, or is pinned. What goes are files; the log of every version,
our lineage, stays whole. Killed half-way, a vacuum leaves fewer files to the next one.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import pyarrow.fs as pafs

from infra.lake import PINS, Lake, files_of
from infra.pins import Pin, pins

Fate = Literal["newest", "held", "shared", "goes", "gone"]
"""Of a version: held by somebody, none of its files goes since others need them, some go, some are gone already."""

_COMMIT = re.compile(r"\d{20}\.json")
_UNNAMED = timedelta(days=7)
"""Age at which a file that no version names is taken for a dead writer's: no attempt takes a week."""


@dataclass(frozen=True)
class Kept:
    """One version: when another took its place, who holds it, what becomes of it."""

    version: int
    until: datetime | None
    holders: tuple[str, ...]
    fate: Fate


@dataclass(frozen=True)
class Waste:
    """What a vacuum of one table deletes: `files`, names below its folder that no version which stays needs."""

    path: str
    versions: tuple[Kept, ...]
    files: tuple[str, ...]
    num_bytes: int


class _Span(NamedTuple):
    """A file was part of the versions from `first` to just before `end`."""

    name: str
    first: int
    end: int


def waste(lake: Lake, path: str, older_than: timedelta, held: Sequence[Pin] | None = None) -> Waste:
    """What of a table nobody needs: files of versions that were replaced longer ago than `older_than` and that no pin names.

    Args:
        held: the pins of the shop, where the caller has read them.

    Raises:
        TableContractError: the table does not exist, or a pin cannot be read.
    """
    table = lake.table(path)
    newest, now = table.version(), datetime.now(UTC)
    entries = {int(entry["version"]): entry for entry in table.history()}
    pinned: dict[int, list[str]] = defaultdict(list)
    for pin in pins(lake) if held is None else held:
        if path in pin.tables:
            pinned[pin.tables[path]].append(pin.holder)
    until: dict[int, datetime] = {}
    holders: dict[int, list[str]] = {}
    for version, entry in sorted(entries.items()):
        holders[version] = list(pinned[version])
        if version == newest:
            continue
        until[version] = committed_at(entries[version + 1]) if version + 1 in entries else now
        if PINS not in entry:
            holders[version].append("unknown: made before pins were kept")
        if now - until[version] < older_than:
            holders[version].append(f"everybody: newest until less than {older_than / timedelta(days=1):g} days ago")
    spans = list(_spans(lake, path, newest))
    # what an earlier home dropped from the log was made before pins were kept
    stays = {version for version, told in holders.items() if told} | {newest, *range(min(entries))}
    needed = {span.name for span in spans if any(span.first <= version < span.end for version in stays)} | files_of(table)
    named = {span.name for span in spans} | needed
    present = {info.path: info for info in _files(lake, path)}
    oldest = now - max(_UNNAMED, older_than)
    dead = [name for name, info in present.items() if name not in needed and (name in named or info.mtime < oldest)]
    of_version = {v: {span.name for span in spans if span.first <= v < span.end} for v in entries}
    fates: dict[int, Fate] = {}
    for version, files in of_version.items():
        if version == newest:
            fates[version] = "newest"
        elif not files <= present.keys():
            fates[version] = "gone"
        elif holders[version]:
            fates[version] = "held"
        else:
            fates[version] = "goes" if files & set(dead) else "shared"
    versions = tuple(Kept(v, until.get(v), tuple(holders[v]), fates[v]) for v in sorted(entries, reverse=True))
    return Waste(path, versions, tuple(sorted(dead)), sum(present[name].size for name in dead))


def vacuum(lake: Lake, found: Waste) -> None:
    """Delete what `waste` found. The caller has held the locks of the table's writers since before it looked."""
    where = lake.on_filesystem(lake.uri(found.path))
    for name in found.files:
        with suppress(FileNotFoundError):
            lake.filesystem.delete_file(f"{where}/{name}")


def committed_at(entry: Mapping[str, Any]) -> datetime:
    """When a commit of a table's history was made, in UTC."""
    return datetime.fromtimestamp(int(entry["timestamp"]) / 1000, UTC)


def _spans(lake: Lake, path: str, newest: int) -> Iterator[_Span]:
    """Which versions each file was part of, from the log. Where the first commits are gone, a file is taken to be as old as the table."""
    open_since: dict[str, int] = {}
    selector = pafs.FileSelector(lake.on_filesystem(f"{lake.uri(path)}/_delta_log"))
    commits = sorted(
        (i for i in lake.filesystem.get_file_info(selector) if _COMMIT.fullmatch(i.base_name)), key=lambda i: i.base_name
    )
    for info in commits:
        version = int(info.base_name[:20])
        with lake.filesystem.open_input_file(info.path) as file:
            actions = [json.loads(line) for line in file.read().decode().splitlines()]
        for action in actions:
            if "remove" in action:
                name = unquote(action["remove"]["path"])
                yield _Span(name, open_since.pop(name, 0), version)
        for action in actions:
            if "add" in action:
                open_since.setdefault(unquote(action["add"]["path"]), version)
    for name, first in open_since.items():
        yield _Span(name, first, newest + 1)


class _File(NamedTuple):
    """A data file: its name below the table's folder, bytes, and when it was written."""

    path: str
    size: int
    mtime: datetime


def _files(lake: Lake, path: str) -> Iterator[_File]:
    """The data files that lie in a table's folder."""
    base = lake.on_filesystem(lake.uri(path)).rstrip("/") + "/"
    for info in lake.filesystem.get_file_info(pafs.FileSelector(base.rstrip("/"), recursive=True)):
        name = info.path.removeprefix(base)
        if info.is_file and name.endswith(".parquet") and not name.startswith("_delta_log/"):
            yield _File(name, info.size, info.mtime or datetime.now(UTC))
