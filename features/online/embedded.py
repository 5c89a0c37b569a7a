"""Packed rows in one SQLite file in write-ahead mode: readers see the last commit while a writer works, in any number of processes."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson

from features.online.generations import Generation, Generations, check_building, current, readable, written
from features.online.packing import Layout, Packed
from features.online.rows import Change, Progress, Row, Rows, changed
from features.views import View
from infra.errors import EngineError, FeatureError
from infra.sqlite import Connections

FORMAT = 2
_BATCH = 2_000
"""Rows per transaction: some 10 ms, then other writers get their turn."""

_MAPPED_BYTES = 1 << 30
"""A read of a page that is not in SQLite's small cache is then no system call."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, view TEXT NOT NULL, digest TEXT NOT NULL, columns TEXT NOT NULL, state TEXT NOT NULL, as_of INTEGER,
    source INTEGER
);
CREATE TABLE IF NOT EXISTS epoch (number INTEGER NOT NULL);
INSERT INTO epoch SELECT 0 WHERE NOT EXISTS (SELECT * FROM epoch);
CREATE TABLE IF NOT EXISTS rows (
    generation INTEGER NOT NULL, key TEXT NOT NULL, event INTEGER NOT NULL, created INTEGER NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (generation, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_UPSERT = """
INSERT INTO rows VALUES ({generation:d}, ?, ?, ?, ?) ON CONFLICT (generation, key) DO UPDATE
SET event = excluded.event, created = excluded.created, packed = excluded.packed
WHERE (excluded.event, excluded.created) {newer} (rows.event, rows.created)
"""
_READ = "SELECT key, event, created, packed FROM rows WHERE generation = ? AND key IN (SELECT value FROM json_each(?))"
_NEWER = """
SELECT key, event, created, packed FROM rows WHERE generation = ? AND key > ? AND max(event, created) > ? ORDER BY key LIMIT ?
"""
_REMOVE = """
DELETE FROM rows WHERE generation = :id AND key <= (
    SELECT max(key) FROM (SELECT key FROM rows WHERE generation = :id ORDER BY key LIMIT :batch)
)
"""
_SET_MARK = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class EmbeddedRows(Rows):
    """The rows of one shop in `path`. Making the object touches nothing; each thread and process opens its own connection.

    The list of generations is remembered with its epoch, a number that is new with every change: to read the list would cost more
    than the rows of one key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = Connections(path, 60, self._prepare)
        self._known: tuple[int, Generations] = (-1, [])

    def read(self, asked: Mapping[View, Sequence[str | None]]) -> dict[View, tuple[Layout, list[Row | None]]]:
        """As `Rows.read`, from the last commit."""
        found: dict[View, tuple[Layout, list[Row | None]]] = {}
        with self._reading() as connection:
            generations = self._generations(connection)
            for view, keys in asked.items():
                generation = readable(generations, view)
                if generation is None:
                    found[view] = Layout(view.columns), [None] * len(keys)
                    continue
                rows = _rows(connection, generation, [key for key in keys if key is not None])
                found[view] = generation.layout, [None if key is None else rows.get(key) for key in keys]
        return found

    def generations(self) -> Generations:
        """As `Rows.generations`."""
        with self._reading() as connection:
            return list(self._generations(connection))

    def write(self, view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None:
        """As `Rows.write`; each 2,000 rows are one transaction."""
        for batch in _batches(rows):
            with self._writing() as connection:
                for generation in written(self._defined(connection, [view]), view, is_update=False):
                    connection.executemany(_UPSERT.format(generation=generation.id, newer=">="), batch)
            if progress:
                progress(len(batch))

    def update(self, keys: Mapping[View, Collection[str]], change: Change, mark: str, after: int, to: int) -> int:
        """As `Rows.update`, in one transaction, which other writers wait for."""
        with self._writing() as connection:
            stands = _mark(connection, mark)
            if stands != after:
                return stands
            generations = self._defined(connection, keys)
            held = {view: _rows(connection, current(generations, view), asked) for view, asked in keys.items()}
            for view, rows in changed(change, held).items():
                for generation in written(generations, view, is_update=True):
                    connection.executemany(_UPSERT.format(generation=generation.id, newer=">="), rows)
            connection.execute(_SET_MARK, (mark, to))
            return to

    def mark(self, name: str) -> int:
        """As `Rows.mark`."""
        with self._reading() as connection:
            return _mark(connection, name)

    def _alter(self, change: Callable[[Generations], Generations], marks: Mapping[str, int] = {}) -> Generations:
        with self._writing() as connection:
            made = change(self._generations(connection))
            _save(connection, made)
            connection.executemany(_SET_MARK, marks.items())
            return made

    def _put(self, generation: Generation, rows: Sequence[Packed], progress: Progress | None) -> None:
        upsert = _UPSERT.format(generation=generation.id, newer=">")
        for batch in _batches(rows):
            with self._writing() as connection:
                check_building(self._generations(connection), [generation])
                connection.executemany(upsert, batch)
            if progress:
                progress(len(batch))

    def _carry(self, before: Generation, generation: Generation, moment: int) -> None:
        batch: list[Packed] = [("", 0, 0, b"")]
        while batch:
            with self._reading() as connection:
                batch = connection.execute(_NEWER, (before.id, batch[-1][0], moment, _BATCH)).fetchall()
            self._put(generation, batch, None)

    def _remove(self, id: int) -> None:
        gone = 1
        while gone:
            with self._writing() as connection:
                gone = connection.execute(_REMOVE, {"id": id, "batch": _BATCH}).rowcount

    def _generations(self, connection: sqlite3.Connection) -> Generations:
        """The list as the open transaction sees it."""
        (epoch,) = connection.execute("SELECT number FROM epoch").fetchone()
        known, generations = self._known
        if epoch != known:
            fields = connection.execute("SELECT id, view, digest, columns, state, as_of, source FROM generations ORDER BY id")
            generations = [Generation(*each) for each in fields]
            self._known = epoch, generations
        return generations

    def _defined(self, connection: sqlite3.Connection, views: Collection[View]) -> Generations:
        """The list; each of the views has a generation to write to."""
        found = self._generations(connection)
        if lacking := [view for view in views if current(found, view) is None]:
            found = [*found, *(Generation.of(view, "current") for view in lacking)]
            _save(connection, found)
        return found

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees the last commit and holds nobody up."""
        with self._answering():
            connection = self._connections.get()
            connection.execute("BEGIN DEFERRED")
            with connection:
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that other writers wait for, in turn.

        SQLite lets them look again after a while, so that one who writes without a pause keeps the others out. Here they queue at
        two locks: who waits for the second holds the first, and who just had the second comes after him.
        """
        with self._answering():
            connection = self._connections.get()
            with ExitStack() as held:
                with _locked(self.path.with_suffix(".next")):
                    held.enter_context(_locked(self.path.with_suffix(".turn")))
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    yield connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise EngineError(
                f"online store {self.path}: {error}; make room, give access or restore a backup. `shopgraph features materialize` "
                "fills it anew where it is gone."
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make a new connection ready.

        Raises:
            FeatureError: the file was written by another format version.
        """
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise FeatureError(
                f"online store {self.path} has format {found}, this version reads {FORMAT}; delete the file and run "
                "`shopgraph features materialize`, which fills it anew."
            )
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _batches(rows: Sequence[Packed]) -> Iterator[Sequence[Packed]]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _save(connection: sqlite3.Connection, generations: Generations) -> None:
    connection.execute("DELETE FROM generations")
    fields = [(g.id, g.view, g.digest, g.columns, g.state, g.as_of, g.source) for g in generations]
    connection.executemany("INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
    connection.execute("UPDATE epoch SET number = random()")


def _rows(connection: sqlite3.Connection, generation: Generation | None, keys: Collection[str]) -> dict[str, Row]:
    if generation is None:
        return {}
    asked = orjson.dumps(list(keys)).decode()
    return {key: (event, created, packed) for key, event, created, packed in connection.execute(_READ, (generation.id, asked))}


def _mark(connection: sqlite3.Connection, name: str) -> int:
    found = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0
