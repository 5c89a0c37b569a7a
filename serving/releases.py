"""Releases: immutable graph manifests, and per product which of them answer, in SQL.

A release is never changed: each move appends the whole of what holds from then on, chained to the move before by its digest. The newest
move of a product holds. SQLite under the home, Postgres by settings.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import ReleaseError
from infra.lake import Lake
from infra.pins import pin
from infra.settings import Settings
from serving import database
from serving.graph import Manifest

Verb = Literal["release", "deploy", "canary", "promote", "rollback", "safe"]
"""What a move did: `release` lets a version answer at once, `safe` turns the safe mode on or off, the others are steps of a candidate."""

_TRIES = 20
"""Two who move at once take the same number; who comes second looks again."""
_FIRST = ""
"""What the first move is chained to."""

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
_moves = sa.Table(
    "moves",
    _schema,
    sa.Column("shop", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("product", sa.String(32), nullable=False),
    sa.Column("verb", sa.String(16), nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("moved_at", sa.String(40), nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("moves_by_product", "shop", "product", "epoch"),
)
_CHAINED = ("shop", "epoch", "product", "verb", "release", "moved_at", "who", "why", "previous")
"""What a move's digest is over, in this order."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(_Frozen):
    """How much worse than the stable version a candidate may be, before it is withdrawn."""

    errors: Annotated[float, Field(ge=0, le=1, description="More of its requests with an error of ours, as a share of all.")] = 0.01
    degraded: Annotated[float, Field(ge=0, le=1, description="More of its answers that left out what was down or late.")] = 0.05
    slow: Annotated[float, Field(ge=0, le=1, description="More of its requests that took longer than slow_ms.")] = 0.1
    slow_ms: Annotated[int | None, Field(gt=0, description="What is slow; default: half of the graph's budget.")] = None
    clicks: Annotated[
        float, Field(ge=0, le=1, description="Fewer of its seen lists that are clicked, as a share of the stable one's.")
    ] = 0.1
    carts: Annotated[
        float, Field(ge=0, le=1, description="Fewer of its seen lists of which an item is put into the basket or bought.")
    ] = 0.2
    minimum: Annotated[int, Field(ge=1, description="Requests, or seen lists, of either side before anything is said.")] = 200
    error_rate: Annotated[
        float,
        Field(gt=0, lt=1, description="Chance that a candidate as good as the stable one is ever withdrawn, however long it runs."),
    ] = 0.001


class Candidate(_Frozen):
    """A version on its way to stable."""

    version: str
    weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percent of the people whom it answers."""
    salt: str
    """Of the draw who they are."""
    since: str | None = None
    """When it was given this weight, ISO 8601."""
    bounds: Bounds = Bounds()

    @property
    def phase(self) -> str:
        """Name of this candidate at this weight, since this moment."""
        return hashlib.sha256(f"{self.salt} {self.weight} {self.since}".encode()).hexdigest()[:32]


class Release(_Frozen):
    """What answers for one product: `stable`, and for some people the `candidate`."""

    stable: str
    before: str | None = None
    """The stable version that a rollback returns to; kept loaded, so that it takes no load."""
    candidate: Candidate | None = None
    is_safe: bool = False
    """Whether every answer comes from the end of the ladder."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that are held in memory, the stable one first."""
        others = (self.candidate.version if self.candidate else None, self.before)
        return tuple(dict.fromkeys(version for version in (self.stable, *others) if version))

    def role(self, version: str) -> str:
        """What a version does now; empty: nothing."""
        if version == self.stable:
            return "stable"
        if self.candidate and version == self.candidate.version:
            return f"candidate at {self.candidate.weight:g} %"
        return "before" if version == self.before else ""


@dataclass(frozen=True)
class Move:
    """One move of a product's release; the one with the greatest epoch holds. `moved_at` is ISO 8601 in UTC."""

    epoch: int
    product: str
    verb: Verb
    release: Release
    moved_at: str
    who: str
    why: str
    digest: str


Change = Callable[[Release | None], Release]
"""What holds of a product -> what shall hold, but for `before`; may raise ReleaseError."""


