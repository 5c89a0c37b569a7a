"""Typed sources (Parquet, Delta, databases): their columns in the few plain types that everything is brought to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from infra.errors import IngestError

BATCH_ROWS = 65_536
PART, ROW, PROBLEM, TEXT = "__part", "__row", "__problem", "__text"
OURS = {PART: pa.int64(), ROW: pa.int64(), PROBLEM: pa.string(), TEXT: pa.string()}
"""Beside a source's own columns: place of its part, number of the record, and for one without columns why and how it reads."""


def parquet_schema(path: Path) -> pa.Schema:
    """Columns of a Parquet file, from its footer.

    Raises:
        IngestError: it is no Parquet file, or a truncated one.
    """
    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise IngestError(f"{path} is no whole Parquet file ({str(error).splitlines()[0]}); export it again.") from None


def parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, `BATCH_ROWS` at a time.

    Raises:
        IngestError: the file is damaged; told when the damage is reached.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS)
    except (pa.ArrowInvalid, OSError) as error:
        raise IngestError(f"{path} is damaged: {str(error).splitlines()[0]}; export it again.") from None


def fragment_batches(fragment: ds.Fragment, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of one file of a Delta table, partition values filled in."""
    yield from fragment.to_batches(schema=schema, batch_size=BATCH_ROWS)


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are one column to Spark, which ignores their case; None where each is its own."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            return seen[name.lower()], name
        seen[name.lower()] = name
    return None


def family(type: pa.DataType) -> str:
    """number, text, time or bool: a change from one to another is a retyped column."""
    if pa.types.is_dictionary(type):
        return family(type.value_type)
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "number"
    if pa.types.is_temporal(type):
        return "time"
    return "bool" if pa.types.is_boolean(type) else "text"


def plain(type: pa.DataType) -> pa.DataType:
    """The type a source type is read as: one that Spark knows and that loses nothing a raw table could hold.

    Times of day, durations, binaries, lists and structs become text (JSON where nested).
    """
    if pa.types.is_dictionary(type):
        return plain(type.value_type)
    if pa.types.is_signed_integer(type) or (pa.types.is_unsigned_integer(type) and type.bit_width < 64):
        return pa.int64()
    if pa.types.is_uint64(type):
        return pa.decimal128(20, 0)
    if pa.types.is_floating(type):
        return pa.float64()
    if pa.types.is_timestamp(type):
        return pa.timestamp("us", tz="UTC" if type.tz else None)
    if pa.types.is_date(type):
        return pa.date32()
    if pa.types.is_decimal(type) and type.precision <= 38:
        return pa.decimal128(type.precision, type.scale)
    return type if pa.types.is_boolean(type) else pa.string()


def to_plain(column: pa.Array, type: pa.DataType) -> pa.Array:
    """`column` as the plain `type`; nested values become JSON text."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == type:
        return column
    if pa.types.is_nested(column.type):
        return pa.array([None if v is None else json.dumps(v, default=str, ensure_ascii=False) for v in column.to_pylist()], type)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return pa.array([None if v is None else v.hex() for v in column.to_pylist()], type)
    if pa.types.is_temporal(column.type) and not pa.types.is_timestamp(type) and not pa.types.is_date(type):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], type)
    return pc.cast(column, type, safe=not pa.types.is_timestamp(type))  # nanoseconds are cut to microseconds
