"""A loaded graph version, and how a batch of requests goes through its nodes.

One thread goes on with a batch from node to node, without a hop. Where a node takes more than its share of the time, the batch is taken
out of that thread's hands: another one puts the node's stand-in in its place and goes on. Where a request's own time is over it is answered
from what is there, with stand-ins for the rest. Both follow the graph's ladder, and so does what is answered where a node fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

from infra import log
from infra.errors import ShopgraphError
from serving.breaker import Breaker
from serving.catalogue import Catalogue
from serving.edges import Content
from serving.graph import REQUEST, Manifest, PinnedNode
from serving.metrics import Metrics
from serving.nodes.node import Node
from serving.problems import Problem
from serving.schemas import RecommendRequest
from serving.static import static_content

Why = Literal["error", "timeout", "open"]
"""Why a node was left out: it failed, was too late, or is left alone for a while."""


class Step:
    """One node of a loaded graph, and how it does.

    Args:
        reads: the places, among the steps, of those whose results it takes.
    """

    def __init__(self, pinned: PinnedNode, node: Node, reads: Sequence[int]) -> None:
        self.pinned = pinned
        self.node = node
        self.reads = reads
        self.breaker = Breaker()

    @property
    def has_stand_in(self) -> bool:
        """Whether an answer goes on without it."""
        return self.pinned.stand_in is not None


class Graph:
    """A loaded graph version: answers batches, and is kept up to date off the request path.

    Args:
        nodes: by name, one for each of the manifest.
        catalogue: what its nodes share of the items; None: they share none.
    """

    def __init__(self, manifest: Manifest, nodes: Mapping[str, Node], catalogue: Catalogue | None, metrics: Metrics) -> None:
        self.manifest = manifest
        self.nodes = nodes
        self.catalogue = catalogue
        self.metrics = metrics
        places = {pinned.name: place for place, pinned in enumerate(manifest.nodes)}
        self.steps = [
            Step(pinned, nodes[pinned.name], [places[name] for name in pinned.reads if name != REQUEST])
            for pinned in manifest.nodes
        ]
        self.answers_by = places[manifest.answer]
        self.max_batch = min(node.max_batch for node in nodes.values())
        self.steps_down = {*manifest.ladder, "history_unavailable"}
        """What `degraded` says where something was down or late."""
        self._trials = ThreadPoolExecutor(len(self.steps), thread_name_prefix="trial")

    def check(self, request: Any) -> None:
        """Refuse, before it waits for anything, a request beyond the graph's limits (raises Problem)."""
        for step in self.steps:
            step.node.check(request)

    def refresh(self, at: datetime) -> None:
        """Read anew what is kept in memory; called off the request path."""
        if self.catalogue:
            self.catalogue.refresh(at)

    def tell(self, at: datetime) -> None:
        """Take up what was told of items meanwhile; called off the request path."""
        if self.catalogue:
            self.catalogue.tell(at)

    def answer(self, requests: Sequence[Any], at: datetime) -> list[Content | Problem]:
        """The answers to a batch, however long it takes; one content, or the problem of that request, each.

        Raises:
            Exception: whatever a node raises that has no stand-in.
        """
        run = Run(self, requests, at)
        run.go(run.turn)
        found: list[Content | Problem] = []
        for outcome in run.outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, Problem):
                raise outcome
            found.append(outcome)
        return found

    def bottom(self, request: Any) -> Content | None:
        """The end of the ladder; None: this graph has no such end."""
        if not self.manifest.static or not isinstance(request, RecommendRequest):
            return None
        return static_content(self.manifest, request, self.catalogue.now.facts if self.catalogue else None)

    def did(self, step: Step) -> None:
        """A node gave its result in time."""
        if step.breaker.is_open:
            log.get(__name__).info("node asked again", product=self.manifest.product, node=step.pinned.name)
            self.metrics.breaker_open.labels(self.manifest.product, step.pinned.name).set(0)
        step.breaker.succeeded()

    def missed(self, step: Step, why: Why, error: object) -> None:
        """A node failed, or was too late."""
        was_open = step.breaker.is_open
        step.breaker.failed()
        if not was_open:
            about = {"product": self.manifest.product, "node": step.pinned.name, "why": why, "error": str(error)}
            log.get(__name__).warning("node left alone" if step.breaker.is_open else "node missed", **about)
        if step.breaker.is_open:
            self.metrics.breaker_open.labels(self.manifest.product, step.pinned.name).set(1)

    def usual_s(self, step: Step) -> float:
        """Seconds that a node may take of a request that says nothing of its time."""
        return step.pinned.share * self.manifest.budget_ms / 1000

    def try_again(self, step: Step, requests: Sequence[Any], at: datetime, read: Sequence[Sequence[Any]]) -> None:
        """See beside the requests whether a node that is left alone does again, where it is time for that."""

        def trial() -> None:
            began = time.monotonic()
            try:
                step.node.run(requests, at, *read)
            except Exception as error:
                self.missed(step, "error", error)
            else:
                took = time.monotonic() - began
                if took <= self.usual_s(step):
                    self.did(step)
                else:
                    self.missed(step, "timeout", f"{took:.3f} s")

        if step.breaker.may_try():
            self._trials.submit(trial)


