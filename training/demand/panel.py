"""The demand panel: rows of `daily_demand` as dense arrays, items x consecutive local days.

Windows, statistics and metrics are gathers and sums over these arrays, never loops over series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import CREATED_TIMESTAMP, DS, ITEM_ID
from infra.errors import TableContractError

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_EPOCH = date(1970, 1, 1)
COLUMNS = (
    ITEM_ID, DS, "units_sum", "price_mean", "promotion_depth", "is_promotion", "holiday", "is_open", "is_stock_out",
)  # fmt: skip
"""The columns of `daily_demand` that a panel is made of."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Daily demand of N items over T consecutive local days.

    An item is on sale from its first row on. A day after its last row is a day on which it sold nothing: the table's rows end
    with the last day on sale, and dropping such items from a backtest would peek at the future. The table has a row for each day
    on sale; where one before the last is missing (it is known later than its reader may know), its demand is unknown.

    Attributes:
        item_ids: N ids.
        start: the first day.
        units: (N, T) units bought.
        price: (N, T) price of the day, else the last known one; NaN before the first known.
        promotion_depth: (N, T) deepest promotion of the day, 0-1.
        is_promotion: (N, T) a promotion covers the day.
        is_on_sale: (N, T) from the item's first row on.
        is_stock_out: (N, T) demand is censored: stock was out for part of the day, or the day's row is missing.
        is_open: (T,) the shop was open.
        holidays: T names, None on ordinary days.
        categories: N category names, None where unknown.
    """

    item_ids: tuple[str, ...]
    start: date
    units: Floats
    price: Floats
    promotion_depth: Floats
    is_promotion: Bools
    is_on_sale: Bools
    is_stock_out: Bools
    is_open: Bools
    holidays: tuple[str | None, ...]
    categories: tuple[str | None, ...]

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_days(self) -> int:
        return len(self.holidays)

    @property
    def digest(self) -> str:
        """Fingerprint of all that the panel holds."""
        digest = hashlib.sha256(repr((self.item_ids, self.start, self.holidays, self.categories)).encode())
        arrays = (self.units, self.price, self.promotion_depth, self.is_promotion, self.is_on_sale, self.is_stock_out, self.is_open)
        for array in arrays:
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def is_observed(self) -> Bools:
        """(N, T) the units say what the demand was: on sale, shop open, not out of stock."""
        observed: Bools = self.is_on_sale & ~self.is_stock_out & self.is_open
        return observed

    def day(self, index: int) -> date:
        """The day at a position; positions beyond the panel are days after it."""
        return self.start + timedelta(days=index)

    def index(self, day: date) -> int:
        """Position of a day."""
        return (day - self.start).days

    def select(self, rows: Ints) -> Panel:
        """The same days of the items at these positions."""
        return self._cut(rows, self.num_days)

    def until(self, end: int) -> Panel:
        """The first `end` days as the table tells them now, also what became known of them only after the morning of day `end`."""
        return self._cut(slice(None), end)

    def _cut(self, rows: Ints | slice, end: int) -> Panel:
        positions = np.arange(self.num_items)[rows]
        return Panel(
            item_ids=tuple(self.item_ids[position] for position in positions),
            start=self.start,
            units=self.units[rows, :end],
            price=self.price[rows, :end],
            promotion_depth=self.promotion_depth[rows, :end],
            is_promotion=self.is_promotion[rows, :end],
            is_on_sale=self.is_on_sale[rows, :end],
            is_stock_out=self.is_stock_out[rows, :end],
            is_open=self.is_open[:end],
            holidays=self.holidays[:end],
            categories=tuple(self.categories[position] for position in positions),
        )

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        categories: Mapping[str, str | None] | None = None,
        *,
        item_ids: Sequence[str] | None = None,
        last: date | None = None,
        min_days: int = 1,
    ) -> Panel:
        """Rows of `daily_demand` as a panel; of several rows for one item and day the one known last counts.

        Args:
            table: at least the columns `COLUMNS`; missing optional values may be null.
            categories: category of each item, where known.
            item_ids: the items wanted, in this order, also those without a row; default: those of the table.
            last: the last day, also if no row reaches it; later rows are an error. Default: the newest of the table.
            min_days: how many days the panel has at least, also if no row reaches back so far.

        Raises:
            TableContractError: a column is missing, units are negative, a day lies after `last`, or there is no row and no `last`.
        """
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise TableContractError(f"daily demand: expected column(s) {', '.join(missing)}, got {', '.join(table.column_names)}.")
        if table.num_rows == 0 and last is None:
            raise TableContractError("daily demand: expected at least one row, got none; build `daily_demand` first.")
        order = [(ITEM_ID, "ascending"), (DS, "ascending")]
        if CREATED_TIMESTAMP in table.column_names:
            order.append((CREATED_TIMESTAMP, "ascending"))
        table = table.sort_by(order).combine_chunks()
        ids = list(item_ids) if item_ids is not None else pc.unique(table[ITEM_ID].cast(pa.string())).to_pylist()
        rows = np.asarray(pc.index_in(table[ITEM_ID].cast(pa.string()), pa.array(ids, pa.string())), dtype=np.int64)
        days = np.asarray(table[DS].cast(pa.date32()).cast(pa.int32()), dtype=np.int64)
        final = (last - _EPOCH).days if last is not None else int(days.max())
        if len(days) and days.max() > final:
            raise TableContractError(f"daily demand: expected no day after {date_of(final)}, got {date_of(int(days.max()))}.")
        first = int(days.min(initial=final - min_days + 1))
        num_days = final - first + 1
        days -= first
        num_items = len(ids)

        def dense(name: str, fill: float) -> Floats:
            values = table[name].cast(pa.float64()) if not pa.types.is_boolean(table[name].type) else table[name].cast(pa.int8())
            array = np.full((num_items, num_days), fill, dtype=np.float32)
            array[rows, days] = np.asarray(values.fill_null(np.nan) if pa.types.is_floating(values.type) else values.fill_null(0))
            return array

        units = np.nan_to_num(dense("units_sum", 0.0))
        if units.min() < 0:
            row, day = (int(index[0]) for index in np.nonzero(units < 0))
            raise TableContractError(
                f"daily demand: expected units_sum >= 0, got {units[row, day]:g} for item {ids[row]} on {date_of(first + day)}; "
                "returns belong to returned_units_sum."
            )
        present = np.zeros((num_items, num_days), dtype=np.bool_)
        present[rows, days] = True
        is_on_sale, ahead = (np.logical_or.accumulate(part, axis=1) for part in (present, present[:, ::-1]))
        is_missing = is_on_sale & ~present & ahead[:, ::-1]
        is_open = np.zeros(num_days, dtype=np.bool_)
        is_open[days] = np.asarray(table["is_open"].fill_null(True))  # of a day's versions the last one stands
        names = table["holiday"].to_pylist()
        holidays: list[str | None] = [None] * num_days
        for position in np.flatnonzero(np.asarray(table["holiday"].is_valid())):
            holidays[int(days[position])] = names[position]
        known = categories or {}
        return cls(
            tuple(ids),
            date_of(first),
            units,
            carry_forward(dense("price_mean", np.nan)),
            np.nan_to_num(dense("promotion_depth", 0.0)),
            dense("is_promotion", 0.0) > 0,
            is_on_sale,
            is_missing | (dense("is_stock_out", 0.0) > 0),
            is_open,
            tuple(holidays),
            tuple(known.get(item) for item in ids),
        )


def date_of(day: int) -> date:
    """The date that lies `day` days after 1970-01-01."""
    return _EPOCH + timedelta(days=day)


def carry_forward(values: Floats) -> Floats:
    """Fill each NaN of (N, T) with the last number before it; leading NaN stay."""
    position = np.where(np.isnan(values), 0, np.arange(values.shape[1]))
    np.maximum.accumulate(position, axis=1, out=position)
    filled: Floats = np.take_along_axis(values, position, axis=1)
    return filled
