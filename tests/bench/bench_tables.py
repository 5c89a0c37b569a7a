"""How the table jobs grow with a shop, and what one more day costs beside a build of all; `make bench-tables`.

Each size of the sample shop is built as a whole; then again without its last two days, and then with the facts of one day more. Peak
memory is that of a fresh process with its JVM. Sizes can be named: `python tests/bench/bench_tables.py tiny small`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.tables import RAW_TABLES
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, peak_memory_mb, publish
from spark_jobs.build import build
from spark_jobs.sample.catalogue import SIZES
from spark_jobs.sample_shop import sample

console = Console(stderr=True)


def settings_of(folder: Path) -> Settings:
    made = Settings.load(home=folder)
    Home(made).create()
    return made


def make(folder: Path, size: str) -> None:
    sample(settings_of(folder), SIZES[size], 7)


def timed_build(folder: Path) -> None:
    """Build all tables of a home; seconds of each, and of all with Spark's start, go to `times.json`."""
    began = time.perf_counter()
    found = {built.table: built.seconds for built in build(settings_of(folder))}
    (folder / "times.json").write_text(json.dumps(found | {"all": time.perf_counter() - began}))


def built(folder: Path) -> tuple[dict[str, float], float]:
    """Seconds of each table and peak megabytes of a build."""
    peak = peak_memory_mb(timed_build, folder)
    return json.loads((folder / "times.json").read_text()), peak


def copy_until(source: Path, target: Path, since: datetime | None, until: datetime) -> int:
    """Add to a home the raw rows of another that became known in [since, until); how many."""
    old, new = Lake.open(settings_of(source)), Lake.open(settings_of(target))
    shutil.copytree(Home(settings_of(source)).shop(), Home(settings_of(target)).shop(), dirs_exist_ok=True)
    num_rows = 0
    for path in (table.path for table in RAW_TABLES.values() if old.version(table.path) is not None):
        rows = old.read(path)
        known = rows[CREATED_TIMESTAMP]
        if EVENT_TIMESTAMP in rows.column_names:
            known = pc.max_element_wise(known, rows[EVENT_TIMESTAMP])
        wanted = pc.less(known, pa.scalar(until, known.type))
        if since:
            wanted = pc.and_(wanted, pc.greater_equal(known, pa.scalar(since, known.type)))
        rows = rows.filter(wanted)
        if rows.num_rows:
            new.write(path, rows, "append", digest=f"{path} {until}")
            num_rows += rows.num_rows
    return num_rows


def main() -> None:
    set_quiet_environment()
    sizes = sys.argv[1:] or ["tiny", "small", "medium"]
    figures: list[Figure] = []
    times: dict[str, dict[str, float]] = {}
    peaks: dict[str, float] = {}
    events: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            whole, steps = Path(folder, f"{size}-whole"), Path(folder, f"{size}-steps")
            console.print(f"{size}: making the shop")
            peak_memory_mb(make, whole, size)
            lake = Lake.open(settings_of(whole))
            events[size] = lake.num_rows("raw/events")
            console.print(f"{size}: building all of it")
            times[size], peaks[size] = built(whole)
            end = clock.now("data", lake)
            copy_until(whole, steps, None, end - timedelta(2))
            console.print(f"{size}: building it without its last two days")
            built(steps)
            rows = copy_until(whole, steps, end - timedelta(2), end - timedelta(1))
            console.print(f"{size}: {rows:,} rows of one day more")
            more, peak = built(steps)
            what = f"{size}, {events[size]:,} events: one day more"
            figures.append(figure(f"{what}, s; peer: a build of all", more["all"], times[size]["all"], better="less"))
            figures.append(figure(f"{what}, peak MB; same peer", peak, peaks[size], better="less"))
            for name in times[size]:
                console.print(f"  {name:28}{times[size][name]:8.1f} s   one day more {more[name]:8.1f} s")
    table = Table("table", *(f"{size}, s" for size in sizes), "exponent")
    for name in times[sizes[0]]:
        seconds = [times[size][name] for size in sizes]
        grown = np.polyfit(np.log([events[size] for size in sizes]), np.log(seconds), 1)[0] if len(sizes) > 1 else float("nan")
        table.add_row(name, *(f"{value:.1f}" for value in seconds), f"{grown:.2f}")
    table.add_row("peak memory, MB", *(f"{peaks[size]:,.0f}" for size in sizes), "")
    Console(width=160).print(table)
    publish("tables", figures)


if __name__ == "__main__":
    main()
