"""The demand encoder: a panel, items and cutoffs in; the arrays that the network eats out.

Training and serving call the same `encode`. Everything is relative to a scale taken from the days before the cutoff, so no
window knows its own future. What is learned here (vocabularies, opening days, the scale of an unknown item, the calendar) is
saved with the model version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from features.calendars import BLACK_FRIDAY, SHOPPING_DAYS
from features.tables import DAILY_DEMAND
from features.views import ONLINE_DAYS
from training.demand.panel import Bools, Floats, Ints, Panel, carry_forward

Doubles = NDArray[np.float64]
Arrays = dict[str, NDArray[np.float32] | NDArray[np.int64]]

MEAN_DAYS = (7, 28)
LEVEL_DAYS = 112
"""Days that tell the level of an item; together with last year's, all the history that a window looks at."""
EMPIRICAL_DAYS = (28, LEVEL_DAYS)
"""Windows whose empirical quantiles the network begins from: the first is recent, the second knows the tails."""
LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
WEEKDAY_WEEKS = 8
YEAR_DAYS = 364
SHRINK_DAYS = 7.0
MIN_SCALE = 1e-3
HOLIDAY_REACH_DAYS = 14
UNKNOWN = 0
"""Index of an unknown category and of a holiday that the training part did not hold."""
NO_HOLIDAY = 1


