"""Undo: take back a load, and all that was derived from it.

What one ingest committed belongs together, what it read is read again afterwards. Feature tables go back to their newest version that
nothing of the load went into; where no version holds what the raw tables now give, they are built. All tables go back through one
journal; then the online rows are made anew and replace the old ones at one instant. A killed undo is finished by the same command.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.fs as pafs

from features.shop import Shop
from features.store import FeatureStore
from infra.errors import TableContractError
from infra.home import Home
from infra.journal import SUFFIX, Journal, TakeBack
from infra.lake import DIGEST, MODE, NUM_ROWS, RESTORED, Lake, reached, standing
from infra.pins import Pin, pins
from infra.settings import Settings
from infra.vacuum import committed_at
from spark_jobs.build import build
from spark_jobs.job import Job
from spark_jobs.jobs import in_order, jobs_of
from spark_jobs.sources import seen

_OPEN = f"undo{SUFFIX}"
"""Names the feature tables that an undo has yet to build; there from before the first table goes back until the online rows have."""

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """One table that goes back. `to`: None: to before its first version; `kept`: later versions whose rows stay; rows before and after."""

    path: str
    version: int
    to: int | None
    kept: tuple[int, ...]
    rows_before: int
    rows_after: int


@dataclass(frozen=True)
class Plan:
    """What an undo touches.

    `built`: feature tables that are built again; `views`: whose online rows are made anew; `trained`: who pinned a version that is
    taken back; `read_again`: what the next ingest reads again, source and part.
    """

    tables: tuple[Change, ...] = ()
    built: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    trained: tuple[Pin, ...] = ()
    read_again: tuple[tuple[str, str], ...] = ()
    online: dict[str, int] = field(default_factory=dict)
    """View -> rows written, once it is done."""


def plan(lake: Lake, shop: Shop, tables: Sequence[str], to: int | datetime) -> Plan:
    """What `undo` would do; nothing is changed.

    Raises:
        TableContractError: as `undo`.
    """
    histories = {path: lake.history(path) for path in lake.tables()}
    targets = _targets(histories, lake, tables, to)
    taken = {
        _load(entry)
        for path, target in targets.items()
        for entry in standing(histories[path])
        if target is None or int(entry["version"]) > target
    }
    changes = []
    for path, history in histories.items():
        if path in targets:
            target = targets[path]
            changes += [_change(lake, path, history, target, ())] if _differs(lake, path, history, target) else []
        elif not path.startswith("features/"):
            changes += _without(lake, path, history, taken)
    derived, built = _derived(lake, jobs_of(shop), histories, changes)
    changes += derived
    gone = {change.path: -1 if change.to is None else change.to for change in changes}
    gone |= {f"features/{name}": -1 for name in built if f"features/{name}" not in gone}
    views = tuple(view.name for view in shop.definitions.views.values() if view.online and view.path in gone)
    trained = tuple(pin for pin in pins(lake) if any(version > gone.get(path, version) for path, version in pin.tables.items()))
    again: tuple[tuple[str, str], ...] = ()
    if seen.PATH in gone:
        again = tuple((row["source"], row["part"]) for row in seen.Seen.load(lake).rows if row["ingest"] in taken)
    return Plan(tuple(changes), tuple(built), views, trained, again)


def undo(settings: Settings, tables: Sequence[str], to: int | datetime, on_step: Callable[[str], None] | None = None) -> Plan:
    """Take raw tables back to a version or a time, with what the same loads brought to others and all that was derived.

    Args:
        tables: raw tables such as `raw/orders`; none: all, to a time.
        to: a version of the one table that is named, or a time (aware).
        on_step: told what is being done.

    Returns:
        What was done.

    Raises:
        TableContractError: no such table or version, a version that was taken back or vacuumed, a time before the first version.
        HomeError: a build or an ingest of this shop is running.
    """
    say = on_step or (lambda _: None)
    home = Home(settings).create()
    shop = Shop.load(home)
    lake = Lake.open(settings, shop.name)
    with home.lock(f"build-{shop.name}"), home.lock(f"ingest-{shop.name}"):
        journal = Journal(lake, "ingest")
        journal.recover()
        say("looking at what was derived")
        found = plan(lake, shop, tables, to)
        open_ = _open(lake, jobs_of(shop))
        if not found.tables and open_ is None:
            return found
        names = sorted({*found.built, *(open_ or ())})
        lake.save(_OPEN, json.dumps(names))
        say("taking tables back")
        name = uuid.uuid4().hex
        journal.commit([TakeBack(c.path, c.to, c.kept, name, c.version) for c in found.tables])
    if names:
        build(settings, names, on_table=lambda table: say(f"building {table}"))
    say("making online rows anew")
    online = FeatureStore(settings, shop, lake).materialize(back_to={})
    lake.filesystem.delete_file(lake.on_filesystem(lake.uri(_OPEN)))
    return Plan(found.tables, tuple(names), tuple(online), found.trained, found.read_again, online)


# -- what goes back ---------------------------------------------------------------------------------------------------------


def _targets(histories: Mapping[str, History], lake: Lake, tables: Sequence[str], to: int | datetime) -> dict[str, int | None]:
    """Where each named table, or every raw one, is to go; those that stay where they are among them."""
    raw = [path for path in histories if path.startswith("raw/")]
    named = [table if "/" in table else f"raw/{table}" for table in tables]
    for path in named:
        if path.startswith("features/") and path in histories:
            raise TableContractError(f"table {path} is built from others; restore those, or `shopgraph build` it.")
        if path not in raw:
            raise TableContractError(f"shop {lake.shop} has no raw table {path}; there are {', '.join(raw) or 'none'}.")
    if isinstance(to, int):
        if len(named) != 1:
            raise TableContractError(f"version {to}: versions are counted table by table; name one table, or give a time.")
        return {named[0]: _version(named[0], histories[named[0]], to)}
    # all that is loaded: also what was read, and what was refused
    loaded = [path for path in histories if not path.startswith("features/")]
    targets = {path: _at(histories[path], to) for path in named or loaded}
    first = min((committed_at(histories[path][-1]) for path in targets), default=None)
    if all(target is None for target in targets.values()):
        told = f"the first version is of {first.isoformat(timespec='seconds')}" if first else "it has no raw table"
        raise TableContractError(f"shop {lake.shop} had none of these tables at {to.isoformat()}; {told}.")
    for path, target in targets.items():
        if target is not None:
            _version(path, histories[path], target)
    return targets


def _version(path: str, history: History, version: int) -> int:
    newest = int(history[0]["version"])
    if not any(int(entry["version"]) == version for entry in history):
        raise TableContractError(
            f"table {path} has no version {version}; it has 0 to {newest}, `shopgraph tables log {path}` tells them."
        )
    if not any(int(entry["version"]) == version for entry in reached(history)):
        raise TableContractError(
            f"version {version} of table {path} was taken back itself; `shopgraph tables log {path}` tells which stand. To load "
            "again what it held, run `shopgraph ingest`."
        )
    return version


def _at(history: History, time: datetime) -> int | None:
    """The newest version at a time."""
    return next((int(entry["version"]) for entry in history if committed_at(entry) <= time), None)


def _differs(lake: Lake, path: str, history: History, target: int | None) -> bool:
    newest = int(history[0]["version"])
    if target is None:
        return lake.num_rows(path) > 0
    return lake.rows_of(path, newest) != lake.rows_of(path, target)


def _load(entry: Mapping[str, Any]) -> str:
    """What names the load that a commit was part of."""
    return str(entry.get("ingest") or entry.get(DIGEST) or f"{entry['timestamp']}")


def _without(lake: Lake, path: str, history: History, taken: set[str]) -> list[Change]:
    """The table without what some loads brought it, if they brought anything that stands."""
    mine, others = [], []
    for entry in standing(history):
        if _load(entry) in taken:
            mine.append(int(entry["version"]))
        elif entry.get(MODE) == "overwrite":
            break  # nothing of what came before is left
        else:
            others.append(int(entry["version"]))
    if not mine:
        return []
    to = next((version for entry in reached(history) if (version := int(entry["version"])) < min(mine)), None)
    kept = tuple(sorted(version for version in others if to is None or version > to))
    return [_change(lake, path, history, to, kept)]


def _change(lake: Lake, path: str, history: History, to: int | None, kept: tuple[int, ...]) -> Change:
    rows = 0 if to is None else lake.num_rows(path, to)
    rows += sum(int(entry.get(NUM_ROWS, 0)) for entry in history if int(entry["version"]) in kept)
    return Change(path, int(history[0]["version"]), to, kept, lake.num_rows(path), rows)


# -- what was derived -------------------------------------------------------------------------------------------------------


def _derived(
    lake: Lake, jobs: Mapping[str, Job], histories: Mapping[str, History], changes: Sequence[Change]
) -> tuple[list[Change], list[str]]:
    """The feature tables that go back, each after what it reads, and the names of those that have to be built then."""
    gone = {change.path: -1 if change.to is None else change.to for change in changes}
    holds = {change.path: lake.rows_of(change.path, change.to) for change in changes if change.to is not None and not change.kept}
    derived, built = [], []
    for name in in_order([], jobs):
        path = jobs[name].table.path
        if path not in histories:
            continue
        history = histories[path]
        tainted = _tainted(history, gone)
        if not tainted[int(history[0]["version"])]:
            continue
        to = next((version for entry in reached(history) if not tainted[version := int(entry["version"])]), None)
        gone[path] = -1 if to is None else to
        if to is None:
            built.append(name)
            continue
        derived.append(_change(lake, path, history, to, ()))
        holds[path] = lake.rows_of(path, to)
        inputs = _inputs(lake.entry(path, to))
        if any(_now(lake, table.path, gone, holds) != inputs.get(table.path) for table in jobs[name].reads):
            built.append(name)
            del holds[path]
    return derived, built


def _tainted(history: History, gone: Mapping[str, int]) -> dict[int, bool]:
    """Of each version whether anything went into it that is taken back: versions of its inputs above those in `gone`."""
    found: dict[int, bool] = {}
    for entry in reversed(history):
        version, mode = int(entry["version"]), entry.get(MODE)
        if mode == "restore":
            restored = json.loads(entry[RESTORED])
            found[version] = restored is not None and found.get(restored, False)
            continue
        hit = any(of > gone.get(path, of) for path, of in _inputs(entry).items())
        goes_on = mode != "overwrite" or "between" in entry  # its other rows are those of the version before
        found[version] = hit or (goes_on and found.get(version - 1, False))
    return found


def _inputs(entry: Mapping[str, Any]) -> dict[str, int]:
    inputs: dict[str, int] = json.loads(entry.get("inputs", "{}"))
    return inputs


def _now(lake: Lake, path: str, gone: Mapping[str, int], holds: Mapping[str, int]) -> int | None:
    """The version whose rows a table will hold; -1 for rows that no version holds yet."""
    if path in gone:
        return holds.get(path, -1)
    version = lake.version(path)
    return None if version is None else lake.rows_of(path, version)


def _open(lake: Lake, jobs: Mapping[str, Job]) -> list[str] | None:
    """What an undo that was killed has yet to build; None where none was."""
    path = lake.on_filesystem(lake.uri(_OPEN))
    if lake.filesystem.get_file_info(path).type is not pafs.FileType.File:
        return None
    with lake.filesystem.open_input_file(path) as file:
        names: list[str] = json.loads(file.read())
    return [name for name in names if name in jobs]
