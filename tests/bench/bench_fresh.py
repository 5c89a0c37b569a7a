"""Benchmark of what is posted: `make bench-fresh`.

Two gateways under uvicorn, each a process as a replica is one, take events and items of one shop. An event counts as readable when
`FeatureStore.online_rows`, in another process, gives its item; an item as withdrawn when the other gateway's list lacks it. Clients,
gateways and reader share the machine.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bench_serving import make_shop
from rich.console import Console

from features.fresh.spool import Spool
from features.shop import Shop
from features.store import FeatureStore
from infra import processes
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, publish

NUM_SINGLE = 200
LOT, NUM_LOTS, CLIENTS = 100, 8, 4
PEOPLE = 20_000
"""Who acts in the lots; with few of them each would have hundreds of acts within a minute, and rows that no shop has."""
NUM_WITHDRAWN = 5


@contextmanager
def gateways(settings: Settings, number: int) -> Iterator[list[int]]:
    """So many gateways of one home; their ports."""
    home = Home(settings)
    folder = home.run / "uvicorn-metrics"
    folder.mkdir(exist_ok=True)
    ports = processes.free_ports(number)
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "PROMETHEUS_MULTIPROC_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        for port in ports:
            command = [
                sys.executable,
                "-m",
                "uvicorn",
                "--factory",
                "bench_serving:application",
                "--app-dir",
                str(Path(__file__).parent),
            ]
            command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
            name = f"bench-gateway-{port}"
            stack.callback(processes.stop, home, name)
            processes.start(home, name, command, variables, lambda port=port: processes.answers(port, "/readyz"), 180)
        yield ports


def event(name: str, user: str, item: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {"event_id": name, "user_id": user, "item_id": item, "event_type": "view", "event_timestamp": now}


def post(http: httpx.Client, port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer; httpx.HTTPStatusError where it is no 2xx."""
    answer = http.post(f"http://127.0.0.1:{port}{path}", json=body)
    answer.raise_for_status()
    content: dict[str, Any] = answer.json()
    return content


def readable_ms(store: FeatureStore, ports: list[int], run: str) -> list[float]:
    """Milliseconds from before an event is posted until its user's row holds it, one event after another."""
    found = []
    with httpx.Client() as http:
        for number in range(NUM_SINGLE):
            user, item = f"u{number % 200}", f"{run}{number}"
            began = time.perf_counter()
            post(http, ports[number % 2], "/v1/events", {"events": [event(f"{run}{number}", user, item)]})
            while item not in (store.online_rows("recommender", {"user_id": [user]})["item_ids"][0] or ()):
                time.sleep(0.001)  # who asks without a pause takes one of the two cores from the gateways
            found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def load(ports: list[int], run: str, rate: float | None = None) -> float:
    """Events a second that several clients get accepted in lots; with a rate they send so many, and no more."""
    every_s = CLIENTS * LOT / rate if rate else 0.0

    def client(number: int) -> None:
        chance = random.Random(f"{run}-{number}")
        with httpx.Client(timeout=60) as http:
            for lot in range(NUM_LOTS):
                time.sleep(max(0.0, began + (lot + number / CLIENTS) * every_s - time.perf_counter()))
                ids = [f"{run}-{number}-{lot}-{one}" for one in range(LOT)]
                events = [event(name, f"u{chance.randrange(PEOPLE)}", f"i{one}") for one, name in enumerate(ids)]
                post(http, ports[number % 2], "/v1/events", {"events": events})

    began = time.perf_counter()
    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return CLIENTS * NUM_LOTS * LOT / (time.perf_counter() - began)


def load_on(ports: list[int], run: str, rate: float | None, turns: Any, done: Any) -> None:
    """Clients of another process: whoever measures does not wait for their work. `turns` counts how often all lots were taken."""
    while not done.is_set():
        load(ports, f"{run}{turns.value}", rate)
        turns.value += 1


