"""Benchmark of the HTTP gateway: `make bench-serving`.

One shop of 50,000 items and 2,000 users with 50 acts each; a recommender and a ranker of the default sizes with untrained weights, which
cost what trained ones cost. Ours is the gateway under Ray Serve as `shopgraph up` starts it, with two replicas. The peers: the same ASGI
application under bare uvicorn with as many worker processes as we have replicas, and the same nodes as plain Serve deployments behind the
default proxy. The load comes from wrk (a C program on the same machine, whose part of the processors counts), each request for another
user; all alternate, figures are medians. Requests allow five seconds, so that no answer leaves anything out.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console

from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES, INTERACTIONS
from infra import processes
from infra.errors import EngineError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import REPEATS, Figure, figure, publish
from serving import servers
from serving.compiling import compile_graph
from serving.releases import Releases
from training.ranker import encoder as ranker_encoder
from training.ranker import model as ranker
from training.ranker.candidates import SOURCES
from training.recommender.encoder import Encoder
from training.recommender.model import Recommender
from training.recommender.network import Config, Network
from training.recommender.purchases import Purchases
from training.tracking.registry import Saved

NUM_ITEMS, NUM_USERS, NUM_ACTS = 50_000, 2_000, 50
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SECONDS = 4
CLIENTS = (1, 8, 32)
UVICORN, PLAIN = "bench-uvicorn", "bench-plain"
REPLICAS = 2


def make_shop(home_folder: Path) -> Settings:
    """A shop with online rows and one released recommend graph."""
    rng = np.random.default_rng(7)
    ports = processes.free_ports(5)
    names = ("http_port", "mlflow_port", "ray_port", "ray_dashboard_port")
    settings = Settings.load(home=home_folder, shop="bench", http_replicas=REPLICAS, **dict(zip(names, ports[:4], strict=True)))
    home = Home(settings).create()
    home.shop().mkdir()
    shop = Shop(name="bench", currency="EUR", time_zone="Europe/Berlin", now=NOW.isoformat())
    (home.shop() / "shop.yaml").write_text(f"name: bench\ncurrency: EUR\ntime_zone: Europe/Berlin\nnow: '{NOW.isoformat()}'\n")
    lake = Lake.open(settings)
    items = [f"i{number}" for number in range(NUM_ITEMS)]
    acts = [[items[i] for i in rng.integers(0, NUM_ITEMS, NUM_ACTS)] for _ in range(NUM_USERS)]
    write(lake, "user_history", [
        {"user_id": f"u{number}", "item_ids": items_of, "event_types": ["view"] * NUM_ACTS} for number, items_of in enumerate(acts)
    ])  # fmt: skip
    write(lake, "item_catalog", [{"item_id": item, "category": f"c{number % 20}"} for number, item in enumerate(items)])
    store = FeatureStore(settings, shop, lake)
    store.apply()
    store.materialize()

    torch.manual_seed(7)
    encoder = Encoder(tuple(items), ("view",), tuple(np.linspace(1, 0.01, NUM_ITEMS).tolist()))
    digest = "00" * 32
    folder = home.model_folder("bench.recommender", 1, digest)
    Recommender(Config(), encoder, Network(Config(), NUM_ITEMS, 1)).save(folder)
    Purchases.learn(INTERACTIONS.schema.empty_table(), encoder, shop.time_zone).save(folder)
    ranker_digest = "11" * 32
    ranker_folder = home.model_folder("bench.ranker", 1, ranker_digest)
    save_ranker(ranker_folder, rng)
    models = {
        "recommender": Saved(folder, "bench.recommender", 1, digest, "none"),
        "ranker": Saved(ranker_folder, "bench.ranker", 1, ranker_digest, "none"),
    }
    manifest = compile_graph(home, shop, "recommend", models)
    releases = Releases(settings, "bench")
    releases.release(releases.store(manifest), who="bench", why="bench")
    return settings


def save_ranker(folder: Path, rng: np.random.Generator) -> None:
    """A ranker of the default size that learned nothing."""

    def drawn(rows: int, names: Sequence[str]) -> Any:
        return np.where(rng.random((rows, len(names))) < 0.1, np.nan, rng.normal(size=(rows, len(names))))

    candidates = ranker_encoder.Candidates(
        drawn(50, ranker_encoder.USER_FEATURES),
        drawn(200, ranker_encoder.ITEM_FEATURES),
        drawn(200, ranker_encoder.cross_features(SOURCES)),
        rng.choice(np.array([f"c{number}" for number in range(20)], dtype=object), 200),
        np.repeat(np.arange(50), 4),
    )
    encoder = ranker_encoder.Encoder.fit(candidates, SOURCES)
    network = ranker.Network(ranker.Config(), encoder, ranker.TASKS)
    ranker.Ranker(ranker.Config(), encoder, network, {"click": 1.0, "cart": 2.0, "purchase": 4.0}).save(folder)


def write(lake: Lake, name: str, rows: list[dict[str, Any]]) -> None:
    stamped = [{**row, "event_timestamp": NOW - timedelta(days=1), "created_timestamp": NOW - timedelta(days=1)} for row in rows]
    table = FEATURE_TABLES[name]
    lake.write(table.path, pa.Table.from_pylist(stamped, schema=table.schema), "overwrite", digest=name, read_version=None)


def application() -> Any:
    """The gateway's ASGI application, for uvicorn."""
    from serving.app import gateway

    return gateway(str(Path(Settings.load().home) / "run" / "uvicorn-metrics"))


