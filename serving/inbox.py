"""What is posted to a replica: requests that wait share one flush to disk, and a thread commits what was kept to the tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from features.fresh.facts import EVENT_CONTRACT, ITEM_CONTRACT, Contract, Delivery
from features.fresh.intake import Intake
from features.fresh.spool import Receipt
from infra import log
from infra.errors import EngineError, HomeError, ShopgraphError
from serving.batching import Batcher, QueueFullError
from serving.live import ShopClock
from serving.metrics import Metrics
from serving.problems import Problem

Kind = Literal["events", "items"]
KINDS: tuple[Kind, ...] = ("events", "items")
_CONTRACTS: dict[Kind, Contract[Any]] = {"events": EVENT_CONTRACT, "items": ITEM_CONTRACT}

_MAX_BATCH = 64
_MAX_WAITING = 256
"""Requests that wait for the disk; more are refused."""
_PRUNE_S = 3600.0
_DAY_S = 86_400.0


class Inbox:
    """Takes what is posted to this replica.

    Args:
        intake: where it is kept.
        clock: follows what becomes known.
        metrics: what is counted.
    """

    def __init__(self, intake: Intake, clock: ShopClock, metrics: Metrics) -> None:
        self.intake = intake
        self.clock = clock
        self.metrics = metrics
        self.tell: Callable[[Iterable[Mapping[str, Any]]], None] = lambda _: None
        """Told of the rows of `events` that were kept."""
        self._batcher = Batcher(self._take, "intake", _MAX_BATCH, _MAX_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain_on, name="drain", daemon=True)

    def start(self) -> None:
        """Begin to commit to the tables; to be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Commit once more what is waiting; at most 10 s."""
        self._stop.set()
        self._thread.join(timeout=10)

    async def take(self, kind: Kind, rows: list[Any], request_id: str) -> dict[str, Any]:
        """Keep the rows of one request; what the answer says. It is on the disk and in the online rows then.

        Raises:
            Problem: too many requests wait, or the disk or the online store does not take it.
        """
        delivery = _CONTRACTS[kind].read(rows, "http", request_id, self.intake.present)
        receipt = await self._keep(delivery)
        if receipt.known is not None:
            self.clock.follow(receipt.known)
        if kind == "events":
            self.tell(told.row for told in delivery.told)
        counts = {"accepted": receipt.accepted, "duplicates": receipt.duplicates, "quarantined": len(receipt.quarantined)}
        for fate, count in counts.items():
            self.metrics.told.labels(kind, fate).inc(count)
        bad = sorted(receipt.quarantined, key=lambda one: one.place)
        return {
            "accepted": receipt.accepted,
            "corrections": receipt.corrections,
            "duplicates": receipt.duplicates,
            "quarantined": [{"row": one.place, "reason": one.reason} for one in bad],
            "as_of": self.clock.now(),
            "request_id": request_id,
        }

    async def _keep(self, delivery: Delivery) -> Receipt:
        retry = {"retry-after": "1"}
        try:
            receipt = await self._batcher.submit(delivery)
        except QueueFullError:
            raise Problem("overloaded", "nothing was kept; send it again in a second.", headers=retry) from None
        if receipt is None:
            detail = "send it again, and report it if it stays; what is on the disk already counts once."
            raise Problem("not-kept", detail, headers=retry)
        return receipt

    def _take(self, deliveries: Sequence[Delivery]) -> Sequence[Receipt | None]:
        """Receipts; None for all where the disk or the online store takes nothing: to try each alone would only take as long again."""
        try:
            return self.intake.take(deliveries)
        except EngineError as error:
            log.get(__name__).error("nothing can be kept", error=str(error))
            return [None] * len(deliveries)

    def drain(self) -> None:
        """Commit what waits to the tables, unless another replica or an ingest is at it."""
        try:
            for path, rows in self.intake.drain().items():
                self.metrics.drained.labels(path).inc(rows)
        except HomeError:
            log.get(__name__).debug("another process holds the tables")
        self.look()

    def look(self) -> None:
        """Say what waits.

        Raises:
            EngineError: the spool cannot be read.
        """
        waiting, since = self.intake.spool.waiting()
        self.metrics.spool_waiting.set(waiting)
        self.metrics.spool_oldest.set(0 if since is None else max(time.time() - since, 0))

    def _drain_on(self) -> None:
        settings = self.intake.settings
        pruned = 0.0
        while True:
            is_last = self._stop.is_set()
            try:
                self.intake.catch_up()
                self.drain()
                if time.monotonic() - pruned > _PRUNE_S:
                    pruned = time.monotonic()
                    self.intake.prune(time.time() - settings.spool_days * _DAY_S)
            except Exception as error:  # it stays in the spool and is tried again
                log.get(__name__).warning("spool not drained", error=str(error))
                with suppress(ShopgraphError):
                    self.look()
            if is_last:
                return
            self._stop.wait(settings.drain_s)
