"""The offline store that Feast loads by dotted path: `offline_store: {type: features.offline.store.LakeOfflineStore}`."""

# Feast fixes these signatures; what we do not need of them stays unused.
# ruff: noqa: ARG002, ARG004
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from features.columns import EVENT_TIMESTAMP
from features.offline.frames import all_rows, join, latest
from features.tables import ARROW_TYPES
from infra.lake import Lake
from infra.settings import Settings


class LakeOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Which lake: secrets and S3 endpoints come from the settings of the process, never from the file."""

    type: str = "features.offline.store.LakeOfflineStore"
    home: str
    shop: str

    def lake(self) -> Lake:
        """The lake of this shop, with the settings of this process.

        Raises:
            SettingsError: a `SHOPGRAPH_` variable is unknown or does not fit.
        """
        return Lake.open(Settings.load(home=Path(self.home), shop=self.shop))


class LakeRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A frame that is computed when it is asked for."""

    def __init__(self, compute: Callable[[], pa.Table], full_feature_names: bool, metadata: RetrievalMetadata | None) -> None:
        self._compute = compute
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._compute().to_pandas()
        return frame

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        raise NotImplementedError("saved data sets are not kept here; a training run records the table versions it read.")


class LakeOfflineStore(OfflineStore):  # type: ignore[misc]
    """Exact point-in-time reads of the lake. The created time always counts, whether or not Feast is asked to filter by it."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        if not isinstance(entity_df, pd.DataFrame):
            raise TypeError("entity_df must be a pandas frame with the key columns and event_timestamp.")
        asked: dict[str, list[str]] = {}
        for ref in feature_refs:
            called, column = ref.split(":")
            asked.setdefault(called, []).append(column)
        views = {view.projection.name_to_use(): view.batch_source.view for view in feature_views}
        names = {
            views[called].name: {c: f"{called}__{c}" if full_feature_names else c for c in columns}
            for called, columns in asked.items()
        }

        def compute() -> pa.Table:
            labels = pa.Table.from_pandas(entity_df, preserve_index=False)
            return as_feast(join(labels, [views[called] for called in asked], names, config.offline_store.lake()))

        keys = [key for key in entity_df.columns if key != EVENT_TIMESTAMP]
        times = entity_df[EVENT_TIMESTAMP] if EVENT_TIMESTAMP in entity_df else pd.Series(dtype="datetime64[us, UTC]")
        metadata = RetrievalMetadata(feature_refs, keys, times.min(), times.max())
        return LakeRetrievalJob(compute, full_feature_names, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        view = data_source.view
        return LakeRetrievalJob(lambda: as_feast(latest(view, end_date, config.offline_store.lake(), start_date)), False, None)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        view = data_source.view
        return LakeRetrievalJob(lambda: as_feast(all_rows(view, config.offline_store.lake(), start_date, end_date)), False, None)


def as_feast(rows: pa.Table) -> pa.Table:
    """`rows` with dates as ISO text, the only form in which Feast can hold them."""
    dates = [i for i, field in enumerate(rows.schema) if field.type == ARROW_TYPES["date"]]
    for i in dates:
        rows = rows.set_column(i, rows.schema.field(i).name, rows.column(i).cast(pa.string()))
    return rows