@contextmanager
def uvicorn(settings: Settings, workers: int) -> Iterator[int]:
    """The same application under bare uvicorn; its port."""
    home = Home(settings)
    port = processes.free_ports(1)[0]
    folder = home.run / "uvicorn-metrics"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "uvicorn", "--factory", "bench_serving:application", "--app-dir", str(Path(__file__).parent)]
    command += ["--port", str(port), "--workers", str(workers), "--no-access-log", "--log-level", "warning"]
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "PROMETHEUS_MULTIPROC_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    processes.start(home, UVICORN, command, variables, lambda: processes.answers(port, "/readyz"), 120)
    try:
        yield port
    finally:
        processes.stop(home, UVICORN)


@contextmanager
def plain(settings: Settings, replicas: int) -> Iterator[int]:
    """The same nodes as plain Serve deployments on a Ray of their own; the port of the default proxy."""
    home = Home(settings)
    port = processes.free_ports(1)[0]
    command = [sys.executable, str(Path(__file__).parent / "peers" / "serve_nodes.py"), str(port), str(replicas)]
    unset = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0", "RAY_AUTH_MODE": "disabled"}
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **unset}
    processes.start(home, PLAIN, command, variables, lambda: processes.answers(port, "/docs"), 240)
    try:
        yield port
    finally:
        processes.stop(home, PLAIN)


def wrk(script: Path, port: int, clients: int) -> tuple[float, float, float]:
    """Requests per second, median and 99th percentile milliseconds.

    Raises:
        EngineError: not every answer was a 2xx.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--latency", "-s", str(script), f"http://127.0.0.1:{port}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise EngineError(f"the gateway refused requests of the benchmark: {text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    latencies = dict(re.findall(r"(50|99)%\s+([\d.]+[mu]?s)", text))
    assert rate, text
    return float(rate[1]), _milliseconds(latencies["50"]), _milliseconds(latencies["99"])


def _milliseconds(text: str) -> float:
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(text)


def write_scripts(folder: Path) -> dict[str, Path]:
    """wrk's scripts: name -> file."""
    head = 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.headers["X-Request-Timeout-Ms"] = "5000"\n'
    user = f"""function request()
  return wrk.format(nil, "/v1/recommend", nil, '{{"user_id":"u' .. math.random(0, {NUM_USERS - 1}) .. '","k":20}}')
end
"""
    contents = {"recommend": head + user, "no-op": 'wrk.path = "/livez"\n'}
    for name, content in contents.items():
        (folder / f"{name}.lua").write_text(content)
    return {name: folder / f"{name}.lua" for name in contents}


def bench(folder: Path, say: Any) -> list[Figure]:
    """Every figure."""
    settings = make_shop(folder / "home")
    scripts = write_scripts(folder)
    figures = []
    with ExitStack() as stack:
        stack.callback(servers.down, settings)
        servers.up(settings, False, say)
        memory = (
            processes.memory_bytes(one for name in ("ray", "mlflow") for one in processes.processes(Home(settings), name)) >> 20
        )
        proxy = servers.status(settings).servers[2].told
        say("starting the peers")
        bare = stack.enter_context(uvicorn(settings, settings.http_replicas))
        nodes = stack.enter_context(plain(settings, settings.http_replicas))
        for name, script in scripts.items():
            ports = {"ours": settings.http_port, "bare": bare, **({"nodes": nodes} if name == "recommend" else {})}
            for clients in CLIENTS:
                runs: dict[str, list[tuple[float, float, float]]] = {one: [] for one in ports}
                for port in ports.values():
                    wrk(script, port, clients)  # warm
                for repeat in range(REPEATS):
                    say(f"{name}, {clients} clients, run {repeat + 1} of {REPEATS}")
                    for one, port in ports.items():
                        runs[one].append(wrk(script, port, clients))
                found = {
                    one: [statistics.median(column) for column in zip(*measured, strict=True)] for one, measured in runs.items()
                }
                rate, median, p99 = found["ours"]
                what = f"{name}, {clients} clients, requests/s (ours p50 {median:.1f} ms, p99 {p99:.1f} ms); peer: bare uvicorn"
                goal = 0.6 if (name, clients) == ("recommend", 8) else None
                figures.append(figure(what, rate, found["bare"][0], better="more", least_ratio=goal))
                if "nodes" in found:
                    other = found["nodes"]
                    what = (
                        f"{name}, {clients} clients, requests/s; peer: the nodes as plain Serve deployments (p50 {other[1]:.1f} ms)"
                    )
                    figures.append(figure(what, rate, other[0], better="more", least_ratio=10 if clients == 8 else None))
                if goal:
                    what = f"{name}, {clients} clients, median ms; peer: the nodes as plain Serve deployments"
                    figures.append(figure(what, median, found["nodes"][1], better="less", bound=8))
        figures.append(
            figure(f"resident MB of all servers ({proxy}); peer: the bound of 4 GB", memory, 4096, better="less", least_ratio=1)
        )
    return figures


def main() -> None:
    """Run all, print a table, write build/bench/serving.json."""
    set_quiet_environment()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shopgraph-bench-") as scratch, console.status("making a shop") as status:
        figures = bench(Path(scratch), status.update)
    publish("serving", figures)


if __name__ == "__main__":
    main()
