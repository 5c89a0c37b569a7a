"""Local days of a shop without Spark, whose half is `spark_jobs/days.py`: from an instant to its day, and from a day to its first
instant. Instants are microseconds UTC, days are counted from 1970. A local day of Europe/Berlin has 23 or 25 hours twice a year.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from features.online.packing import from_microseconds, to_microseconds

_FIRST_DAY = date(1970, 1, 1)


def local_day(instant: int, zone: ZoneInfo) -> int:
    """The local day an instant falls on."""
    return day_number(from_microseconds(instant).astimezone(zone).date())


@lru_cache(maxsize=4096)
def first_instant(day: int, zone: ZoneInfo) -> int:
    """The first instant of a local day; where midnight does not exist or comes twice, the day's true beginning."""
    return to_microseconds(datetime.combine(day_of(day), time(), zone).astimezone(UTC))


def stamp(day: int, zone: ZoneInfo) -> int:
    """When a value that covers a whole local day became true: the first instant of the next day."""
    return first_instant(day + 1, zone)


def day_number(day: date) -> int:
    """Days from 1970 to a day."""
    return (day - _FIRST_DAY).days


def day_of(number: int) -> date:
    """The day so many days after 1970."""
    return _FIRST_DAY + timedelta(number)
