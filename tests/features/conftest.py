"""Online stores for the tests of this folder: the same for SQLite and for a Redis server."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from features.online.embedded import EmbeddedRows
from features.online.redis import RedisRows
from features.online.rows import Rows


@dataclass(frozen=True)
class OnlineStore:
    """One store. `open` opens it again, as another process would; `count` says how many rows it holds, seen or unseen."""

    open: Callable[[], Rows]
    count: Callable[[], int]


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.engines)])
def online(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    """An empty store."""
    if request.param == "embedded":
        path = tmp_path / "online.db"

        def in_file() -> int:
            with sqlite3.connect(path) as connection:
                found = set(connection.execute("SELECT generation, key FROM rows"))
            for file in path.with_suffix(".rows").glob("*.db"):
                with sqlite3.connect(file) as connection:
                    found |= {(int(file.stem), key) for (key,) in connection.execute("SELECT key FROM rows")}
            return len(found)

        yield OnlineStore(lambda: EmbeddedRows(path), in_file)
        return
    url, shop = request.getfixturevalue("redis_url"), f"s{random.randrange(10**9)}"
    with redis.Redis.from_url(url) as client:

        def in_server() -> int:
            return sum(client.hlen(name) for name in client.scan_iter(f"shopgraph:{shop}:rows:*"))

        yield OnlineStore(lambda: RedisRows(url, shop), in_server)
