"""How far the features of a model moved since the table versions it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from features.quality.drift import Drift, drift, worst
from features.quality.report import Reports
from features.services import SERVICES
from features.tables import FEATURE_TABLES, RAW_TABLES, Table
from infra.lake import Lake
from infra.pins import Pin, pins

_TABLES: dict[str, Table] = {table.path: table for table in (*RAW_TABLES.values(), *FEATURE_TABLES.values())}


@dataclass(frozen=True)
class Trained:
    """A model version and the table versions that stood when it was trained: path -> version."""

    model: str
    version: int
    tables: Mapping[str, int]


@dataclass(frozen=True)
class ModelDrift:
    """The features of one model, the farthest first. `unknown`: tables that no quality report speaks of, and why."""

    trained: Trained
    newest: Mapping[str, int]
    features: tuple[Drift, ...]
    unknown: Mapping[str, str]


def trained_on(lake: Lake, model: str, version: int, read: Mapping[str, int], at: datetime) -> Trained:
    """What a model was trained on: the versions its run read, and of the other tables of its service those that stood `at` then."""
    views = SERVICES[model].views if model in SERVICES else ()
    tables = dict(read)
    for path in (view.path for view in views):
        if path not in tables and lake.version(path) is not None:
            stood = [int(entry["version"]) for entry in lake.history(path) if entry["timestamp"] <= at.timestamp() * 1000]
            if stood:
                tables[path] = max(stood)
    return Trained(model, version, tables)


def newest_models(lake: Lake) -> list[Trained]:
    """The newest registered version of each model that pins its tables, in order of their names."""
    newest: dict[str, tuple[int, Pin]] = {}
    for pin in pins(lake):
        if pin.kind == "model":
            name, _, version = pin.name.rpartition("-")
            newest[name] = max(newest.get(name, (-1, pin)), (int(version), pin), key=lambda one: one[0])
    return [
        trained_on(lake, name.rpartition(".")[2], version, pin.tables, datetime.fromisoformat(pin.since))
        for name, (version, pin) in sorted(newest.items())
    ]


def model_drift(lake: Lake, trained: Trained) -> ModelDrift:
    """Every feature of the model's tables between the version it was trained on and the newest, from the kept reports alone."""
    reports = Reports(lake)
    found: list[Drift] = []
    newest: dict[str, int] = {}
    unknown: dict[str, str] = {}
    for path, version in trained.tables.items():
        then, now = reports.of(path, version), reports.newest(path)
        if then is None or now is None:
            unknown[path] = f"no quality report of version {version} is kept"
            continue
        newest[path] = now.version if now.version is not None else version
        names = [column.name for column in _TABLES[path].features] if path in _TABLES else list(then.window)
        window_then, window_now = then.window, now.window
        found += [
            drift(path, name, window_then[name], window_now[name]) for name in names if name in window_then and name in window_now
        ]
    return ModelDrift(trained, newest, tuple(worst(found)), unknown)
