"""Item facts: which items of a model's catalogue may be shown now, and which rise.

Item facts are kept in memory as columns in the model's item order and read anew every minute, off the request path. What is told
of an item while the shop runs is put over them within a second.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import EVENT_TIMESTAMP, ITEM_ID
from features.fresh.items import ToldItems
from features.online.packing import from_microseconds, to_microseconds
from features.shop import Blocked
from serving.nodes.item_tables import ACTIVITY, CATALOG, ItemTables
from serving.schemas import Filters
from training.recommender.content import COLUMNS, Row

Bools = NDArray[np.bool_]

WEEK_DAYS, SEASON_DAYS = 7, 90
"""What is new, and what it is held against: a day says too little of an item, a month too little of what is usual for it."""
STEADY = 10.0
"""Acts of a week that an item is taken to have at its usual rate: few acts make no rise. More of them ask for more popular items."""
_ACTS = ("item_views_count", "item_carts_count", "buyers_count")
"""What counts as an act; a purchase once per user."""

_MASKS_KEPT = 256
NEVER = (1 << 63) - 1
"""After every instant, in microseconds."""


@dataclass(frozen=True)
class Facts:
    """What is known of the items at one instant, in the model's item order (I items)."""

    as_of: datetime
    category: NDArray[np.str_]
    brand: NDArray[np.str_]
    price: NDArray[np.float64]
    created: NDArray[np.float64]
    """First on sale or first seen, microseconds UTC, NaN where nobody knows."""
    is_open: Bools
    """On sale, and not blocked by the shop."""
    rise: NDArray[np.float64]
    masks: dict[str, Bools] = field(default_factory=dict, repr=False)
    """By filter, so that equal filters share one array."""


@dataclass(frozen=True)
class Tables:
    """What the tables say of the items, in the model's item order; times are microseconds UTC."""

    category: list[str]
    brand: list[str]
    price: NDArray[np.float64]
    created: NDArray[np.float64]
    withdrawn: NDArray[np.int64]
    since: NDArray[np.int64]
    rise: NDArray[np.float64]


