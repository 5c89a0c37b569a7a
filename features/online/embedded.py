"""Packed rows in one SQLite file in write-ahead mode: readers see the last commit while a writer works, in any number of processes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import orjson

from features.online.packing import NEVER, Layout, Packed, to_microseconds
from features.online.rows import Row
from features.views import View
from infra.errors import EngineError, FeatureError

FORMAT = 1
_BATCH = 10_000
"""Rows per transaction: small enough that other writers get their turn."""

_MAPPED_BYTES = 1 << 30
"""A read of a page that is not in SQLite's small cache is then no system call."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS definitions (
    id INTEGER PRIMARY KEY, view TEXT NOT NULL, digest TEXT NOT NULL, columns TEXT NOT NULL, complete_as_of INTEGER,
    UNIQUE (view, digest)
);
CREATE TABLE IF NOT EXISTS rows (
    definition INTEGER NOT NULL, key TEXT NOT NULL, event INTEGER NOT NULL, created INTEGER NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (definition, key)
) WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO rows VALUES ({definition:d}, ?, ?, ?, ?) ON CONFLICT (definition, key) DO UPDATE
SET event = excluded.event, created = excluded.created, packed = excluded.packed
WHERE (excluded.event, excluded.created) >= (rows.event, rows.created) OR max(rows.event, rows.created) <= {as_of:d}
"""
_NOT_AMONG = """
DELETE FROM rows WHERE definition = :definition AND key > :after AND (:to IS NULL OR key <= :to)
AND max(event, created) <= :as_of AND key NOT IN (SELECT value FROM json_each(:keys))
"""
_COMPLETE = "UPDATE definitions SET complete_as_of = max(coalesce(complete_as_of, ?1), ?1) WHERE id = ?2"
_READABLE = """
SELECT id, columns FROM definitions WHERE view = ? AND (digest = ? OR complete_as_of IS NOT NULL)
ORDER BY complete_as_of IS NULL, digest = ? DESC, complete_as_of DESC LIMIT 1
"""
_READ = "SELECT key, event, created, packed FROM rows WHERE definition = ? AND key IN (SELECT value FROM json_each(?))"


class EmbeddedRows:
    """The rows of one shop in `path`. Making the object touches nothing; each thread and process opens its own connection.

    Every method raises FeatureError where another format version wrote the file, EngineError where it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._layouts: dict[str, Layout] = {}

    def write(self, view: View, rows: Sequence[Packed], progress: Callable[[int], None] | None = None) -> None:
        """As `Rows.write`; each 10,000 rows are one transaction."""
        with self._answering():
            connection = self._connect()
            upsert = _UPSERT.format(definition=self._define(connection, view), as_of=NEVER)
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(upsert, batch)
                if progress:
                    progress(len(batch))

    def replace(self, view: View, rows: Sequence[Packed], as_of: datetime, progress: Callable[[int], None] | None = None) -> None:
        """As `Rows.replace`; each 10,000 rows, and what lies between their keys, are one transaction."""
        with self._answering():
            connection = self._connect()
            definition, moment, after = self._define(connection, view), to_microseconds(as_of), ""
            upsert = _UPSERT.format(definition=definition, as_of=moment)
            for start in range(0, max(len(rows), 1), _BATCH):
                batch = rows[start : start + _BATCH]
                keys = [key for key, *_ in batch]
                is_last = start + _BATCH >= len(rows)
                span = {"definition": definition, "as_of": moment, "after": after, "to": None if is_last else keys[-1]}
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute(_NOT_AMONG, {**span, "keys": orjson.dumps(keys).decode()})
                    connection.executemany(upsert, batch)
                    if is_last:
                        connection.execute(_COMPLETE, (moment, definition))
                after = keys[-1] if keys else ""
                if progress:
                    progress(len(batch))

    def read(self, view: View, keys: Sequence[str | None]) -> tuple[Layout, list[Row | None]]:
        """As `Rows.read`, from the last commit."""
        with self._answering():
            connection = self._connect()
            found = connection.execute(_READABLE, (view.name, view.digest, view.digest)).fetchone()
            if found is None:
                return Layout(view.columns), [None] * len(keys)
            definition, columns = found
            layout = self._layouts.get(columns)
            if layout is None:
                layout = self._layouts[columns] = Layout([(name, kind) for name, kind in json.loads(columns)])
            asked = orjson.dumps([key for key in keys if key is not None]).decode()
            rows = {key: (event, created, packed) for key, event, created, packed in connection.execute(_READ, (definition, asked))}
            return layout, [rows.get(key) if key is not None else None for key in keys]

    def drop(self, view_name: str) -> None:
        """As `Rows.drop`, in one transaction."""
        with self._answering():
            connection = self._connect()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM rows WHERE definition IN (SELECT id FROM definitions WHERE view = ?)", (view_name,))
                connection.execute("DELETE FROM definitions WHERE view = ?", (view_name,))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise EngineError(
                f"online store {self.path}: {error}; make room, give access or restore a backup. `shopgraph features materialize` "
                "fills it anew where it is gone."
            ) from error

    def _define(self, connection: sqlite3.Connection, view: View) -> int:
        """Number of the view's definition, noted on first use."""
        with connection:
            connection.execute(
                "INSERT INTO definitions (view, digest, columns) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (view.name, view.digest, json.dumps(view.columns)),
            )
        row = connection.execute("SELECT id FROM definitions WHERE view = ? AND digest = ?", (view.name, view.digest)).fetchone()
        return int(row[0])

    def _connect(self) -> sqlite3.Connection:
        """This thread's connection; a forked child opens a new one, since SQLite's may not cross a fork.

        Raises:
            FeatureError: the file was written by another format version.
        """
        held: tuple[int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held and held[0] == os.getpid():
            return held[1]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise FeatureError(
                f"online store {self.path} has format {found}, this version reads {FORMAT}; run `shopgraph upgrade`."
            )
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        self._local.held = (os.getpid(), connection)
        return connection
