"""What was told of items lately, kept in memory by whoever answers with them: the newest state of each, seconds before any table."""

from __future__ import annotations

from collections.abc import Mapping

from features.fresh.spool import Entry, Spool
from features.tables import ITEMS


class ToldItems:
    """Follows the spool of a shop. `states`: item -> the latest state that was told of it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.states: Mapping[str, Entry] = {}
        self._number = 0

    def poll(self) -> bool:
        """Look once; whether anything new was told.

        Raises:
            EngineError: the spool cannot be read.
        """
        if not self.spool.path.exists():  # nothing was ever told
            return False
        new = self.spool.of(ITEMS.path, self._number)
        if not new:
            return False
        states = dict(self.states)
        for entry in new:
            held = states.get(entry.key)
            if held is None or (entry.instant, entry.received) >= (held.instant, held.received):
                states[entry.key] = entry
        self.states, self._number = states, new[-1].number
        return True
