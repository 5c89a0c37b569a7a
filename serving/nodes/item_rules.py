"""Rules node: which items of a model's catalogue may be shown now, and which are trending.

Item facts are kept in memory as columns in the model's item order and read anew every minute, off the request path. What is told
of an item while the shop runs is put over them within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import EVENT_TIMESTAMP
from features.fresh.items import ToldItems
from features.online.packing import to_microseconds
from features.store import FeatureStore
from features.views import VIEWS
from serving.schemas import Filters

Bools = NDArray[np.bool_]

TREND_COLUMNS = ("item_views_count_7d", "item_carts_count_7d", "buyers_count_7d")
"""What makes an item trend: acts of the last seven days, a purchase counted once per user."""

_MASKS_KEPT = 256
NEVER = (1 << 63) - 1
"""After every instant, in microseconds."""


@dataclass(frozen=True)
class Facts:
    """What is known of the items at one instant, in the model's item order (I items)."""

    as_of: datetime
    category: NDArray[np.str_]
    price: NDArray[np.float64]
    is_on_sale: Bools
    trend: NDArray[np.float64]
    masks: dict[str, Bools] = field(default_factory=dict, repr=False)
    """By filter, so that equal filters share one array."""


@dataclass(frozen=True)
class Tables:
    """What the tables say of the items, in the model's item order; times are microseconds UTC."""

    category: list[str]
    price: NDArray[np.float64]
    withdrawn: NDArray[np.int64]
    since: NDArray[np.int64]
    trend: NDArray[np.float64]


class ItemRules:
    """Facts about the items of one model version."""

    def __init__(self, store: FeatureStore, items: Sequence[str], at: datetime, told: ToldItems) -> None:
        self.store = store
        self.items = tuple(items)
        self.told = told
        self._index = pa.array(self.items, pa.string())
        self._position = {item: position for position, item in enumerate(self.items)}
        self.refresh(at)

    def refresh(self, at: datetime) -> None:
        """Read the facts anew; requests see the old ones until it is done."""
        self._tables = self._read(at)
        self.tell(at)

    def tell(self, at: datetime) -> None:
        """Put what was told of items since the tables were built over what they say."""
        tables, moment = self._tables, to_microseconds(at)
        category, price, withdrawn = list(tables.category), tables.price.copy(), tables.withdrawn.copy()
        for item, entry in self.told.states.items():
            position = self._position.get(item)
            if position is not None and entry.instant >= tables.since[position]:
                category[position] = entry.row.get("category", "")
                withdrawn[position] = entry.row.get("withdrawn_at", NEVER)
                if "price" in entry.row:  # else the last price paid stands, which the tables know
                    price[position] = float(entry.row["price"])
        self.facts = Facts(at, np.array(category, dtype=str), price, withdrawn > moment, tables.trend)

    def allowed(self, filters: Filters | None) -> Bools:
        """(I,) True where an item is on sale and passes the filters. One array per filter: equal filters, same object."""
        facts, name = self.facts, "" if filters is None else filters.model_dump_json()
        mask = facts.masks.get(name)
        if mask is None:
            if len(facts.masks) >= _MASKS_KEPT:
                facts.masks.clear()
            mask = facts.masks[name] = _mask(facts, filters)
        return mask

    def trending(self, k: int, allowed: Bools, exclude: frozenset[str]) -> list[tuple[str, float]]:
        """The k items with most acts in the last seven days, with that number; items without any are left out."""
        trend = np.where(allowed, self.facts.trend, 0.0)
        order = np.argsort(-trend, kind="stable")[: k + len(exclude)]
        named = [(self.items[i], float(trend[i])) for i in order if trend[i] > 0 and self.items[i] not in exclude]
        return named[:k]

    def _read(self, at: datetime) -> Tables:
        catalog = self._aligned("item_catalog", ("category", "price", "withdrawn_at", EVENT_TIMESTAMP), at)
        activity = self._aligned("item_activity", TREND_COLUMNS, at)
        trend = sum(np.nan_to_num(_floats(activity[name])) for name in TREND_COLUMNS)
        return Tables(
            category=pc.fill_null(catalog["category"], "").to_pylist(),
            price=_floats(catalog["price"]),
            withdrawn=_microseconds(catalog["withdrawn_at"], NEVER),
            since=_microseconds(catalog[EVENT_TIMESTAMP], -NEVER),
            trend=np.asarray(trend, dtype=np.float64),
        )

    def _aligned(self, view: str, columns: tuple[str, ...], at: datetime) -> dict[str, pa.Array]:
        """Columns of the newest rows in the model's item order, null for items without a row."""
        if self.store.lake.version(VIEWS[view].path) is None:  # a shop without that table: nothing is known of the items
            return {name: pa.nulls(len(self.items), VIEWS[view].schema.field(name).type) for name in columns}
        rows = self.store.latest(view, at)
        where = pc.index_in(self._index, value_set=rows["item_id"].combine_chunks())
        return {name: rows[name].combine_chunks().take(where) for name in columns}


def _mask(facts: Facts, filters: Filters | None) -> Bools:
    mask = facts.is_on_sale.copy()
    if filters is None:
        return mask
    if filters.category is not None:
        mask &= np.isin(facts.category, filters.category)
    if filters.price_min is not None:
        mask &= facts.price >= filters.price_min  # NaN, a price not known, never passes
    if filters.price_max is not None:
        mask &= facts.price <= filters.price_max
    return mask


def _microseconds(column: pa.Array, missing: int) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.cast(pa.int64()).fill_null(missing).to_numpy(zero_copy_only=False)
    return values


def _floats(column: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
