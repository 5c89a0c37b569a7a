"""The read log: what the online store gave to readers, so that it can be held against the tables afterwards (`features/parity.py`).

One SQLite file of a shop, of the newest reads only. It never fails a read, and nothing waits for its disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from features.online.generations import Generation, readable
from features.online.packing import Layout
from features.online.rows import Row, Rows
from features.views import View
from infra import log
from infra.errors import EngineError, ShopgraphError
from infra.sqlite import Connections

MOST_READS = 100_000
"""Keys that are kept, the newest."""
MOST_KEYS = 100
"""Keys of one read that are kept."""
_BUSY_S = 0.02
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reads (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, view TEXT NOT NULL, columns TEXT NOT NULL, source INTEGER NOT NULL,
    as_of INTEGER NOT NULL, key TEXT NOT NULL, event INTEGER, created INTEGER, packed BLOB
)
"""


@dataclass(frozen=True)
class Read:
    """One key that was read of a view: at which instant of the shop's clock, and the row that the store gave. Times in microseconds UTC.

    The row is of columns `columns`, made from version `source` of the view's table as of `as_of`.
    """

    at: int
    columns: tuple[tuple[str, str], ...]
    source: int
    as_of: int
    key: str
    row: Row | None


class ReadLog:
    """The log in `path`. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = Connections(path, _BUSY_S, _prepare)
        self._has_failed = False

    @contextmanager
    def of(
        self, rows: Rows, asked: Mapping[View, Sequence[str | None]], at: int
    ) -> Iterator[dict[View, tuple[Layout, list[Row | None]]]]:
        """Log a read at instant `at`: inside the `with`, what the store gives is put into the mapping.

        Of a view that was never materialised, or anew meanwhile so that nobody knows which rows these were, nothing is kept.
        """
        found: dict[View, tuple[Layout, list[Row | None]]] = {}
        before = self._made(rows, asked)
        yield found
        after = self._made(rows, asked)
        kept = [
            (at, view.name, generation.columns, generation.source, generation.as_of, key, *(row or (None, None, None)))
            for view, keys in asked.items()
            if view in found and (generation := after.get(view)) and before.get(view) == generation
            for key, row in list(zip(keys, found[view][1], strict=True))[:MOST_KEYS]
            if key is not None
        ]
        if kept:
            self._keep(kept)

    def reads(self, view: View) -> list[Read]:
        """What is kept of a view, oldest first; nothing where nothing was ever logged.

        Raises:
            EngineError: the log cannot be read.
        """
        if not self.path.exists():
            return []
        wanted = "SELECT at, columns, source, as_of, key, event, created, packed FROM reads WHERE view = ? ORDER BY number"
        try:
            found = self._connections.get().execute(wanted, (view.name,)).fetchall()
        except (sqlite3.DatabaseError, OSError) as error:
            raise EngineError(f"read log {self.path}: {error}; give access, or delete the file: it holds nothing else.") from error
        return [
            Read(
                at, tuple(map(tuple, json.loads(columns))), source, as_of, key, None if event is None else (event, created, packed)
            )
            for at, columns, source, as_of, key, event, created, packed in found
        ]

    def _made(self, rows: Rows, views: Mapping[View, object]) -> dict[View, Generation]:
        """What a reader of each view gets, where it is known what that was made from."""
        try:
            found = rows.generations()
        except ShopgraphError:  # the read itself tells it
            return {}
        made = {view: generation for view in views if (generation := readable(found, view))}
        return {view: generation for view, generation in made.items() if None not in (generation.source, generation.as_of)}

    def _keep(self, kept: Sequence[tuple[object, ...]]) -> None:
        try:
            connection = self._connections.get()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO reads (at, view, columns, source, as_of, key, event, created, packed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    kept,
                )
                connection.execute("DELETE FROM reads WHERE number <= (SELECT max(number) FROM reads) - ?", (MOST_READS,))
        except (sqlite3.Error, OSError) as error:
            if not self._has_failed:  # once: a full disk would else fill the log of the server too
                log.get(__name__).warning("reads are not logged", path=str(self.path), error=str(error))
            self._has_failed = True


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(_SCHEMA)