class EncoderConfig(BaseModel):
    """How far a window reaches and which quantiles are answered; part of the model's config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_length: PositiveInt = Field(
        28, le=ONLINE_DAYS[DAILY_DEMAND.name], description="Days of history that the network reads one by one."
    )
    max_horizon: PositiveInt = Field(28, description="Days ahead that the network answers at most.")
    levels: tuple[float, ...] = Field(LEVELS, description="Quantile levels the network is trained on, ascending.")

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError(f"quantile levels must ascend inside (0, 1), got {levels}")
        return levels


@dataclass(frozen=True)
class Future:
    """What is planned for the days ahead of N items; None where nothing is said.

    Attributes:
        price: (N, H), NaN where unknown.
        promotion_depth: (N, H), NaN where unknown; above zero means a promotion.
        holidays: H names, None on ordinary days.
        is_open: (H,).
    """

    price: Floats | None = None
    promotion_depth: Floats | None = None
    holidays: tuple[str | None, ...] | None = None
    is_open: Bools | None = None


@dataclass(frozen=True)
class Encoder:
    """Learned on the training part by `Encoder.fit`, saved as JSON.

    Attributes:
        category_names: index + 1 is the category's number; 0 is unknown.
        holiday_names: index + 2 is the holiday's number; 0 is an unknown holiday, 1 is no holiday.
        mean_demand: mean units per observed day over all items: the scale of an item that nothing is known of.
        category_mean_demand: the same by category.
        is_open_weekday: Monday first: the shop usually opens.
        closed_holidays: names on which the shop stayed closed.
        closes_on_holidays: what a holiday never seen is taken for.
        calendar: days with a holiday or shopping day, past and ahead.
        has_year: the training part spans the seasons twice, so the day of year says something.
    """

    config: EncoderConfig
    category_names: tuple[str, ...]
    holiday_names: tuple[str, ...]
    mean_demand: float
    category_mean_demand: Mapping[str, float]
    is_open_weekday: tuple[bool, ...]
    closed_holidays: frozenset[str]
    closes_on_holidays: bool
    calendar: Mapping[date, str] = field(repr=False)
    has_year: bool

    # -- learning and saving ------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, config: EncoderConfig, panel: Panel, calendar: Mapping[date, str]) -> Encoder:
        """Learn from the training part.

        Args:
            panel: the days before the first target that is scored.
            calendar: holidays by day; it should reach `max_horizon` days beyond any day that will be asked for.
        """
        observed = panel.is_observed
        totals, days = (panel.units * observed).sum(axis=1), observed.sum(axis=1)
        names = sorted({name for name in panel.categories if name is not None})
        category = np.array([name or "" for name in panel.categories])
        by_category = {}
        for name in names:
            chosen = category == name
            by_category[name] = float(totals[chosen].sum() / max(1, days[chosen].sum()))
        weekday = np.array([panel.day(t).weekday() for t in range(panel.num_days)])
        is_holiday = np.array([name is not None for name in panel.holidays])
        ordinary_open = [panel.is_open[(weekday == d) & ~is_holiday][-12:] for d in range(7)]
        is_open_weekday = tuple(bool(opened.mean() >= 0.5) if len(opened) else True for opened in ordinary_open)
        usually_open = np.array(is_open_weekday)[weekday]
        opened_on: dict[str, list[bool]] = {}
        for t in np.flatnonzero(is_holiday & usually_open):
            opened_on.setdefault(str(panel.holidays[t]), []).append(bool(panel.is_open[t]))
        closed = frozenset(name for name, opened in opened_on.items() if np.mean(opened) < 0.5)
        holidays = opened_on.keys() - _SHOPPING_NAMES
        return cls(
            config,
            tuple(names),
            tuple(sorted({name for name in panel.holidays if name is not None})),
            float(totals.sum() / max(1, days.sum())),
            by_category,
            is_open_weekday,
            closed,
            len(closed & holidays) * 2 > len(holidays),
            dict(calendar),
            panel.num_days >= 2 * YEAR_DAYS,
        )

    def to_json(self) -> dict[str, object]:
        """All that was learned, as JSON can hold it."""
        return {
            "config": self.config.model_dump(),
            "category_names": list(self.category_names),
            "holiday_names": list(self.holiday_names),
            "mean_demand": self.mean_demand,
            "category_mean_demand": dict(self.category_mean_demand),
            "is_open_weekday": list(self.is_open_weekday),
            "closed_holidays": sorted(self.closed_holidays),
            "closes_on_holidays": self.closes_on_holidays,
            "calendar": {day.isoformat(): name for day, name in sorted(self.calendar.items())},
            "has_year": self.has_year,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> Encoder:
        """The encoder that `to_json` told of.

        Raises:
            ValueError: a part is missing, unknown or of another type.
        """
        saved = _Saved.model_validate(content)
        return cls(
            saved.config,
            saved.category_names,
            saved.holiday_names,
            saved.mean_demand,
            saved.category_mean_demand,
            saved.is_open_weekday,
            frozenset(saved.closed_holidays),
            saved.closes_on_holidays,
            saved.calendar,
            saved.has_year,
        )

    # -- the days ahead -----------------------------------------------------------------------------------------------------

    def will_open(self, day: date, holiday: str | None) -> bool:
        """The stated rule for a day ahead: usual weekdays, except holidays on which the shop stayed closed before."""
        if not self.is_open_weekday[day.weekday()]:
            return False
        if holiday is None:
            return True
        if holiday in self.holiday_names or holiday in _SHOPPING_NAMES:
            return holiday not in self.closed_holidays
        return not self.closes_on_holidays

    def extend(self, panel: Panel, horizon: int, future: Future | None = None) -> tuple[Panel, list[str]]:
        """The panel with `horizon` days ahead, whose covariates are planned or filled by rule.

        The rules: price = last known; no promotion; holidays from the calendar; open as `will_open` says.

        Returns:
            The longer panel (units of the days ahead are zero and never read) and the names of what was filled, in whole or
            in part: price, promotion_depth, holiday, is_open.
        """
        future = future or Future()
        days = [panel.day(panel.num_days + step) for step in range(horizon)]
        holidays = future.holidays if future.holidays is not None else tuple(self.calendar.get(day) for day in days)
        filled = ["holiday"] if future.holidays is None else []
        if future.is_open is None:
            filled.append("is_open")
            is_open = np.array([self.will_open(day, name) for day, name in zip(days, holidays, strict=True)])
        else:
            is_open = future.is_open
        shape = (panel.num_items, horizon)
        price = np.full(shape, np.nan, np.float32) if future.price is None else future.price
        depth = np.full(shape, np.nan, np.float32) if future.promotion_depth is None else future.promotion_depth
        filled += [name for name, values in (("price", price), ("promotion_depth", depth)) if np.isnan(values).any()]
        depth = np.nan_to_num(depth)
        longer = Panel(
            panel.item_ids,
            panel.start,
            np.concatenate([panel.units, np.zeros(shape, np.float32)], axis=1),
            carry_forward(np.concatenate([panel.price, price], axis=1)),
            np.concatenate([panel.promotion_depth, depth], axis=1),
            np.concatenate([panel.is_promotion, depth > 0], axis=1),
            np.concatenate([panel.is_on_sale, np.ones(shape, np.bool_)], axis=1),
            np.concatenate([panel.is_stock_out, np.zeros(shape, np.bool_)], axis=1),
            np.concatenate([panel.is_open, is_open]),
            panel.holidays + holidays,
            panel.categories,
        )
        return longer, sorted(filled)

    @property
    def history_days(self) -> int:
        """Days before the first day ahead that `encode` looks at; what is older changes nothing."""
        recent = max(self.config.context_length, LEVEL_DAYS, 7 * WEEKDAY_WEEKS)
        return max(recent, YEAR_DAYS + 3) if self.has_year else recent

    # -- encoding -----------------------------------------------------------------------------------------------------------

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What the network eats: name -> (shape, dtype); -1 is the batch, the horizon may be shorter."""
        context, horizon = self.config.context_length, self.config.max_horizon
        return {
            "context": ((-1, context, _NUM_CONTEXT), "float32"),
            "context_holiday": ((-1, context), "int64"),
            "future": ((-1, horizon, _NUM_FUTURE), "float32"),
            "future_holiday": ((-1, horizon), "int64"),
            "static": ((-1, _NUM_STATIC), "float32"),
            "empirical": ((-1, len(EMPIRICAL_DAYS), len(self.config.levels)), "float32"),
            "category": ((-1,), "int64"),
            "scale": ((-1,), "float32"),
        }

    def prepare(self, panel: Panel) -> Prepared:
        """Sums and positions over the panel that make each window a few gathers."""
        observed = panel.is_observed
        units = np.where(observed, panel.units, 0.0)
        position = np.arange(panel.num_days)
        days = [panel.day(t) for t in range(panel.num_days + HOLIDAY_REACH_DAYS)]
        names = panel.holidays + tuple(self.calendar.get(day) for day in days[panel.num_days :])
        holiday = np.array([self._holiday_number(name) for name in names], dtype=np.int64)
        priced = ~np.isnan(panel.price)
        return Prepared(
            panel=panel,
            observed=observed,
            units_sum=_running_sum(units),
            observed_count=_running_sum(observed).astype(np.float32),
            sold_count=_running_sum(units > 0).astype(np.float32),
            log_price=np.where(priced, np.log(np.maximum(panel.price, 1e-4), where=priced, out=np.zeros_like(panel.price)), np.nan),
            last_sale=np.maximum.accumulate(np.where(units > 0, position, -1), axis=1),
            first_day=np.where(panel.is_on_sale.any(axis=1), panel.is_on_sale.argmax(axis=1), panel.num_days),
            day_features=_day_features(days, panel.is_open, holiday != NO_HOLIDAY, self.has_year),
            holiday=holiday[: panel.num_days],
            category=np.array([self._category_number(name) for name in panel.categories], dtype=np.int64),
            prior=np.array([self.category_mean_demand.get(name or "", self.mean_demand) for name in panel.categories], np.float32),
        )

    def encode(
        self,
        prepared: Prepared,
        rows: Ints,
        cutoffs: Ints,
        horizon: int,
        *,
        price_ahead: Floats | None = None,
        is_price_known: Bools | None = None,
        is_year_hidden: Bools | None = None,
        is_history_hidden: Bools | None = None,
    ) -> Arrays:
        """Windows as arrays.

        Args:
            prepared: `prepare(panel)`; the panel must hold the covariates of the days ahead (`extend` adds them).
            rows: (B,) items by position.
            cutoffs: (B,) first day ahead by position; nothing but planned covariates is read from there on.
            horizon: days ahead.
            price_ahead: (N, T) prices of the days ahead instead of the panel's own.
            is_price_known: (B,) where false, the price ahead is the last one before the cutoff.
            is_year_hidden: (B,) where true, last year's demand is hidden: training must cope with items younger than a year.
            is_history_hidden: (B,) where true, all history is hidden: training must cope with an item never seen.

        Returns:
            Arrays as `input_spec` says, with this horizon.
        """
        panel, context = prepared.panel, self.config.context_length
        batch = len(rows)
        hidden = np.zeros(batch, np.bool_) if is_history_hidden is None else is_history_hidden
        row = rows[:, None]
        past = cutoffs[:, None] + np.arange(-context, 0)
        is_past = (past >= prepared.first_day[row]) & ~hidden[:, None]
        past = np.maximum(past, 0)
        ahead = cutoffs[:, None] + np.arange(horizon)

        known = ~hidden
        level, known_days = self._level(prepared, rows, cutoffs, known)
        means, shares = zip(
            *(self._mean(prepared, rows, cutoffs, days, level, known) for days in (context, *MEAN_DAYS)), strict=True
        )
        scale = np.maximum(means[0], MIN_SCALE).astype(np.float32)

        units = panel.units[row, past]
        observed = prepared.observed[row, past] & is_past
        last_price = np.where(hidden, np.nan, prepared.log_price[rows, np.maximum(cutoffs - 1, 0)])[:, None]
        price_past = _difference(prepared.log_price[row, past], last_price) * is_past
        if price_ahead is None:
            log_ahead = prepared.log_price[row, ahead]
        else:
            with np.errstate(invalid="ignore"):
                log_ahead = np.log(np.maximum(price_ahead[row, ahead], 1e-4))
        price_future = _difference(log_ahead, last_price)
        if is_price_known is not None:
            price_future = price_future * is_price_known[:, None]

        weekday_mean, weekday_seen = self._weekday_means(prepared, rows, cutoffs, horizon, level, known)
        year_mean, has_year = self._year_means(
            prepared, rows, ahead, cutoffs, known if is_year_hidden is None else known & ~is_year_hidden
        )
        empirical = np.stack([self._empirical(prepared, rows, cutoffs, days, known) for days in EMPIRICAL_DAYS], axis=1)
        relative = scale[:, None]
        static = np.stack(
            [
                np.log(scale),
                np.log(level / scale),
                *(np.log(mean / scale) for mean in means[1:]),
                shares[0],
                shares[-1],
                np.log1p(np.minimum(cutoffs - prepared.last_sale[rows, np.maximum(cutoffs - 1, 0)], LEVEL_DAYS)) * known / 5,
                np.log1p(known_days) / 5,
                hidden,
            ],
            axis=1,
        )
        return {
            "context": np.concatenate(
                [
                    np.stack(
                        [
                            np.where(observed, np.log1p(units / relative), 0.0),
                            observed,
                            is_past,
                            panel.is_stock_out[row, past] & is_past,
                            price_past,
                            panel.promotion_depth[row, past] * is_past,
                            panel.is_promotion[row, past] & is_past,
                        ],
                        axis=2,
                    ),
                    prepared.day_features[past] * is_past[..., None],
                ],
                axis=2,
            ).astype(np.float32),
            "context_holiday": np.where(is_past, prepared.holiday[past], NO_HOLIDAY),
            "future": np.concatenate(
                [
                    np.stack(
                        [
                            price_future,
                            panel.promotion_depth[row, ahead],
                            panel.is_promotion[row, ahead],
                            np.log1p(weekday_mean / relative),
                            weekday_seen,
                            np.where(has_year, np.log1p(year_mean / relative), 0.0),
                            has_year,
                            np.broadcast_to(np.arange(horizon) / 28.0, (batch, horizon)),
                        ],
                        axis=2,
                    ),
                    prepared.day_features[ahead],
                ],
                axis=2,
            ).astype(np.float32),
            "future_holiday": prepared.holiday[ahead],
            "static": static.astype(np.float32),
            "empirical": (empirical / scale[:, None, None]).astype(np.float32),
            "category": prepared.category[rows],
            "scale": scale,
        }

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _category_number(self, name: str | None) -> int:
        return self.category_names.index(name) + 1 if name in self.category_names else UNKNOWN

    def _holiday_number(self, name: str | None) -> int:
        if name is None:
            return NO_HOLIDAY
        return self.holiday_names.index(name) + 2 if name in self.holiday_names else UNKNOWN

    def scale(self, prepared: Prepared, rows: Ints, cutoffs: Ints) -> Floats:
        """(B,) what the units of a window are divided by: the item's mean over the context, shrunk to its longer-run level."""
        known = np.ones(len(rows), np.bool_)
        level, _ = self._level(prepared, rows, cutoffs, known)
        mean, _ = self._mean(prepared, rows, cutoffs, self.config.context_length, level, known)
        scale: Floats = np.maximum(mean, MIN_SCALE).astype(np.float32)
        return scale

    @staticmethod
    def _level(prepared: Prepared, rows: Ints, cutoffs: Ints, is_known: Bools) -> tuple[Doubles, Doubles]:
        """Mean units per observed day over the days that tell the level, shrunk to the category's; and the number of those days."""
        begin = np.maximum(cutoffs - LEVEL_DAYS, 0)
        units, seen = (
            is_known * (sums[rows, cutoffs] - sums[rows, begin]) for sums in (prepared.units_sum, prepared.observed_count)
        )
        return (units + SHRINK_DAYS * prepared.prior[rows]) / (seen + SHRINK_DAYS), seen.astype(np.float64)

    @staticmethod
    def _mean(prepared: Prepared, rows: Ints, cutoffs: Ints, days: int, level: Doubles, is_known: Bools) -> tuple[Doubles, Doubles]:
        """Mean units per observed day over the last `days`, shrunk to the level; and the share of those days with a sale."""
        begin = np.maximum(cutoffs - days, 0)
        units, seen, sold = (
            is_known * (sums[rows, cutoffs] - sums[rows, begin])
            for sums in (prepared.units_sum, prepared.observed_count, prepared.sold_count)
        )
        return (units + SHRINK_DAYS * level) / (seen + SHRINK_DAYS), (sold / np.maximum(seen, 1)).astype(np.float64)

    def _empirical(self, prepared: Prepared, rows: Ints, cutoffs: Ints, days: int, is_known: Bools) -> Doubles:
        """(B, Q) empirical quantiles of daily units over the last observed days, linear between ranks; zero without a day."""
        past = cutoffs[:, None] + np.arange(-days, 0)
        is_past = (past >= 0) & is_known[:, None]
        past = np.maximum(past, 0)
        seen = prepared.observed[rows[:, None], past] & is_past
        units = np.sort(np.where(seen, prepared.panel.units[rows[:, None], past], np.inf), axis=1)
        count = seen.sum(axis=1)[:, None]
        rank = np.maximum(count - 1, 0) * np.array(self.config.levels)
        below = rank.astype(np.int64)
        low, high = (np.take_along_axis(units, np.minimum(at, np.maximum(count - 1, 0)), axis=1) for at in (below, below + 1))
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, low + (rank - below) * (high - low), 0.0)

    @staticmethod
    def _weekday_means(
        prepared: Prepared, rows: Ints, cutoffs: Ints, horizon: int, level: Doubles, is_known: Bools
    ) -> tuple[Floats, Floats]:
        """Mean of the same weekday over the last weeks, shrunk to the item's own mean; and the share of those days observed."""
        back = cutoffs[:, None, None] + np.arange(7)[:, None] - 7 * np.arange(1, WEEKDAY_WEEKS + 1)
        is_past = (back >= 0) & is_known[:, None, None]
        back = np.maximum(back, 0)
        row = rows[:, None, None]
        seen = prepared.observed[row, back] & is_past
        units = np.where(seen, prepared.panel.units[row, back], 0.0).sum(axis=2)
        count = seen.sum(axis=2)
        mean = (units + 2.0 * level[:, None]) / (count + 2.0)
        weekday = np.arange(horizon) % 7
        return mean[:, weekday].astype(np.float32), (count / WEEKDAY_WEEKS)[:, weekday].astype(np.float32)

    def _year_means(self, prepared: Prepared, rows: Ints, ahead: Ints, cutoffs: Ints, is_known: Bools) -> tuple[Floats, Bools]:
        """Mean of the seven days around the same weekday of last year, and where there is one."""
        last_day = np.minimum(ahead - YEAR_DAYS + 4, cutoffs[:, None])
        first_day = last_day - 7
        row = rows[:, None]
        is_inside = (first_day >= 0) & is_known[:, None] & self.has_year
        first_day, last_day = np.maximum(first_day, 0), np.maximum(last_day, 0)
        seen = prepared.observed_count[row, last_day] - prepared.observed_count[row, first_day]
        units = prepared.units_sum[row, last_day] - prepared.units_sum[row, first_day]
        has_year: Bools = is_inside & (seen > 0)
        return (units / np.maximum(seen, 1)).astype(np.float32), has_year


