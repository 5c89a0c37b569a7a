"""The online store under many processes at once and under kill -9, on SQLite and on Redis: no error, nothing lost, nothing half-done."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from features.online.packing import Layout, Packed, key_texts, pack_rows
from features.online.read import read_columns
from features.online.rows import Row, Rows
from features.views import View
from tests.features.conftest import OnlineStore

COLUMNS = (("count", "int"), ("text", "string"))
VIEWS = [View(name, f"features/{name}", (("user_id", "string"),), COLUMNS) for name in ("history", "activity")]  # type: ignore[arg-type]
HISTORY, ACTIVITY = VIEWS
T0 = datetime(2024, 5, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
_fork = multiprocessing.get_context("fork")


def packed(rows: Mapping[str, tuple[int, int]]) -> list[Packed]:
    """User -> count and microseconds after T0."""
    times = [T0 + at * US for _, at in rows.values()]
    counts = [count for count, _ in rows.values()]
    return pack_rows(HISTORY, pa.table([list(rows), counts, ["text"] * len(rows), times, times], schema=HISTORY.schema))


def counts(rows: Rows, users: list[str]) -> list[list[int]]:
    """Per view, as they stood at one instant; 0 where there is no row."""
    keys = key_texts([users])
    return [[count or 0 for count in columns["count"]] for _, columns in read_columns(rows, dict.fromkeys(VIEWS, keys)).values()]


@contextmanager
def processes(n: int, work: Callable[..., None], *arguments: Any) -> Iterator[list[Any]]:
    """`n` processes at `work(number, *arguments)`; at the end each must have ended well."""
    started = [_fork.Process(target=work, args=(number, *arguments), daemon=True) for number in range(n)]
    for process in started:
        process.start()
    try:
        yield started
        for process in started:
            process.join(60)
        assert [process.exitcode for process in started] == [0] * n
    finally:
        for process in started:
            process.kill()


def add_one(rows: Rows, mark: str, after: int, at: int, users: list[str]) -> int:
    """Count one more for each user in both views, as the fact after `after` of a log."""
    keys = [key for key in key_texts([users]) if key]

    def change(held: Mapping[View, Mapping[str, Row]]) -> dict[View, list[Packed]]:
        made = {}
        for view, found in held.items():
            old = dict(zip(found, Layout(view.columns).unpack([row[2] for row in found.values()])["count"], strict=True))
            made[view] = packed({user: (old.get(key, 0) + 1, at) for user, key in zip(users, keys, strict=True)})
        return made

    return rows.update(dict.fromkeys(VIEWS, keys), change, mark, after, after + 1)


WRITTEN, ADDED = [f"w{n}" for n in range(40)], ["a0", "a1"]
ROUNDS = 25


def _write(number: int, online: OnlineStore) -> None:
    """Write every key again and again at random instants, the value says the instant; between, count one for keys of all."""
    rng, rows = random.Random(number), online.open()
    for turn in range(ROUNDS):
        instants = [rng.randrange(10**6) for _ in WRITTEN]
        rows.write(HISTORY, packed({user: (at, at) for user, at in zip(WRITTEN, instants, strict=True)}))
        assert add_one(rows, f"log {number}", turn, 0, ADDED) == turn + 1


def _read_on(number: int, online: OnlineStore, done: Any) -> None:
    rows, seen = online.open(), [[0] * len(WRITTEN + ADDED)] * 2
    while not done.is_set():
        now = counts(rows, WRITTEN + ADDED)
        assert now[0][-2:] == now[1][-2:], "half of an update was seen"
        for late, early in zip(now, seen, strict=True):
            assert all(after >= before for after, before in zip(late, early, strict=True)), "a value went back in time"
        seen = now


def test_eight_writers_and_eight_readers_lose_nothing(online: OnlineStore) -> None:
    done = _fork.Event()
    with processes(8, _read_on, online, done):
        with processes(8, _write, online):
            pass
        done.set()
    newest = [0] * len(WRITTEN)
    for number in range(8):
        rng = random.Random(number)
        for _ in range(ROUNDS):
            newest = [max(old, rng.randrange(10**6)) for old in newest]
    history, activity = counts(online.open(), WRITTEN + ADDED)
    assert history == [*newest, 8 * ROUNDS, 8 * ROUNDS]
    assert activity[-2:] == [8 * ROUNDS] * 2


MANY = [f"u{n:05d}" for n in range(6_000)]


def _rebuild(number: int, online: OnlineStore, turns: range) -> None:
    rows = online.open()
    for turn in turns:
        with rows.rebuild(VIEWS, T0, {} if turn % 2 else None) as put:
            for view in VIEWS:
                put(view, packed(dict.fromkeys(MANY, (turn, -turn))))


def _read_whole(number: int, online: OnlineStore, done: Any) -> None:
    rows, rng, seen = online.open(), random.Random(number), 1
    while not done.is_set():
        found = {count for columns in counts(rows, rng.sample(MANY, 20)) for count in columns}
        assert len(found) == 1, f"rows of {sorted(found)} were seen together"
        assert min(found) >= seen
        seen = min(found)


def test_no_read_fails_or_sees_half_while_rows_are_rebuilt(online: OnlineStore) -> None:
    _rebuild(0, online, range(1, 2))
    done = _fork.Event()
    with processes(4, _read_whole, online, done):
        with processes(1, _rebuild, online, range(2, 8)):
            pass
        done.set()
    assert online.count() == 2 * len(MANY)
    assert counts(online.open(), MANY) == [[7] * len(MANY)] * 2


@contextmanager
def killed(after_s: float, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Let a process at `work` live for so long beside what is inside the `with`, then kill it."""
    process = _fork.Process(target=work, args=arguments, daemon=True)
    process.start()
    try:
        time.sleep(after_s)
        yield
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()


