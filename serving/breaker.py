"""A breaker per node: after some failures in a row the node is left alone, and looked at again once a second beside the requests.

The pattern is Nygard's circuit breaker (Release It!, 2007); a trial here never carries an answer, so no request waits for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
"""In a row, until the node is left alone."""
TRIAL_S = 1.0
"""How long it is, before it is tried again, and between trials."""


class Breaker:
    """Whether one node of one replica is asked.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._is_trying = False
        self._next_trial = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the node is left alone."""
        return self._failures >= FAILURES

    def succeeded(self) -> None:
        """It gave a result in time."""
        if self._failures or self._is_trying:
            with self._lock:
                self._failures = 0
                self._is_trying = False

    def failed(self) -> None:
        """It gave an error, or was too late."""
        with self._lock:
            self._failures += 1
            self._is_trying = False
            self._next_trial = self._clock() + TRIAL_S

    def may_try(self) -> bool:
        """Whether it is time for a trial; who is told so makes it, and says how it went."""
        with self._lock:
            if not self.is_open or self._is_trying or self._clock() < self._next_trial:
                return False
            self._is_trying = True
            return True
