"""SQLite files of a home: write-ahead mode, one connection for each thread and process."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path


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
