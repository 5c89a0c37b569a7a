"""Natural batching: alone at once, together under load, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batching import Batcher, QueueFullError


def test_what_gathers_while_one_batch_runs_is_one_batch() -> None:
    seen: list[list[int]] = []
    gate = threading.Event()

    def double(elements: Sequence[int]) -> list[int]:
        seen.append(list(elements))
        gate.wait(5)
        return [2 * element for element in elements]

    async def run() -> list[int]:
        batcher = Batcher(double, "test", max_batch=3)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return await asyncio.gather(*(batcher.submit(number) for number in range(6)))

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]
    assert seen == [[0], [1, 2, 3], [4, 5]]


def test_an_element_that_fails_fails_alone() -> None:
    def invert(elements: Sequence[int]) -> list[float]:
        return [1 / element for element in elements]

    async def run() -> list[float | BaseException]:
        batcher = Batcher(invert, "test", max_batch=32)
        return await asyncio.gather(*(batcher.submit(number) for number in (4, 2, 0, 1)), return_exceptions=True)

    first, second, third, fourth = asyncio.run(run())
    assert (first, second, fourth) == (0.25, 0.5, 1.0)
    assert isinstance(third, ZeroDivisionError)


def test_too_many_waiting_are_refused_at_once_and_left_clients_cost_nothing() -> None:
    seen: list[list[int]] = []
    gate = threading.Event()

    def same(elements: Sequence[int]) -> list[int]:
        seen.append(list(elements))
        gate.wait(5)
        return list(elements)

    async def run() -> None:
        batcher = Batcher(same, "test", max_batch=32, max_waiting=2)
        tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await batcher.submit(9)
        tasks[1].cancel()
        gate.set()
        assert await tasks[0] == 0
        assert await tasks[2] == 2

    asyncio.run(run())
    assert seen == [[0], [2]]
