"""Online reads and updates while all rows are materialised again and again; `make bench-online`.

100,000 entities x 20 features, embedded and, where `redis-server` is installed, on a Redis server of its own. One process reads 100
entities at a time; in a second run it updates one row every 5 ms, as fresh events do. Another materialises without a pause. A process
that computes takes a core as well, so the peer is a run beside one that has nothing to do with the store. A read that fails ends the
benchmark.
"""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, publish

ENTITIES = 100_000
SECONDS = 5
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


def materialise_on(settings: Settings, started: Any, done: Any) -> None:
    """Another process: all rows anew, again and again."""
    store = opened(settings)
    while not done.is_set():
        store.materialize(NOW)
        started.set()


def opened(settings: Settings) -> FeatureStore:
    shop = Shop(name="sample", currency="EUR", time_zone="UTC", now=NOW.isoformat())
    return FeatureStore(settings, shop, Lake.open(settings), Definitions({}, {"bench": VIEW}, {"bench": Service("bench", (VIEW,))}))


def for_a_while() -> Callable[[], bool]:
    end = time.perf_counter() + SECONDS
    return lambda: time.perf_counter() > end


def compute_on(settings: Settings, started: Any, done: Any) -> None:
    """Another process that has nothing to do with the store, and keeps a core as busy."""
    values = np.random.default_rng(5).normal(size=ENTITIES)
    started.set()
    while not done.is_set():
        np.sort(values)


@contextmanager
def beside(work: Callable[..., None], settings: Settings) -> Iterator[None]:
    started, done = _spawn.Event(), _spawn.Event()
    process = _spawn.Process(target=work, args=(settings, started, done))
    process.start()
    try:
        assert started.wait(120)
        yield
    finally:
        done.set()
        process.join(120)
    assert process.exitcode == 0


def bench(settings: Settings, engine: str, say: Callable[[str], None]) -> list[Figure]:
    store = opened(settings)
    store.materialize(NOW)
    reads(store, for_a_while())
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, work in (("idle", None), ("computing", compute_on), ("materialising", materialise_on)):
        say(f"{engine}: {name}")
        with beside(work, settings) if work else nullcontext():
            found[name] = reads(store, for_a_while()), updates(store, for_a_while())

    def beside_peer(what: str, value: Callable[[list[float], list[float]], float], **goal: Any) -> Figure:
        ours, peer = value(*found["materialising"]), value(*found["computing"])
        return figure(
            f"{engine}: {what} while 100 k rows are materialised; peer: while another process computes", ours, peer, **goal
        )

    rate, alone = len(found["materialising"][0]) / SECONDS, len(found["idle"][0]) / SECONDS
    return [
        beside_peer("reads of 100 entities a second", lambda read, _: len(read) / SECONDS, better="more", least_ratio=0.9),
        figure(f"{engine}: the same; peer: nothing else runs", rate, alone, better="more"),
        beside_peer("p99 of such a read, ms", lambda read, _: float(np.percentile(read, 99)), better="less"),
        beside_peer(
            "p99 of an update of one row, ms", lambda _, update: float(np.percentile(update, 99)), better="less", bound=100
        ),
    ]


@contextmanager
def redis_server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
