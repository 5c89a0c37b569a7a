"""PostgreSQL: the answer of a query as Arrow batches.

With a `cursor` column a later run asks only for rows from the greatest value read so far on: that value itself may have come to
more rows since. Where rows have no ids those read before cannot be told from them, so there only what is beyond it. Rows whose
cursor is null lie beyond no value, so they come each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from features.mapping import Source
from infra.errors import IngestError
from infra.postgres import connection


def schema(source: Source) -> pa.Schema:
    """Columns of the query; no row is read.

    Raises:
        IngestError: the database does not answer, or refuses the query.
    """
    with _reader(str(source.url), f"SELECT * FROM ({_select(source)}) AS source LIMIT 0") as reader:  # noqa: S608  (the user's query)
        found: pa.Schema = reader.schema
        return found


def batches(source: Source, after: str | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of the query as of one instant; with a cursor only those from `after` on, in its order, and those where it is null.

    Raises:
        IngestError: the database does not answer, or refuses the query; a cursor is null in a row without an id.
    """
    bare = source.bare
    query = f"SELECT * FROM ({_select(source)}) AS source"  # noqa: S608  (the user's query)
    if source.cursor:
        column = '"' + source.cursor.replace('"', '""') + '"'
        if after is not None:
            query += f" WHERE {column} {'>' if bare else '>='} '{after.replace(chr(39), chr(39) * 2)}' OR {column} IS NULL"
        query += f" ORDER BY {column}"
    with _reader(str(source.url), query) as reader:
        for batch in reader:
            if bare and source.cursor and batch.column(source.cursor).null_count:
                raise IngestError(
                    f"source {source.name}: cursor `{source.cursor}` is null in some rows, and {bare.name} has no {bare.row_id}: they "
                    f"would be lost, or counted again each time. Map {bare.row_id}, or take a column that is never null."
                )
            yield batch


def sample(url: str, query: str, num_rows: int) -> pa.Table:
    """The first rows of a query.

    Raises:
        IngestError: the database does not answer, or refuses the query.
    """
    with _reader(url, f"SELECT * FROM ({query}) AS source LIMIT {num_rows}") as reader:  # noqa: S608  (names of the catalogue)
        return reader.read_all()


def tables(url: str) -> dict[str, list[str]]:
    """Tables and views of a database, quoted, with their columns.

    Raises:
        IngestError: the database does not answer.
    """
    query = (
        "SELECT format('%I.%I', table_schema, table_name) AS t, column_name::text AS col FROM information_schema.columns "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY table_schema, table_name, ordinal_position"
    )
    found: dict[str, list[str]] = {}
    for row in _rows(url, query):
        found.setdefault(row["t"], []).append(row["col"])
    return found


def foreign_keys(url: str) -> list[tuple[str, str, str, str]]:
    """(table, column, referenced table, referenced column) of every foreign key over one column.

    Raises:
        IngestError: the database does not answer.
    """
    query = (
        "SELECT format('%I.%I', n.nspname, c.relname) AS t, a.attname::text AS col, format('%I.%I', fn.nspname, f.relname) AS ft, "
        "fa.attname::text AS fcol FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1] "
        "JOIN pg_attribute fa ON fa.attrelid = f.oid AND fa.attnum = k.confkey[1] "
        "WHERE k.contype = 'f' AND cardinality(k.conkey) = 1"
    )
    return [(row["t"], row["col"], row["ft"], row["fcol"]) for row in _rows(url, query)]


def _rows(url: str, query: str) -> list[dict[str, str]]:
    with _reader(url, query) as reader:
        rows: list[dict[str, str]] = reader.read_all().to_pylist()
        return rows


def _select(source: Source) -> str:
    return str(source.query).strip().rstrip(";")


@contextmanager
def _reader(url: str, query: str) -> Iterator[pa.RecordBatchReader]:
    with connection(url, IngestError) as made, made.cursor() as cursor:
        cursor.execute(query)
        yield cursor.fetch_record_batch()
