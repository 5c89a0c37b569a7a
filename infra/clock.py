"""The clock: one function says what time it is for windows, expiry, freshness, holidays and the "in the future" check.

A shop of 2011 served today would otherwise be all expired features. `wall` is the machine's clock; `data` is the instant after
the newest fact of the shop; anything else is a fixed ISO 8601 time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from infra.errors import SettingsError
from infra.lake import Lake

FACTS = ("raw/events", "raw/orders", "raw/reviews")
"""Tables whose newest row moves the `data` clock."""


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
        newest = lake.newest(FACTS)
        return newest + timedelta(microseconds=1) if newest else datetime.now(UTC)
    try:
        fixed = datetime.fromisoformat(mode)
    except ValueError:
        raise SettingsError(
            f"clock {mode!r}: expected `wall`, `data` or an ISO 8601 time such as 2011-10-01T00:00:00+00:00."
        ) from None
    return fixed if fixed.tzinfo else fixed.replace(tzinfo=UTC)
