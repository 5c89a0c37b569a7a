"""Packed rows in SQLite files, for any number of processes.

    <path>                    generations, watermarks and the rows that were put one by one; in write-ahead mode, so that readers see
                              the last commit while a writer works
    <path less .db>.rows/     what each rebuild put, a file for each generation

The newer of both is a key's row; of two that are equally new, the one that was put by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import orjson

from features.online.base import MAPPED_BYTES, Bases, LostError
from features.online.generations import Generation, Generations, check_building, current, readable, written
from features.online.packing import Layout, Packed
from features.online.rows import Change, Progress, Row, Rows, batches, changed
from features.views import View
from infra.errors import EngineError, FeatureError
from infra.sqlite import BASES, Connections, format_of, in_turn

FORMAT = 3
_BATCH = 2_000
"""Rows per transaction: some 10 ms, then other writers get their turn."""

_SCHEMA = """
CREATE TABLE generations (
    id INTEGER PRIMARY KEY, view TEXT NOT NULL, digest TEXT NOT NULL, columns TEXT NOT NULL, state TEXT NOT NULL, as_of INTEGER,
    source INTEGER
);
CREATE TABLE epoch (number INTEGER NOT NULL);
INSERT INTO epoch VALUES (0);
CREATE TABLE rows (
    generation INTEGER NOT NULL, key TEXT NOT NULL, event INTEGER NOT NULL, created INTEGER NOT NULL, packed BLOB NOT NULL,
    PRIMARY KEY (generation, key)
) WITHOUT ROWID;
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_UPSERT = """
INSERT INTO rows VALUES ({generation:d}, ?, ?, ?, ?) ON CONFLICT (generation, key) DO UPDATE
SET event = excluded.event, created = excluded.created, packed = excluded.packed
WHERE (excluded.event, excluded.created) {newer} (rows.event, rows.created)
"""
_READ = "SELECT key, event, created, packed FROM rows WHERE generation = ? AND key IN (SELECT value FROM json_each(?))"
_NEWER = "SELECT key FROM rows WHERE generation = ? AND max(event, created) > ?"
_REMOVE = """
DELETE FROM rows WHERE generation = :id AND key <= (
    SELECT max(key) FROM (SELECT key FROM rows WHERE generation = :id ORDER BY key LIMIT :batch)
)
"""
_SET_MARK = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class EmbeddedRows(Rows):
    """The rows of one shop. Making the object touches nothing; each thread and process opens its own connections.

    The list of generations is remembered with its epoch, a number that is new with every change: to read the list would cost more
    than the rows of one key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bases = Bases(path.with_suffix(BASES))
        self._connections = Connections(path, 60, self._prepare)
        self._known: tuple[int, Generations] = (-1, [])

    def read(self, asked: Mapping[View, Sequence[str | None]]) -> dict[View, tuple[Layout, list[Row | None]]]:
        """As `Rows.read`, from the last commit."""
        while True:
            try:
                return self._read(asked)
            except LostError as lost:
                if any(g.id == lost.number and g.state == "current" for g in self.generations()):
                    raise self._lacks(lost) from None
                # else replaced since the list was read

    def _read(self, asked: Mapping[View, Sequence[str | None]]) -> dict[View, tuple[Layout, list[Row | None]]]:
        found: dict[View, tuple[Layout, list[Row | None]]] = {}
        with self._reading() as connection:
            generations = self._generations(connection)
            for view, keys in asked.items():
                generation = readable(generations, view)
                if generation is None:
                    found[view] = Layout(view.columns), [None] * len(keys)
                    continue
                rows = self._rows(connection, generation, [key for key in keys if key is not None])
                found[view] = generation.layout, [None if key is None else rows.get(key) for key in keys]
        return found

    def generations(self) -> Generations:
        """As `Rows.generations`."""
        with self._reading() as connection:
            return list(self._generations(connection))

    def write(self, view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None:
        """As `Rows.write`; each 2,000 rows are one transaction."""
        for batch in batches(rows, _BATCH):
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
            held = {view: self._rows(connection, current(generations, view), asked) for view, asked in keys.items()}
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
        with self._writing("FULL") as connection:  # what the list no longer names may be removed next
            made = change(self._generations(connection))
            _save(connection, made)
            connection.executemany(_SET_MARK, marks.items())
            return made

    def _make_room(self, made: Collection[Generation]) -> None:
        with self._answering():
            self._bases.make(generation.id for generation in made)

    def _put(self, generation: Generation, rows: Sequence[Packed], progress: Progress | None) -> None:
        try:
            with self._answering(), self._bases.filling(generation.id) as put:
                for batch in batches(rows, _BATCH):
                    check_building(self.generations(), [generation])
                    put(batch)
                    if progress:
                        progress(len(batch))
        except LostError as lost:
            check_building(self.generations(), [generation])
            raise self._lacks(lost) from None

    def _carry(self, before: Generation, generation: Generation, moment: int) -> None:
        with self._answering():
            try:
                self._carry_newer(before, generation, moment)
            except LostError:  # somebody deleted or damaged it; what was put by itself is here
                self._carry_newer(replace(before, as_of=None), generation, moment)

    def _carry_newer(self, before: Generation, generation: Generation, moment: int) -> None:
        with self._reading() as connection:
            keys = [key for (key,) in connection.execute(_NEWER, (before.id, moment))]
        found = [batches(keys, _BATCH), self._bases.newer(before.id, moment, _BATCH) if before.may_hold_newer(moment) else ()]
        for batch in chain(*found):  # some keys may come twice
            with self._reading() as connection:
                rows = self._rows(connection, before, batch)
            newer = [(key, *row) for key, row in rows.items() if max(row[:2]) > moment]
            with self._writing() as connection:
                check_building(self._generations(connection), [generation])
                connection.executemany(_UPSERT.format(generation=generation.id, newer=">"), newer)

    def _lacks(self, lost: LostError) -> EngineError:
        return EngineError(
            f"online store {self.path}: file {lost.number}.db in {self._bases.folder} cannot be read ({lost}); run "
            "`shopgraph features materialize`, which makes it anew."
        )

    def _remove(self, id: int) -> bool:
        gone = 1
        while gone:
            with self._writing() as connection:
                gone = connection.execute(_REMOVE, {"id": id, "batch": _BATCH}).rowcount
        with self._answering():
            return self._bases.remove(id)

    def _rows(self, connection: sqlite3.Connection, generation: Generation | None, keys: Collection[str]) -> dict[str, Row]:
        """What the open transaction sees of these keys."""
        if generation is None:
            return {}
        found = {} if generation.as_of is None else self._bases.read(generation.id, keys)
        asked = orjson.dumps(list(keys)).decode()
        for key, event, created, packed in connection.execute(_READ, (generation.id, asked)):
            if key not in found or (event, created) >= found[key][:2]:
                found[key] = event, created, packed
        return found

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
    def _writing(self, synchronous: str = "NORMAL") -> Iterator[sqlite3.Connection]:
        """A transaction that other writers wait for; FULL: on disk at its end."""
        with self._answering():
            connection = self._connections.get()
            with in_turn(self.path):
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    try:
                        yield connection
                    except LostError as lost:  # the list is the one that stands
                        raise self._lacks(lost) from None

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
        connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
        found = format_of(connection, FORMAT, _SCHEMA, self._bases.clear)  # what is there is of a store that somebody deleted
        if found != FORMAT:
            raise FeatureError(
                f"online store {self.path} has format {found}, this version reads {FORMAT}; delete the file and run "
                "`shopgraph features materialize`, which fills it anew."
            )


def _save(connection: sqlite3.Connection, generations: Generations) -> None:
    connection.execute("DELETE FROM generations")
    fields = [(g.id, g.view, g.digest, g.columns, g.state, g.as_of, g.source) for g in generations]
    connection.executemany("INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
    connection.execute("UPDATE epoch SET number = random()")


def _mark(connection: sqlite3.Connection, name: str) -> int:
    found = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0
