"""How the table jobs grow with a shop, and what one more day costs beside a build of all; `make bench-tables`.

Each size of the sample shop, and online_retail, is built as a whole; then again without its last two days, and then with the facts of
one day more. Peak memory is that of a fresh process with its JVM. Shops can be named: `python tests/bench/bench_tables.py tiny small`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.revisions import REVISED
from features.shop import Shop
from features.store import FeatureStore
from features.tables import EVENTS, ORDERS, RAW_TABLES
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, peak_memory_mb, public_set, publish
from spark_jobs.build import build
from spark_jobs.ingest import ingest
from spark_jobs.init_shop import init_shop
from spark_jobs.sample.catalogue import SIZES
from spark_jobs.sample_shop import sample
from spark_jobs.session import session

console = Console(stderr=True)


def settings_of(folder: Path) -> Settings:
    made = Settings.load(home=folder)
    Home(made).create()
    return made


def make(folder: Path, name: str) -> None:
    """The raw tables of a shop."""
    settings = settings_of(folder)
    if name in SIZES:
        sample(settings, SIZES[name], 7)
        return
    init_shop(Home(settings), settings.shop, [str(public_set("online_retail/transactions.parquet"))])
    ingest(settings, Shop.load(Home(settings)), lambda: session(settings, "ingest"))


def timed_build(folder: Path) -> None:
    """Build all tables of a home; seconds of each, and of all with Spark's start, go to `times.json`."""
    began = time.perf_counter()
    found = {built.table: built.seconds for built in build(settings_of(folder))}
    (folder / "times.json").write_text(json.dumps(found | {"all": time.perf_counter() - began}))


def built(folder: Path) -> tuple[dict[str, float], float]:
    """Seconds of each table and peak megabytes of a build."""
    peak = peak_memory_mb(timed_build, folder, every_s=1)
    return json.loads((folder / "times.json").read_text()), peak


def materialised(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds to load the online store of a home, and megabytes on disk of what it holds then."""
    settings = settings_of(folder)
    home, lake = Home(settings), Lake.open(settings)
    began = time.perf_counter()
    FeatureStore(settings, Shop.load(home), lake).materialize()
    seconds = time.perf_counter() - began
    places = {
        "raw tables": Path(lake.uri("raw")),
        "feature tables": Path(lake.uri("features")),
        "online rows": home.path / "online",
    }
    return seconds, {name: sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 1e6 for name, place in places.items()}


def copy_until(source: Path, target: Path, since: datetime | None, until: datetime) -> int:
    """Add to a home the raw rows of another that became known in [since, until); how many."""
    old, new = Lake.open(settings_of(source)), Lake.open(settings_of(target))
    shutil.copytree(Home(settings_of(source)).shop(), Home(settings_of(target)).shop(), dirs_exist_ok=True)
    num_rows = 0
    for path in (table.path for table in RAW_TABLES.values() if old.version(table.path) is not None):
        rows = old.read(path)
        known = rows[CREATED_TIMESTAMP]
        if EVENT_TIMESTAMP in rows.column_names:
            event = rows[EVENT_TIMESTAMP]
            known = pc.if_else(pc.greater(event, known), event, known)
        wanted = pc.less(known, pa.scalar(until, known.type))
        if since:
            wanted = pc.and_(wanted, pc.greater_equal(known, pa.scalar(since, known.type)))
        rows = rows.filter(wanted)
        if rows.num_rows:
            new.write(path, rows, "append", digest=f"{path} {until}", metadata={REVISED: 0})  # as an ingest says it
            num_rows += rows.num_rows
    return num_rows


def main() -> None:
    set_quiet_environment()
    shops = sys.argv[1:] or ["tiny", "small", "medium", "online_retail"]
    figures: list[Figure] = []
    times: dict[str, dict[str, float]] = {}
    peaks: dict[str, float] = {}
    facts: dict[str, int] = {}
    disk: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shop in shops:
            whole, steps = Path(folder, f"{shop}-whole"), Path(folder, f"{shop}-steps")
            console.print(f"{shop}: making its raw tables")
            peak_memory_mb(make, whole, shop, every_s=1)
            lake = Lake.open(settings_of(whole))
            facts[shop] = sum(lake.num_rows(table.path) for table in (EVENTS, ORDERS) if lake.version(table.path) is not None)
            console.print(f"{shop}: building all of it")
            times[shop], peaks[shop] = built(whole)
            times[shop]["materialising"], disk[shop] = materialised(whole)
            end = clock.now("data", lake)
            copy_until(whole, steps, None, end - timedelta(2))
            console.print(f"{shop}: building it without its last two days")
            built(steps)
            rows = copy_until(whole, steps, end - timedelta(2), end - timedelta(1))
            console.print(f"{shop}: {rows:,} rows of one day more")
            more, peak = built(steps)
            what = f"{shop}, {facts[shop]:,} events and orders: one day more"
            figures.append(figure(f"{what}, s; peer: a build of all", more["all"], times[shop]["all"], better="less"))
            figures.append(figure(f"{what}, peak MB; same peer", peak, peaks[shop], better="less"))
            for name in more:
                console.print(f"  {name:28}{times[shop][name]:8.1f} s   one day more {more[name]:8.1f} s")
    sizes = [shop for shop in shops if shop in SIZES]
    table = Table("table", *(f"{shop}, s" for shop in shops), "exponent of the sample shop")
    for name in times[shops[0]]:
        table.add_row(
            name,
            *(f"{times[shop][name]:.1f}" for shop in shops),
            exponent(name, [times[s] for s in sizes], [facts[s] for s in sizes]),
        )
    table.add_row("peak memory of the build, MB", *(f"{peaks[shop]:,.0f}" for shop in shops), "")
    table.add_row("events and orders", *(f"{facts[shop]:,}" for shop in shops), "")
    for name in disk[shops[0]]:
        table.add_row(f"{name} on disk, MB", *(f"{disk[shop][name]:,.0f}" for shop in shops), "")
    Console(width=160).print(table)
    publish("tables", figures)


def exponent(name: str, times: Sequence[Mapping[str, float]], facts: Sequence[int]) -> str:
    """Of the growth of a table's seconds with the facts of a shop: least squares of the logarithms."""
    if len(facts) < 2:
        return ""
    return f"{np.polyfit(np.log(facts), np.log([of[name] for of in times]), 1)[0]:.2f}"


if __name__ == "__main__":
    main()