def test_a_rebuild_killed_at_any_moment_changes_all_or_nothing(online: OnlineStore) -> None:
    rng, rows = random.Random(3), online.open()
    began = time.monotonic()
    _rebuild(0, online, range(1, 2))
    took_s = time.monotonic() - began
    stands = 1
    for turn in range(2, 12):
        with killed(rng.uniform(0, 1.2) * took_s, _rebuild, 0, online, range(turn, turn + 1)):
            pass
        found = counts(rows, MANY)
        assert found in ([[stands] * len(MANY)] * 2, [[turn] * len(MANY)] * 2)
        stands = found[0][0]
    _rebuild(0, online, range(12, 13))
    assert counts(rows, MANY) == [[12] * len(MANY)] * 2
    assert online.count() == 2 * len(MANY), "what the killed ones left is gone"


def _tell(number: int, online: OnlineStore, end: int, users: list[list[str]]) -> None:
    """Tell a log from where its watermark stands, each fact to the users of this process."""
    rows = online.open()
    stands = rows.mark("log")
    while stands < end:
        stands = add_one(rows, "log", stands, stands + 1, users[number])


def test_a_log_told_by_four_at_once_counts_once(online: OnlineStore) -> None:
    with processes(4, _tell, online, 200, [[f"t{number}"] for number in range(4)]):
        pass
    assert [sum(columns) for columns in counts(online.open(), [f"t{number}" for number in range(4)])] == [200, 200]


def test_a_log_whose_teller_is_killed_again_and_again_counts_once(online: OnlineStore) -> None:
    rng, rows = random.Random(4), online.open()
    for _ in range(10):
        with killed(rng.uniform(0.02, 0.15), _tell, 0, online, 10**6, [ADDED]):
            if rng.random() < 0.3:
                _rebuild(0, online, range(1))
        stands = rows.mark("log")
        assert counts(rows, ADDED) == [[stands] * 2] * 2
    assert stands > 10
