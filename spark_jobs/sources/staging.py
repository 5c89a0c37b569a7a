"""From parts to Parquet beside the lake, a chunk at a time: memory stays bounded, and every error of reading comes before Spark.

Staged rows have the source's columns in plain types, and three of ours: `__part` (place in the list of parts), `__row` (number
of the record in it) and, for records that have no columns at all, `__problem` and `__text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.mapping import Source
from infra.errors import IngestError
from infra.lake import Lake
from spark_jobs.sources.arrow_files import OURS, PART, ROW, family, plain, to_plain, twins
from spark_jobs.sources.parts import Part

_CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class StagedPart:
    """A part that was read: its rows, its columns' families of types, and how far the source was read with it."""

    part: Part
    num_rows: int
    columns: dict[str, str]
    cursor: str | None


@dataclass(frozen=True)
class Staged:
    """The new rows of one source as Parquet files."""

    source: Source
    schema: pa.Schema
    files: tuple[str, ...]
    parts: tuple[StagedPart, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(part.num_rows for part in self.parts)

    @property
    def columns(self) -> dict[str, str]:
        """The source's own columns -> their family of types."""
        return {field.name: family(field.type) for field in self.schema if field.name not in OURS}


def check_columns(source: Source, parts: Sequence[Part]) -> None:
    """Before a row is read: no column twice, none named as ours, and one family of types per column over all parts.

    Raises:
        IngestError: naming the columns and the part.
    """
    found: dict[str, tuple[str, str]] = {}
    for part in parts:
        if part.schema is None:
            continue
        if pair := twins(part.schema.names):
            first, name = pair
            other = "" if first == name else f" (beside `{first}`)"
            raise IngestError(f"{part.name}: column `{name}` comes twice{other}; columns need names of their own. Rename one.")
        if taken := [name for name in part.schema.names if name in OURS]:
            raise IngestError(f"{part.name}: column `{taken[0]}` bears a name that the ingest itself uses; rename it.")
        for field in part.schema:
            kind, where = found.setdefault(field.name, (family(field.type), part.name))
            if kind != family(field.type) and field.name not in source.retyped:
                raise IngestError(
                    f"source {source.name}: column `{field.name}` holds {kind} in {where} and {family(field.type)} in {part.name}; "
                    "export it with one type, or make two sources."
                )


def stage(source: Source, parts: Sequence[Part], lake: Lake, uri: str, on_rows: Callable[[int], None]) -> Staged:
    """Read all parts into Parquet files under `uri`.

    Raises:
        IngestError: a part cannot be read to its end, or a column is spelled in two ways.
    """
    known = _unified([part.schema for part in parts if part.schema is not None])
    files: list[str] = []
    schemas: list[pa.Schema] = []
    read: list[StagedPart] = []
    for index, part in enumerate(parts):
        num_rows, cursor = 0, part.cursor
        columns: dict[str, str] = {}
        for table in _readable(part, _chunks(part, known, index)):
            path = f"{uri}/{len(files):06d}.parquet"
            lake.filesystem.create_dir(lake.on_filesystem(uri), recursive=True)
            pq.write_table(table, lake.on_filesystem(path), filesystem=lake.filesystem)
            files.append(path)
            schemas.append(table.schema)
            num_rows += table.num_rows
            columns |= {field.name: family(field.type) for field in table.schema if field.name not in OURS}
            cursor = _furthest(source, table) or cursor
            on_rows(table.num_rows)
        if part.schema is not None:
            columns = {field.name: family(field.type) for field in part.schema}
        read.append(StagedPart(part, num_rows, columns, cursor))
    ours = pa.schema(list(OURS.items()))
    own = pa.schema([field for field in _unified([known, *schemas]) if field.name not in OURS])
    if pair := twins(own.names):
        raise IngestError(f"source {source.name}: `{pair[0]}` in some rows is `{pair[1]}` in others; spell a column one way.")
    return Staged(source, pa.unify_schemas([own, ours]), tuple(files), tuple(read))


def _chunks(part: Part, known: pa.Schema, index: int) -> Iterator[pa.Table]:
    """The part's rows in tables of some size, in plain types, with our own columns."""
    waiting: list[pa.Table] = []
    number = 0
    for batch in part.batches():
        if batch.num_rows == 0:
            continue
        columns = {
            name: to_plain(batch.column(position), OURS.get(name) or _type(known, name) or plain(batch.schema.field(position).type))
            for position, name in enumerate(batch.schema.names)
        }
        columns.setdefault(ROW, pa.array(range(number + 1, number + 1 + batch.num_rows), pa.int64()))
        number += batch.num_rows
        columns[PART] = pa.repeat(pa.scalar(index, pa.int64()), batch.num_rows)
        waiting.append(pa.table(columns))
        if sum(table.num_rows for table in waiting) >= _CHUNK_ROWS:
            yield pa.concat_tables(waiting, promote_options="default")
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="default")


def _readable(part: Part, chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The chunks; what Arrow cannot bring to a plain type is told with the part's name."""
    try:
        yield from chunks
    except pa.ArrowException as error:
        raise IngestError(f"{part.name} cannot be read: {str(error).splitlines()[0]}") from error


def _type(schema: pa.Schema, name: str) -> pa.DataType | None:
    return schema.field(name).type if name in schema.names else None


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """All columns of all schemas in plain types; numbers of different kinds become one kind, anything else text."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            new, old = plain(field.type), types.get(field.name)
            types[field.name] = new if old is None or old == new else _common(old, new)
    return pa.schema(list(types.items()))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if family(one) == family(other) == "number":
        return pa.float64() if pa.float64() in (one, other) else pa.decimal128(38, 10)
    return pa.string()


def _furthest(source: Source, table: pa.Table) -> str | None:
    """The greatest cursor value of the rows, as text."""
    value = pc.max(table[source.cursor]).as_py() if source.cursor and source.format == "postgres" else None
    return None if value is None else str(value)
