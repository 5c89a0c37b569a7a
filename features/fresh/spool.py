"""The spool: one SQLite file of a shop in which every accepted row lies, flushed to disk, before anybody is told that it was accepted.

Rows are numbered in the order in which they were accepted, whichever process took them, so what follows the spool (the drain into
the tables, the online rows) needs to remember one number. A row stays for some days after it is in the tables: by it a repeated
delivery is known to be one.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from features.columns import EVENT_TIMESTAMP
from features.fresh.facts import Delivery, Refused, Row, Told, digest
from features.tables import ITEMS
from infra.errors import EngineError, FeatureError
from infra.sqlite import Connections, format_of, in_turn

FORMAT = 1
_BUSY_S = 10.0
"""How long a writer waits for those of other processes; a commit takes milliseconds."""

_SCHEMA = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, key TEXT NOT NULL, instant INTEGER NOT NULL, digest BLOB NOT NULL,
    row TEXT NOT NULL, received INTEGER NOT NULL, written REAL NOT NULL, UNIQUE (path, key, instant, digest)
);
CREATE TABLE state (id TEXT NOT NULL, drained INTEGER NOT NULL, versions TEXT NOT NULL);
"""
_INSERT = "INSERT INTO entries (path, key, instant, digest, row, received, written) VALUES (?, ?, ?, ?, ?, ?, ?)"
_VERSIONS = "SELECT digest, received FROM entries WHERE path = ? AND key = ? AND instant = ?"
_LATEST = "SELECT instant, row FROM entries WHERE path = ? AND key = ? ORDER BY instant DESC, received DESC, number DESC LIMIT 1"
_AFTER = "SELECT number, path, key, instant, row, received FROM entries WHERE number > ? ORDER BY number LIMIT ?"
_OF = "SELECT number, path, key, instant, row, received FROM entries WHERE path = ? AND number > ? ORDER BY number"
_OF_KEYS = """
SELECT number, path, key, instant, row, received FROM entries
WHERE path = ? AND key IN (SELECT value FROM json_each(?)) AND number <= ? ORDER BY number
"""
_OF_VISITORS = """
SELECT DISTINCT key FROM entries INDEXED BY by_visitor WHERE path = ? AND number <= ?
AND json_extract(row, '$.visitor_id') IN (SELECT value FROM json_each(?)) AND json_extract(row, '$.user_id') IS NULL
"""
_BY_VISITOR = """
CREATE INDEX IF NOT EXISTS by_visitor ON entries (json_extract(row, '$.visitor_id'))
WHERE json_extract(row, '$.visitor_id') IS NOT NULL AND json_extract(row, '$.user_id') IS NULL
"""
_PRUNE = """
DELETE FROM entries WHERE written < ? AND number <= min(?, (SELECT drained FROM state))
AND (path <> ? OR number NOT IN (SELECT max(number) FROM entries WHERE path = ? GROUP BY key))
"""

SPOOL, NUMBER = "spool", "number"
"""What a commit of a drain says of itself: which spool, and up to which of its entries."""

Known = Mapping[str, tuple[int, Row]]
"""Key -> instant and row that a table holds as the latest state."""


@dataclass(frozen=True)
class Entry:
    """One accepted row. `received` is when the shop could first know it, microseconds UTC."""

    number: int
    path: str
    key: str
    instant: int
    row: Row
    received: int


@dataclass(frozen=True)
class Receipt:
    """What became of the rows of a delivery; accepted + duplicates + quarantined are all of them.

    `corrections` are those among the accepted that say something else of a known identity. `last`: the spool holds all that this
    delivery told up to this number. `known`: when the newest of it became known, microseconds UTC; None where nothing is new.
    """

    accepted: int
    corrections: int
    duplicates: int
    quarantined: tuple[Refused, ...]
    last: int
    known: int | None


@dataclass(frozen=True)
class Progress:
    """How far the spool is in the tables: all up to `drained`, as of these table versions. `id` names the spool."""

    id: str
    drained: int
    versions: Mapping[str, int | None]


