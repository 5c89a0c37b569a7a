"""Online reads and updates while all rows are materialised again and again; `make bench-online`.

100,000 entities x 20 features, embedded and, where `redis-server` is installed, on a Redis server of its own. One process reads 100
entities at a time for a second, then updates one row every 5 ms for a second, as fresh events do. Beside it another process does, in
turns, nothing, or sorts numbers, or materialises without a pause. Who computes takes a core as well, so sorting, which has nothing to do
with the store, is the peer. A read that fails ends the benchmark.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from bench_features import NOW, VIEW, rows_of, user_ids
from rich.console import Console

from features.definitions import Definitions
from features.online.packing import Packed, key_texts
from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from infra.home import Home
from infra.lake import Lake
from infra.processes import free_ports
from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, publish

ENTITIES = 100_000
SLOT_S, TURNS = 1.0, 15
"""In turns: what a shared machine gives changes by a third within minutes."""

_spawn = multiprocessing.get_context("spawn")


def reads(store: FeatureStore, until: Callable[[], bool]) -> list[float]:
    """Milliseconds of each read of 100 entities; all of them must be there."""
    rng, times = np.random.default_rng(3), []
    while not until():
        asked = user_ids(rng.integers(0, ENTITIES, 100)).to_pylist()
        start = time.perf_counter()
        found = store.online_rows("bench", {"user_id": asked}, NOW)
        times.append((time.perf_counter() - start) * 1e3)
        assert None not in found["bench__event_timestamp"]
    return times


def updates(store: FeatureStore, until: Callable[[], bool]) -> list[float]:
    """Milliseconds of each update of one row."""
    rng, times, stands = np.random.default_rng(4), [], store.rows.mark("bench")
    while not until():
        (key,) = key_texts([user_ids(rng.integers(0, ENTITIES, 1)).to_pylist()])
        assert key is not None

        def change(held: Any, key: str = key) -> dict[Any, list[Packed]]:
            event, created, packed = held[VIEW][key]
            return {VIEW: [(key, event, created, packed)]}

        start = time.perf_counter()
        stands = store.rows.update({VIEW: [key]}, change, "bench", stands, stands + 1)
        times.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.005)
    return times


def opened(settings: Settings) -> FeatureStore:
    shop = Shop(name="sample", currency="EUR", time_zone="UTC", now=NOW.isoformat())
    return FeatureStore(settings, shop, Lake.open(settings), Definitions({}, {"bench": VIEW}, {"bench": Service("bench", (VIEW,))}))


def for_a_while() -> Callable[[], bool]:
    end = time.perf_counter() + SLOT_S
    return lambda: time.perf_counter() > end


IDLE, COMPUTING, MATERIALISING = range(3)


def work_on(settings: Settings, asked: Any, doing: Any) -> None:
    """Another process: nothing, or sorting numbers, or making all rows anew, over and over, as it is asked to; -1 ends it."""
    store, values = opened(settings), np.random.default_rng(5).normal(size=ENTITIES)
    while asked.value >= 0:
        doing.value = asked.value
        if doing.value == MATERIALISING:
            store.materialize(NOW)
        elif doing.value == COMPUTING:
            np.sort(values)
        else:
            time.sleep(0.01)


@contextmanager
def beside(settings: Settings) -> Iterator[Callable[[int], None]]:
    """The other process; what is called says what it does from then on."""
    asked, doing = _spawn.Value("i", IDLE), _spawn.Value("i", -1)
    process = _spawn.Process(target=work_on, args=(settings, asked, doing))
    process.start()

    def ask(what: int) -> None:
        asked.value = what
        while doing.value != what:
            assert process.is_alive()
            time.sleep(0.01)

    try:
        yield ask
    finally:
        asked.value = -1
        process.join(120)
    assert process.exitcode == 0


def bench(settings: Settings, engine: str, say: Callable[[str], None]) -> list[Figure]:
    store = opened(settings)
    store.materialize(NOW)
    read: dict[int, list[list[float]]] = {IDLE: [], COMPUTING: [], MATERIALISING: []}
    updated: dict[int, list[float]] = {IDLE: [], COMPUTING: [], MATERIALISING: []}
    with beside(settings) as ask:
        for turn in range(TURNS):
            say(f"{engine}: turn {turn + 1} of {TURNS}")
            for what in read:
                ask(what)
                read[what].append(reads(store, for_a_while()))
                updated[what] += updates(store, for_a_while())

    def rate(what: int) -> float:
        return statistics.median(len(times) / SLOT_S for times in read[what])

    def p99(times: Iterable[float]) -> float:
        return float(np.percentile(list(times), 99))

    while_rows = "while 100 k rows are materialised"
    peer = "peer: while another process computes"
    return [
        figure(
            f"{engine}: reads of 100 entities a second {while_rows}; {peer}",
            rate(MATERIALISING),
            rate(COMPUTING),
            better="more",
            least_ratio=0.9,
        ),
        figure(f"{engine}: the same; peer: nothing else runs", rate(MATERIALISING), rate(IDLE), better="more"),
        figure(
            f"{engine}: p99 of such a read, ms {while_rows}; {peer}",
            p99(chain(*read[MATERIALISING])),
            p99(chain(*read[COMPUTING])),
            better="less",
        ),
        figure(
            f"{engine}: p99 of an update of one row, ms {while_rows}; {peer}",
            p99(updated[MATERIALISING]),
            p99(updated[COMPUTING]),
            better="less",
            bound=100,
        ),
    ]


@contextmanager
def redis_server() -> Iterator[str]:
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Run all, print a table, write build/bench/online.json."""
    set_quiet_environment()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shopgraph-bench-") as scratch, console.status("making rows") as status:
        home = Path(scratch) / "home"
        settings = Settings.load(home=home)
        Home(settings).create()
        rows = rows_of(np.arange(ENTITIES), np.random.default_rng(8), days=59)
        opened(settings).lake.write(VIEW.path, rows, "overwrite", digest="bench", read_version=None)
        figures = bench(settings, "SQLite", status.update)
        if shutil.which("redis-server"):
            with redis_server() as url:
                figures += bench(Settings.load(home=home, online_store=url), "Redis", status.update)
        else:
            console.print("no redis-server here: SQLite only")
    publish("online", figures)


if __name__ == "__main__":
    main()
