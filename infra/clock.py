"""The clock: one function says what time it is for windows, expiry, freshness, holidays and the "in the future" check.

A shop of 2011 served today would otherwise be all expired features. `wall` is the machine's clock; `data` is the instant after
the newest fact of the shop, by when all of its facts are known; anything else is a fixed ISO 8601 time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from infra.errors import SettingsError
from infra.lake import Lake

FACTS = ("raw/events", "raw/orders", "raw/reviews")
"""Tables whose newest row moves the `data` clock."""
INSTANT = timedelta(milliseconds=1)
"""From the newest fact to the `data` clock. Corrections, of facts and of what else was told, become known within it, one
microsecond after another: with the clock just at the newest fact they would lie in the shop's future."""


def now(mode: str, lake: Lake) -> datetime:
    """The shop's present instant, microseconds UTC.

    Args:
        mode: `wall`, `data` or a fixed ISO 8601 time (UTC where it names no zone).

    Raises:
        SettingsError: the mode is none of these.
    """
    if mode == "wall":
        return datetime.now(UTC)
    if mode == "data":
        newest = newest_fact(lake)
        return newest + INSTANT if newest else datetime.now(UTC)
    try:
        fixed = datetime.fromisoformat(mode)
    except ValueError:
        raise SettingsError(
            f"clock {mode!r}: expected `wall`, `data` or an ISO 8601 time such as 2011-10-01T00:00:00+00:00."
        ) from None
    return fixed if fixed.tzinfo else fixed.replace(tzinfo=UTC)


def newest_fact(lake: Lake) -> datetime | None:
    """When the newest fact became true or known, whichever is later, in UTC; None if the shop has no fact."""
    times = [lake.newest(FACTS, column) for column in ("event_timestamp", "created_timestamp")]
    return max((time for time in times if time), default=None)
