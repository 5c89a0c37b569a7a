"""How much a key may ask: requests a second by a token bucket in memory, and requests a day, counted by all replicas together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

_ROUNDING = 1e-6
"""Of a token: seconds and rates are no exact fractions."""


class Bucket:
    """A token bucket: a request takes a token, tokens come back at a steady rate, and a second's worth is kept.

    For one thread. Each replica has its own with its share of the rate, since a count that all share would cost every request a look
    into a database. Where the proxy deals requests out unevenly, one replica refuses a little early.

    Args:
        rate: tokens a second.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.size = max(rate, 1.0)
        self.tokens = self.size
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one."""
        self.tokens = min(self.size, self.tokens + (now - self._at) * self.rate)
        self._at = now
        missing = 1.0 - self.tokens
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self) -> None:
        """Take the token that `wait_s` found."""
        self.tokens -= 1.0


class DayCounts:
    """Requests of each key and day: those that this replica let in since it last told of them, and those of all replicas as far as known.

    The event loop counts, another thread tells; what is told of late is counted late by the other replicas, so that together they may let
    in somewhat more than a quota. A replica that is killed loses what it had not told.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._untold: Counter[tuple[str, int]] = Counter()
        self._known: Counter[tuple[str, int]] = Counter()

    def add(self, key_id: str, day: int) -> None:
        """Count a request."""
        with self._lock:
            self._untold[key_id, day] += 1
            self._known[key_id, day] += 1

    def of(self, key_id: str, day: int) -> int:
        """Requests of that key on that day."""
        return self._known[key_id, day]

    def take_untold(self) -> Counter[tuple[str, int]]:
        """What is to be told now; afterwards `tell` or `keep` it."""
        with self._lock:
            untold, self._untold = self._untold, Counter()
        return untold

    def keep(self, untold: Mapping[tuple[str, int], int]) -> None:
        """It could not be told: it is to be told later."""
        with self._lock:
            self._untold.update(untold)

    def know(self, used: Mapping[str, int], day: int) -> None:
        """What all replicas told of that day."""
        with self._lock:
            self._known = Counter({(key_id, day): requests for key_id, requests in used.items()})
            self._known.update(self._untold)
