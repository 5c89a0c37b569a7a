"""Packed rows on one Redis server, with the semantics of the embedded store: what is older never overwrites, and a reader never waits.

    shopgraph:<shop>:epoch          format version and a random word, new with every change of the list of generations
    shopgraph:<shop>:generations    hash: number -> generation, as JSON
    shopgraph:<shop>:rows:<number>  hash: key -> event and created time, 8 bytes each, then the packed columns
    shopgraph:<shop>:told:<number>  set: keys whose row was put by itself, not by the rebuild
    shopgraph:<shop>:marks          hash: name -> watermark

A process remembers the list and the epoch it was read at. Each call names that epoch, in the same transaction or script as the
rows; where it is no longer the one that stands, the list is read anew and the call made again. So nobody reads or writes rows of a
list that has changed, and the rows of what was replaced can go at once.

Lua compares times as doubles, which are exact up to the year 2255. Redis Cluster would need one key per call and is not covered.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import redis

from features.online.generations import Generation, Generations, check_building, current, readable, written
from features.online.packing import Layout, Packed
from features.online.rows import Change, Progress, Row, Rows, batches, changed
from features.views import View
from infra.errors import EngineError, FeatureError

FORMAT = 3
_BATCH = 100
"""Rows per call: a script holds the server for some 0.2 ms, then readers get their turn."""

_TIMES = struct.Struct(">qq")

_PUTTING = """
local function newer(one, other, equal)
    local event, created = struct.unpack('>i8i8', one)
    local other_event, other_created = struct.unpack('>i8i8', other)
    return event > other_event or (event == other_event and (created > other_created or (equal and created == other_created)))
end
local function put(rows, told, key, value, equal)
    if redis.call('HSETNX', rows, key, value) == 0 then
        if not newer(value, redis.call('HGET', rows, key), equal) then return end
        redis.call('HSET', rows, key, value)
    end
    if told then redis.call('SADD', told, key) end
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
"""
# KEYS: epoch, then rows and told in turns (what a rebuild puts is told nowhere); ARGV: epoch, whether a row of equal times counts, then
# key and value in turns
_PUT = (
    _PUTTING
    + """
for k = 2, #KEYS, 2 do
    for i = 3, #ARGV, 2 do put(KEYS[k], KEYS[k + 1], ARGV[i], ARGV[i + 1], ARGV[2] == '1') end
end
return 1
"""
)
# KEYS: epoch, marks, then rows and told in turns; ARGV: epoch, name, after, to, how many rows were seen, then place of the rows in KEYS,
# key and value of each seen (an empty value: there was none) and of each to put
_UPDATE = (
    _PUTTING
    + """
if (redis.call('HGET', KEYS[2], ARGV[2]) or '0') ~= ARGV[3] then return 0 end
local first = 6 + 3 * ARGV[5]
for i = 6, first - 1, 3 do
    if (redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) or '') ~= ARGV[i + 2] then return 0 end