class Releases:
    """The releases of one shop. Making the object touches nothing.

    Every method raises EngineError where the database does not answer.
    """

    def __init__(self, settings: Settings, shop: str) -> None:
        self.settings = settings
        self.shop = shop
        self.epochs: dict[str, int] = {}
        """Product -> number of its newest move, as `current` last read it."""
        self.read_at: float | None = None
        """When `current` last read it, seconds since 1970."""

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQL behind it, with our tables in it."""
        return database.connect(self.settings, _schema)

    def store(self, manifest: Manifest) -> str:
        """Keep a manifest; its version. The same manifest is stored once."""
        with self.transaction() as sql:
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

    def release(self, version: str, who: str, why: str) -> Move:
        """Let a stored version answer everybody from now on.

        Raises:
            ReleaseError: there is no such version in this shop.
        """
        manifest = self._pinned(version)
        return self._move(
            manifest.product, "release", lambda now: Release(stable=version, is_safe=bool(now and now.is_safe)), who, why
        )

    def deploy(self, version: str, who: str, why: str) -> Move:
        """Make a stored version the candidate, which answers nobody yet; in place of another one, if there is one.

        Raises:
            ReleaseError: there is no such version in this shop, nothing is released beside which it could stand, or it answers already.
        """
        manifest = self._pinned(version)

        def change(current: Release | None) -> Release:
            if current is None:
                raise ReleaseError(
                    f"no {manifest.product} graph is released that {version} could be a candidate beside; run `shopgraph up --latest`."
                )
            if current.stable == version:
                raise ReleaseError(f"graph {version} is the stable one already.")
            return current.model_copy(update={"candidate": Candidate(version=version, salt=secrets.token_hex(8))})

        return self._move(manifest.product, "deploy", change, who, why)

    def canary(self, product: str, weight: float, who: str, why: str, bounds: Bounds | None = None) -> Move:
        """Let the candidate answer so many percent of the people; who was drawn before stays while the weight grows.

        Args:
            bounds: how much worse it may be; None: as was said before.

        Raises:
            ReleaseError: there is no candidate, or the weight is no percentage.
        """
        if not 0 <= weight <= 100:
            raise ReleaseError(f"weight: expected 0 to 100 percent, got {weight:g}.")

        def change(current: Release | None) -> Release:
            release, candidate = _with_candidate(product, current)
            said = {"weight": weight, "since": _now(), "bounds": bounds or candidate.bounds}
            return release.model_copy(update={"candidate": candidate.model_copy(update=said)})

        return self._move(product, "canary", change, who, why)

    def promote(self, product: str, who: str, why: str) -> Move:
        """Let the candidate answer everybody.

        Raises:
            ReleaseError: there is no candidate.
        """

        def change(current: Release | None) -> Release:
            release, candidate = _with_candidate(product, current)
            return Release(stable=candidate.version, is_safe=release.is_safe)

        return self._move(product, "promote", change, who, why)

    def rollback(self, product: str, who: str, why: str) -> Move:
        """Withdraw the candidate; where there is none, let the stable version of before answer again.

        Raises:
            ReleaseError: there is nothing to go back to.
        """

        def change(current: Release | None) -> Release:
            if current and current.candidate:
                return current.model_copy(update={"candidate": None})
            if current is None or current.before is None:
                raise ReleaseError(f"{product} has no release of before to go back to.")
            return Release(stable=current.before, is_safe=current.is_safe)

        return self._move(product, "rollback", change, who, why)

    def withdraw(self, product: str, phase: str, who: str, why: str) -> Move:
        """Withdraw the candidate, if it still is what it was when that was decided.

        Raises:
            ReleaseError: it is another one, or at another weight.
        """

        def change(current: Release | None) -> Release:
            release, candidate = _with_candidate(product, current)
            if candidate.phase != phase:
                raise ReleaseError(f"the candidate of {product} is another one by now.")
            return release.model_copy(update={"candidate": None})

        return self._move(product, "rollback", change, who, why)

    def safe(self, product: str, is_on: bool, who: str, why: str) -> Move:
        """Answer everything from the end of the ladder, or no longer.

        Raises:
            ReleaseError: nothing is released, its graph has no such end, or it is so already.
        """

        def change(current: Release | None) -> Release:
            if current is None:
                raise ReleaseError(f"no {product} graph is released.")
            if not self.manifest(current.stable).static:
                raise ReleaseError(
                    f"the ladder of {product} has no end that needs no model: its requests are refused instead, by 503."
                )
            if current.is_safe == is_on:
                raise ReleaseError(f"the safe mode of {product} is {'on' if is_on else 'off'} already.")
            return current.model_copy(update={"is_safe": is_on})

        return self._move(product, "safe", change, who, why)

    def current(self) -> dict[str, Release]:
        """Product -> what answers for it.

        Raises:
            ReleaseError: the newest move of a product is not as it was made.
        """
        newest = sa.select(sa.func.max(_moves.c.epoch)).where(_moves.c.shop == self.shop).group_by(_moves.c.product)
        wanted = sa.select(_moves).where(_moves.c.shop == self.shop, _moves.c.epoch.in_(newest))
        with self.transaction() as sql:
            rows = [dict(row) for row in sql.execute(wanted).mappings()]
        found = {row["product"]: _read(row) for row in rows}
        self.epochs, self.read_at = {row["product"]: row["epoch"] for row in rows}, time.time()
        return found

    def manifest(self, version: str) -> Manifest:
        """The stored manifest of that version, proven by its digest.

        Raises:
            ReleaseError: there is none in this shop, or its text is not what the version names.
        """
        with self.transaction() as sql:
            text = sql.scalar(
                sa.select(_manifests.c.manifest).where(_manifests.c.version == version, _manifests.c.shop == self.shop)
            )
        if text is None:
            raise ReleaseError(f"shop {self.shop} has no graph version {version!r}; `shopgraph graph list` names those it has.")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            raise ReleaseError(
                f"graph {version} was stored by another version of shopgraph; run `shopgraph up --latest`."
            ) from None
        if manifest.version != version:
            raise ReleaseError(f"graph {version}: its stored text has digest {manifest.version}; somebody changed it.")
        return manifest

    def find(self, start: str) -> Manifest:
        """The manifest whose version begins with these digits.

        Raises:
            ReleaseError: none does, or several do.
        """
        found = [version for version, _, _ in self.stored() if version.startswith(start)]
        if len(found) > 1 and start not in found:
            raise ReleaseError(f"{len(found)} graph versions begin with {start!r}: {', '.join(found[:5])}; give more digits.")
        return self.manifest(found[0] if len(found) == 1 else start)

    def stored(self) -> list[tuple[str, str, str]]:
        """(version, product, when it was stored) of every manifest, newest first."""
        columns = (_manifests.c.version, _manifests.c.product, _manifests.c.stored_at)
        wanted = sa.select(*columns).where(_manifests.c.shop == self.shop).order_by(_manifests.c.stored_at.desc())
        with self.transaction() as sql:
            return [(row.version, row.product, row.stored_at) for row in sql.execute(wanted)]

    def history(self, product: str | None = None) -> list[Move]:
        """Every move of the shop's releases, newest first.

        Raises:
            ReleaseError: a move is not as it was made.
        """
        with self.transaction() as sql:
            return [_told(row) for row in reversed(self._rows(sql)) if product in (None, row["product"])]

    def head(self) -> str | None:
        """The digest of the newest move, which stands for all before it; None: nothing was released yet."""
        wanted = sa.select(_moves.c.digest).where(_moves.c.shop == self.shop).order_by(_moves.c.epoch.desc()).limit(1)
        with self.transaction() as sql:
            found: str | None = sql.scalar(wanted)
        return found

    def verify(self, head: str | None = None) -> list[str]:
        """What is wrong with the history, in words; nothing where every move stands as it was made.

        Who changes the newest moves and their digests, or takes them away, makes another chain that holds: that the chain was not cut is
        known by a digest that was noted elsewhere.

        Args:
            head: the digest of some move, as it was noted; it must be in the chain.
        """
        found, previous = [], _FIRST
        with self.transaction() as sql:
            rows = self._rows(sql)
        for place, row in enumerate(rows, 1):
            epoch = row["epoch"]
            if epoch != place:
                found.append(f"move {place} is missing: move {epoch} stands in its place")
                return found
            if row["previous"] != previous:
                found.append(f"move {epoch} does not follow the move before it")
            previous = row["digest"]
            try:
                for version in _read(row).versions:
                    self.manifest(version)
            except ReleaseError as error:
                found.append(f"move {epoch} ({row['verb']} of {row['product']}, {row['moved_at']}): {error}")
        if head is not None and head not in {row["digest"] for row in rows}:
            found.append(f"no move has the digest {head}: the history was cut or made anew")
        return found

    def _pinned(self, version: str) -> Manifest:
        """The manifest of a version, whose models' tables are pinned from now on."""
        manifest = self.manifest(version)
        pin(Lake.open(self.settings, self.shop), "graph", version, manifest.tables)
        return manifest

    def _move(self, product: str, verb: Verb, change: Change, who: str, why: str) -> Move:
        for _ in range(_TRIES):
            with suppress(sa.exc.IntegrityError), self.transaction() as sql:
                rows = self._rows(sql)
                moves = [_told(row) for row in rows if row["product"] == product]
                release = change(moves[-1].release if moves else None)
                release = release.model_copy(update={"before": _before(moves, verb, release.stable)})
                row = {
                    "shop": self.shop,
                    "epoch": rows[-1]["epoch"] + 1 if rows else 1,
                    "product": product,
                    "verb": verb,
                    "release": release.model_dump_json(),
                    "moved_at": _now(),
                    "who": who,
                    "why": why,
                    "previous": rows[-1]["digest"] if rows else _FIRST,
                }
                row["digest"] = _digest(row)
                sql.execute(_moves.insert().values(row))
                return _told(row)
        raise ReleaseError(f"others move the releases of {self.shop} all the time; try again.")

    def _rows(self, sql: sa.Connection) -> list[Mapping[str, Any]]:
        """Every move of the shop, oldest first."""
        wanted = sa.select(_moves).where(_moves.c.shop == self.shop).order_by(_moves.c.epoch)
        return [dict(row) for row in sql.execute(wanted).mappings()]

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Statements that are all done, or none."""
        with database.answering(), self.engine.begin() as connection:
            yield connection


def actor() -> str:
    """Who moves a release: the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user, as in some containers
        return "unknown"


