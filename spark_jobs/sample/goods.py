"""Rows of the sample shop that hang on an item: its list prices, promotions, supplier, competitors' prices and its truth.

Functions take the numbers of the items wanted, (n,). Money is in fen (1/100 CNY), days are numbers from the first one on.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_jobs.sample import prices
from spark_jobs.sample.catalogue import ASPECTS, BRANDS, CATEGORIES, SUCCESSOR_WEIGHTS, Size, make_catalogue
from spark_jobs.sample.chance import Ints
from spark_jobs.sample.days import NUM_DAYS, date_of, make_days
from spark_jobs.sample.prices import (
    CATEGORY_CYCLE,
    ITEM_CYCLE,
    RIVAL_CYCLE,
    RIVALS,
    festival_promotions,
    item_promotions,
    list_fen,
    list_periods,
    rival_fen,
)
from spark_jobs.sample.stock import suppliers

ITEMS = pa.schema(
    [("item", pa.int64()), ("title", pa.string()), ("category", pa.string()), ("brand", pa.string()), ("fen", pa.int64()),
     ("cost_fen", pa.int64()), ("first_day", pa.int64()), ("last_day", pa.int64()), ("day", pa.int64())]
)  # fmt: skip
PROMOTIONS = pa.schema(
    [
        ("item", pa.int64()),
        ("number", pa.int64()),
        ("kind", pa.string()),
        ("first", pa.int64()),
        ("after", pa.int64()),
        ("depth", pa.float64()),
    ]
)
SUPPLIERS = pa.schema(
    [("item", pa.int64()), ("lead_time_days", pa.int64()), ("minimum_order", pa.int64()), ("pack_size", pa.int64())]
)
RIVAL_PRICES = pa.schema([("item", pa.int64()), ("competitor", pa.string()), ("fen", pa.int64()), ("day", pa.int64())])
SUCCESSORS = pa.schema([("item", pa.int64()), ("next_item", pa.int64()), ("probability", pa.float64())])
TRUTH = pa.schema(
    [("item", pa.int64()), ("cluster", pa.int64()), ("popularity", pa.float64()), ("first_day", pa.date32()), ("last_day", pa.date32()),
     ("reference_price", pa.float64()), ("conversion", pa.float64()), ("units_per_line", pa.float64()), ("elasticity", pa.float64()),
     ("rival_elasticity", pa.float64()), ("promotion_lift", pa.float64()), ("return_share", pa.float64()),
     *((f"{aspect}_leaning", pa.float64()) for aspect in ASPECTS)]
)  # fmt: skip


def items(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """One row per item and list price: the first on the item's first day, one for each later change."""
    catalogue = make_catalogue(size, seed)
    length, phase = list_periods(catalogue, wanted)
    count = (NUM_DAYS + phase) // length + 1
    row = np.repeat(np.arange(len(wanted)), count)
    period = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    item = wanted[row]
    first, last = catalogue.first_day[item], catalogue.last_day[item]
    day = np.maximum(period * length[row] - phase[row], first)
    after = (period + 1) * length[row] - phase[row]
    keep = (after > first) & (day < last)
    item, day, first, last = item[keep], day[keep], first[keep], last[keep]
    fen = list_fen(catalogue, item, day)
    same = np.concatenate([[False], (np.diff(item) == 0) & (np.diff(fen) == 0)])
    item, day, first, last, fen = item[~same], day[~same], first[~same], last[~same], fen[~same]
    titles = {int(i): _title(catalogue.category[i], catalogue.noun[i], catalogue.brand[i], int(i)) for i in wanted}
    return pa.table(
        {
            "item": item,
            "title": [titles[i] for i in item.tolist()],
            "category": [CATEGORIES[c].name for c in catalogue.category[item]],
            "brand": [BRANDS[b] for b in catalogue.brand[item]],
            "fen": fen,
            "cost_fen": np.round(catalogue.reference_fen[item] * catalogue.cost_share[item]).astype(np.int64),
            "first_day": first,
            "last_day": last,
            "day": day,
        },
        schema=ITEMS,
    )