class ItemFacts:
    """Facts about the items of one model version."""

    def __init__(self, items: Sequence[str], tables: ItemTables, told: ToldItems, blocked: Blocked | None = None) -> None:
        self.items = tuple(items)
        self.told = told
        self.blocked = blocked or Blocked()
        self.index = pa.array(self.items, pa.string())
        self._position = {item: position for position, item in enumerate(self.items)}
        self.refresh(tables)

    def over(self, items: Sequence[str], tables: ItemTables) -> ItemFacts:
        """The same of other items."""
        return ItemFacts(items, tables, self.told, self.blocked)

    def listed(self, known: Collection[str], tables: ItemTables) -> dict[str, Row]:
        """Item -> what is said of it, of those on sale that are not among `known`: by the tables, and by what was told since."""
        rows: dict[str, Row] = {}
        if CATALOG.name in tables.rows:
            catalog = tables.rows[CATALOG.name].select([ITEM_ID, *COLUMNS, "withdrawn_at", EVENT_TIMESTAMP])
            others = catalog.filter(pc.invert(pc.is_in(catalog[ITEM_ID], pa.array(known, pa.string()))))
            rows = {row[ITEM_ID]: row for row in others.to_pylist()}
        for item in self.told.states.keys() - set(known):
            entry = self.told.states[item]
            if item not in rows or entry.instant >= to_microseconds(rows[item][EVENT_TIMESTAMP]):
                withdrawn = entry.row.get("withdrawn_at")
                rows[item] = {**entry.row, "withdrawn_at": None if withdrawn is None else from_microseconds(withdrawn)}
        return {item: row for item, row in rows.items() if row["withdrawn_at"] is None or row["withdrawn_at"] > tables.as_of}

    def refresh(self, tables: ItemTables) -> None:
        """Take up what the tables say; requests see the old facts until it is done."""
        self._tables = self._read(tables)
        self.tell(tables.as_of)

    def tell(self, at: datetime) -> None:
        """Put what was told of items since the tables were built over what they say."""
        tables, moment = self._tables, to_microseconds(at)
        category, brand = list(tables.category), list(tables.brand)
        price, created, withdrawn = tables.price.copy(), tables.created.copy(), tables.withdrawn.copy()
        for item, entry in self.told.states.items():
            position = self._position.get(item)
            if position is not None and entry.instant >= tables.since[position]:
                category[position] = entry.row.get("category", "")
                brand[position] = entry.row.get("brand", "")
                withdrawn[position] = entry.row.get("withdrawn_at", NEVER)
                if "price" in entry.row:  # else the last price paid stands, which the tables know
                    price[position] = float(entry.row["price"])
                if "created_at" in entry.row or np.isnan(created[position]):  # else the first sight stands
                    created[position] = entry.row.get("created_at", entry.instant)
        categories, brands = (np.array(column, dtype=str) for column in (category, brand))
        is_open = (withdrawn > moment) & ~self._blocked_of(categories, brands)
        self.facts = Facts(at, categories, brands, price, created, is_open, tables.rise)

    def allowed(self, filters: Filters | None) -> Bools:
        """(I,) True where an item is on sale and passes the filters. One array per filter: equal filters, same object."""
        facts, name = self.facts, "" if filters is None else filters.model_dump_json()
        mask = facts.masks.get(name)
        if mask is None:
            if len(facts.masks) >= _MASKS_KEPT:
                facts.masks.clear()
            mask = facts.masks[name] = _mask(facts, filters)
        return mask

    def may_show(self, item: str, filters: Filters | None) -> bool:
        """Whether one item is on sale and passes the filters; one of which nothing is known may, where there are none."""
        position = self._position.get(item)
        return filters is None if position is None else bool(self.allowed(filters)[position])

    def _blocked_of(self, categories: NDArray[np.str_], brands: NDArray[np.str_]) -> Bools:
        """(I,) True where the shop shows an item to nobody."""
        said = self.blocked
        mask: Bools = np.isin(categories, said.category) | np.isin(brands, said.brand)
        mask[[self._position[item] for item in said.items if item in self._position]] = True
        return mask

    def _read(self, tables: ItemTables) -> Tables:
        columns = ("category", "brand", "price", "created_at", "withdrawn_at", EVENT_TIMESTAMP)
        catalog = tables.aligned(CATALOG.name, columns, self.index)
        acts = tuple(f"{act}_{days}d" for act in _ACTS for days in (WEEK_DAYS, SEASON_DAYS))
        activity = tables.aligned(ACTIVITY.name, acts, self.index)
        week, season = (
            np.sum([np.nan_to_num(_floats(activity[f"{act}_{days}d"])) for act in _ACTS], axis=0)
            for days in (WEEK_DAYS, SEASON_DAYS)
        )
        return Tables(
            category=pc.fill_null(catalog["category"], "").to_pylist(),
            brand=pc.fill_null(catalog["brand"], "").to_pylist(),
            price=_floats(catalog["price"]),
            created=_floats(catalog["created_at"].cast(pa.int64())),
            withdrawn=_microseconds(catalog["withdrawn_at"], NEVER),
            since=_microseconds(catalog[EVENT_TIMESTAMP], -NEVER),
            rise=risen(week, season),
        )


def risen(week: NDArray[np.float64], season: NDArray[np.float64]) -> NDArray[np.float64]:
    """(I,) acts of the last week over those of a usual one, shrunk towards 1 (the mean of a Gamma-Poisson model): above 1 an item rises
    more than the shop does. 0 where the week saw none.

    Args:
        week, season: (I,) acts of the last WEEK_DAYS and SEASON_DAYS days. The days before the week say what is usual.
    """
    usual = np.maximum(season - week, 0.0) * WEEK_DAYS / (SEASON_DAYS - WEEK_DAYS)
    usual *= week.sum() / max(usual.sum(), 1.0)  # a festival lifts all alike
    rise: NDArray[np.float64] = np.where(week > 0, (week + STEADY) / (usual + STEADY), 0.0)
    return rise


def _mask(facts: Facts, filters: Filters | None) -> Bools:
    mask = facts.is_open.copy()
    if filters is None:
        return mask
    if filters.category is not None:
        mask &= np.isin(facts.category, filters.category)
    if filters.brand is not None:
        mask &= np.isin(facts.brand, filters.brand)
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
