"""What rebuilds put: the rows of each generation in an SQLite file of its own, which nothing changes once it is read.

Whoever reads it takes no lock, looks into no write-ahead log and keeps its pages from one read to the next; whoever fills it holds
nobody up; to let go of it is to remove a file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import orjson

from features.online.packing import Packed
from features.online.rows import Row
from infra.sqlite import unless_kept

MAPPED_BYTES = 1 << 30
"""A read of a page that is not in SQLite's small cache is then no system call."""

_JOURNAL = "MEMORY"
"""A file that was not filled to its end is never read: no other has to undo what a killed process left."""

_SCHEMA = """
CREATE TABLE rows (key TEXT PRIMARY KEY, event INTEGER NOT NULL, created INTEGER NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID
"""
_PUT = """
INSERT INTO rows VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
SET event = excluded.event, created = excluded.created, packed = excluded.packed
WHERE (excluded.event, excluded.created) > (rows.event, rows.created)
"""
_READ = "SELECT key, event, created, packed FROM rows WHERE key IN (SELECT value FROM json_each(?))"
_NEWER = "SELECT key FROM rows WHERE max(event, created) > ?"


class LostError(Exception):
    """The file of the generation `number` is gone or damaged."""

    def __init__(self, number: int, what: object) -> None:
        super().__init__(what)
        self.number = number


class Bases:
    """The files of one folder, by the numbers of their generations. Making the object touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._free: dict[int, list[sqlite3.Connection]] = {}

    def make(self, numbers: Iterable[int]) -> None:
        """Empty files, and their names on disk before anything says that they are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            with closing(sqlite3.connect(self._path(number), isolation_level=None)) as connection:
                connection.execute(f"PRAGMA journal_mode = {_JOURNAL}")
                connection.execute(_SCHEMA)
        for folder in (self.folder, self.folder.parent):
            _flush(folder)

    @contextmanager
    def filling(self, number: int) -> Iterator[Callable[[Sequence[Packed]], object]]:
        """Inside the `with`, put rows into a file that nobody reads yet; of one key the newest stands. At its end all is on disk.

        Raises:
            LostError: it is gone.
        """
        with closing(self._open(number, "mode=rw")) as connection:
            connection.execute(f"PRAGMA journal_mode = {_JOURNAL}")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN")
            with connection:
                yield lambda rows: connection.executemany(_PUT, rows)

    def read(self, number: int, keys: Collection[str]) -> dict[str, Row]:
        """The rows of these keys that there are.

        Raises:
            LostError: the file is gone or damaged.
        """
        with self._reading(number) as connection:
            found = connection.execute(_READ, (orjson.dumps(list(keys)).decode(),))
            return {key: (event, created, packed) for key, event, created, packed in found}

    def newer(self, number: int, moment: int, batch: int) -> Iterator[list[str]]:
        """Keys whose row is or became known later than a moment, in microseconds UTC.

        Raises:
            LostError: the file is gone or damaged.
        """
        with self._reading(number) as connection:
            found = connection.execute(_NEWER, (moment,))
            while rows := found.fetchmany(batch):
                yield [key for (key,) in rows]

    def remove(self, number: int) -> bool:
        """Let go of a file, and say whether it is gone: it stays while a backup copies files. Who has it open reads on."""
        if not self._path(number).exists():
            return True
        with unless_kept(self.folder) as may_go:
            if may_go:
                self._path(number).unlink(missing_ok=True)
        return may_go

    def clear(self) -> None:
        """Let go of all files."""
        for path in self.folder.glob("*.db"):
            path.unlink(missing_ok=True)

    @contextmanager
    def _reading(self, number: int) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile. Those that are free are kept for the next, whichever thread that is: what a
        thread kept for itself would hold files that are gone for as long as it sleeps."""
        connection = self._taken(number) or self._open(number, "mode=ro&immutable=1")
        try:
            yield connection
        except BaseException as error:  # what it is in the middle of is not known
            connection.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise LostError(number, error) from error
            raise
        with self._lock:
            self._free.setdefault(number, []).append(connection)

    def _taken(self, number: int) -> sqlite3.Connection | None:
        with self._lock:
            if self._pid != os.getpid():  # SQLite's connections may not cross a fork
                self._pid, self._free = os.getpid(), {}
            if number not in self._free:  # new here; others may have gone for it
                for gone in [each for each in self._free if not self._path(each).exists()]:
                    for connection in self._free.pop(gone):
                        connection.close()
            free = self._free.get(number)
            return free.pop() if free else None

    def _open(self, number: int, how: str) -> sqlite3.Connection:
        path = self._path(number)
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{how}", timeout=60, isolation_level=None, check_same_thread=False, uri=True
            )
        except sqlite3.OperationalError:
            if path.exists():
                raise
            raise LostError(number, "it is gone") from None
        connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
        return connection

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.db"


def _flush(folder: Path) -> None:
    """Have the names in a folder on disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
