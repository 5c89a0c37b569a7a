"""What was last read of each person, for the moments in which the online store cannot be read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")

_PEOPLE = 4096
"""Some 10 MB of histories; who was here last comes again soonest."""


class LastGood(Generic[T]):
    """The newest values of the people who were read last."""

    def __init__(self, most: int = _PEOPLE) -> None:
        self.most = most
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def keep(self, read: Mapping[str, T]) -> None:
        """Remember what was read just now."""
        with self._lock:
            for person, value in read.items():
                self._values[person] = value
                self._values.move_to_end(person)
            while len(self._values) > self.most:
                self._values.popitem(last=False)

    def get(self, person: str) -> T | None:
        """What was read last of a person, if it is still there."""
        with self._lock:
            return self._values.get(person)
