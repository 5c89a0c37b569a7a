"""What a replica says of itself once a second: whether it is ready, what it waits for, how late its event loop is."""

from __future__ import annotations

import asyncio
import time

from features.online.packing import to_microseconds
from features.online.rows import Rows
from infra import log
from serving.graph import PRODUCTS
from serving.live import LiveGraphs
from serving.metrics import Metrics

BEAT_S = 1.0
_FEATURES_S = 60.0
"""Seconds between two looks at how old the online rows are."""


def is_ready(live: LiveGraphs) -> bool:
    """Whether the graphs that are released answer."""
    return bool(live.served) and not live.waiting


class Pulse:
    """Keeps the gauges of one replica true.

    Args:
        live: the graphs that answer.
        rows: the online rows they read.
        metrics: where it is said.
    """

    def __init__(self, live: LiveGraphs, rows: Rows, metrics: Metrics) -> None:
        self.live = live
        self.rows = rows
        self.metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop; to be called once."""
        self.metrics.replica_starts.inc()
        self._task = asyncio.create_task(self._beat())

    def stop(self) -> None:
        """Say nothing more."""
        if self._task:
            self._task.cancel()

    def look(self) -> None:
        """Say what is released and what of it answers."""
        live, metrics = self.live, self.metrics
        metrics.is_ready.set(is_ready(live))
        for product in PRODUCTS:
            metrics.graph_waiting.labels(product).set(product in live.waiting)
            metrics.candidate_held_back.labels(product).set(product in live.held_back)
        if live.releases.read_at is not None:
            metrics.releases_read.set(live.releases.read_at)
        for released, epoch in live.releases.epochs.items():
            metrics.release_epoch.labels(released).set(epoch)

    def look_at_features(self) -> None:
        """Say how old the online rows are that were made in one go; rows that were only ever put have no such instant.

        Raises:
            EngineError, FeatureError: the online store cannot be used.
        """
        now = to_microseconds(self.live.clock.now())
        as_of: dict[str, int] = {}
        for generation in self.rows.generations():
            if generation.state == "current" and generation.as_of is not None:
                as_of[generation.view] = max(generation.as_of, as_of.get(generation.view, generation.as_of))
        for view, instant in as_of.items():
            self.metrics.features_age.labels(view).set((now - instant) / 1e6)

    async def _beat(self) -> None:
        looked = -_FEATURES_S
        while True:
            self.look()
            if time.monotonic() - looked > _FEATURES_S:
                looked = time.monotonic()
                try:
                    await asyncio.to_thread(self.look_at_features)
                except Exception as error:  # a store that is away is told by the answers; it is looked at again
                    log.get(__name__).warning("age of the online rows not read", error=str(error))
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.metrics.loop_lag.set(max(time.monotonic() - due, 0))