def _with_candidate(product: str, current: Release | None) -> tuple[Release, Candidate]:
    if current is None or current.candidate is None:
        raise ReleaseError(f"{product} has no candidate; `shopgraph graph deploy <version>` makes one.")
    return current, current.candidate


def _before(moves: list[Move], verb: Verb, stable: str) -> str | None:
    """What a rollback returns to once `stable` holds by `verb` after these moves: each one takes the newest stable version back."""
    found: list[str] = []
    for its_verb, its_stable in (*((move.verb, move.release.stable) for move in moves), (verb, stable)):
        if its_verb == "rollback" and found[-2:-1] == [its_stable]:
            found.pop()
        elif found[-1:] != [its_stable]:
            found.append(its_stable)
    return found[-2] if len(found) > 1 else None


def _read(row: Mapping[str, Any]) -> Release:
    """What a move says, if it says what it said when it was made."""
    if row["digest"] != _digest(row):
        raise ReleaseError(
            f"move {row['epoch']} of the releases is not as it was made; see `shopgraph graph history --verify`, and restore the database."
        )
    return Release.model_validate_json(row["release"])


def _told(row: Mapping[str, Any]) -> Move:
    names = ("epoch", "product", "verb", "moved_at", "who", "why", "digest")
    return Move(release=_read(row), **{name: row[name] for name in names})


def _digest(row: Mapping[str, Any]) -> str:
    """SHA-256 over what a move says and the digest of the move before."""
    said = json.dumps([row[name] for name in _CHAINED], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
