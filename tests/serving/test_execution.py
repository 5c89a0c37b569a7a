"""A batch goes through its nodes whatever becomes of one of them, and no request waits longer than it may."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Self

import pytest

from infra.errors import EngineError
from serving import breaker
from serving.breaker import Breaker
from serving.execution import Graph
from serving.graph import PinnedNode
from serving.metrics import Metrics
from serving.nodes.node import Node
from serving.problems import Problem
from serving.queueing import RequestQueue
from tests.serving.conftest import NOW, compose
from tests.serving.test_graph import MODEL

Work = Callable[[Sequence[Any]], list[Any]]


class Plain(Node):
    """A node that does what a test says; a request is a number or a name."""

    gives = str

    def __init__(self, work: Work, instead: Any = None) -> None:
        self.work = work
        self.instead = instead
        self.sizes: list[int] = []

    @classmethod
    def open(cls, settings: Any, parts: Any) -> Self:
        raise NotImplementedError

    def run(self, requests: Sequence[Any], at: datetime, *read: Sequence[Any]) -> list[Any]:
        self.sizes.append(len(requests))
        return self.work(requests if not read else [*read[0]])

    def without(self, requests: Sequence[Any], at: datetime, *read: Sequence[Any]) -> list[Any]:
        return [f"{self.instead} {one}" for one in (read[0] if read else requests)]


def graph_of(**nodes: tuple[Work, str | None, float]) -> tuple[Graph, dict[str, Plain]]:
    """A graph of nodes that read each other in a row: name -> (work, what its stand-in says or None, share)."""
    names = list(nodes)
    pinned = tuple(
        PinnedNode(name=name, kind="demand", reads=(names[place - 1] if place else "request",), share=share, stand_in=instead)
        for place, (name, (_, instead, share)) in enumerate(nodes.items())
    )
    whole = compose("sentiment", {"sentiment": MODEL})
    manifest = whole.model_copy(update={"nodes": pinned, "answer": names[-1]})
    made = {name: Plain(work, instead) for name, (work, instead, _) in nodes.items()}
    return Graph(manifest, made, None, Metrics()), made


def same(values: Sequence[Any]) -> list[Any]:
    return list(values)


def louder(values: Sequence[Any]) -> list[Any]:
    return [f"{value}!" for value in values]


def ask(graph: Graph, *requests: Any, budget_s: float = 30.0) -> list[Any]:
    """What each of some requests that come at once is told."""

    async def run() -> list[Any]:
        queue = RequestQueue(graph, lambda: NOW)
        return await asyncio.gather(*(queue.submit(request, budget_s) for request in requests), return_exceptions=True)

    return asyncio.run(run())


def failures(graph: Graph, node: str) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for metric in graph.metrics.node_failures.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["node"] == node
    }


def test_values_go_from_node_to_node_in_batches() -> None:
    gate = threading.Event()

    def waits(values: Sequence[Any]) -> list[Any]:
        gate.wait(5)
        return list(values)

    graph, nodes = graph_of(first=(waits, None, 1.0), last=(louder, None, 1.0))
    threading.Timer(0.05, gate.set).start()
    assert ask(graph, "a", "b", "c") == ["a!", "b!", "c!"]
    assert nodes["first"].sizes == [1, 2]
    assert nodes["last"].sizes == [1, 2]


def test_a_request_that_spoils_a_batch_fails_alone() -> None:
    def invert(values: Sequence[Any]) -> list[Any]:
        return [1 / value for value in values]

    graph, _ = graph_of(first=(same, None, 1.0), inverse=(invert, None, 1.0), last=(same, None, 1.0))
    first, second, third, fourth = ask(graph, 4, 2, 0, 1)
    assert (first, second, fourth) == (0.25, 0.5, 1.0)
    assert isinstance(third, ZeroDivisionError)


def test_a_problem_of_one_request_is_its_answer() -> None:
    def picky(values: Sequence[Any]) -> list[Any]:
        return [Problem("invalid-request", "no") if value == "b" else value for value in values]

    graph, nodes = graph_of(picky=(picky, "instead", 1.0), last=(louder, None, 1.0))
    assert graph.answer(["a", "c"], NOW) == ["a!", "c!"]
    first, second, third = graph.answer(["a", "b", "c"], NOW)
    assert (first, third) == ("a!", "c!")
    assert isinstance(second, Problem)
    assert nodes["last"].sizes == [2, 2]
    assert failures(graph, "picky") == {}


def test_a_node_that_fails_is_left_out_where_the_ladder_says_so() -> None:
    def broken(values: Sequence[Any]) -> list[Any]:
        raise EngineError("the store is away")

    graph, nodes = graph_of(store=(broken, "no store", 1.0), last=(louder, None, 1.0))
    assert graph.answer(["a", "b"], NOW) == ["no store a!", "no store b!"]
    assert nodes["store"].sizes == [2]  # a store that is away is not asked for each one
    assert failures(graph, "store") == {"error": 2}
    bare, _ = graph_of(store=(broken, None, 1.0))
    with pytest.raises(EngineError, match="the store is away"):
        bare.answer(["a"], NOW)


def test_after_failures_in_a_row_a_node_is_left_alone_until_a_trial_beside_the_requests_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "TRIAL_S", 0.2)
    is_broken = True

    def shaky(values: Sequence[Any]) -> list[Any]:
        if is_broken:
            raise EngineError("away")
        return list(values)

    graph, nodes = graph_of(shaky=(shaky, "instead", 1.0))
    for _ in range(breaker.FAILURES + 5):
        assert graph.answer(["a"], NOW) == ["instead a"]
    assert len(nodes["shaky"].sizes) == breaker.FAILURES
    assert failures(graph, "shaky") == {"error": breaker.FAILURES, "open": 5}
    assert graph.metrics.breaker_open.labels("sentiment", "shaky")._value.get() == 1
    time.sleep(0.25)
    graph.answer(["a"], NOW)  # one trial, which fails
    is_broken = False
    deadline = time.monotonic() + 10
    while graph.answer(["a"], NOW) != ["a"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert graph.metrics.breaker_open.labels("sentiment", "shaky")._value.get() == 0


def test_a_breaker_lets_one_trial_at_a_time_through() -> None:
    now = 0.0
    one = Breaker(lambda: now)
    assert not one.may_try()
    for _ in range(breaker.FAILURES):
        assert not one.is_open
        one.failed()
    assert one.is_open
    assert not one.may_try()  # too soon
    now = 1.5
    assert one.may_try()
    assert not one.may_try()
    one.failed()
    assert not one.may_try()
    now = 3.0
    assert one.may_try()
    one.succeeded()
    assert not one.is_open


def test_a_node_that_takes_more_than_its_share_is_left_out_and_the_batch_goes_on() -> None:
    gate = threading.Event()

    def stuck(values: Sequence[Any]) -> list[Any]:
        gate.wait(20)
        return list(values)

    graph, nodes = graph_of(first=(louder, None, 1.0), slow=(stuck, "unranked", 0.2), last=(louder, None, 1.0))
    began = time.monotonic()
    assert ask(graph, "a", budget_s=2.0) == ["unranked a!!"]
    assert 0.3 < time.monotonic() - began < 1.7
    assert nodes["last"].sizes == [1]
    gate.set()
    assert failures(graph, "slow") == {"timeout": 1}
    assert graph.steps[1].breaker._failures <= 1


def test_a_stuck_node_holds_up_nobody_once_it_is_known() -> None:
    gate = threading.Event()

    def stuck(values: Sequence[Any]) -> list[Any]:
        gate.wait(20)
        return list(values)

    graph, _ = graph_of(slow=(stuck, "instead", 0.2))
    graph.manifest = graph.manifest.model_copy(update={"budget_ms": 400})
    for _ in range(breaker.FAILURES):
        assert ask(graph, "a", budget_s=0.5) == ["instead a"]
    began = time.monotonic()
    assert ask(graph, *range(20), budget_s=5.0) == [f"instead {number}" for number in range(20)]
    assert time.monotonic() - began < 1.0
    gate.set()


def test_who_has_no_time_opens_no_breaker_for_the_others() -> None:
    def takes_a_moment(values: Sequence[Any]) -> list[Any]:
        time.sleep(0.02)
        return list(values)

    graph, _ = graph_of(slow=(takes_a_moment, "instead", 1.0))
    for _ in range(2 * breaker.FAILURES):
        assert ask(graph, "a", budget_s=0.003) == ["instead a"]
    assert not graph.steps[0].breaker.is_open
    assert ask(graph, "a") == ["a"]


def test_a_request_whose_time_is_over_is_answered_from_what_is_there() -> None:
    gate = threading.Event()

    def stuck(values: Sequence[Any]) -> list[Any]:
        gate.wait(20)
        return list(values)

    graph, nodes = graph_of(first=(louder, "guessed", 1.0), slow=(stuck, "unranked", 1.0), last=(louder, "bare", 1.0))
    nodes["last"].is_quick = True  # type: ignore[misc]

    async def run() -> list[Any]:
        queue = RequestQueue(graph, lambda: NOW)
        first = asyncio.create_task(queue.submit("patient", 30.0))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        waited = await queue.submit("in a hurry", 0.3)  # never reaches a node: one batch at a time
        took = time.monotonic() - began
        gate.set()
        return [await first, waited, took]

    patient, hurried, took = asyncio.run(run())
    assert patient == "patient!!"
    assert hurried == "unranked guessed in a hurry!"
    assert 0.1 < took < 1.0


def test_what_has_no_stand_in_is_refused_when_its_time_is_over_and_the_next_is_not() -> None:
    gate = threading.Event()

    def stuck_at_first(values: Sequence[Any]) -> list[Any]:
        if values[0] == "first":
            gate.wait(20)
        return list(values)

    graph, _ = graph_of(only=(stuck_at_first, None, 1.0))

    async def run() -> list[Any]:
        queue = RequestQueue(graph, lambda: NOW)
        late = await asyncio.gather(queue.submit("first", 0.3), return_exceptions=True)
        return [*late, await queue.submit("second", 10.0)]

    late, second = asyncio.run(run())
    assert isinstance(late, Problem)
    assert (late.kind, late.status) == ("too-late", 504)
    assert second == "second"  # whose batch did not wait for the thread that is stuck
    gate.set()


def test_clients_that_left_cost_nothing() -> None:
    gate = threading.Event()

    def waits(values: Sequence[Any]) -> list[Any]:
        gate.wait(5)
        return list(values)

    graph, nodes = graph_of(only=(waits, None, 1.0))

    async def run() -> None:
        queue = RequestQueue(graph, lambda: NOW)
        tasks = [asyncio.create_task(queue.submit(number, 30.0)) for number in range(4)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        gate.set()
        assert await tasks[0] == 0
        assert await tasks[3] == 3

    asyncio.run(run())
    assert nodes["only"].sizes == [1, 2]


def test_a_patient_request_holds_up_nobody() -> None:
    gate = threading.Event()

    def waits_for_one(values: Sequence[Any]) -> list[Any]:
        if values[0] == "patient":
            gate.wait(20)
        return list(values)

    graph, _ = graph_of(only=(waits_for_one, None, 1.0))
    graph.manifest = graph.manifest.model_copy(update={"budget_ms": 100})

    async def run() -> list[Any]:
        queue = RequestQueue(graph, lambda: NOW)
        first = asyncio.create_task(queue.submit("patient", 30.0))
        await asyncio.sleep(0)
        others = await asyncio.gather(*(queue.submit(number, 5.0) for number in range(3)))
        gate.set()
        return [*others, await first]

    assert asyncio.run(run()) == [0, 1, 2, "patient"]
