"""What the benchmarks share: where the public sets lie, times taken in turns, figures, the table and the file of an area."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import psutil
from rich.console import Console
from rich.table import Table

from infra.processes import memory_bytes
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
REPEATS = 5
SLOW_S = 60


@dataclass(frozen=True)
class Figure:
    """One line of a report; `ratio` is larger where ours is better."""

    what: str
    ours: float
    peer: float
    ratio: float
    goal: str | None
    met: bool


def figure(
    what: str,
    ours: float,
    peer: float,
    *,
    better: Literal["more", "less"],
    least_ratio: float | None = None,
    bound: float | None = None,
) -> Figure:
    """Ours beside the peer's.

    Args:
        better: whether more or less of it is better.
        least_ratio: the goal, as a ratio.
        bound: the goal, as a value of ours; instead of `least_ratio`.
    """
    is_more = better == "more"
    ratio = ours / peer if is_more else peer / ours
    goal, met = None, True
    if least_ratio is not None:
        goal, met = f"ratio >= {least_ratio:g}", ratio >= least_ratio
    elif bound is not None:
        goal, met = f"ours {'>=' if is_more else '<='} {bound:g}", ours >= bound if is_more else ours <= bound
    return Figure(what, round(ours, 4), round(peer, 4), round(ratio, 3), goal, met)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def alternate(*works: Callable[[], Any], slow_s: float = SLOW_S) -> list[float]:
    """Median seconds of each, run in turns after one warm-up; one that takes over `slow_s` is run once."""
    times = [[clocked(work)] for work in works]
    slow = [first[0] > slow_s for first in times]
    for _ in range(REPEATS):
        for work, found, is_slow in zip(works, times, slow, strict=True):
            if not is_slow:
                found.append(clocked(work))
    return [found[0] if is_slow else statistics.median(found[1:]) for found, is_slow in zip(times, slow, strict=True)]


def peak_memory_mb(work: Callable[..., Any], *arguments: Any, every_s: float = 0.02) -> float:
    """Most memory that a fresh process and those it starts hold together while it does `work`, imports included; looked at all the time.

    Args:
        work: a function of a module, with arguments that can be pickled.
        every_s: from one look to the next. A look at a JVM takes milliseconds of a core: where `work` is timed, look seldom.

    Raises:
        RuntimeError: it failed.
    """
    child = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    child.start()
    peak = 0
    while child.is_alive():
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(child.pid)
            peak = max(peak, memory_bytes([root, *root.children(recursive=True)]))
        child.join(every_s)
    if child.exitcode:
        raise RuntimeError(f"{work.__name__} ended with exit code {child.exitcode}")
    return peak / 2**20


def environment(peer: str) -> Path:
    """The interpreter of a peer's environment under build/bench/, made of peers/<peer>.txt where it is not there or was made of another."""
    folder = ROOT / "build" / "bench" / peer
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = Path(__file__).parent / "peers" / f"{peer}.txt"
    if not ready.exists() or ready.read_text() != wanted.read_text():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
        ready.write_text(wanted.read_text())
    return python


def public_set(path: str) -> Path:
    """A file of the public data sets; the process ends with a word on where to put it if it is not there."""
    file = (Settings.load().data or ROOT.parent / "shared" / "data") / path
    if not file.is_file():
        sys.exit(f"no {file}; set SHOPGRAPH_DATA to the folder of the public data sets")
    return file


def publish(area: str, figures: Sequence[Figure]) -> NoReturn:
    """Print a table, write build/bench/<area>.json, and end the process: 1 where a goal is not met."""
    table = Table("what", "ours", "peer", "ratio", "goal", "met")
    for f in figures:
        table.add_row(f.what, f"{f.ours:g}", f"{f.peer:g}", f"{f.ratio:g}", f.goal or "", "yes" if f.met else "NO")
    Console(width=160).print(table)
    out = ROOT / "build" / "bench" / f"{area}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(f.met for f in figures) else 1)