def promotions(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """The items' own promotions and their part in festivals; those of whole categories are apart."""
    catalogue = make_catalogue(size, seed)
    cycles = -(-NUM_DAYS // ITEM_CYCLE)
    own = item_promotions(catalogue, np.repeat(wanted, cycles), np.tile(np.arange(cycles), len(wanted)))
    festivals = len(make_days().festivals)
    joint = festival_promotions(catalogue, np.repeat(wanted, festivals), np.tile(np.arange(festivals), len(wanted)))
    tables = []
    for promotion, count, offset in ((own, cycles, 0), (joint, festivals, cycles)):
        runs = promotion.depth > 0
        columns = {
            "item": promotion.who[runs],
            "number": offset + np.tile(np.arange(count), len(wanted))[runs],
            "kind": [promotion.kind] * int(runs.sum()),
            "first": promotion.first[runs],
            "after": promotion.after[runs],
            "depth": promotion.depth[runs],
        }
        tables.append(pa.table(columns, schema=PROMOTIONS))
    return pa.concat_tables(tables)


def category_promotions(size: Size, seed: int) -> pa.Table:
    """The promotions of whole categories, with the columns of PROMOTIONS but `category` in place of `item`."""
    catalogue = make_catalogue(size, seed)
    cycles = -(-NUM_DAYS // CATEGORY_CYCLE)
    category, cycle = np.repeat(np.arange(len(CATEGORIES)), cycles), np.tile(np.arange(cycles), len(CATEGORIES))
    promotion = prices.category_promotions(catalogue, category, cycle)
    runs = promotion.depth > 0
    columns = {
        "category": [CATEGORIES[c].name for c in category[runs]],
        "number": cycle[runs],
        "kind": [promotion.kind] * int(runs.sum()),
        "first": promotion.first[runs],
        "after": promotion.after[runs],
        "depth": promotion.depth[runs],
    }
    return pa.table(columns)


def supplier_terms(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """One row per item: lead time in days, least order and pack in units."""
    terms = suppliers(make_catalogue(size, seed), wanted)
    columns = {
        "item": wanted, "lead_time_days": terms.lead_time_days, "minimum_order": terms.minimum_order, "pack_size": terms.pack_size,
    }  # fmt: skip
    return pa.table(columns, schema=SUPPLIERS)


def rival_prices(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """What competitors ask, seen whenever their prices move."""
    catalogue = make_catalogue(size, seed)
    days = np.arange(0, NUM_DAYS, RIVAL_CYCLE)
    item, day = np.repeat(wanted, len(days)), np.tile(days, len(wanted))
    tables = []
    for rival, name in enumerate(RIVALS):
        columns = {"item": item, "competitor": [name] * len(item), "fen": rival_fen(catalogue, item, day, rival), "day": day}
        tables.append(pa.table(columns, schema=RIVAL_PRICES))
    return pa.concat_tables(tables)


def successors(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """One row per item and successor, with the probability that it follows."""
    catalogue = make_catalogue(size, seed)
    columns = {
        "item": np.repeat(wanted, len(SUCCESSOR_WEIGHTS)),
        "next_item": catalogue.successors[wanted].ravel(),
        "probability": np.tile(SUCCESSOR_WEIGHTS, len(wanted)),
    }
    return pa.table(columns, schema=SUCCESSORS)


def truth(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """What is planted about each item."""
    c = make_catalogue(size, seed)
    columns = {
        "item": wanted,
        "cluster": c.cluster[wanted],
        "popularity": c.popularity[wanted],
        "first_day": [date_of(day) for day in c.first_day[wanted]],
        "last_day": [date_of(day) if day < NUM_DAYS else None for day in c.last_day[wanted]],
        "reference_price": c.reference_fen[wanted] / 100,
        "conversion": c.conversion[wanted],
        "units_per_line": 1 + c.extra_units[wanted],
        "elasticity": c.elasticity[wanted],
        "rival_elasticity": c.rival_elasticity[wanted],
        "promotion_lift": c.promotion_lift[wanted],
        "return_share": c.return_share[wanted],
        **{f"{aspect}_leaning": 1.1 * c.quality[wanted, index] for index, aspect in enumerate(ASPECTS)},
    }
    return pa.table(columns, schema=TRUTH)


def _title(category: int, noun: int, brand: int, item: int) -> str:
    """Brand, noun in both languages, model number."""
    words = CATEGORIES[category]
    return f"{BRANDS[brand]} {words.chinese[noun]} {words.english[noun].title()} {item % 1000:03d}"
