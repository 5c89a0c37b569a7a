"""What is seen of both sides of a canary: counted in each replica, kept in the release database, one row per replica and side.

A count begins when a replica takes up a phase (a candidate at one weight), for both sides at once, so that they are held against each
other over the same minutes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from serving import list_ids
from serving.graph import Manifest
from serving.list_ids import BUCKETS
from serving.releases import Bounds, Candidate, Releases

Counted = Literal["requests", "errors", "degraded", "slow", "seen", "clicked", "carted"]
COUNTED: tuple[Counted, ...] = ("requests", "errors", "degraded", "slow", "seen", "clicked", "carted")
"""Requests: all, those with an answer of 500 and above, those that left out what was down or late, those that took longer than they should.
Lists: those of which an item was seen, clicked, put into the basket or bought."""
_ACTS: Mapping[str, Counted] = {"impression": "seen", "click": "clicked", "cart": "carted", "purchase": "carted"}
_LISTS_KNOWN = 65_536
"""Lists of which a replica knows what it counted of them; some 10 MB."""

_schema = sa.MetaData()
_table = sa.Table(
    "observations",
    _schema,
    sa.Column("shop", sa.String(64), primary_key=True),
    sa.Column("product", sa.String(32), primary_key=True),
    sa.Column("phase", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("replica", sa.String(64), primary_key=True),
    sa.Column("counts", sa.LargeBinary, nullable=False),
)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Phase:
    """A candidate at one weight beside the stable version."""

    name: str
    since: float
    """Unix seconds; lists that were served before say nothing of it."""
    stable: str
    candidate: str
    slow_s: float
    """Seconds beyond which a request counts as slow."""
    bounds: Bounds

    @classmethod
    def of(cls, stable: str, candidate: Candidate, manifest: Manifest) -> Phase:
        """That of a candidate beside a stable version with this manifest."""
        since = datetime.fromisoformat(candidate.since).timestamp() if candidate.since else 0.0
        slow_ms = candidate.bounds.slow_ms or manifest.budget_ms / 2
        return cls(candidate.phase, since, stable, candidate.version, slow_ms / 1000, candidate.bounds)


@dataclass
class Side:
    """Counts of one version: what is counted -> (BUCKETS,) by the part of the people, whose acts belong together."""

    counts: dict[str, Ints] = field(default_factory=lambda: {name: np.zeros(BUCKETS, dtype=np.int64) for name in COUNTED})

    def add(self, other: Side) -> None:
        """Count what another replica counted as well."""
        for name, counts in other.counts.items():
            self.counts[name] += counts

    def to_bytes(self) -> bytes:
        """As the database keeps it."""
        return orjson.dumps({name: counts.tolist() for name, counts in self.counts.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> Side:
        """What `to_bytes` gave."""
        return cls({name: np.array(counts, dtype=np.int64) for name, counts in orjson.loads(content).items()})


class Tally:
    """What one replica counts. Cheap enough for every request: some array elements grow by one."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._phases: dict[str, tuple[Phase, dict[str, Side]]] = {}
        self._known: OrderedDict[tuple[str, Counted], None] = OrderedDict()
        self._lock = threading.Lock()

    def follow(self, phases: Mapping[str, Phase]) -> None:
        """Count for these phases (by product) from now on; what was counted of others is let go."""
        with self._lock:
            self._phases = {
                product: self._phases[product]
                if product in self._phases and self._phases[product][0] == phase
                else (phase, {phase.stable: Side(), phase.candidate: Side()})
                for product, phase in phases.items()
            }

    def answered(self, product: str, version: str, bucket: int, status: int, is_degraded: bool, seconds: float) -> None:
        """A request was answered by a version."""
        phase, sides = self._phases.get(product, (None, {}))
        side = sides.get(version)
        if phase is None or side is None:
            return
        side.counts["requests"][bucket] += 1
        side.counts["errors"][bucket] += status >= 500
        side.counts["degraded"][bucket] += is_degraded
        side.counts["slow"][bucket] += seconds > phase.slow_s

    def told(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """People did this; rows of `events`. Of one list each thing counts once."""
        phase, sides = self._phases.get("recommend", (None, {}))
        if phase is None:
            return
        for row in rows:
            act, list_id = _ACTS.get(row.get("event_type", "")), row.get("list_id")
            served = list_ids.read(list_id) if act and list_id else None
            if act is None or served is None or served.at < int(phase.since):
                continue
            side = next((side for version, side in sides.items() if list_ids.is_of(version, served)), None)
            if side is not None and self._is_first((str(list_id), act)):
                side.counts[act][served.bucket] += 1

    def counts(self) -> list[tuple[str, Phase, str, Side]]:
        """(product, phase, version, what was counted) of both sides of every phase."""
        return [
            (product, phase, version, side) for product, (phase, sides) in self._phases.items() for version, side in sides.items()
        ]

    def _is_first(self, key: tuple[str, Counted]) -> bool:
        with self._lock:
            if key in self._known:
                return False
            self._known[key] = None
            if len(self._known) > _LISTS_KNOWN:
                self._known.popitem(last=False)
            return True


class Observations:
    """What all replicas counted, beside the releases of a shop. Every method raises EngineError where the database does not answer."""

    def __init__(self, releases: Releases) -> None:
        self.releases = releases
        self._is_made = False

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self.releases.transaction() as sql:
            if not self._is_made:
                _schema.create_all(sql)
            yield sql
        self._is_made = True

    def keep(self, tally: Tally) -> None:
        """Put what a replica counted in place of what it had counted before."""
        rows = [
            {
                "shop": self.releases.shop, "product": product, "phase": phase.name, "version": version,
                "replica": tally.replica, "counts": side.to_bytes(),
            }
            for product, phase, version, side in tally.counts()
        ]  # fmt: skip
        if not rows:
            return
        products = {row["product"]: row["phase"] for row in rows}
        with self._transaction() as sql:
            for product, phase in products.items():  # of phases that are over nothing is asked any more
                old = (_table.c.shop == self.releases.shop, _table.c.product == product, _table.c.phase != phase)
                sql.execute(_table.delete().where(*old))
            for row in rows:
                keys = [_table.c[name] == row[name] for name in ("shop", "product", "phase", "version", "replica")]
                if not sql.execute(_table.update().where(*keys).values(counts=row["counts"])).rowcount:
                    sql.execute(_table.insert().values(row))

    def of(self, product: str, phase: str) -> dict[str, Side]:
        """Version -> what all replicas counted of it in a phase."""
        wanted = sa.select(_table.c.version, _table.c.counts).where(
            _table.c.shop == self.releases.shop, _table.c.product == product, _table.c.phase == phase
        )
        found: dict[str, Side] = {}
        with self._transaction() as sql:
            for version, counts in sql.execute(wanted):
                found.setdefault(version, Side()).add(Side.from_bytes(counts))
        return found
