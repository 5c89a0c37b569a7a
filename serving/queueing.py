"""The requests of one graph that have no answer yet: they go in natural batches (see `batching`), and none waits longer than it may.

Timers see to it that a request is answered from what is there when its time is almost over, and that no node holds up a batch for longer
than its share.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.batching import QueueFullError
from serving.edges import Content
from serving.execution import Graph, Run

_THREADS = 16
"""One works; the others are for nodes that do not come back."""
_RESERVE = 0.2
_MOST_RESERVE_S = 0.010
"""What of a request's time is kept for answering from what is there, and for a busy event loop."""
_WATCH_S = 0.001
"""The least time between two looks at a batch."""


@dataclass(eq=False)
class _Waiting:
    """A request that has no answer yet."""

    request: Any
    due: float
    """When its time is over, monotonic."""
    future: asyncio.Future[Content]
    run: Run | None = None
    row: int = 0


class RequestQueue:
    """Lets a graph answer what gathers, one batch at a time, in threads of its own that end with this object.

    Args:
        clock: the shop's present instant.
        max_waiting: most requests that wait; beyond it `submit` refuses at once.
    """

    def __init__(self, graph: Graph, clock: Callable[[], datetime], max_waiting: int = 512) -> None:
        self.graph = graph
        self.clock = clock
        self.max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._running: Run | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=graph.manifest.product)

    async def submit(self, request: Any, budget_s: float) -> Content:
        """The answer to one request, at the latest when its time is almost over.

        Args:
            budget_s: what it may take.

        Raises:
            QueueFullError: too many wait already.
            Problem: the graph refuses the request, or its time is over and nothing stands in for what is missing.
            Exception: what a node raised that has no stand-in.
        """
        if len(self._waiting) >= self.max_waiting:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, time.monotonic() + budget_s, loop.create_future())
        timer = loop.call_later(budget_s - min(_RESERVE * budget_s, _MOST_RESERVE_S), self._late, waiting)
        self._waiting.append(waiting)
        if self._running is None:
            self._next()
        try:
            return await waiting.future
        finally:
            timer.cancel()

    def _next(self) -> None:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.graph.max_batch:
            waiting = self._waiting.popleft()
            if not waiting.future.done():  # answered late, or its client left meanwhile
                batch.append(waiting)
        self._running = None
        if not batch:
            return
        limit_s = max(0.0, max(waiting.due for waiting in batch) - time.monotonic())
        self._running = run = Run(self.graph, [waiting.request for waiting in batch], self.clock(), limit_s)
        for row, waiting in enumerate(batch):
            waiting.run, waiting.row = run, row
        self._go(batch, run, run.go, run.turn)
        self._watch(batch, run)
        asyncio.get_running_loop().call_later(self.graph.manifest.budget_ms / 1000, self._make_room, run)

    def _make_room(self, run: Run) -> None:
        """Let the next batch go beside one that takes longer than a request usually may, for those in it may have more time."""
        if self._running is run:
            self._next()

    def _go(self, batch: Sequence[_Waiting], run: Run, on: Callable[[int], bool], turn: int) -> None:
        """Let a thread go on with a batch."""
        done = asyncio.get_running_loop().run_in_executor(self._threads, on, turn)
        done.add_done_callback(lambda gone: self._finish(batch, run) if gone.result() else None)

    def _watch(self, batch: Sequence[_Waiting], run: Run) -> None:
        """Take the batch out of the hands of a node that had its share."""
        wait_s = run.wait_s()
        if wait_s is None:
            return
        if wait_s == 0 and (turn := run.take()) is not None:
            self._go(batch, run, run.leave_out, turn)
        asyncio.get_running_loop().call_later(max(wait_s, _WATCH_S), self._watch, batch, run)

    def _late(self, waiting: _Waiting) -> None:
        """Answer from what is there."""
        if waiting.future.done():
            return
        run, row = (waiting.run, waiting.row) if waiting.run else (Run(self.graph, [waiting.request], self.clock()), 0)
        try:
            waiting.future.set_result(run.so_far(row))
        except Exception as error:
            waiting.future.set_exception(error)

    def _finish(self, batch: Sequence[_Waiting], run: Run) -> None:
        for waiting, outcome in zip(batch, run.outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        if self._running is run:
            self._next()