@dataclass(frozen=True, eq=False)
class Prepared:
    """A panel with its running sums; (N, T + 1) sums are over the days before a position."""

    panel: Panel
    observed: Bools
    units_sum: Doubles
    observed_count: Floats
    sold_count: Floats
    log_price: Floats
    last_sale: Ints
    first_day: Ints
    day_features: Floats
    holiday: Ints
    category: Ints
    prior: Floats


_SHOPPING_NAMES = frozenset((*SHOPPING_DAYS.values(), BLACK_FRIDAY))
"""Special days on which no shop is taken to be closed unless it was."""
_DAY_FEATURES = 7 + 4 + 4
_NUM_CONTEXT = 7 + _DAY_FEATURES
_NUM_FUTURE = 8 + _DAY_FEATURES
_NUM_STATIC = 2 + len(MEAN_DAYS) + 5


class _Saved(BaseModel):
    """The JSON form of an encoder."""

    model_config = ConfigDict(extra="forbid")

    config: EncoderConfig
    category_names: tuple[str, ...]
    holiday_names: tuple[str, ...]
    mean_demand: float
    category_mean_demand: dict[str, float]
    is_open_weekday: tuple[bool, ...]
    closed_holidays: tuple[str, ...]
    closes_on_holidays: bool
    calendar: dict[date, str]
    has_year: bool


