"""A table of the lake as a Feast data source. It carries the whole view, so both plug-ins know keys, types and expiry exactly."""

# Feast fixes these signatures; what we do not need of them stays unused.
# ruff: noqa: ARG002
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.views import View
from infra.errors import TableContractError

VALUE_TYPES: dict[str, ValueType] = {
    "string": ValueType.STRING,
    "strings": ValueType.STRING_LIST,
    "int": ValueType.INT64,
    "float": ValueType.DOUBLE,
    "bool": ValueType.BOOL,
    "timestamp": ValueType.UNIX_TIMESTAMP,
    "date": ValueType.STRING,
}
"""Our type -> Feast's. Feast has no date: it sees ISO text such as 2011-10-01."""


class LakeSource(DataSource):  # type: ignore[misc]
    """The table behind one view."""

    def __init__(self, view: View, description: str = "") -> None:
        super().__init__(
            name=view.path.replace("/", "_"),
            timestamp_field=EVENT_TIMESTAMP,
            created_timestamp_column=CREATED_TIMESTAMP,
            description=description,
        )
        self.view = view

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeSource) and super().__eq__(other) and self.view == other.view

    def __hash__(self) -> int:
        return int(super().__hash__())

    def source_type(self) -> Any:
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> LakeSource:
        return LakeSource(View.from_json(data_source.custom_options.configuration), data_source.description)

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{LakeSource.__module__}.{LakeSource.__name__}",
            custom_options=DataSourceProto.CustomSourceOptions(configuration=self.view.to_json().encode()),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            description=self.description,
        )

    def validate(self, config: RepoConfig) -> None:
        """Hold the declared columns against the table, where it was built already.

        Raises:
            TableContractError: the table lacks a declared column.
        """
        lake = config.offline_store.lake()
        if lake.version(self.view.path) is None:
            return
        missing = sorted(set(self.view.schema.names) - set(lake.dataset(self.view.path).schema.names))
        if missing:
            raise TableContractError(f"table {self.view.path} lacks declared column(s) {', '.join(missing)}; rebuild it.")

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        return [*self.view.keys, *self.view.columns, (EVENT_TIMESTAMP, "timestamp"), (CREATED_TIMESTAMP, "timestamp")]

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        return VALUE_TYPES.__getitem__

    def get_table_query_string(self) -> Any:
        raise NotImplementedError(f"{self.view.path} is a Delta table of the lake; read it with infra.lake.Lake.")
