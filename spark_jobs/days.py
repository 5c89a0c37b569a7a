"""Local days of a shop: from an instant to its day, and from a day to its first instant.

Frames hold instants in UTC (the session's zone). A local day of Europe/Berlin has 23 or 25 hours twice a year.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F


def local_day(instant: Column, zone: str) -> Column:
    """The local day (date) an instant falls on in `zone`."""
    return F.to_date(F.from_utc_timestamp(instant, zone))


def first_instant(day: Column, zone: str) -> Column:
    """The first instant of a local day in `zone`; where midnight does not exist or comes twice, the day's true beginning."""
    return F.to_utc_timestamp(day.cast("timestamp"), zone)


def stamp(day: Column, zone: str) -> Column:
    """When a value that covers a whole local day became true: the first instant of the next day."""
    return first_instant(F.date_add(day, 1), zone)
