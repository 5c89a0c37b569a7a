"""Labels: their keys and times in a view's types, and files of them in one order and in types that both engines know.

Spark's workers read with it too: importing it takes pyarrow and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.columns import EVENT_TIMESTAMP
from features.tables import ARROW_TYPES
from features.views import View
from infra.errors import FeatureError

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Piece:
    """One row group of a file; `first` is the number of its first row among all labels."""

    file: str
    group: int
    first: int
    num_rows: int


@dataclass(frozen=True)
class Labels:
    """Labels in Parquet files: rows numbered from 0, files in order of their path, then as they lie in the file.

    `schema` are the columns as a frame holds them, in plain types; see `plain`.
    """

    pieces: tuple[Piece, ...]
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        return sum(piece.num_rows for piece in self.pieces)

    @classmethod
    def find(cls, path: Path) -> Labels:
        """The labels of a Parquet file, of a folder of them, or of a Delta table; only footers are read.

        Raises:
            FeatureError: there are none, a file is damaged or has other columns than the first, or a column's type is none of ours.
            TableContractError: a Delta table that cannot be read.
        """
        files = _files(path)
        pieces, schema, first = [], None, 0
        for file in files:
            try:
                with pq.ParquetFile(file) as footer:
                    found = footer.schema_arrow
                    sizes = [footer.metadata.row_group(n).num_rows for n in range(footer.num_row_groups)]
            except (pa.ArrowInvalid, OSError) as error:
                raise FeatureError(
                    f"labels: {file} is no whole Parquet file ({str(error).splitlines()[0]}); write it again."
                ) from None
            named = pa.schema([(field.name, plain(field)) for field in found])
            if schema is not None and named != schema:
                raise FeatureError(
                    f"labels: {file} has the columns {_told(named)}, {files[0]} has {_told(schema)}; expected one schema."
                )
            schema = named
            for group, size in enumerate(sizes):
                pieces.append(Piece(str(file), group, first, size))
                first += size
        assert schema is not None  # there is a file
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise FeatureError(f"labels: two columns are called {', '.join(twice)}; rename one.")
        return cls(tuple(pieces), schema)

    def batches(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """The rows of a piece in order, in `schema`."""
        with pq.ParquetFile(piece.file) as file:
            for rows in file.iter_batches(BATCH_ROWS, row_groups=[piece.group]):
                columns = [
                    rows.column(field.name).cast(field.type, safe=not pa.types.is_timestamp(field.type)) for field in self.schema
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def read(self) -> pa.Table:
        """All labels, in order."""
        return pa.Table.from_batches((rows for piece in self.pieces for rows in self.batches(piece)), self.schema)


def label_times(labels: pa.Table) -> pa.ChunkedArray:
    """The labels' `event_timestamp` as microseconds UTC; a time without a zone is UTC, what is finer is cut off.

    Raises:
        FeatureError: the column is missing, no timestamp, or holds null.
    """
    if EVENT_TIMESTAMP not in labels.column_names:
        raise FeatureError(f"labels need a column {EVENT_TIMESTAMP}; got {', '.join(labels.column_names)}.")
    times = labels[EVENT_TIMESTAMP]
    if not pa.types.is_timestamp(times.type):
        raise FeatureError(f"labels: {EVENT_TIMESTAMP} must be a timestamp, it is {times.type}.")
    if times.null_count:
        raise FeatureError(f"labels: {EVENT_TIMESTAMP} holds {times.null_count} null(s); a label needs a time.")
    return times.cast(ARROW_TYPES["timestamp"], safe=False)


def label_keys(labels: pa.Table, view: View) -> list[pa.ChunkedArray]:
    """The view's key columns out of `labels`, in the view's types.

    Raises:
        FeatureError: one is missing or cannot be read as its type.
    """
    missing = [name for name in view.key_names if name not in labels.column_names]
    if missing:
        raise FeatureError(f"view {view.name} needs key column(s) {', '.join(missing)}; got {', '.join(labels.column_names)}.")
    keys = []
    for name, kind in view.keys:
        try:
            keys.append(labels[name].cast(ARROW_TYPES[kind]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FeatureError(f"key {name} must be a {kind}, it is {labels[name].type}: {error}") from None
    return keys


def plain(field: pa.Field) -> pa.DataType:
    """The type in which a frame holds a label column: one that Spark knows too.

    Texts of any kind, and columns without any value, become strings, unsigned numbers the next larger signed ones, times
    microseconds (what is finer is cut off).

    Raises:
        FeatureError: there is none, as for times of day, durations and nested values other than lists of a plain type.
    """
    kind = field.type
    if pa.types.is_dictionary(kind):
        return plain(field.with_type(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_unsigned_integer(kind) and kind.bit_width < 64:
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[kind.bit_width]
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_field.with_name(field.name)))
    known = (
        pa.types.is_string, pa.types.is_signed_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean,
        pa.types.is_date32, pa.types.is_decimal128, pa.types.is_binary,
    )  # fmt: skip
    if any(is_known(kind) for is_known in known):
        return kind
    raise FeatureError(
        f"labels: column {field.name} is of type {kind}, which a frame cannot hold; drop it or write it as another type."
    )


def _files(path: Path) -> list[Path]:
    if (path / "_delta_log").is_dir():
        from infra.lake import foreign_table

        table = foreign_table(str(path.resolve()))
        if table.fragments is None or any(
            set(table.schema.names) != set(f.physical_schema.names) for f in table.fragments.values()
        ):
            raise FeatureError(
                f"labels: Delta table {path} has deletion vectors, column mapping or partitions, so its files alone do not say its "
                "rows; write a plain copy or Parquet files."
            )
        found = sorted(Path(file) for file in table.fragments)
        found = [file if file.is_absolute() else path / file for file in found]
    elif path.is_dir():
        found = sorted(
            file
            for file in path.rglob("*.parquet")
            if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        )
    elif path.is_file():
        found = [path]
    else:
        raise FeatureError(f"no labels at {path}: expected a Parquet file, a folder of them or a Delta table.")
    if not found:
        raise FeatureError(f"no labels in {path}: expected at least one .parquet file.")
    return [file.resolve() for file in found]


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
