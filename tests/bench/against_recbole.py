"""Our network beside RecBole 1.2.1's SASRec at equal size: one epoch over the same targets, and full rankings (the median of five).

    python against_recbole.py [most epochs of RecBole]

As a program (`make bench-recommender-full`, hours): RecBole is trained until ten epochs brought nothing better, or so many epochs, and
the recipe `sequences`, its network alone, until it ranks as well on the same questions.

Each runs in a process of its own with all cores, RecBole's in an environment of its own under build/bench/ (peers/recbole.txt), which
the first run installs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from report import ROOT, Figure, environment, figure, public_set, publish

HERE = Path(__file__).parent


def short(say: Callable[[str], None]) -> list[Figure]:
    """Seconds and memory of both on Amazon Beauty: cross-entropy over all items, width 64, 50 acts."""
    source = public_set("amazon_beauty/sequences.parquet").parent
    threads = str(os.cpu_count())
    say("RecBole's environment")
    python = environment("recbole")
    say("one epoch and one evaluation: ours")
    ours = _run(sys.executable, HERE / "sequences.py", source, threads)
    say("one epoch and one evaluation: RecBole's, some five minutes on two cores")
    with tempfile.TemporaryDirectory() as scratch:
        peer = _run(python, HERE / "peers" / "recbole_sasrec.py", source, scratch, threads, "1")
    if ours["targets"] != peer["targets"]:
        raise RuntimeError(f"we learned from {ours['targets']} targets and RecBole from {peer['targets']}")
    what = "Amazon Beauty, 64 wide, softmax over all items; peer: RecBole 1.2.1's SASRec"
    epoch, ranking = f"epoch of {ours['targets']:,} targets", f"full ranking of {ours['queries']:,} users"
    return [
        figure(f"{epoch}, s; {what}", ours["epoch_s"], peer["epoch_s"], better="less", least_ratio=10),
        figure(f"{ranking}, s; {what}", ours["evaluate_s"], peer["evaluate_s"], better="less", least_ratio=3),
        figure(f"most memory held, MB; {what}", ours["peak_mb"], peer["peak_mb"], better="less"),
    ]


def whole(most: int, say: Callable[[str], None]) -> list[Figure]:
    """Seconds to RecBole's best ndcg_at_10 on the validation part of Amazon Beauty."""
    source = public_set("amazon_beauty/sequences.parquet").parent
    threads = str(os.cpu_count())
    python = environment("recbole")
    say("ours, some minutes")
    ours = _run(sys.executable, HERE / "sequences.py", source, threads, "whole")["history"]
    work = f"RecBole, at most {most} epochs of some four minutes"
    say(work)
    with tempfile.TemporaryDirectory() as scratch:
        command = (python, HERE / "peers" / "recbole_sasrec.py", source, scratch, threads, str(most))
        peer = _run(*command, heard=lambda line: say(f"{work}: {line}"))["history"]
    took, best = max(peer, key=lambda epoch: epoch[1])
    reached = [seconds for seconds, ndcg in ours if ndcg >= best]
    what = f"seconds to RecBole's best ndcg_at_10, {best:.4f} in {len(peer)} epochs; ours has {max(ndcg for _, ndcg in ours):.4f} at best"
    return [figure(what, reached[0] if reached else float("inf"), took, better="less", least_ratio=8)]


def _run(*command: str | Path, heard: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The JSON in the last line of what a program prints; `heard` is told each line of its standard error."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)} if command[0] == sys.executable else None
    lines: deque[str] = deque(maxlen=40)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True, env=env) as program,
    ):
        assert program.stderr is not None
        for line in program.stderr:
            lines.append(line)
            heard(line.rstrip())
        if program.wait():
            raise RuntimeError(f"{command[1]} failed: {''.join(lines)}")
        said.seek(0)
        found: dict[str, Any] = json.loads(said.read().strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    with Console(stderr=True).status("") as status:
        figures = whole(int(sys.argv[1]) if sys.argv[1:] else 200, lambda text: status.update(escape(text)))
    publish("recommender-full", figures)