class Spool:
    """The spool in `path`. Making the object touches nothing; each thread and process opens its own connection.

    Every method raises FeatureError where another format version wrote the file, EngineError where it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = Connections(path, _BUSY_S, self._prepare)

    def append(
        self,
        deliveries: Sequence[Delivery],
        known_at: Callable[[int | None], int],
        written: float,
        items: Known,
    ) -> list[Receipt]:
        """Keep the rows of all deliveries, flushed to disk, in one commit; what was kept before with equal content is a duplicate.

        Args:
            known_at: event time (None: now) -> when a row of it becomes known, microseconds UTC. A correction becomes known at least a
                microsecond after what it corrects.
            written: the machine's time, seconds since 1970.
            items: the latest state of each item that is told of, as the table has it.
        """
        with self._transaction() as connection:
            receipts = [self._append(connection, delivery, known_at, written, items) for delivery in deliveries]
            last = _last(connection)
        return [replace(receipt, last=last) for receipt in receipts]

    def after(self, number: int, limit: int) -> list[Entry]:
        """At most `limit` entries that were accepted after the one of that number, in order."""
        with self._answering():
            return _entries(self._connections.get().execute(_AFTER, (number, limit)))

    def of(self, path: str, number: int) -> list[Entry]:
        """The entries for one table that were accepted after the one of that number, in order."""
        with self._answering():
            return _entries(self._connections.get().execute(_OF, (path, number)))

    def versions(self, path: str, keys: Collection[str], to: int) -> list[Entry]:
        """All that was told of these keys up to the entry of that number, in order."""
        asked = orjson.dumps(list(keys)).decode()
        with self._answering():
            return _entries(self._connections.get().execute(_OF_KEYS, (path, asked, to)))

    def of_visitors(self, path: str, visitors: Collection[str], to: int) -> set[str]:
        """Keys of what was told of these visitors, without a user, up to the entry of that number."""
        asked = orjson.dumps(list(visitors)).decode()
        with self._answering():
            return {key for (key,) in self._connections.get().execute(_OF_VISITORS, (path, to, asked))}

    def last(self) -> int:
        """Number of the newest entry there ever was; 0 where there was none."""
        with self._answering():
            return _last(self._connections.get())

    def progress(self) -> Progress:
        """How far the spool is in the tables."""
        with self._answering():
            name, drained, versions = self._connections.get().execute("SELECT id, drained, versions FROM state").fetchone()
        return Progress(name, drained, json.loads(versions))

    def note(self, drained: int, versions: Mapping[str, int | None]) -> None:
        """Remember how far the spool is in the tables."""
        with self._transaction() as connection:
            connection.execute("UPDATE state SET drained = ?, versions = ?", (drained, json.dumps(versions)))

    def waiting(self) -> tuple[int, float | None]:
        """How many entries are not in the tables yet, and since when the oldest of them waits (seconds since 1970)."""
        with self._answering():
            row = (
                self._connections.get()
                .execute("SELECT count(*), min(written) FROM entries WHERE number > (SELECT drained FROM state)")
                .fetchone()
            )
        return row[0], row[1]

    def prune(self, before: float, applied: int) -> int:
        """Forget what was written before this time (seconds since 1970), is in the tables and was applied; how many entries.

        What was told last of an item stays: it holds until the tables that are made of it say so too.
        """
        with self._transaction() as connection:
            return connection.execute(_PRUNE, (before, applied, ITEMS.path, ITEMS.path)).rowcount

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _append(
        self,
        connection: sqlite3.Connection,
        delivery: Delivery,
        known_at: Callable[[int | None], int],
        written: float,
        items: Known,
    ) -> Receipt:
        fates: dict[int, set[str]] = {}
        refused = list(delivery.refused)
        bad = {one.place for one in refused}
        known: list[int] = []
        for told in delivery.told:
            if told.place in bad:  # the other half of a row that was refused
                continue
            received = known_at(told.row.get(EVENT_TIMESTAMP, told.instant or None))
            row, instant = told.row, told.instant
            if told.is_patch:
                since, state = max(_latest(connection, told), items.get(told.key, (-(1 << 63), {})), key=lambda found: found[0])
                instant = max(received, since + 1) if instant is None else instant
                if instant < since:
                    reason = f"{EVENT_TIMESTAMP}: before what was told of the item already"
                    refused.append(Refused(told.path, told.place, reason, orjson.dumps(row).decode()))
                    bad.add(told.place)
                    continue
                row = {name: value for name, value in {**state, **row}.items() if value is not None}
            elif instant is None:
                instant = received
            name = digest(row)
            versions = dict(connection.execute(_VERSIONS, (told.path, told.key, instant)).fetchall())
            if name in versions:
                fates.setdefault(told.place, set()).add("duplicate")
                continue
            received = max([received, *(before + 1 for before in versions.values())])
            values = (told.path, told.key, instant, name, orjson.dumps(row).decode(), received, written)
            connection.execute(_INSERT, values)
            fates.setdefault(told.place, set()).add("correction" if versions else "new")
            known.append(received)
        for one in refused:
            self._quarantine(connection, delivery, one, written)
        accepted = [found for found in fates.values() if found != {"duplicate"}]
        corrections = sum("new" not in found for found in accepted)
        return Receipt(len(accepted), corrections, len(fates) - len(accepted), tuple(refused), 0, max(known, default=None))

    @staticmethod
    def _quarantine(connection: sqlite3.Connection, delivery: Delivery, refused: Refused, written: float) -> None:
        """Keep a bad row once, however often it is sent."""
        row = {
            "reason": refused.reason,
            "source": delivery.source,
            "part": delivery.part,
            "row": refused.place,
            "source_row": refused.source,
        }
        name = digest({"reason": refused.reason, "source_row": refused.source})
        path = f"quarantine/{refused.path.partition('/')[2]}"
        if connection.execute(_VERSIONS, (path, name.hex(), 0)).fetchone() is None:
            connection.execute(_INSERT, (path, name.hex(), 0, name, orjson.dumps(row).decode(), 0, written))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._answering():
            connection = self._connections.get()
            with in_turn(self.path), connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise EngineError(
                f"spool {self.path}: {error}; make room or give access, then send again. Nothing was accepted."
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make a new connection ready.

        Raises:
            FeatureError: the file was written by another format version.
        """
        connection.execute("PRAGMA synchronous = FULL")  # every commit is flushed to disk
        named = "INSERT INTO state VALUES (?, 0, '{}')"
        found = format_of(connection, FORMAT, _SCHEMA, lambda: connection.execute(named, (uuid.uuid4().hex,)))
        if found == FORMAT:
            connection.execute(_BY_VISITOR)
        else:
            raise FeatureError(f"spool {self.path} has format {found}, this version reads {FORMAT}; run `shopgraph upgrade`.")


def _entries(found: Iterable[tuple[int, str, str, int, str, int]]) -> list[Entry]:
    return [Entry(number, path, key, instant, orjson.loads(row), received) for number, path, key, instant, row, received in found]


def _last(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0])


def _latest(connection: sqlite3.Connection, told: Told) -> tuple[int, dict[str, Any]]:
    """The latest state of an item in the spool, with its instant."""
    found = connection.execute(_LATEST, (told.path, told.key)).fetchone()
    return (-(1 << 63), {}) if found is None else (found[0], orjson.loads(found[1]))
