"""The online store and the batch engine that Feast loads by dotted path.

`feast materialize`, `feast serve` and `get_online_features` then work on the same packed rows that `features.store` reads and
writes without Feast's protobuf layer. Feast itself keeps whole seconds of a timestamp and no dates: it sees those as ISO text.
"""

# Feast fixes these signatures; what we do not need of them stays unused.
# ruff: noqa: ARG002
from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.offline.source import VALUE_TYPES
from features.online.materialize import add, materialize
from features.online.packing import from_microseconds, key_texts, pack_rows
from features.online.read import read_columns
from features.online.rows import Rows, open_rows
from features.views import View
from infra import log
from infra.home import Home
from infra.settings import Settings


class PackedOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Which home and shop; the Redis address, if any, comes from the settings of the process, never from the file."""

    type: str = "features.online.store.PackedOnlineStore"
    home: str
    shop: str

    def settings(self) -> Settings:
        return Settings.load(home=Path(self.home), shop=self.shop)

    def rows(self) -> Rows:
        return open_rows(self.settings(), self.shop)


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]
    """Feast's interface to packed rows."""

    def __init__(self) -> None:
        self._rows: Rows | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        view: View = table.batch_source.view
        rows = []
        for key, values, event, created in data:
            event = _utc(event)
            row: dict[str, Any] = dict(zip(key.join_keys, map(feast_value_type_to_python_type, key.entity_values), strict=True))
            row |= {name: feast_value_type_to_python_type(value) for name, value in values.items()}
            rows.append({**row, EVENT_TIMESTAMP: event, CREATED_TIMESTAMP: event if created is None else _utc(created)})
        loose = pa.Table.from_pylist(rows, schema=_loose(view.schema))
        self._open(config).write(view, pack_rows(view, loose.cast(view.schema)), progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        view: View = table.batch_source.view
        parts = [
            dict(zip(key.join_keys, map(feast_value_type_to_python_type, key.entity_values), strict=True)) for key in entity_keys
        ]
        keys = key_texts([[p[name] for p in parts] for name in view.key_names])
        events, values = read_columns(self._open(config), {view: keys})[view]
        wanted = set(requested_features or view.column_names)
        protos = {
            name: python_values_to_proto_values([v.isoformat() if type(v) is date else v for v in values[name]], VALUE_TYPES[kind])
            for name, kind in view.columns
            if name in wanted
        }
        return [
            (None, None) if event is None else (from_microseconds(event), {name: column[i] for name, column in protos.items()})
            for i, event in enumerate(events)
        ]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        for table in tables_to_delete:
            self._open(config).drop(table.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        for table in tables:
            self._open(config).drop(table.name)

    def _open(self, config: RepoConfig) -> Rows:
        if self._rows is None:
            self._rows = config.online_store.rows()
        return self._rows


class LakeComputeEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """No choice to make."""

    type: str = "features.online.store.LakeComputeEngine"


class LakeComputeEngine(ComputeEngine):  # type: ignore[misc]
    """Materialises straight from the lake into packed rows."""

    def update(self, *_: Any, **__: Any) -> None:
        """There is nothing to prepare."""

    def teardown_infra(self, *_: Any, **__: Any) -> None:
        """There is nothing to take down."""

    def _materialize_one(self, registry: BaseRegistry, task: MaterializationTask, **_: Any) -> MaterializationJob:
        view: View = task.feature_view.batch_source.view
        since = None if task.disable_event_timestamp else _utc(task.start_time)
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        lake = self.repo_config.offline_store.lake()
        try:
            if lake.version(view.path) is None:
                log.get(__name__).warning("table was not built yet; nothing to materialise", table=view.path)
            else:
                online, until = self.repo_config.online_store, _utc(task.end_time)
                rows, home = online.rows(), Home(online.settings()).create()
                if since is None:
                    materialize([view], until, lake, rows, home)
                else:
                    add(view, since, until, lake, rows, home)
        except Exception as error:  # Feast carries a job's error to its caller inside the job
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _loose(schema: pa.Schema) -> pa.Schema:
    """The schema with dates as the ISO text that Feast hands over."""
    return pa.schema([field.with_type(pa.string()) if pa.types.is_date(field.type) else field for field in schema])
