"""SQLite files of a home: write-ahead mode, one connection for each thread and process."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
def _locked(folder: Path, how: int) -> Iterator[bool]:
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(opened)
