"""API keys: who may ask the HTTP API what, in SQL beside the releases.

A key is `sg_<id>_<secret>`, one for pages `sgp_<id>_<secret>`. The whole of it is shown once, when it is made; what is kept is its SHA-256.
The secret has 256 random bits, so nobody finds it from the digest, and no slow hash is needed as it is for passwords that people think of.
A key is never changed: who wants another scope or limit makes another key and revokes this one.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from infra import log
from infra.errors import AccessError
from infra.hosts import is_loopback
from infra.settings import Settings
from serving import database
from serving.scopes import PUBLISHABLE, SCOPES

SECRET, PAGE = "sg", "sgp"
"""How a key begins: one that must be kept secret, and one that stands in a page."""
FORMAT = re.compile(rb"sgp?_([a-z0-9]{12})_[A-Za-z0-9]{43}")
DAY_S = 86_400

Used = Mapping[tuple[str, int], int]
"""(key id, day) -> requests. A day is UTC's, counted from 1970."""

_ID = string.ascii_lowercase + string.digits
_LETTERS = string.ascii_letters + string.digits
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
_DURATION = re.compile(r"(\d{1,4})([hd])")
_MOST = 1_000_000_000
"""The largest limit: what SQL's integers and a header's can hold."""
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_schema = sa.MetaData()
_keys = sa.Table(
    "api_keys",
    _schema,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("shop", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("origins", sa.Text, nullable=False),
    sa.Column("rate", sa.Integer),
    sa.Column("quota", sa.Integer),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("expires_at", sa.String(40)),
    sa.Column("revoked_at", sa.String(40)),
    sa.Column("revoked_by", sa.String(200)),
)
_used = sa.Table(
    "api_key_days",
    _schema,
    sa.Column("key_id", sa.String(12), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Key:
    """What is known of a key; not the key itself.

    Args:
        digest: SHA-256 of the whole key.
        scopes: what it allows.
        origins: the pages it may be used from; none: it is no key for pages.
        rate: requests a second, of all replicas together; None: no limit.
        quota: requests a day (UTC); None: no limit.
        expires_at, revoked_at: since when it is worth nothing; None: it does not end, it was not revoked.
    """

    id: str
    name: str
    digest: bytes
    scopes: tuple[str, ...]
    origins: tuple[str, ...]
    rate: int | None
    quota: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None

    def state(self, now: datetime) -> str:
        """live, expired or revoked."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= now else "live"


class Keys:
    """The keys of one shop. Making the object touches nothing.

    Every method raises EngineError where the database does not answer.
    """

    def __init__(self, settings: Settings, shop: str) -> None:
        self.settings = settings
        self.shop = shop

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQL behind it, with our tables in it."""
        return database.connect(self.settings, _schema)

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        who: str,
        origins: Sequence[str] = (),
        rate: int | None = None,
        quota: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """Make a key; what is known of it, and the key itself, which nobody can tell again.

        Raises:
            AccessError: the name is taken or odd, a scope, origin or limit is none, or a key for pages would allow too much.
        """
        now = datetime.now(UTC)
        _check(name, scopes, origins, rate, quota, expires_at, now)
        key_id = "".join(secrets.choice(_ID) for _ in range(12))
        secret = "".join(secrets.choice(_LETTERS) for _ in range(43))
        whole = f"{PAGE if origins else SECRET}_{key_id}_{secret}"
        row = {
            "id": key_id,
            "shop": self.shop,
            "name": name,
            "digest": digest(whole.encode()).hex(),
            "scopes": json.dumps(sorted(set(scopes))),
            "origins": json.dumps(sorted({origin_of(origin) for origin in origins})),
            "rate": rate,
            "quota": quota,
            "created_at": now.isoformat(),
            "created_by": who,
            "expires_at": expires_at.isoformat() if expires_at else None,
            "revoked_at": None,
            "revoked_by": None,
        }
        with self._transaction() as sql:
            if any(key.name == name and not key.revoked_at for key in self._all(sql)):
                raise AccessError(
                    f"there is a key named {name} already; take another name, or `shopgraph keys revoke {name}` first."
                )
            sql.execute(_keys.insert().values(row))
        return _read(row), whole

    def revoke(self, which: str, who: str) -> Key:
        """Let a key, by its id or name, be worth nothing from now on; one that was revoked stays so. Replicas see it within 2 s.

        Raises:
            AccessError: there is no such key.
        """
        with self._transaction() as sql:
            keys = self._all(sql)
            found = [key for key in keys if key.id == which] or [key for key in keys if key.name == which and not key.revoked_at]
            if not found:
                raise AccessError(f"shop {self.shop} has no key {which[:100]!r}; `shopgraph keys list` names those it has.")
            of_it = _keys.c.id.in_([key.id for key in found])
            said = {"revoked_at": datetime.now(UTC).isoformat(), "revoked_by": who}
            sql.execute(_keys.update().where(of_it, _keys.c.revoked_at.is_(None)).values(said))
            return next(key for key in self._all(sql) if key.id == found[0].id)

    def all(self) -> list[Key]:
        """Every key, newest first, revoked ones as well. A row that says what no key can say is left out, so that it opens nothing."""
        with self._transaction() as sql:
            return self._all(sql)

    def used(self, day: int) -> dict[str, int]:
        """Key id -> requests of that day, as far as the replicas told of them."""
        with self._transaction() as sql:
            return self._used(sql, day)

    def look(self, taken: Used, day: int) -> tuple[list[Key], dict[str, int]]:
        """Add what a replica let in since it last looked; every key then, and the requests of that day of all replicas.

        It is one transaction: what fails was not added.
        """
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        with self._transaction() as sql:
            for (key_id, its_day), requests in sorted(taken.items()):  # in one order, so that no two replicas wait for each other
                row = insert(_used).values(key_id=key_id, day=its_day, requests=requests)
                total = _used.c.requests + row.excluded.requests
                sql.execute(row.on_conflict_do_update(index_elements=["key_id", "day"], set_={"requests": total}))
            return self._all(sql), self._used(sql, day)

    def _all(self, sql: sa.Connection) -> list[Key]:
        wanted = sa.select(_keys).where(_keys.c.shop == self.shop).order_by(_keys.c.created_at.desc(), _keys.c.id)
        return [key for row in sql.execute(wanted) if (key := _known(tuple(row)))]

    def _used(self, sql: sa.Connection, day: int) -> dict[str, int]:
        mine = sa.select(_keys.c.id).where(_keys.c.shop == self.shop)
        wanted = sa.select(_used.c.key_id, _used.c.requests).where(_used.c.day == day, _used.c.key_id.in_(mine))
        return {row.key_id: row.requests for row in sql.execute(wanted)}

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with database.answering(), self.engine.begin() as connection:
            yield connection


def digest(key: bytes) -> bytes:
    """What is kept of a key: SHA-256 over all of it, its id too, so that the digest of one key is worth nothing in the row of another."""
    return hashlib.sha256(key).digest()


def expiry(said: str, now: datetime) -> datetime:
    """When a key ends: an ISO 8601 time (UTC where it names no zone), or a while from now, such as `90d` or `12h`.

    Raises:
        AccessError: it is neither.
    """
    if found := _DURATION.fullmatch(said):
        return now + (timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1])))
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        raise AccessError(f"expires: expected a time such as 2027-01-31 or a while such as 90d, got {said[:100]!r}.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def origin_of(said: str) -> str:
    """An origin as browsers say it: scheme, host and, where it is not the usual one, port.

    Raises:
        AccessError: it is no origin, or one whose pages anybody on the way can change.
    """
    url = said.removesuffix("/").lower()
    found = _ORIGIN.fullmatch(url)
    try:
        host = found and urlsplit(url).hostname
        port = urlsplit(url).port
    except ValueError:
        found = None
    if not found or not host:
        raise AccessError(
            f"origin: expected scheme and host of the page, such as https://shop.example (other alphabets as xn--...), got {said[:200]!r}."
        )
    if found[1] == "http" and not is_loopback(host):
        raise AccessError(f"origin: expected https, got {said[:200]!r}; over http anybody on the way can change the page.")
    return f"{found[1]}://{found[2]}" + (f":{port}" if port is not None and str(port) != _DEFAULT_PORTS[found[1]] else "")


def _check(
    name: str,
    scopes: Sequence[str],
    origins: Sequence[str],
    rate: int | None,
    quota: int | None,
    expires_at: datetime | None,
    now: datetime,
) -> None:
    if not _NAME.fullmatch(name):
        raise AccessError(f"name: expected up to 64 letters, digits and . _ -, got {name[:100]!r}.")
    if not scopes:
        raise AccessError(f"expected a scope at least: {', '.join(SCOPES)}.")
    if odd := [scope for scope in scopes if scope not in SCOPES]:
        raise AccessError(f"scope: expected one of {', '.join(SCOPES)}, got {odd[0][:100]!r}.")
    if origins and (more := [scope for scope in scopes if scope not in PUBLISHABLE]):
        raise AccessError(
            f"a key with origins stands in a page, where everybody reads it: it may allow {', '.join(PUBLISHABLE)}, not {more[0]}."
        )
    for what, limit in (("rate", rate), ("quota", quota)):
        if limit is not None and not 1 <= limit <= _MOST:
            raise AccessError(f"{what}: expected 1 to {_MOST:,} requests, got {limit}.")
    if expires_at and expires_at <= now:
        raise AccessError(f"expires: expected a time to come, got {expires_at.isoformat()}.")


@lru_cache(10_000)
def _known(values: tuple[Any, ...]) -> Key | None:
    """A row, read once however often it is looked at; None, and a line in the log, where it says what no key can say."""
    row = dict(zip(_keys.c.keys(), values, strict=True))
    try:
        return _read(row)
    except (ValueError, TypeError, OverflowError) as error:
        log.get(__name__).error("key not read", key_id=row["id"], error=str(error))
        return None


def _read(row: Mapping[str, Any]) -> Key:
    """A row as it is kept.

    Raises:
        ValueError, TypeError, OverflowError: it says what no key can say.
    """
    held = bytes.fromhex(row["digest"])
    scopes, origins = _strings(row["scopes"]), _strings(row["origins"])
    if len(held) != hashlib.sha256().digest_size or not all(isinstance(row[limit], int | None) for limit in ("rate", "quota")):
        raise ValueError("its digest is none, or its limits are no numbers")
    if origins and not set(scopes) <= set(PUBLISHABLE):
        raise ValueError("it stands in a page and allows too much")
    return Key(
        id=row["id"],
        name=row["name"],
        digest=held,
        scopes=scopes,
        origins=origins,
        rate=row["rate"],
        quota=row["quota"],
        created_at=datetime.fromisoformat(row["created_at"]).astimezone(UTC),
        created_by=row["created_by"],
        expires_at=datetime.fromisoformat(row["expires_at"]).astimezone(UTC) if row["expires_at"] else None,
        revoked_at=datetime.fromisoformat(row["revoked_at"]).astimezone(UTC) if row["revoked_at"] else None,
        revoked_by=row["revoked_by"],
    )


def _strings(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("expected a list of texts")
    return tuple(found)