class Run:
    """One batch on its way through a graph. Whoever has the turn goes on with it.

    Args:
        limit_s: what the most patient of the requests may take; a node may take its share of it.
    """

    def __init__(self, graph: Graph, requests: Sequence[Any], at: datetime, limit_s: float = float("inf")) -> None:
        self.graph = graph
        self.requests = requests
        self.at = at
        self.limit_s = limit_s
        self.turn = 0
        self.outcomes: list[Any] = [None] * len(requests)
        """Per request its content, or the error that it ends with; all there once `is_done`."""
        self.is_done = False
        self._values: list[list[Any] | None] = [None] * len(graph.steps)
        """Per step one value per request, None for those that ended before."""
        self._left = list(range(len(requests)))
        """The requests that no error ended yet."""
        self._place = 0
        self._began = time.monotonic()
        self._took = 0.0
        """Seconds that the node had before the batch was taken from it."""
        self._lock = threading.Lock()

    def go(self, turn: int) -> bool:
        """Go on to the end; whether it came there, and the turn was not taken meanwhile."""
        steps = self.graph.steps
        while True:
            with self._lock:
                if turn != self.turn:
                    return False
                if self._place == len(steps) or not self._left:
                    self._end()
                    return True
                step = steps[self._place]
                self._began = time.monotonic()
            found, did = self._ask(step)
            if not self._keep(turn, found):
                return False  # too late: whoever took the turn has said so
            if did:
                self.graph.did(step)

    def wait_s(self) -> float | None:
        """Seconds until the node that is asked now has had its share; 0: it has. None: all is done."""
        with self._lock:
            if self.is_done or self._place == len(self.graph.steps):
                return None
            return max(0.0, self._due_s())

    def take(self) -> int | None:
        """Take the batch out of the hands of a node that had its share; the new turn, for `leave_out`. None: it went on just now."""
        with self._lock:
            if self._due_s() > 0:
                return None
            now = time.monotonic()
            self._took, self._began = now - self._began, now  # the stand-in has a share of its own
            self.turn += 1
            return self.turn

    def leave_out(self, turn: int) -> bool:
        """Go on without the node that took too long; as `go`."""
        step = self.graph.steps[self._place]
        if self._took >= self.graph.usual_s(step):  # else the request had little time, which is no fault of the node
            self.graph.missed(step, "timeout", f"more than {self._took:.3f} s")
        requests, read = self._inputs(step)
        found = self._stand_in(step, requests, read, "timeout") if step.has_stand_in else [too_late() for _ in requests]
        return self._keep(turn, found) and self.go(turn)

    def so_far(self, row: int) -> Content:
        """The answer to one request whose time is over: what is there, and stand-ins for the rest.

        Raises:
            Problem: a node that is not there yet has no stand-in.
            Exception: what ended the request.
        """
        if isinstance(self.outcomes[row], Exception):
            raise self.outcomes[row]
        request = [self.requests[row]]
        values: list[Any] = []
        for place, step in enumerate(self.graph.steps):
            there = self._values[place]
            read = [[values[source]] for source in step.reads]
            if there is not None:
                values.append(there[row])
            elif step.node.is_quick and place != self._place and not step.breaker.is_open:
                values.append(step.node.run(request, self.at, *read)[0])
            elif step.has_stand_in:
                values.append(self._stand_in(step, request, read, "timeout")[0])
            else:
                raise too_late()
        content: Content = values[self.graph.answers_by]
        return content

    def _ask(self, step: Step) -> tuple[list[Any], bool]:
        """One value, or error, per request that is left; and whether the node gave them all itself."""
        graph = self.graph
        requests, read = self._inputs(step)
        if step.has_stand_in and step.breaker.is_open:
            graph.try_again(step, requests, self.at, read)
            return self._stand_in(step, requests, read, "open"), False
        began = time.monotonic()
        try:
            found = step.node.run(requests, self.at, *read)
        except Exception as error:
            return self._alone(step, requests, read, error), False
        graph.metrics.node_seconds.labels(graph.manifest.product, step.pinned.name).observe(time.monotonic() - began)
        return found, True

    def _alone(self, step: Step, requests: Sequence[Any], read: Sequence[Sequence[Any]], error: Exception) -> list[Any]:
        """After an error: one request may have spoilt it for the others, which get their value alone; a store that is away has not."""
        failed: list[Any] = [error] * len(requests)
        if len(requests) > 1 and not isinstance(error, ShopgraphError):
            for row, request in enumerate(requests):
                try:
                    failed[row] = step.node.run([request], self.at, *[[values[row]] for values in read])[0]
                except Exception as its_error:
                    failed[row] = its_error
        rows = [row for row, one in enumerate(failed) if isinstance(one, Exception) and not isinstance(one, Problem)]
        if len(rows) == len(requests):
            self.graph.missed(step, "error", error)
        if step.has_stand_in and rows:
            some = self._stand_in(
                step, [requests[row] for row in rows], [[values[row] for row in rows] for values in read], "error"
            )
            for row, value in zip(rows, some, strict=True):
                failed[row] = value
        return failed

    def _stand_in(self, step: Step, requests: Sequence[Any], read: Sequence[Sequence[Any]], why: Why) -> list[Any]:
        self.graph.metrics.node_failures.labels(self.graph.manifest.product, step.pinned.name, why).inc(len(requests))
        try:
            return step.node.without(requests, self.at, *read)
        except Exception as error:  # then what is left is the end of the ladder
            log.get(__name__).exception("no stand-in", node=step.pinned.name, error=str(error))
            return [error] * len(requests)

    def _inputs(self, step: Step) -> tuple[list[Any], list[list[Any]]]:
        """The requests that are left, and what the step reads of each."""
        read = [self._values[place] or [] for place in step.reads]
        if len(self._left) == len(self.requests):
            return list(self.requests), read
        return [self.requests[row] for row in self._left], [[values[row] for row in self._left] for values in read]

    def _keep(self, turn: int, found: Sequence[Any]) -> bool:
        """Take down what a step gave, unless the turn was taken meanwhile."""
        with self._lock:
            if turn != self.turn:
                return False
            values: list[Any] = [None] * len(self.requests)
            left = []
            for row, value in zip(self._left, found, strict=True):
                if isinstance(value, Exception):
                    self.outcomes[row] = value
                else:
                    values[row] = value
                    left.append(row)
            self._values[self._place] = values
            self._left = left
            self._place += 1
            return True

    def _due_s(self) -> float:
        """Seconds until the node that is asked now has had its share; inf: none is."""
        if self._place == len(self.graph.steps):
            return float("inf")
        return self._began + self.graph.steps[self._place].pinned.share * self.limit_s - time.monotonic()

    def _end(self) -> None:
        answers = self._values[self.graph.answers_by] or []
        for row in self._left:
            self.outcomes[row] = answers[row]
        self.is_done = True


def too_late() -> Problem:
    """What a request is told whose time is over, where nothing stands in."""
    return Problem("too-late", "try again, or allow more time by the header X-Request-Timeout-Ms.", headers={"retry-after": "1"})