end
for i = first, #ARGV, 3 do
    local place = tonumber(ARGV[i])
    put(KEYS[place], KEYS[place + 1], ARGV[i + 1], ARGV[i + 2], true)
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
return 1
"""
)


class RedisRows(Rows):
    """The rows of one shop at `url`. Making the object connects to nothing."""

    def __init__(self, url: str, shop: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=5)
        self._prefix = f"shopgraph:{shop}"
        self._epoch, self._list, self._marks = (f"{self._prefix}:{name}" for name in ("epoch", "generations", "marks"))
        self._put_script, self._update_script = map(self._redis.register_script, (_PUT, _UPDATE))
        self._known: tuple[bytes | None, Generations] = (None, [])

    def read(self, asked: Mapping[View, Sequence[str | None]]) -> dict[View, tuple[Layout, list[Row | None]]]:
        """As `Rows.read`; all views are one transaction and one round trip."""
        wanted = {view: [key for key in keys if key is not None] for view, keys in asked.items()}
        with self._answering():
            while True:
                epoch, generations = self._known
                chosen = {view: readable(generations, view) for view in asked}
                with self._redis.pipeline() as calls:
                    calls.get(self._epoch)
                    for view, generation in chosen.items():
                        if generation and wanted[view]:
                            calls.hmget(self._rows(generation.id), wanted[view])
                    stands, *answers = calls.execute()
                if stands == epoch:
                    break
                self._look()
        found: dict[View, tuple[Layout, list[Row | None]]] = {}
        rest = iter(answers)
        for view, keys in asked.items():
            generation = chosen[view]
            values = iter(next(rest) if generation and wanted[view] else [None] * len(wanted[view]))
            rows = [None if key is None else _row(next(values)) for key in keys]
            found[view] = generation.layout if generation else Layout(view.columns), rows
        return found

    def generations(self) -> Generations:
        """As `Rows.generations`."""
        with self._answering():
            return list(self._look()[1])

    def write(self, view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None:
        """As `Rows.write`; each 100 rows are one script, which nothing interrupts."""
        for batch in batches(rows, _BATCH):
            with self._answering():
                while True:
                    epoch, generations = self._defined([view])
                    places = [place for g in written(generations, view, is_update=False) for place in self._places(g.id)]
                    if self._put_script(keys=[self._epoch, *places], args=[epoch, 1, *_values(batch)]):
                        break
                    self._look()
            if progress:
                progress(len(batch))

    def update(self, keys: Mapping[View, Collection[str]], change: Change, mark: str, after: int, to: int) -> int:
        """As `Rows.update`: read, changed, and put by one script if all that was read still stands; else tried again."""
        with self._answering():
            stands = None
            while stands is None:
                stands = self._try_update(keys, change, mark, after, to)
            return stands

    def mark(self, name: str) -> int:
        """As `Rows.mark`."""
        with self._answering():
            return int(self._redis.hget(self._marks, name) or 0)

    def _try_update(self, keys: Mapping[View, Collection[str]], change: Change, mark: str, after: int, to: int) -> int | None:
        """Where the watermark stands; None if something came between."""
        epoch, generations = self._defined(keys)
        asked = [
            (view, self._places(g.id), list(names)) for view, names in keys.items() if names and (g := current(generations, view))
        ]
        with self._redis.pipeline() as calls:
            calls.get(self._epoch)
            calls.hget(self._marks, mark)
            for _, (rows, _), names in asked:
                calls.hmget(rows, names)
            found_epoch, count, *answers = calls.execute()
        if found_epoch != epoch:
            self._look()
            return None
        if int(count or 0) != after:
            return int(count or 0)
        held: dict[View, dict[str, Row]] = {view: {} for view in keys}
        places = [self._epoch, self._marks]
        seen: list[Any] = []
        for (view, both, names), values in zip(asked, answers, strict=True):
            places += both
            for name, value in zip(names, values, strict=True):
                seen += [len(places) - 1, name, value or b""]
                if row := _row(value):
                    held[view][name] = row
        put: list[Any] = []
        for view, made in changed(change, held).items():
            values = _values(made)
            for generation in written(generations, view, is_update=True):
                places += self._places(generation.id)
                for key, value in zip(values[::2], values[1::2], strict=True):
                    put += [len(places) - 1, key, value]
        if self._update_script(keys=places, args=[epoch, mark, after, to, len(seen) // 3, *seen, *put]):
            return to
        self._look()
        return None

    def _alter(self, change: Callable[[Generations], Generations], marks: Mapping[str, int] = {}) -> Generations:
        with self._answering(), self._redis.pipeline() as calls:
            while True:
                try:
                    calls.watch(self._epoch)
                    _, found = self._look(calls)
                    made, epoch = change(found), f"{FORMAT}-{secrets.token_hex(8)}".encode()
                    calls.multi()
                    calls.set(self._epoch, epoch)
                    calls.delete(self._list)
                    if made:
                        calls.hset(self._list, mapping={str(g.id): g.to_json() for g in made})
                    if marks:
                        calls.hset(self._marks, mapping=dict(marks))
                    calls.execute()
                except redis.WatchError:
                    continue
                self._known = epoch, made
                return made

    def _make_room(self, made: Collection[Generation]) -> None:
        """The first row of a hash makes it."""

    def _put(self, generation: Generation, rows: Sequence[Packed], progress: Progress | None) -> None:
        for batch in batches(rows, _BATCH):
            values, began = _values(batch), time.monotonic()
            self._building(generation, self._put_script, [self._rows(generation.id)], 0, *values)
            time.sleep(time.monotonic() - began)  # half of the server's time is left for those who read
            if progress:
                progress(len(batch))

    def _carry(self, before: Generation, generation: Generation, moment: int) -> None:
        with self._answering():
            rows, told = self._places(before.id)
            all_rows = before.may_hold_newer(moment)
            pairs = self._redis.hscan_iter(rows, count=_BATCH) if all_rows else self._of(rows, [*self._redis.sscan_iter(told)])
            newer = [pair for pair in pairs if pair[1] and max(_TIMES.unpack_from(pair[1])) > moment]
            for batch in batches(newer, _BATCH):
                self._building(generation, self._put_script, self._places(generation.id), 0, *chain(*batch))

    def _of(self, rows: str, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys and their values."""
        for batch in batches(keys, _BATCH):
            yield from zip(batch, self._redis.hmget(rows, batch), strict=True)

    def _remove(self, id: int) -> bool:
        with self._answering():
            self._redis.unlink(*self._places(id))  # Redis frees them in a thread of its own
        return True

    def _building(self, generation: Generation, script: Any, places: Sequence[str], *arguments: Any) -> Any:
        """What a script answers that works on a generation under construction."""
        with self._answering():
            while True:
                epoch, generations = self._known
                check_building(generations, [generation])
                if answer := script(keys=[self._epoch, *places], args=[epoch, *arguments]):
                    return answer
                self._look()

    def _defined(self, views: Collection[View]) -> tuple[bytes | None, Generations]:
        """Epoch and list; each of the views has a generation to write to."""

        def define(found: Generations) -> Generations:
            return [*found, *(Generation.of(view, "current") for view in views if current(found, view) is None)]

        if any(current(self._known[1], view) is None for view in views):
            self._alter(define)
        return self._known

    def _look(self, calls: Any = None) -> tuple[bytes | None, Generations]:
        """Epoch and list as they stand.

        Raises:
            FeatureError: another format version wrote them.
        """
        if calls is None:
            with self._redis.pipeline() as together:
                epoch, found = together.get(self._epoch).hgetall(self._list).execute()
        else:
            epoch, found = calls.get(self._epoch), calls.hgetall(self._list)
        if epoch is not None and not epoch.startswith(b"%d-" % FORMAT):
            raise FeatureError(
                f"online store {self._prefix} on Redis has format {epoch.split(b'-')[0].decode()}, this version reads {FORMAT}; "
                f"delete the keys {self._prefix}:* and run `shopgraph features materialize`, which fills it anew."
            )
        self._known = epoch, sorted(map(Generation.from_json, found.values()), key=lambda g: g.id)
        return self._known

    def _rows(self, id: int) -> str:
        return f"{self._prefix}:rows:{id}"

    def _places(self, id: int) -> tuple[str, str]:
        """Its rows, and the keys of those that were put by themselves."""
        return self._rows(id), f"{self._prefix}:told:{id}"

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


def _values(rows: Sequence[Packed]) -> list[Any]:
    """Key and value, in turns."""
    return [part for key, event, created, packed in rows for part in (key, _TIMES.pack(event, created) + packed)]


def _row(value: bytes | None) -> Row | None:
    return None if value is None else (*_TIMES.unpack_from(value), value[_TIMES.size :])
