"""Days that are not like others: public holidays of a shop's countries and the shopping days of e-commerce."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta

from infra.errors import SettingsError

SHOPPING_DAYS = {(6, 18): "6.18", (11, 11): "11.11", (12, 12): "12.12"}
"""Month and day -> name: the mid-year festival, Singles' Day, Double Twelve."""
BLACK_FRIDAY = "Black Friday"
_DETAIL = re.compile(r" \((observed|estimated|substituted[^)]*)[^)]*\)")


def special_days(calendars: Sequence[str], first: date, last: date) -> dict[date, str]:
    """Name of each special day from `first` to `last`, both included, in English; a shopping day wins over a holiday.

    Args:
        calendars: ISO 3166 codes, a subdivision after a hyphen: `CN`, `GB`, `DE-BY`.

    Raises:
        SettingsError: a calendar that the `holidays` library does not know.
    """
    import holidays

    years = range(first.year, last.year + 1)
    days: dict[date, str] = {}
    for code in calendars:
        country, _, subdivision = code.partition("-")
        try:
            public = holidays.country_holidays(country, subdiv=subdivision or None, years=years, language="en_US")
        except NotImplementedError:
            raise SettingsError(
                f"calendar {code!r}: expected an ISO 3166 code such as CN, GB or DE-BY that the `holidays` library knows; fix shop.yaml."
            ) from None
        for day, name in public.items():
            days.setdefault(day, _DETAIL.sub("", name))
    for year in years:
        days |= {date(year, month, day): name for (month, day), name in SHOPPING_DAYS.items()}
        days[black_friday(year)] = BLACK_FRIDAY
    return {day: name for day, name in sorted(days.items()) if first <= day <= last}


def black_friday(year: int) -> date:
    """The day after the fourth Thursday of November."""
    november = date(year, 11, 1)
    first_thursday = november + timedelta((3 - november.weekday()) % 7)
    return first_thursday + timedelta(3 * 7 + 1)
