"""Packed rows on one Redis server, with the semantics of the embedded store: what is older never overwrites, and a reader never waits.

    shopgraph:<shop>:<view>:columns            hash: definition digest -> the names and types its rows were packed with
    shopgraph:<shop>:<view>:complete           sorted set: definition digest -> as of when it is complete, microseconds UTC
    shopgraph:<shop>:<view>:<digest>:<key>     event and created time, 8 bytes each, then the packed columns

Lua compares times as doubles, which are exact up to the year 2255. Redis Cluster would need one key per call and is not covered.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import redis

from features.online.packing import NEVER, Layout, Packed, to_microseconds
from features.online.rows import Row
from features.views import View
from infra.errors import EngineError

_BATCH = 1_000
"""Rows per call: a script holds the server for about a millisecond, then readers get their turn."""

_TIMES = struct.Struct(">qq")

_PUT = """
for i, key in ipairs(KEYS) do
    local held = redis.call('GETRANGE', key, 0, 15)
    local write = held == ''
    if not write then
        local event, created = struct.unpack('>i8i8', held)
        local new_event, new_created = struct.unpack('>i8i8', ARGV[i])
        write = new_event > event or (new_event == event and new_created >= created)
            or math.max(event, created) <= tonumber(ARGV[#KEYS + 1])
    end
    if write then redis.call('SET', key, ARGV[i]) end
end
"""
_PRUNE = """
for _, key in ipairs(KEYS) do
    local held = redis.call('GETRANGE', key, 0, 15)
    if held ~= '' then
        local event, created = struct.unpack('>i8i8', held)
        if math.max(event, created) <= tonumber(ARGV[1]) then redis.call('UNLINK', key) end
    end
end
"""


class RedisRows:
    """The rows of one shop at `url`. Making the object connects to nothing.

    Every method raises EngineError where Redis does not answer.
    """

    def __init__(self, url: str, shop: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=5)
        self._prefix = f"shopgraph:{shop}"
        self._put = self._redis.register_script(_PUT)
        self._prune = self._redis.register_script(_PRUNE)
        self._complete: dict[tuple[str, str], Layout] = {}

    def write(self, view: View, rows: Sequence[Packed], progress: Callable[[int], None] | None = None) -> None:
        """As `Rows.write`; each 1,000 rows are one script, which nothing interrupts."""
        self._write(self._define(view), rows, NEVER, progress)

    def replace(self, view: View, rows: Sequence[Packed], as_of: datetime, progress: Callable[[int], None] | None = None) -> None:
        """As `Rows.replace`; first the rows, then what is not among them goes, each 1,000 in one script."""
        base, moment = self._define(view), to_microseconds(as_of)
        self._write(base, rows, moment, progress)
        kept = {f"{base}:{key}".encode() for key, *_ in rows}
        with self._answering():
            for keys in self._scan(f"{base}:*"):
                if gone := [key for key in keys if key not in kept]:
                    self._prune(keys=gone, args=[moment])
            self._redis.zadd(f"{self._prefix}:{view.name}:complete", {view.digest: moment}, gt=True)

    def read(self, view: View, keys: Sequence[str | None]) -> tuple[Layout, list[Row | None]]:
        """As `Rows.read`; all keys are one MGET."""
        with self._answering():
            digest, layout = self._readable(view)
            asked = [key for key in keys if key is not None]
            base = f"{self._prefix}:{view.name}:{digest}"
            values = iter(self._redis.mget([f"{base}:{key}" for key in asked]) if asked else [])
        found = [next(values) if key is not None else None for key in keys]
        return layout, [None if value is None else (*_TIMES.unpack_from(value), value[_TIMES.size :]) for value in found]

    def drop(self, view_name: str) -> None:
        """As `Rows.drop`, in batches: a reader meanwhile may find part of the rows."""
        with self._answering():
            for keys in self._scan(f"{self._prefix}:{view_name}:*"):
                self._redis.unlink(*keys)
        self._complete.clear()

    def _write(self, base: str, rows: Sequence[Packed], as_of: int, progress: Callable[[int], None] | None) -> None:
        """Put rows over those that are older, or that were visible at `as_of`."""
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            with self._answering():
                self._put(
                    keys=[f"{base}:{key}" for key, *_ in batch],
                    args=[*(_TIMES.pack(event, created) + packed for _, event, created, packed in batch), as_of],
                )
            if progress:
                progress(len(batch))

    def _define(self, view: View) -> str:
        """Where the rows of the view's definition lie; its columns are noted on first use."""
        with self._answering():
            self._redis.hsetnx(f"{self._prefix}:{view.name}:columns", view.digest, json.dumps(view.columns))
        return f"{self._prefix}:{view.name}:{view.digest}"

    def _readable(self, view: View) -> tuple[str, Layout]:
        """The definition to read: the view's own once complete, which is remembered; else the newest complete; else its own."""
        known = self._complete.get((view.name, view.digest))
        if known:
            return view.digest, known
        complete = [d.decode() for d in self._redis.zrevrange(f"{self._prefix}:{view.name}:complete", 0, -1)]
        digest = view.digest if view.digest in complete or not complete else complete[0]
        columns = self._redis.hget(f"{self._prefix}:{view.name}:columns", digest)
        layout = Layout([(name, kind) for name, kind in json.loads(columns)] if columns else view.columns)
        if view.digest in complete:
            self._complete[view.name, view.digest] = layout
        return digest, layout

    def _scan(self, pattern: str) -> Iterator[list[bytes]]:
        """The keys that match, in batches."""
        cursor = 0
        while True:
            cursor, keys = self._redis.scan(cursor, match=pattern, count=_BATCH)
            if keys:
                yield keys
            if cursor == 0:
                return

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            place = self._redis.connection_pool.connection_kwargs
            raise EngineError(
                f"Redis at {place.get('host')}:{place.get('port')} does not answer ({error}); "
                "start it, or correct SHOPGRAPH_ONLINE_STORE."
            ) from None
