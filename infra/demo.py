"""The whole story on one machine: raw tables -> feature tables -> models -> answered requests. Run by `make demo`.

Each stage is one command of the command line, so this file is also the tutorial; it only adds the clock, the peak memory and
the page at the end. `--real [folder]` tells the same story on public data.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from infra.errors import ShopgraphError
from infra.home import Home
from infra.processes import memory_bytes, processes
from infra.settings import Settings

ROOT = Path(__file__).parent.parent
REAL_SETS = ("online_retail", "online_shopping_10_cats")
console = Console(stderr=True)


@dataclass(frozen=True)
class Stage:
    """One command of the story."""

    title: str
    arguments: tuple[str, ...]


@dataclass
class Cost:
    """What a stage took: wall seconds, and peak resident bytes of the command and all it started."""

    title: str
    seconds: float
    peak_bytes: int


STOP = Stage("stop what an earlier demo left up", ("down",))
SAMPLE: tuple[Stage, ...] = (Stage("the sample shop: raw tables from a simulation", ("sample", "--size", "small")),)
BUILDING = (
    Stage("Spark: raw tables -> feature tables", ("build",)),
    Stage("Feast: register the feature tables", ("features", "apply")),
    Stage("Feast: feature tables -> online store", ("features", "materialize")),
)


def real_stages(folder: Path, shop: Path) -> tuple[Stage, ...]:
    """Stages that bring the public data sets in; a shop that an earlier run made is kept, with what its owner changed in it.

    Raises:
        ShopgraphError: a set is not there.
    """
    missing = [name for name in REAL_SETS if not (folder / name).is_dir()]
    if missing:
        raise ShopgraphError(
            f"{folder} lacks {', '.join(missing)}; get online_retail from archive.ics.uci.edu (dataset 352, saved as Parquet or CSV) and "
            "online_shopping_10_cats from the ChineseNlpCorpus project, one folder each, and run `make demo-real DATA=<folder>`."
        )
    sources = [part for name in REAL_SETS for part in ("--from", str(folder / name))]
    init = Stage("a shop.yaml guessed from headers and samples", ("init", "real", *sources))
    ingest = Stage("Spark: sources -> raw tables, with quarantine", ("ingest",))
    return (ingest,) if (shop / "shop.yaml").exists() else (init, ingest)


def run(stage: Stage, settings: Settings) -> Cost:
    """Run one stage as its own process, passing its output through.

    Raises:
        ShopgraphError: it failed; its own words are above.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "shopgraph", "--shop", settings.shop, "--home", str(settings.home_path), *stage.arguments], cwd=ROOT
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.5):  # adding up shared pages is work of its own
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise ShopgraphError(f"`shopgraph {' '.join(stage.arguments)}` failed with exit code {code}; its message is above.")
    return Cost(stage.title, time.monotonic() - began, peak)


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants, shared pages counted once."""
    try:
        parent = psutil.Process(pid)
        return memory_bytes([parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def ask(settings: Settings, path: str, body: dict[str, object]) -> tuple[str, str]:
    """Send one request; the `curl` line that does the same, and the answer.

    Raises:
        ShopgraphError: no answer, or not one in JSON.
    """
    url = f"http://{settings.http_host}:{settings.http_port}{path}"
    text = json.dumps(body, ensure_ascii=False)
    # A machine that has just trained four models may be busy: a second instead of 50 ms, so that nothing is left out.
    headers = {"content-type": "application/json", "x-request-timeout-ms": "1000"}
    request = urllib.request.Request(url, text.encode(), headers)  # our own address
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            content = json.dumps(json.load(answer), ensure_ascii=False)
    except (OSError, ValueError) as error:
        raise ShopgraphError(f"{url} does not answer as it should: {error}; see `shopgraph status`.") from None
    said = " ".join(f"-H '{name}: {value}'" for name, value in headers.items())
    return f"curl -s {url} {said} -d {shlex.quote(text)}", content


def show(costs: list[Cost], answers: list[tuple[str, str]], settings: Settings) -> None:
    """The short page at the end."""
    table = Table("stage", "seconds", "peak memory (GB)", title="What it took")
    for cost in costs:
        table.add_row(cost.title, f"{cost.seconds:.0f}", f"{cost.peak_bytes / 1e9:.2f}")
    servers = memory_bytes(process for name in ("mlflow", "ray") for process in processes(Home(settings), name))
    table.add_row("all", f"{sum(cost.seconds for cost in costs):.0f}", f"servers now: {servers / 1e9:.2f}", style="bold")
    page = Console()
    page.print(table)
    page.print("[bold]Three requests and their answers[/bold]")
    for line, answer in answers:
        page.print(f"\n[cyan]$ {line}[/cyan]", highlight=False, soft_wrap=True)
        page.print(answer[:700] + (" ..." if len(answer) > 700 else ""), highlight=False, soft_wrap=True, markup=False)
    page.print(
        f"\n[bold]Look around[/bold]"
        f"\n  MLflow UI   http://127.0.0.1:{settings.mlflow_port}   experiments {settings.shop}/recommender, ranker, demand, sentiment, "
        "propensity"
        f"\n  API docs    http://127.0.0.1:{settings.http_port}/docs"
        "\n  where from  .venv/bin/shopgraph explain <request_id>        (of an answer above: models, runs, tables, files)"
        f"\n  state       {settings.home_path}"
        "\n  stop        .venv/bin/shopgraph down        (down --purge also deletes the state)",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    """Tell the story; exit code 1 with one line where a stage fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--real", nargs="?", const="", metavar="FOLDER", help="use public data; default: SHOPGRAPH_DATA, then ../shared/data"
    )
    real: str | None = parser.parse_args().real
    try:
        story(real)
    except ShopgraphError as error:
        console.print(f"[red]error: {error}[/red]", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def story(real: str | None) -> None:
    """Run every stage, ask three questions, show the page."""
    settings = Settings.load(shop="sample" if real is None else "real")
    Home(settings).create()
    first = SAMPLE
    if real is not None:
        folder = Path(real) if real else settings.data or ROOT.parent / "shared" / "data"
        first = real_stages(folder, Home(settings).shop())
    stages = [
        STOP,
        *first,
        *BUILDING,
        Stage(
            "Ray Train: five models and their baselines, tracked in MLflow",
            ("train", "--recipe", "demo" if real is None else "full"),
        ),
        Stage("Ray Serve: three graphs behind HTTP", ("up", "--latest")),
    ]
    costs = []
    for number, stage in enumerate(stages, 1):
        console.rule(f"[bold]{number}/{len(stages)} {stage.title}[/bold]  $ shopgraph {' '.join(stage.arguments)}", align="left")
        costs.append(run(stage, settings))
    show(costs, questions(settings), settings)


def questions(settings: Settings) -> list[tuple[str, str]]:
    """One request per graph, about a user and an item the shop really has."""
    import pyarrow.compute as pc

    from infra.lake import Lake

    lake = Lake.open(settings)
    interactions = lake.read("features/interactions", columns=["user_id", "item_id"])
    demand = lake.read("features/daily_demand", columns=["item_id", "units_sum"])
    user = interactions["user_id"].value_counts().to_pylist()
    sold = demand.group_by("item_id").aggregate([("units_sum", "sum")]).sort_by([("units_sum_sum", "descending")])
    texts = lake.read("features/clean_reviews", columns=["review_text"])["review_text"]
    short = texts.filter(pc.less_equal(pc.utf8_length(texts), 80)) or texts[:1]
    return [
        ask(settings, "/v1/recommend", {"user_id": max(user, key=lambda row: row["counts"])["values"], "k": 5}),
        ask(settings, "/v1/forecast", {"series": [{"item_id": sold["item_id"][0].as_py()}], "horizon": 7}),
        ask(settings, "/v1/sentiment", {"texts": [short[n].as_py() for n in (0, len(short) // 2)]}),
    ]


if __name__ == "__main__":
    main()
