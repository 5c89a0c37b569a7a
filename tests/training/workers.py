"""Fits in processes of their own: several workers over gloo, and workers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from training.resume import FitResult
from training.trainer import FitConfig, Task, fit

_PROCESSES = multiprocessing.get_context("forkserver")  # a worker starts in milliseconds, from a process without threads
_PROCESSES.set_forkserver_preload(["tests.training.workers", "training.recommender.data", "training.demand.data", "torch._dynamo"])


@dataclass
class Telling:
    """A task that says each of its steps; else the one it is made of."""

    task: Any
    told: Connection

    def loss(self, module: Any, batch: Any) -> torch.Tensor:
        self.told.send_bytes(b".")
        return self.task.loss(module, batch)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name in ("task", "told") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.task, name)


def run(task: Task, config: FitConfig, folder: Path, num_workers: int = 1, kill_after: int | None = None) -> FitResult | None:
    """The result of a fit on so many workers with its checkpoint in `folder`, going on with what is there.

    With `kill_after` all workers get SIGKILL about when the first begins so many steps; None if that came before the end.
    """
    folder.mkdir(exist_ok=True)
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    hears, tells = _PROCESSES.Pipe(duplex=False)
    workers = [
        _PROCESSES.Process(target=_work, args=(Telling(task, tells), config, folder / "fit", rank, num_workers, str(meeting)))
        for rank in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    tells.close()
    try:
        steps = 0
        while kill_after is None or steps < kill_after:
            hears.recv_bytes()
            steps += 1
    except EOFError:  # all have ended
        pass
    else:
        for worker in random.Random(kill_after).sample(workers, num_workers):
            assert worker.pid
            os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    codes = {worker.exitcode for worker in workers}
    if codes == {0}:
        return FitResult.load(folder / "fit")
    assert kill_after is not None, f"workers ended with {codes}"
    assert -signal.SIGKILL in codes
    return None


def _work(task: Telling, config: FitConfig, checkpoint: Path, rank: int, num_workers: int, meeting: str) -> None:
    torch.set_num_threads(1)
    if num_workers > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_workers)
    if rank:
        task.told.close()
        task = task.task
    fit(task, config, checkpoint=checkpoint, rank=rank, world_size=num_workers)
    if num_workers > 1:
        torch.distributed.destroy_process_group()