def _running_sum(values: NDArray[np.bool_] | Floats) -> Doubles:
    """(N, T) -> (N, T + 1) sums of the days before each position."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1), np.float64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _difference(values: Floats, reference: Floats) -> Floats:
    """Log ratio to the reference, zero where either is unknown; bounded, since a data error must not blow up a window."""
    difference: Floats = np.clip(np.nan_to_num(values - reference), -3.0, 3.0)
    return difference


def _day_features(days: list[date], is_open: Bools, is_holiday: Bools, has_year: bool) -> Floats:
    """(T, 15) weekday one-hot, open, holiday, nearness of the next and of the last holiday, two harmonics of the year.

    `days` and `is_holiday` reach beyond `is_open`, so that a holiday soon after the last day is seen from it.
    """
    num_days = len(is_open)
    days = days[:num_days]
    weekday = np.eye(7, dtype=np.float32)[[day.weekday() for day in days]]
    position = np.arange(num_days)
    marked = np.flatnonzero(is_holiday)
    is_holiday = is_holiday[:num_days]
    after, before = np.full(num_days, np.inf), np.full(num_days, np.inf)
    if len(marked):
        next_one = np.searchsorted(marked, position)
        has_next, has_last = next_one < len(marked), next_one > 0
        before[has_next] = marked[np.minimum(next_one, len(marked) - 1)][has_next] - position[has_next]
        after[has_last] = position[has_last] - marked[np.maximum(next_one - 1, 0)][has_last]
    angle = 2 * np.pi * np.array([day.timetuple().tm_yday for day in days]) / 365.25
    seasons = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], axis=1) * has_year
    features = np.concatenate(
        [
            weekday,
            np.stack([is_open, is_holiday, *(np.maximum(0.0, 1 - near / HOLIDAY_REACH_DAYS) for near in (before, after))], axis=1),
            seasons,
        ],
        axis=1,
    )
    return features.astype(np.float32)
