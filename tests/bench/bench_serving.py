"""Benchmark of the HTTP gateway: `make bench-serving`.

One shop of 10,000 items and 2,000 users with 50 acts each; a recommender of the default size with untrained weights, which costs
what a trained one costs. Ours is the gateway under Ray Serve as `shopgraph up` starts it. The peer is the same ASGI application
under bare uvicorn with as many worker processes as we have replicas. The load comes from wrk (a C program on the same machine),
each request for another user; ours and peer alternate, figures are medians.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
from training.recommender.encoder import Encoder
from training.recommender.model import Recommender
from training.recommender.network import Config, Network
from training.recommender.purchases import Purchases
from training.tracking.registry import Saved

NUM_ITEMS, NUM_USERS, NUM_ACTS = 10_000, 2_000, 50
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SECONDS = 4
CLIENTS = (1, 8, 32)
UVICORN = "bench-uvicorn"


def make_shop(home_folder: Path) -> Settings:
    """A shop with online rows and one released recommend graph."""
    rng = np.random.default_rng(7)
    ports = processes.free_ports(5)
    names = ("http_port", "mlflow_port", "ray_port", "ray_dashboard_port")
    settings = Settings.load(home=home_folder, shop="bench", **dict(zip(names, ports[:4], strict=True)))
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
    manifest = compile_graph(home, shop, "recommend", {"recommender": Saved(folder, "bench.recommender", 1, digest, "none")})
    releases = Releases(settings, "bench")
    releases.release(releases.store(manifest), who="bench", why="bench")
    return settings


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
    head = 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
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
        peer_port = stack.enter_context(uvicorn(settings, settings.http_replicas))
        for name, script in scripts.items():
            for clients in CLIENTS:
                runs: dict[int, list[tuple[float, float, float]]] = {settings.http_port: [], peer_port: []}
                for port in runs:
                    wrk(script, port, clients)  # warm
                for repeat in range(REPEATS):
                    say(f"{name}, {clients} clients, run {repeat + 1} of {REPEATS}")
                    for port, measured in runs.items():
                        measured.append(wrk(script, port, clients))
                ours, peer = ([statistics.median(column) for column in zip(*measured, strict=True)] for measured in runs.values())
                what = (
                    f"{name}, {clients} clients, requests/s (ours p50 {ours[1]:.1f} ms, p99 {ours[2]:.1f} ms); peer: bare uvicorn"
                )
                goal = 0.6 if (name, clients) == ("recommend", 8) else None
                figures.append(figure(what, ours[0], peer[0], better="more", least_ratio=goal))
        memory = (
            processes.memory_bytes(one for name in ("ray", "mlflow") for one in processes.processes(Home(settings), name)) >> 20
        )
        proxy = servers.status(settings).servers[2].told
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
