"""Releases: immutable graph manifests, and per product a pointer to the one that answers, in SQL.

A pointer is never changed: a new row is appended, and the newest one holds. SQLite under the home, Postgres by settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from infra.errors import EngineError, ReleaseError
from infra.home import Home
from infra.lake import Lake
from infra.pins import pin
from infra.settings import Settings
from serving.graph import Manifest

_schema = sa.MetaData()
_manifests = sa.Table(
    "manifests",
    _schema,
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("shop", sa.String(64), nullable=False),
    sa.Column("product", sa.String(32), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("stored_at", sa.String(40), nullable=False),
)
_pointers = sa.Table(
    "pointers",
    _schema,
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("shop", sa.String(64), nullable=False),
    sa.Column("product", sa.String(32), nullable=False),
    sa.Column("version", sa.ForeignKey("manifests.version"), nullable=False),
    sa.Column("moved_at", sa.String(40), nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Index("pointers_by_product", "shop", "product", "epoch"),
)


@dataclass(frozen=True)
class Move:
    """One move of a product's pointer; the one with the greatest epoch holds. `moved_at` is ISO 8601 in UTC."""

    epoch: int
    product: str
    version: str
    moved_at: str
    who: str
    why: str


class Releases:
    """The releases of one shop. Making the object touches nothing.

    Every method raises EngineError where the database does not answer.
    """

    def __init__(self, settings: Settings, shop: str) -> None:
        self.settings = settings
        self.shop = shop

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQL behind it, with our tables in it."""
        configured = self.settings.releases_db
        url = configured.get_secret_value() if configured else f"sqlite:///{Home(self.settings).sql / 'releases.db'}"
        engine = sa.create_engine(url, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            # WAL: the gateways' polls and a release never wait for each other.
            sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
        _schema.create_all(engine)
        return engine

    def store(self, manifest: Manifest) -> str:
        """Keep a manifest; its version. The same manifest is stored once."""
        with self._transaction() as sql:
            if not sql.scalar(sa.select(_manifests.c.version).where(_manifests.c.version == manifest.version)):
                sql.execute(
                    _manifests.insert().values(
                        version=manifest.version,
                        shop=manifest.shop,
                        product=manifest.product,
                        manifest=manifest.canonical(),
                        stored_at=_now(),
                    )
                )
        return manifest.version

    def point(self, version: str, who: str, why: str) -> int:
        """Let a stored version answer for its product from now on, and pin the tables its models learned from; the epoch of the move.

        Raises:
            ReleaseError: there is no such version in this shop.
        """
        manifest = self.manifest(version)
        pin(Lake.open(self.settings, self.shop), "graph", version, manifest.tables)
        with self._transaction() as sql:
            move = _pointers.insert().values(
                shop=self.shop, product=manifest.product, version=version, moved_at=_now(), who=who, why=why
            )
            return int(sql.execute(move.returning(_pointers.c.epoch)).scalar_one())

    def current(self) -> dict[str, str]:
        """Product -> version that its pointer names."""
        newest = sa.select(sa.func.max(_pointers.c.epoch)).where(_pointers.c.shop == self.shop).group_by(_pointers.c.product)
        with self._transaction() as sql:
            rows = sql.execute(sa.select(_pointers.c.product, _pointers.c.version).where(_pointers.c.epoch.in_(newest)))
            return {row.product: row.version for row in rows}

    def manifest(self, version: str) -> Manifest:
        """The stored manifest of that version, proven by its digest.

        Raises:
            ReleaseError: there is none in this shop, or its text is not what the version names.
        """
        with self._transaction() as sql:
            text = sql.scalar(
                sa.select(_manifests.c.manifest).where(_manifests.c.version == version, _manifests.c.shop == self.shop)
            )
        if text is None:
            raise ReleaseError(f"shop {self.shop} has no graph version {version!r}; `shopgraph status` lists the ones that answer.")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            raise ReleaseError(
                f"graph {version} was stored by another version of shopgraph; run `shopgraph up --latest`."
            ) from None
        if manifest.version != version:
            raise ReleaseError(f"graph {version}: its stored text has digest {manifest.version}; somebody changed it.")
        return manifest

    def history(self, product: str | None = None) -> list[Move]:
        """Every move of the shop's pointers, newest first."""
        wanted = [_pointers.c.shop == self.shop, *([_pointers.c.product == product] if product else [])]
        columns = [_pointers.c[name] for name in ("epoch", "product", "version", "moved_at", "who", "why")]
        with self._transaction() as sql:
            rows = sql.execute(sa.select(*columns).where(*wanted).order_by(_pointers.c.epoch.desc())).all()
        return [Move(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            told: Any = getattr(error, "orig", None) or error
            raise EngineError(
                f"the release database does not answer: {str(told).splitlines()[0]}; see SHOPGRAPH_RELEASES_DB."
            ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
