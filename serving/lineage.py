"""From an answer back to the files it came from: graph version, models and their runs, feature rows with their times, tables, sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, USER_ID
from features.definitions import OURS
from features.shop import Shop
from infra.errors import ModelNotFoundError, ReleaseError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from infra.vacuum import committed_at
from serving.graph import Manifest
from serving.releases import Releases
from serving.request_log import RequestLog
from training.tracking import Tracking

_FILES = "ingest/files"
"""The table in which an ingest notes what it read."""
_FILE = ("source", "part", "size", "num_rows", "digest")


@dataclass(frozen=True)
class Trained:
    """A model of the graph, and the run that made it."""

    name: str
    version: int
    digest: str
    run_id: str
    run_name: str = ""
    git_commit: str = ""
    began: datetime | None = None
    tables: Mapping[str, int] = field(default_factory=dict)
    """Path -> version it learned from."""
    missing: str = ""
    """Why the run cannot be told of."""


@dataclass(frozen=True)
class Read:
    """A row that the tables had of the person at the instant of the answer, and so its features; None: they had none."""

    view: str
    became_true: datetime | None
    known_since: datetime | None


@dataclass(frozen=True)
class TableVersion:
    """A version of a table that the answer stands on, by way of models, features or other tables."""

    path: str
    version: int
    committed_at: datetime | None
    inputs: Mapping[str, int]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Lineage:
    """All of it."""

    request: Mapping[str, Any]
    manifest: Manifest
    models: tuple[Trained, ...]
    features: tuple[Read, ...]
    tables: tuple[TableVersion, ...]
    files: tuple[Mapping[str, Any], ...]
    """What was read of the sources: source, part, size, rows, digest."""


def lineage(settings: Settings, name: str) -> Lineage:
    """Where the answer with this request id, or the list of this name, came from.

    Raises:
        ReleaseError: nothing is logged under that name.
        EngineError: the release database or MLflow does not answer.
    """
    shop = Shop.load(Home(settings), settings.shop)
    lake = Lake.open(settings, shop.name)
    row = RequestLog(settings, lake).find(name)
    if row is None:
        raise ReleaseError(
            f"no request or list {name!r} is logged; the log is a second or two behind, and takes a share (SHOPGRAPH_REQUEST_LOG)."
        )
    manifest = Releases(settings, shop.name).manifest(row["graph_version"])
    models = tuple(_trained(Tracking(settings, shop.name), manifest, model) for model in manifest.models)
    views = [view for service in _services(manifest) for view in OURS.service(service).views]
    wanted = {path: version for model in models for path, version in model.tables.items()} or dict(manifest.tables)
    for view in views:
        if view.path not in wanted and (version := _version_at(lake, view.path, row["answered_at"])) is not None:
            wanted[view.path] = version
    tables = _walk(lake, wanted)
    sources = {source for table in tables for source in table.sources}
    files = lake.read(_FILES).to_pylist() if sources and lake.version(_FILES) is not None else []
    return Lineage(
        request=row,
        manifest=manifest,
        models=models,
        features=tuple(_reads(lake, row, [view for view in views if view.key_names == (USER_ID,)])),
        tables=tables,
        files=tuple({key: file[key] for key in _FILE} for file in files if file["source"] in sources),
    )


def _services(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(service for node in manifest.nodes for service in node.services))


def _trained(tracking: Tracking, manifest: Manifest, model: str) -> Trained:
    pin = manifest.models[model]
    try:
        found = tracking.origin(model, str(pin.version))
    except ModelNotFoundError as error:
        return Trained(model, pin.version, pin.digest, pin.run_id, missing=str(error))
    return Trained(
        model,
        pin.version,
        pin.digest,
        pin.run_id,
        found.run_name,
        found.git_commit,
        found.began,
        tables=dict(sorted(found.inputs.items())),
    )


def _reads(lake: Lake, row: Mapping[str, Any], views: list[Any]) -> list[Read]:
    """The newest row of the person in each view that was true and known at the instant of the answer."""
    found = []
    for view in {view.name: view for view in views}.values():
        if row["person"] is None or lake.version(view.path) is None:
            continue
        seen = (
            (pc.field(USER_ID) == row["person"])
            & (pc.field(EVENT_TIMESTAMP) <= row["as_of"])
            & (pc.field(CREATED_TIMESTAMP) <= row["as_of"])
        )
        rows = lake.read(view.path, columns=[EVENT_TIMESTAMP, CREATED_TIMESTAMP], filter=seen).to_pylist()
        times = max(((one[EVENT_TIMESTAMP], one[CREATED_TIMESTAMP]) for one in rows), default=(None, None))
        found.append(Read(view.name, *times))
    return found


def _version_at(lake: Lake, path: str, at: datetime) -> int | None:
    """The version that a table had at an instant."""
    if lake.version(path) is None:
        return None
    before = [int(entry["version"]) for entry in lake.history(path) if committed_at(entry) <= at]
    return max(before, default=None)


def _walk(lake: Lake, wanted: Mapping[str, int]) -> tuple[TableVersion, ...]:
    """These table versions and all that they were built from, each before what it is made of."""
    found: dict[tuple[str, int], TableVersion] = {}
    waiting = list(wanted.items())
    while waiting:
        path, version = waiting.pop(0)
        if (path, version) in found:
            continue
        entry = lake.entry(path, version) if lake.version(path) is not None else {}
        inputs = {str(name): int(number) for name, number in json.loads(entry.get("inputs", "{}")).items() if number is not None}
        at = committed_at(entry) if "timestamp" in entry else None
        sources = _sources(lake, path, version) if path.startswith("raw/") else ()
        found[path, version] = TableVersion(path, version, at, inputs, sources)
        waiting += inputs.items()
    return tuple(found.values())


def _sources(lake: Lake, path: str, version: int) -> tuple[str, ...]:
    """The sources whose rows a version of a raw table holds."""
    if lake.version(path) is None:
        return ()
    entries = (lake.entry(path, number) for number in range(version + 1))
    return tuple(sorted({str(source) for entry in entries for source in json.loads(entry.get("sources", "[]"))}))
