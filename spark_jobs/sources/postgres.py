"""PostgreSQL: the answer of a query as Arrow batches over COPY (ADBC), no JDBC jar.

With a `cursor` column a later run asks only for rows from the greatest value read so far on: that value itself may have come to
more rows since. Where rows have no ids those read before cannot be told from them, so there only what is beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi

from features.mapping import Source
from infra.errors import IngestError

PASSFILE = "pgpass"
"""File in a shop's folder with the password of its database, in libpq's format."""


def address(url: str) -> str:
    """Host and database of an address, without user and password."""
    parts = urlsplit(url)
    return f"postgresql://{parts.hostname or 'localhost'}{f':{parts.port}' if parts.port else ''}{parts.path}"


def with_passfile(url: str, folder: Path) -> str:
    """`url` with the password file of the shop at `folder`, where it has one; else libpq's own ways hold (~/.pgpass, PGPASSWORD)."""
    passfile = folder / PASSFILE
    if not passfile.is_file():
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, f"passfile={quote(str(passfile))}"]))))


def keep_password(folder: Path, host: str, port: str, database: str, user: str, password: str) -> None:
    """Put a password in the password file of the shop at `folder`, for its owner only."""
    fields = [text.replace("\\", "\\\\").replace(":", "\\:") for text in (host, port, database, user, password)]
    passfile = folder / PASSFILE
    passfile.touch(mode=0o600)
    kept = passfile.read_text(encoding="utf-8").splitlines()
    same = ":".join(fields[:-1]) + ":"
    lines = [*(line for line in kept if not line.startswith(same)), ":".join(fields)]
    lines.sort(key=lambda line: line.count("*:"))  # libpq takes the first line that fits
    passfile.write_text("\n".join(lines) + "\n", encoding="utf-8")


def schema(source: Source) -> pa.Schema:
    """Columns of the query; no row is read.

    Raises:
        IngestError: the database does not answer, or refuses the query.
    """
    with _reader(str(source.url), f"SELECT * FROM ({_bare(source)}) AS source LIMIT 0") as reader:  # noqa: S608  (the user's query)
        found: pa.Schema = reader.schema
        return found


def batches(source: Source, after: str | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of the query as of one instant; with a cursor only those from `after` on, in its order.

    Raises:
        IngestError: the database does not answer, or refuses the query.
    """
    query = f"SELECT * FROM ({_bare(source)}) AS source"  # noqa: S608  (the user's query)
    if source.cursor:
        column = '"' + source.cursor.replace('"', '""') + '"'
        if after is not None:
            query += f" WHERE {column} {'>' if source.bare else '>='} '{after.replace(chr(39), chr(39) * 2)}'"
        query += f" ORDER BY {column}"
    with _reader(str(source.url), query) as reader:
        yield from reader


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


def _bare(source: Source) -> str:
    return str(source.query).strip().rstrip(";")


@contextmanager
def _reader(url: str, query: str) -> Iterator[pa.RecordBatchReader]:
    try:
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            yield cursor.fetch_record_batch()
    except Error as error:
        raise IngestError(f"database {address(url)}: {str(error).splitlines()[0]}") from None
