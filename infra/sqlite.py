"""SQLite files of a home: write-ahead mode, one connection for each thread and process, writers in turn."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BASES = ".rows"
"""How the names of folders end whose files do not change once a database names them."""


class Connections:
    """The connections to one file. Making the object touches nothing.

    Args:
        busy_s: how long a statement waits for another's transaction before it fails.
        prepare: told of each new connection: settings, format version, schema. What it raises, `get` raises.
    """

    def __init__(self, path: Path, busy_s: float, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self._busy_s = busy_s
        self._prepare = prepare
        self._local = threading.local()

    def get(self) -> sqlite3.Connection:
        """This thread's connection; a forked child opens a new one, since SQLite's may not cross a fork."""
        held: tuple[int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held and held[0] == os.getpid():
            return held[1]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        self._prepare(connection)
        self._local.held = (os.getpid(), connection)
        return connection


def format_of(connection: sqlite3.Connection, own: int, schema: str, fill: Callable[[], object]) -> int:
    """The format of a file. A new one, which has none, gets `own` with its schema and whatever `fill` does, from whoever is first."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == 0:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been first
            if found == 0:
                for statement in schema.split(";"):
                    connection.execute(statement)
                fill()
                connection.execute(f"PRAGMA user_version = {own}")
                found = own
    return int(found)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """While nobody else who asks writes to the file, in the order in which they came.

    SQLite lets a writer look again after up to 100 ms, so that one who writes without a pause keeps the others out. Here they queue
    at two locks: who waits for the second holds the first, and who just had the second comes after him.
    """
    with ExitStack() as held:
        with _locked(path.with_suffix(".next"), fcntl.LOCK_EX):
            held.enter_context(_locked(path.with_suffix(".turn"), fcntl.LOCK_EX))
        yield


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """While files of a folder are copied: nobody who asks `unless_kept` removes any."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def unless_kept(folder: Path) -> Iterator[bool]:
    """Whether files of a folder may go: not while somebody copies them, who does not begin inside this `with` either."""
    with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_mine:
        yield is_mine


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Whether the lock on a folder, or on a file that is made where there is none, was given."""
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(opened, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(opened)
