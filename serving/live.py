"""The graphs that answer now. A thread follows the release pointers and loads what they name, off the event loop.

The last good graph of a product answers until the next one is ready, and for as long as the release database is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from features.online.packing import from_microseconds
from infra import clock, log
from infra.lake import Lake
from serving.batching import Batcher
from serving.loading import Loader
from serving.metrics import Metrics
from serving.problems import Problem
from serving.products import Content, Graph
from serving.releases import Releases

POLL_S = 0.25
REFRESH_S = 60.0
RETRY_S = 5.0


class ShopClock:
    """The shop's present instant without reading the lake for every request."""

    def __init__(self, mode: str, lake: Lake) -> None:
        self.mode = mode
        self.lake = lake
        self.instant = clock.now(mode, lake)
        self._posted = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """UTC: the machine's time where the clock is `wall`, else the instant of the last `refresh`."""
        return datetime.now(UTC) if self.mode == "wall" else self.instant

    def follow(self, known: int) -> None:
        """Something became known at that instant (microseconds UTC) that no table holds yet (clock `data`)."""
        if self.mode == "data":
            self._posted = max(self._posted, from_microseconds(known) + clock.INSTANT)
            self.instant = max(self.instant, self._posted)

    def refresh(self) -> None:
        """Follow the newest fact (clock `data`)."""
        self.instant = max(self._posted, clock.now(self.mode, self.lake))


@dataclass(frozen=True)
class Served:
    """One loaded graph version with the queue before it. A request takes it once and stays with it to the end."""

    graph: Graph[Any]
    batcher: Batcher[Any, Content | Problem]
    version: str
    model_versions: dict[str, str]


class LiveGraphs:
    """Product -> graph that answers, kept up to date by a thread.

    Args:
        releases: where the pointers are.
        loader: makes a graph of a manifest.
        shop_clock: what time it is.
        metrics: told of each graph that is taken up.
    """

    def __init__(self, releases: Releases, loader: Loader, shop_clock: ShopClock, metrics: Metrics) -> None:
        self.releases = releases
        self.loader = loader
        self.clock = shop_clock
        self.metrics = metrics
        self.served: dict[str, Served] = {}
        self.waiting: dict[str, str] = {}
        self.has_polled = threading.Event()
        """Set once the pointers have been read and what they name was loaded or could not be."""
        self._retry_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="releases", daemon=True),
            threading.Thread(target=self._listen, name="told", daemon=True),
        ]

    def start(self) -> None:
        """Begin to follow the pointers and what is told of items; to be called once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Follow no more; waits up to 10 s for a load under way. What is loaded goes on answering."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def poll(self) -> None:
        """Look at the pointers once and load what they name anew; what cannot be loaded is left for RETRY_S seconds.

        Raises:
            EngineError: the release database does not answer.
        """
        current = self.releases.current()
        for product, version in current.items():
            served = self.served.get(product)
            if served and served.version == version:
                self.waiting.pop(product, None)
            elif time.monotonic() >= self._retry_at.get(version, 0.0):
                self._load(product, version)
        self.has_polled.set()

    def refresh(self) -> None:
        """Read anew the clock and what the graphs keep in memory."""
        self.clock.refresh()
        for product, served in self.served.items():
            try:
                served.graph.refresh(self.clock.now())
            except Exception as error:  # the last good facts of one product go on, those of the others are read
                log.get(__name__).warning("facts not read", product=product, error=str(error))

    def tell(self) -> None:
        """Take up what was told of items since the last look.

        Raises:
            EngineError: the spool cannot be read.
        """
        if self.loader.told.poll():
            for served in self.served.values():
                served.graph.tell(self.clock.now())

    def _load(self, product: str, version: str) -> None:
        self.waiting[product] = f"graph {version} is loading"
        began = time.monotonic()
        try:
            graph = self.loader.load(self.releases.manifest(version), self.clock.now())
        except Exception as error:
            # Whatever is wrong with a new graph, what runs goes on answering; /readyz and the log say why, and it is tried again.
            self.waiting[product] = f"graph {version} cannot be loaded: {error}"
            self._retry_at[version] = time.monotonic() + RETRY_S
            log.get(__name__).error("graph cannot be loaded", product=product, graph_version=version, error=str(error))
            return

        def work(requests: Sequence[Any]) -> Sequence[Content | Problem]:
            as_of = self.clock.now()
            answers = graph.answer(requests, as_of)
            return [answer if isinstance(answer, Problem) else {**answer, "as_of": as_of} for answer in answers]

        versions = {name: str(pin.version) for name, pin in graph.manifest.pins.items()}
        self.served = {**self.served, product: Served(graph, Batcher(work, product, graph.max_batch), version, versions)}
        graph.tell(self.clock.now())  # what was told while it was loaded
        self.waiting.pop(product, None)
        self.metrics.loaded.labels(product, version).set_to_current_time()
        took = round(time.monotonic() - began, 2)
        log.get(__name__).info("graph answers", product=product, graph_version=version, seconds=took)

    def _listen(self) -> None:
        """In a thread of its own: neither a graph that is loading nor a database that is away may hold up a withdrawal."""
        while not self._stop.is_set():
            try:
                self.tell()
            except Exception as error:  # it is told again
                log.get(__name__).warning("what is told of items not read", error=str(error))
                self._stop.wait(RETRY_S)
            self._stop.wait(POLL_S)

    def _follow(self) -> None:
        refreshed = time.monotonic()
        while not self._stop.is_set():
            try:
                self.poll()
                if time.monotonic() - refreshed > REFRESH_S:
                    refreshed = time.monotonic()
                    self.refresh()
            except Exception as error:  # whatever a store says, the last good graphs go on and are followed on
                log.get(__name__).warning("release pointers not read", error=str(error))
                self._stop.wait(RETRY_S)
            self._stop.wait(POLL_S)
