"""The plain half of features/windows.py: windowed values as of a later day than the tables were built to, without Spark.

A value over w days is the sum of w day sums. Beside the newest row of `user_activity` the online store keeps the day sums that row was
made of (`USER_DAYS`), up to which day and which entry of the spool the tables told (`BUILT_TO`), and the day sums of what was told
since (`TOLD_DAYS`). Whoever reads gets the row that a build at the last local midnight would have written (`spark_jobs/windows.py`).
Pure functions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from features.columns import EVENT_TYPE
from features.money import served
from features.online.packing import Layout
from features.tables import Type
from features.views import View
from features.windows import USER_WINDOWS, WINDOWS_DAYS, WindowedFeature

_BY_USER: tuple[tuple[str, Type], ...] = (("user_id", "string"),)
USER_DAYS = View("user_days", "fresh/user_days", _BY_USER, (("last_purchase", "int"), ("days", "string")))
"""Online rows of the day sums of `user_activity`, by person: the last day with a purchase, and the last `KEPT_DAYS` that are not 0."""
TOLD_DAYS = View("told_days", "fresh/told_days", _BY_USER, (("days", "string"),))
"""Online rows of the day sums of what was told, by person; they are no table and not registered, like the others here."""
BUILT_TO = View("built_to", "fresh/built_to", (("view", "string"),), (("day", "int"), ("number", "int"), ("time_zone", "string")))
"""Online rows of what the rows of a view were built from, by its name."""

KEPT_DAYS = WINDOWS_DAYS[-1]
"""Days before the next one whose sums can still fall out of a window."""
MOST_DAYS = 500
"""Day sums of one person that are kept of what was told: those of the newest days. Late acts, one by one, are among them."""
_PURCHASES = next(place for place, feature in enumerate(USER_WINDOWS) if feature.name == "purchases")
_NOTHING = (0,) * len(USER_WINDOWS)


class BuiltTo(NamedTuple):
    """What the tables told: the local days up to this one, of what was told up to the entry of this number."""

    day: int
    number: int
    zone: ZoneInfo

    def tells(self, sums: DaySums) -> bool:
        return sums.day <= self.day and sums.number <= self.number


class DaySums(NamedTuple):
    """What the acts of one local day add to each feature; money in units.

    `number` is 0 where a build that tells of the day surely read what is counted here; else that of the entry that told it.
    """

    day: int
    number: int
    amounts: tuple[int, ...]


class Forward(NamedTuple):
    """Windowed values as of a day: `values` by column, `changed` the last day on which the facts that no row tells changed one (None:
    there is none), `last_purchase` the last day with one."""

    values: Mapping[str, int | float]
    changed: int | None
    last_purchase: int | None


def built_to_of(layout: Layout, packed: bytes) -> BuiltTo:
    """What a row of `BUILT_TO` says."""
    values = layout.unpack([packed])
    return BuiltTo(values["day"][0], values["number"][0], ZoneInfo(values["time_zone"][0]))


def amounts(act: Mapping[str, Any]) -> tuple[int, ...]:
    """What one act adds to each feature of a user; `value` in units of money, None where it has none."""
    return tuple(_amount(feature, act) for feature in USER_WINDOWS)


def _amount(feature: WindowedFeature, act: Mapping[str, Any]) -> int:
    kind = act[EVENT_TYPE]
    if kind not in feature.event_types:
        return 0
    return (act[feature.of] or 0) if feature.aggregate == "sum" else feature.weights.get(kind, 1)


def forward(
    built: Sequence[DaySums], last_purchase: int | None, told: Iterable[DaySums], built_to: BuiltTo, day: int
) -> Forward | None:
    """The values at the end of a local day; None where the row of the tables says them.

    Args:
        built: day sums of the tables, of the last `KEPT_DAYS` days up to `built_to.day`.
        last_purchase: the last day with a purchase that the tables know.
        told: what was told; what the tables tell of it is left out here.
        day: not before `built_to.day`.
    """
    told = [sums for sums in told if sums.day <= day and not built_to.tells(sums)]
    if not told and day == built_to.day:
        return None
    late = _by_day(sums for sums in told if sums.day <= built_to.day)
    days = _by_day([*built, *told])
    changed = _last_change(days, built_to.day, day)
    if changed is None and late:  # what came late adds rows to those that the tables have
        changed = _last_change(late, min(late) - 1, built_to.day)
    bought = [d for d, sums in days.items() if sums[_PURCHASES] > 0]
    if last_purchase is not None and last_purchase <= built_to.day - KEPT_DAYS:
        bought.append(last_purchase)
    return Forward(_values(days, day), changed, max(bought, default=None))


def _by_day(sums: Iterable[DaySums]) -> dict[int, tuple[int, ...]]:
    """Day -> what all acts of it add."""
    found: dict[int, tuple[int, ...]] = {}
    for day, _, of in sums:
        held = found.get(day)
        found[day] = of if held is None else tuple(map(int.__add__, held, of))
    return found


def _values(days: Mapping[int, tuple[int, ...]], last: int) -> dict[str, int | float]:
    """Column -> value over its window up to the last day."""
    total, totals = _NOTHING, dict[int, tuple[int, ...]]()
    ages = sorted(last - day for day in days if day > last - WINDOWS_DAYS[-1])
    for length in WINDOWS_DAYS:
        while ages and ages[0] < length:
            total = tuple(map(int.__add__, total, days[last - ages.pop(0)]))
        totals[length] = total
    return {
        feature.column(length): served(totals[length][place]) if feature.money else totals[length][place]
        for place, feature in enumerate(USER_WINDOWS)
        for length in feature.windows
    }


def _last_change(days: Mapping[int, tuple[int, ...]], after: int, last: int) -> int | None:
    """The last day, after one and up to another, on which a value is not that of the day before: acts come in or fall out of a window."""
    touched = {day + length for day in days for length in (0, *WINDOWS_DAYS) if after < day + length <= last}
    return next((day for day in sorted(touched, reverse=True) if _changes(days, day)), None)


def _changes(days: Mapping[int, tuple[int, ...]], day: int) -> bool:
    comes = days.get(day, _NOTHING)
    return any(
        comes[place] != days.get(day - length, _NOTHING)[place]
        for place, feature in enumerate(USER_WINDOWS)
        for length in feature.windows
    )


def added(held: Iterable[DaySums], more: Iterable[DaySums]) -> list[DaySums]:
    """Day sums with others added, in order; those that come to nothing are left out."""
    found: defaultdict[tuple[int, int], tuple[int, ...]] = defaultdict(tuple)
    for day, number, of in [*held, *more]:
        before = found[day, number]
        found[day, number] = tuple(map(int.__add__, before, of)) if before else of
    return [DaySums(day, number, of) for (day, number), of in sorted(found.items()) if any(of)]


def told_text(sums: Iterable[DaySums]) -> str:
    """Day sums as a row of `TOLD_DAYS` holds them."""
    return json.dumps([[day, number, *of] for day, number, of in sums], separators=(",", ":"))


def told_of(text: str) -> list[DaySums]:
    """Day sums of a row of `TOLD_DAYS`."""
    return [DaySums(day, number, tuple(of)) for day, number, *of in json.loads(text)]


def built_of(text: str) -> list[DaySums]:
    """Day sums of a row of `USER_DAYS`."""
    return [DaySums(day, 0, tuple(of)) for day, *of in json.loads(text)]