@contextmanager
def loaded(ports: list[int], run: str, rate: float | None) -> Iterator[None]:
    """While clients send lots, as fast as they are taken or at a rate."""
    spawn = multiprocessing.get_context("spawn")
    turns, done = spawn.Value("q", 0), spawn.Event()
    clients = spawn.Process(target=load_on, args=(ports, run, rate, turns, done))
    clients.start()
    try:
        while not turns.value:  # a new process takes seconds until it sends
            assert clients.is_alive(), f"the clients ended with {clients.exitcode}"
            time.sleep(0.05)
        before = turns.value
        yield
        assert turns.value > before, "measured beside clients that sent nothing"
    finally:
        done.set()
        clients.join(60)
    assert clients.exitcode == 0, f"the clients ended with {clients.exitcode}"


def withdrawn_ms(ports: list[int]) -> list[float]:
    """Milliseconds from before a withdrawal is told to one gateway until the other's list lacks the item."""
    found = []
    with httpx.Client() as http:
        for _ in range(NUM_WITHDRAWN):
            ask = {"k": 1, "personalize": False}
            (first,) = post(http, ports[1], "/v1/recommend", ask)["items"]
            began = time.perf_counter()
            now = datetime.now(UTC).isoformat()
            post(http, ports[0], "/v1/items", {"items": [{"item_id": first["item_id"], "withdrawn_at": now}]})
            while post(http, ports[1], "/v1/recommend", ask)["items"][0] == first:
                time.sleep(0.005)
            found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def bench(scratch: Path, say: Any) -> list[Figure]:
    """Latency of one event alone and under load, rate, drain, withdrawal."""
    settings = make_shop(scratch / "home").model_copy(update={"now": "wall"})
    store = FeatureStore(settings, Shop.load(Home(settings), "bench"), Lake.open(settings))
    with gateways(settings, 2) as ports:
        say("one event at a time")
        readable_ms(store, ports, "warm")
        alone = readable_ms(store, ports, "alone")
        say("lots of events")
        rate = statistics.median(load(ports, f"rate{turn}") for turn in range(3))
        say("one event at a time beside lots")
        with loaded(ports, "half", rate / 2):
            half = readable_ms(store, ports, "half-beside")
        with loaded(ports, "busy", None):
            beside = readable_ms(store, ports, "beside")
        say("the drain")
        began, spool = time.perf_counter(), Spool(Home(settings).spool / "bench.db")
        while spool.waiting()[0]:
            time.sleep(0.05)
        drained = time.perf_counter() - began
        say("withdrawals")
        gone = withdrawn_ms(ports)
    lots = f"lots of {LOT} from {CLIENTS} clients"
    return [
        _bounded("ms from post to readable row, p99", alone, _p99(alone), 100),
        _bounded(f"the same beside {lots} at half the rate that is taken, p99", half, _p99(half), 100),
        _bounded(f"the same beside {lots} as fast as they are taken, p99", beside, _p99(beside), 100),
        figure(f"events/s on disk and in the rows, {lots}; peer: none", rate, 1, better="more"),
        figure("s until all is in the table after the last lot; peer: none", drained, 1, better="less"),
        _bounded(f"ms from withdrawal to another gateway's list, most of {NUM_WITHDRAWN}", gone, gone[-1], 1000),
    ]


def _bounded(what: str, values: list[float], ours: float, bound: float) -> Figure:
    middle = values[len(values) // 2]
    return figure(f"{what} (p50 {middle:.1f}); peer: the bound", ours, bound, better="less", bound=bound)


def _p99(values: list[float]) -> float:
    return values[int(len(values) * 0.99)]


def main() -> None:
    """Run all, print a table, write build/bench/fresh.json."""
    set_quiet_environment()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shopgraph-bench-") as scratch, console.status("making a shop") as status:
        figures = bench(Path(scratch), status.update)
    publish("fresh", figures)


if __name__ == "__main__":
    main()
