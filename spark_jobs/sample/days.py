"""The days of the sample shop: two years, their holidays and shopping festivals, and how much traffic each has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays
import numpy as np

from spark_jobs.sample.chance import Floats, Ints

TIME_ZONE = "Asia/Shanghai"
CALENDARS = ("CN", "US")
LAST_DAY = date(2025, 12, 31)
NUM_DAYS = 730
FIRST_DAY = LAST_DAY - timedelta(days=NUM_DAYS - 1)
DAY_US = 86_400_000_000

WEEK = (0.92, 0.90, 0.93, 0.97, 1.05, 1.15, 1.08)
"""Traffic from Monday to Sunday, relative to the mean day."""


@dataclass(frozen=True)
class Festival:
    """A shopping festival: traffic is multiplied by `lift` on its main day and by its fourth root of that around it."""

    name: str
    first: int
    last: int
    main: int
    lift: float


@dataclass(frozen=True)
class Days:
    """One entry per local day, day 0 first; `traffic` = week x year x holiday."""

    week: Floats
    year: Floats
    holiday: Floats
    festival: Ints
    festivals: tuple[Festival, ...]
    special: tuple[tuple[date, str, str], ...]

    @property
    def traffic(self) -> Floats:
        """(NUM_DAYS,) each day's visits relative to those of a plain day."""
        return self.week * self.year * self.holiday


def day_of(day: date) -> int:
    """Number of a date, 0 for the first day of the history."""
    return (day - FIRST_DAY).days


def date_of(day: int) -> date:
    """Date of a day by its number: `day_of` backwards."""
    return FIRST_DAY + timedelta(days=int(day))


def start_of_history() -> int:
    """First instant of day 0, microseconds since 1970 UTC. Shanghai has had no summer time since 1991: days are 24 h."""
    midnight = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=ZoneInfo(TIME_ZONE))
    return int(midnight.timestamp()) * 1_000_000


@lru_cache(maxsize=1)
def make_days() -> Days:
    """The calendar and its planted traffic; the same for every seed."""
    years = range(FIRST_DAY.year, LAST_DAY.year + 1)
    china = holidays.country_holidays("CN", years=years, language="en_US")
    america = holidays.country_holidays("US", years=years, language="en_US")
    special = {(day, name, "holiday") for calendar in (china, america) for day, name in calendar.items()}
    spring = sorted(day for day, name in china.items() if name.startswith("Chinese New Year"))
    new_years = [min(day for day in spring if day.year == year and "Eve" not in china[day]) for year in years]

    festivals = []
    for year, new_year in zip(years, new_years, strict=True):
        thanksgiving = next(day for day, name in america.items() if day.year == year and name == "Thanksgiving Day")
        for name, main, before, after, lift in (
            ("New Year goods festival", new_year - timedelta(days=12), 5, 4, 1.7),
            ("6.18", date(year, 6, 18), 2, 1, 2.8),
            ("11.11", date(year, 11, 11), 2, 1, 3.5),
            ("Black Friday", thanksgiving + timedelta(days=1), 0, 2, 1.3),
            ("12.12", date(year, 12, 12), 1, 1, 2.0),
        ):
            first, last = day_of(main - timedelta(days=before)), day_of(main + timedelta(days=after))
            festivals.append(Festival(name, first, last, day_of(main), lift))
            special |= {(date_of(day), name, "shopping_day") for day in range(first, last + 1)}

    dates = [date_of(day) for day in range(NUM_DAYS)]
    holiday = np.ones(NUM_DAYS)
    for day, name in china.items():
        if name in ("Labor Day", "National Day") and 0 <= day_of(day) < NUM_DAYS:
            holiday[day_of(day)] = 1.15
    for new_year in new_years:  # people travel and parcels stand still
        holiday[[d for d in range(day_of(new_year) - 2, day_of(new_year) + 6) if 0 <= d < NUM_DAYS]] = 0.55
    for year in years:
        holiday[[day_of(date(year, 12, d)) for d in (24, 25) if day_of(date(year, 12, d)) < NUM_DAYS]] = 1.2
    belongs = np.full(NUM_DAYS, -1, dtype=np.int64)
    for index, festival in enumerate(festivals):
        for day in range(max(festival.first, 0), min(festival.last, NUM_DAYS - 1) + 1):
            holiday[day] = festival.lift if day == festival.main else festival.lift**0.25
            belongs[day] = index
    day_of_year = np.array([day.timetuple().tm_yday for day in dates])
    return Days(
        week=np.array([WEEK[day.weekday()] for day in dates]),
        year=1 + 0.08 * np.cos(2 * np.pi * (day_of_year - 330) / 365.25),
        holiday=holiday,
        festival=belongs,
        festivals=tuple(festivals),
        special=tuple(sorted(s for s in special if FIRST_DAY <= s[0] <= LAST_DAY)),
    )
