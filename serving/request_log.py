"""What was asked and what was answered: spooled each second, committed to the lake each minute.

It fails no request, and none waits for it: where the disk is slower than what is asked, the newest are dropped and counted. What was served
stands here; what was seen of it is in the events that name its list.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from features.online.packing import from_microseconds, to_microseconds
from features.tables import REQUESTS
from infra import log, upkeep
from infra.errors import HomeError
from infra.home import Home
from infra.lake import Lake, digest_of
from infra.settings import Settings
from infra.sqlite import Connections
from serving import list_ids
from serving.metrics import Metrics

_FLUSH_S = 1.0
_DRAIN_S = 60.0
_MOST_WAITING = 20_000
_MOST_DRAINED = 50_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS requests_by_id ON requests (request_id);
CREATE TABLE IF NOT EXISTS batch (last INTEGER NOT NULL, since INTEGER);
"""
_TIMES = ("answered_at", "as_of")


@dataclass(frozen=True)
class Answered:
    """One request and its answer. `person`: as the tables call the user or visitor; None: nobody, or not to be personal."""

    request_id: str
    answered_at: datetime
    as_of: datetime
    product: str
    graph_version: str
    variant: str
    person: str | None
    list_ids: Sequence[str]
    request: str
    answer: str
    degraded: Sequence[str]
    seconds: float


class RequestLog:
    """The log of one shop. Making the object touches nothing.

    Args:
        metrics: told of what was dropped.
    """

    def __init__(self, settings: Settings, lake: Lake, metrics: Metrics | None = None) -> None:
        self.share = settings.request_log
        self.home = Home(settings)
        self.lake = lake
        self.metrics = metrics
        self._connections = Connections(self.home.spool / f"{lake.shop}.requests.db", 5.0, _prepare)
        self._waiting: deque[Answered] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin to write; to be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits; at most 10 s."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def is_drawn(self) -> bool:
        """Whether the request at hand is among those that are logged."""
        return self.share >= 1 or random.random() < self.share

    def keep(self, answered: Answered) -> None:
        """Log one request."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(answered)
        elif self.metrics:
            self.metrics.unlogged.inc()

    def flush(self) -> None:
        """Put what waits into the spool."""
        rows = []
        while self._waiting:
            one = self._waiting.popleft()
            row = {**vars(one), **{name: to_microseconds(getattr(one, name)) for name in _TIMES}}
            rows.append((one.request_id, orjson.dumps(row)))
        if rows:
            connection = self._connections.get()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO requests (request_id, row) VALUES (?, ?)", rows)

    def drain(self) -> int:
        """Commit what is in the spool to the table; how many. A drain that was killed is gone on with, and nothing is there twice.

        Raises:
            HomeError: another process is at it.
        """
        with self.home.lock(f"requests-{self.lake.shop}"):
            connection, drained = self._connections.get(), 0
            while batch := self._batch(connection):
                last, since = batch
                found = connection.execute("SELECT row FROM requests WHERE number <= ? ORDER BY number", (last,)).fetchall()
                rows = [orjson.loads(row) for (row,) in found]
                for row in rows:
                    row.update({name: from_microseconds(row[name]) for name in _TIMES})
                digest = digest_of("requests", last, found[0][0])
                table = pa.Table.from_pylist(rows, schema=REQUESTS.schema)
                self.lake.write(REQUESTS.path, table, "append", digest=digest, read_version=since)
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("DELETE FROM requests WHERE number <= ?", (last,))
                    connection.execute("DELETE FROM batch")
                drained += len(rows)
            if drained:
                upkeep.tidy(self.lake, REQUESTS.path)
            return drained

    def _batch(self, connection: sqlite3.Connection) -> tuple[int, int | None] | None:
        """The last number of what comes next, and the table's version before: noted first, so that after a kill it is the same batch."""
        noted = connection.execute("SELECT last, since FROM batch").fetchone()
        if noted is None:
            numbers = "SELECT number FROM requests ORDER BY number LIMIT ?"
            (last,) = connection.execute(f"SELECT max(number) FROM ({numbers})", (_MOST_DRAINED,)).fetchone()  # noqa: S608  # no text of others
            if last is None:
                return None
            noted = (last, self.lake.version(REQUESTS.path))
            with connection:
                connection.execute("INSERT INTO batch (last, since) VALUES (?, ?)", noted)
        return noted[0], noted[1]

    def find(self, name: str) -> dict[str, Any] | None:
        """The request of that id, or the one that was answered with the list of that name; None: it was not logged."""
        found = self._connections.get().execute(
            "SELECT row FROM requests WHERE request_id = ? OR instr(row, ?) ORDER BY number DESC LIMIT 20", (name, f'"{name}"')
        )
        for (content,) in found:
            row = orjson.loads(content)
            if name in (row["request_id"], *row["list_ids"]):
                return {**row, **{time_: from_microseconds(row[time_]) for time_ in _TIMES}}
        if self.lake.version(REQUESTS.path) is None:
            return None
        rows = self.lake.read(REQUESTS.path, filter=pc.field("request_id") == name).to_pylist()
        served = list_ids.read(name)
        if not rows and served:
            at = from_microseconds(served.at * 1_000_000)
            near = (pc.field("answered_at") >= at - timedelta(minutes=1)) & (pc.field("answered_at") <= at + timedelta(minutes=10))
            rows = [row for row in self.lake.read(REQUESTS.path, filter=near).to_pylist() if name in row["list_ids"]]
        return rows[-1] if rows else None

    def newest(self, product: str, count: int) -> list[dict[str, Any]]:
        """The requests of a product that were answered last, the newest first; as they were asked, for them to be asked again."""
        spooled = self._connections.get().execute("SELECT row FROM requests ORDER BY number DESC LIMIT ?", (10 * count,))
        rows = [row for (content,) in spooled if (row := orjson.loads(content))["product"] == product]
        if len(rows) < count and self.lake.version(REQUESTS.path) is not None:
            since = max(self.lake.num_rows(REQUESTS.path) - 50 * count, 0)
            table = self.lake.dataset(REQUESTS.path).to_table(columns=["product", "request", "answered_at"]).slice(since)
            logged = table.filter(pc.equal(table["product"], product)).sort_by([("answered_at", "descending")])
            rows += logged.slice(0, count).to_pylist()
        return rows[:count]

    def last(self) -> int:
        """The number of the newest request in the spool; 0: none was ever there."""
        found = self._connections.get().execute("SELECT seq FROM sqlite_sequence WHERE name = 'requests'").fetchone()
        return int(found[0]) if found else 0

    def after(self, number: int, count: int) -> list[tuple[int, dict[str, Any]]]:
        """(number, request) of those in the spool beyond a number, the oldest first; they stay there for a minute."""
        found = self._connections.get().execute(
            "SELECT number, row FROM requests WHERE number > ? ORDER BY number LIMIT ?", (number, count)
        )
        return [(place, orjson.loads(row)) for place, row in found]

    def _write(self) -> None:
        drained = time.monotonic()
        while True:
            is_last = self._stop.wait(_FLUSH_S)
            try:
                self.flush()
                if is_last or time.monotonic() - drained > _DRAIN_S:
                    drained = time.monotonic()
                    self.drain()
            except HomeError:
                log.get(__name__).debug("another process drains the request log")
            except Exception as error:  # it stays in the spool
                log.get(__name__).warning("request log not written", error=str(error))
            if is_last:
                return


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(_SCHEMA)
    connection.execute("PRAGMA synchronous = NORMAL")
