"""PostgreSQL: the answer of a query as Arrow batches over COPY (ADBC), no JDBC jar.

With a `cursor` column a later run asks only for rows from the greatest value read so far on: that value itself may have come to
more rows since. Where rows have no ids those read before cannot be told from them, so there only what is beyond it. Rows whose
cursor is null lie beyond no value, so they come each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi

from features.mapping import Source
from infra.errors import IngestError

SCHEME = "postgresql"
"""What the name of every database begins with (`address`)."""
PASSFILE = "pgpass"
"""File in a shop's folder with the password of its database, in libpq's format."""
_ADDRESS = re.compile(
    r"(?P<scheme>postgres(?:ql)?)://(?:(?P<user>[^:/?#@]*)(?::(?P<password>[^/?#@]*))?@)?"
    r"(?P<host>\[[^]/?#@]*\]|[^][:/?#@]*)(?::(?P<port>\d*))?(?P<path>/[^?#@]*)?(?:\?(?P<query>[^#@]*))?"
)
"""libpq's form of an address, stricter: a sign that parts it stands nowhere else, so no piece of a password is taken for a host."""
_NO_ESCAPE = re.compile(r"%(?!(?!00)[\dA-Fa-f]{2})")


def address(url: str) -> str:
    """Host and database of an address, without user and password.

    Raises:
        IngestError: it is no address.
    """
    parts = _parts(url)
    return _joined(
        {**parts, "scheme": SCHEME, "user": "", "password": "", "host": _host(parts).lower() or "localhost", "query": ""}
    )


def with_passfile(url: str, folder: Path) -> str:
    """`url` with the password file of the shop at `folder`, where it has one; else libpq's own ways hold (~/.pgpass, PGPASSWORD).

    Raises:
        IngestError: as `address`.
    """
    passfile = folder / PASSFILE
    if not passfile.is_file():
        return url
    parts = _parts(url)
    return _joined({**parts, "query": "&".join(filter(None, [parts["query"], f"passfile={quote(str(passfile))}"]))})


def without_password(url: str, folder: Path) -> str:
    """`url` with the password it gives, if any, moved to the password file of the shop at `folder`.

    Raises:
        IngestError: as `address`.
    """
    parts = _parts(url)
    options = [option.partition("=")[::2] for option in parts["query"].split("&") if option]
    said = {**parts, "host": _host(parts), "dbname": parts["path"][1:]}
    said |= {unquote(name): value for name, value in options if value}  # these win, as in libpq
    if not said["password"]:
        return url
    host, port, database, user, password = (unquote(said[name]) for name in ("host", "port", "dbname", "user", "password"))
    host = "" if host.startswith("/") else host  # a socket's folder: libpq looks for `localhost`
    folder.mkdir(parents=True, exist_ok=True)
    keep_password(folder, host or "*", port or "*", database or "*", user or "*", password)
    kept = "&".join(f"{name}={value}" for name, value in options if unquote(name) != "password")
    return _joined({**parts, "password": "", "query": kept})


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


def _parts(url: str) -> dict[str, str]:
    """What an address says, as it is written there; empty where it says nothing."""
    found = _ADDRESS.fullmatch(url)
    if not found or _NO_ESCAPE.search(url):
        raise IngestError(  # the address is not told: any piece of it may be of a password
            "a database address cannot be read: expected postgresql://user:password@host:port/database, in which a sign such as "
            "/ # ? @ % of a user or password is written as %2F %23 %3F %40 %25."
        )
    return found.groupdict("")


def _host(parts: Mapping[str, str]) -> str:
    return parts["host"].strip("[]")


def _joined(parts: Mapping[str, str]) -> str:
    """The address that `parts` make; not `urlunsplit`, which takes the slashes from one without a host."""
    signs = {"scheme": "{}://", "user": "{}", "password": ":{}", "host": "{}", "port": ":{}", "path": "{}", "query": "?{}"}
    written = {name: sign.format(parts[name]) if parts[name] else "" for name, sign in signs.items()}
    if written["user"] or written["password"]:
        written["host"] = f"@{written['host']}"
    return "".join(written.values())


@contextmanager
def _reader(url: str, query: str) -> Iterator[pa.RecordBatchReader]:
    where = address(url)
    try:
        with dbapi.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            yield cursor.fetch_record_batch()
    except Error as error:
        raise IngestError(f"database {where}: {str(error).splitlines()[0]}") from None
