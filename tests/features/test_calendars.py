"""Special days: public holidays of a shop's countries and e-commerce's shopping days."""

from __future__ import annotations

from datetime import date

import pytest

from features.calendars import black_friday, special_days
from infra.errors import SettingsError


def test_shopping_days_need_no_calendar():
    assert special_days([], date(2024, 6, 1), date(2024, 12, 31)) == {
        date(2024, 6, 18): "6.18", date(2024, 11, 11): "11.11", date(2024, 11, 29): "Black Friday", date(2024, 12, 12): "12.12",
    }  # fmt: skip


@pytest.mark.parametrize(("year", "day"), [(2022, 25), (2023, 24), (2024, 29), (2025, 28), (2029, 23)])
def test_black_friday_follows_the_fourth_thursday_of_november(year, day):
    assert black_friday(year) == date(year, 11, day)


def test_holidays_of_several_countries_in_english():
    days = special_days(["CN", "DE-BY"], date(2024, 1, 1), date(2024, 12, 31))
    assert days[date(2024, 2, 10)] == "Chinese New Year (Spring Festival)"
    assert days[date(2024, 2, 13)] == "Chinese New Year (Spring Festival)"  # observed days carry the same name
    assert days[date(2024, 1, 6)] == "Epiphany"  # Bavaria only
    assert date(2024, 7, 4) not in days
    assert days[date(2024, 11, 11)] == "11.11"
    assert list(days) == sorted(days)


def test_days_outside_the_range_are_left_out():
    assert special_days(["GB"], date(2024, 12, 26), date(2024, 12, 26)) == {date(2024, 12, 26): "Boxing Day"}
    assert special_days(["GB"], date(2024, 2, 2), date(2024, 2, 1)) == {}


@pytest.mark.parametrize("code", ["XX", "germany", "DE-XX", ""])
def test_an_unknown_calendar_is_named(code):
    with pytest.raises(SettingsError, match="ISO 3166"):
        special_days([code], date(2024, 1, 1), date(2024, 1, 2))
