"""Natural batching: while a graph works on one batch, the next one gathers; an idle graph answers at once.

No timer, so a lone request waits for nothing; under load the cost of a pass through a network is shared.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class QueueFullError(Exception):
    """More requests wait than may."""


class Batcher(Generic[T, R]):
    """Runs `work` on what gathers, one batch at a time, in a thread of its own that ends with this object.

    Args:
        work: batch -> one result per element, in order.
        max_batch: most elements of one call.
        max_waiting: most elements that wait; beyond it `submit` refuses at once.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], name: str, max_batch: int, max_waiting: int = 512) -> None:
        self.work = work
        self.max_batch = max_batch
        self.max_waiting = max_waiting
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._is_running = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def submit(self, element: T) -> R:
        """The result for one element; what `work` raises for it alone is raised here.

        Raises:
            QueueFullError: too many wait already.
        """
        if len(self._waiting) >= self.max_waiting:
            raise QueueFullError
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((element, future))
        if not self._is_running:
            self._next()
        return await future

    def _next(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self.max_batch:
            element, future = self._waiting.popleft()
            if not future.cancelled():  # whose client left meanwhile
                batch.append((element, future))
        self._is_running = bool(batch)
        if batch:
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._run, [element for element, _ in batch])
            done.add_done_callback(lambda finished: self._finish(batch, finished))

    def _run(self, elements: list[T]) -> list[R | Exception]:
        try:
            return list(self.work(elements))
        except Exception as error:
            if len(elements) == 1:
                return [error]
        # One element may have spoilt the batch: the others get their answer alone.
        return [result for element in elements for result in self._run([element])]

    def _finish(self, batch: list[tuple[T, asyncio.Future[R]]], finished: asyncio.Future[list[R | Exception]]) -> None:
        for (_, future), result in zip(batch, finished.result(), strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._next()
