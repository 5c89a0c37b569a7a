"""PostgreSQL: addresses, the shop's password file, and the one door to it for tables as Arrow (ADBC over COPY), no JDBC jar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi

from infra.errors import EngineError, SettingsError, ShopgraphError, TableContractError

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
_MARK = "written by shopgraph, "
_TYPES = {
    pa.string(): "text",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def address(url: str) -> str:
    """Host and database of an address, without user and password.

    Raises:
        SettingsError: it is no address.
    """
    parts = _parts(url)
    return _joined(
        {**parts, "scheme": SCHEME, "user": "", "password": "", "host": _host(parts).lower() or "localhost", "query": ""}
    )


def with_passfile(url: str, folder: Path) -> str:
    """`url` with the password file of the shop at `folder`, where it has one; else libpq's own ways hold (~/.pgpass, PGPASSWORD).

    Raises:
        SettingsError: as `address`.
    """
    passfile = folder / PASSFILE
    if not passfile.is_file():
        return url
    parts = _parts(url)
    return _joined({**parts, "query": "&".join(filter(None, [parts["query"], f"passfile={quote(str(passfile))}"]))})


def without_password(url: str, folder: Path) -> str:
    """`url` with the password it gives, if any, moved to the password file of the shop at `folder`.

    Raises:
        SettingsError: as `address`.
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


@contextmanager
def connection(url: str, error: type[ShopgraphError] = EngineError) -> Iterator[dbapi.Connection]:
    """A connection, in a transaction; what is not committed when it closes never was.

    Raises:
        SettingsError: as `address`.
        error: the database does not answer, or refuses a statement.
    """
    where = address(url)
    try:
        with dbapi.connect(url) as made:
            yield made
    except Error as refusal:
        raise error(f"database {where}: {str(refusal).splitlines()[0]}") from None


def noted(url: str, table: str) -> str | None:
    """What `replace` noted of a table last; None where there is no such table, or it was never written by it.

    Raises:
        SettingsError: as `address`.
        EngineError: the database does not answer.
    """
    with connection(url) as made, made.cursor() as cursor:
        return _noted(cursor, table)[1]


def replace(url: str, table: str, rows: pa.RecordBatchReader, keys: Sequence[str], note: str) -> None:
    """Let a table hold these rows instead of its own, in one transaction: readers see the old ones to its end, and whoever may read
    the table, its indexes and the views on it stay. Made where there is none.

    Args:
        table: in the first schema of the search path.
        keys: its primary key, where it is made.
        note: what `noted` says from then on; it stands as the comment of the table.

    Raises:
        SettingsError: as `address`.
        TableContractError: the table is somebody else's, without a note of ours.
        EngineError: the database does not answer or refuses, for instance because the table has other columns.
    """
    schema = rows.schema
    columns = ", ".join(f'"{f.name}" {_TYPES[f.type]}{"" if f.nullable else " NOT NULL"}' for f in schema)
    with connection(url) as made, made.cursor() as cursor:
        exists, found = _noted(cursor, table)
        if exists and found is None:
            raise TableContractError(
                f"database {address(url)} has a table {table} that shopgraph did not write; rename it, or name another schema in the "
                "address (?options=-csearch_path=...)."
            )
        if not exists:
            cursor.execute(f'CREATE TABLE "{table}" ({columns}, PRIMARY KEY ({", ".join(keys)}))')
        cursor.execute(f'LOCK TABLE "{table}" IN SHARE ROW EXCLUSIVE MODE')  # of two writers the second waits, readers do not
        cursor.execute(f'DELETE FROM "{table}"')  # noqa: S608  (our own name)
        cursor.adbc_ingest(table, rows, mode="append")
        cursor.execute(f"COMMENT ON TABLE \"{table}\" IS '{_MARK}{note}'")
        made.commit()


def _noted(cursor: dbapi.Cursor, table: str) -> tuple[bool, str | None]:
    """Whether there is such a table, and its note."""
    cursor.execute(f"SELECT to_regclass('\"{table}\"') IS NOT NULL, obj_description(to_regclass('\"{table}\"'))")
    exists, comment = cursor.fetchone()
    return bool(exists), comment.removeprefix(_MARK) if (comment or "").startswith(_MARK) else None


def _parts(url: str) -> dict[str, str]:
    """What an address says, as it is written there; empty where it says nothing."""
    found = _ADDRESS.fullmatch(url)
    if not found or _NO_ESCAPE.search(url):
        raise SettingsError(  # the address is not told: any piece of it may be of a password
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
