"""Prices and promotions of the sample shop: pure functions of item and day, so no item x day table is ever held.

List prices are piecewise constant and move at random, independent of demand: the planted elasticity is identified.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_jobs.sample.catalogue import Catalogue
from spark_jobs.sample.chance import Floats, Ints
from spark_jobs.sample.days import NUM_DAYS, make_days

ITEM_CYCLE = 28
"""An item has at most one promotion of its own in each cycle of this many days."""
CATEGORY_CYCLE = 91
RIVALS = ("Xingfu Mall", "Dongfang Store")
RIVAL_CYCLE = 14
ITEM_DEPTHS = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
FESTIVAL_DEPTHS = np.array([0.1, 0.15, 0.2, 0.3, 0.4])
CATEGORY_DEPTHS = np.array([0.1, 0.15, 0.2])


@dataclass(frozen=True)
class Promotion:
    """Promotions as arrays: the item or category covered, first day, first day after it, share off the price."""

    who: Ints
    kind: str
    first: Ints
    after: Ints
    depth: Floats


def list_periods(catalogue: Catalogue, items: Ints) -> tuple[Ints, Ints]:
    """Days that a list price of each item stands, and how far its first one reaches back before day 0."""
    length = 25 + catalogue.chance.below("price period", 40, items)
    return length, catalogue.chance.below("price phase", length, items)


def list_fen(catalogue: Catalogue, items: Ints, days: Ints) -> Ints:
    """List price in fen, whole jiao."""
    length, phase = list_periods(catalogue, items)
    level = np.exp(0.1 * catalogue.chance.normal("list price", items, (days + phase) // length))
    return np.maximum(np.round(catalogue.reference_fen[items] * level / 10).astype(np.int64) * 10, 100)


def depth(catalogue: Catalogue, items: Ints, days: Ints) -> Floats:
    """Share off the list price: the deepest promotion that covers the item that day, 0 without one."""
    own = item_promotions(catalogue, items, days // ITEM_CYCLE)
    category = category_promotions(catalogue, catalogue.category[items], days // CATEGORY_CYCLE)
    festival = make_days().festival[days]
    joined = festival_promotions(catalogue, items, np.maximum(festival, 0))
    deepest = np.where(festival >= 0, joined.depth, 0.0)
    for promotion in (own, category):
        covers = (promotion.first <= days) & (days < promotion.after)
        deepest = np.maximum(deepest, np.where(covers, promotion.depth, 0.0))
    return deepest


def price_fen(catalogue: Catalogue, items: Ints, days: Ints) -> Ints:
    """What the user pays for one unit, in fen: list price less promotion."""
    return np.round(list_fen(catalogue, items, days) * (1 - depth(catalogue, items, days))).astype(np.int64)


def rival_fen(catalogue: Catalogue, items: Ints, days: Ints, rival: int) -> Ints:
    """A competitor's price in fen; it moves every `RIVAL_CYCLE` days."""
    level = np.exp(0.08 * catalogue.chance.normal("rival price", items, days // RIVAL_CYCLE, rival) + 0.02)
    return np.round(catalogue.reference_fen[items] * level / 10).astype(np.int64) * 10


def wanted_rate(catalogue: Catalogue, items: Ints, days: Ints) -> Floats:
    """Order lines wanted per view: conversion x season x (price / reference)^elasticity x (rival / reference)^cross x promotion
    lift x a shock of the item's day (log-normal, mean 1) that nobody can foresee.
    """
    reference = catalogue.reference_fen[items]
    off = depth(catalogue, items, days)
    price = list_fen(catalogue, items, days) * (1 - off)
    rival = np.minimum(rival_fen(catalogue, items, days, 0), rival_fen(catalogue, items, days, 1))
    shock = np.exp(0.25 * catalogue.chance.normal("demand shock", items, days) - 0.25**2 / 2)
    return np.asarray(
        catalogue.conversion[items]
        * catalogue.season[catalogue.category[items], days]
        * (price / reference) ** catalogue.elasticity[items]
        * (rival / reference) ** catalogue.rival_elasticity[items]
        * np.where(off > 0, catalogue.promotion_lift[items], 1.0)
        * shock
    )


def item_promotions(catalogue: Catalogue, items: Ints, cycles: Ints) -> Promotion:
    """The promotion of each (item, cycle); depth 0 where there is none."""
    chance = catalogue.chance
    runs = chance.uniform("item promotion", items, cycles) < 0.2
    length = 3 + chance.below("item promotion length", 8, items, cycles)
    first = cycles * ITEM_CYCLE + chance.below("item promotion start", ITEM_CYCLE - length + 1, items, cycles)
    off = ITEM_DEPTHS[chance.below("item promotion depth", len(ITEM_DEPTHS), items, cycles)]
    return Promotion(items, "price", first, np.minimum(first + length, NUM_DAYS), np.where(runs & (first < NUM_DAYS), off, 0.0))


def festival_promotions(catalogue: Catalogue, items: Ints, festivals: Ints) -> Promotion:
    """The part of each (item, festival); depth 0 for items that do not take part."""
    chance = catalogue.chance
    joins = chance.uniform("festival promotion", items, festivals) < 0.55
    off = FESTIVAL_DEPTHS[chance.below("festival depth", len(FESTIVAL_DEPTHS), items, festivals)]
    first = np.array([max(f.first, 0) for f in make_days().festivals])[festivals]
    after = np.array([min(f.last + 1, NUM_DAYS) for f in make_days().festivals])[festivals]
    return Promotion(items, "festival", first, after, np.where(joins, off, 0.0))


def category_promotions(catalogue: Catalogue, categories: Ints, cycles: Ints) -> Promotion:
    """The promotion of each (category, cycle); depth 0 where there is none."""
    chance = catalogue.chance
    runs = chance.uniform("category promotion", categories, cycles) < 0.6
    length = 4 + chance.below("category promotion length", 4, categories, cycles)
    first = cycles * CATEGORY_CYCLE + chance.below("category promotion start", CATEGORY_CYCLE - length, categories, cycles)
    off = CATEGORY_DEPTHS[chance.below("category promotion depth", len(CATEGORY_DEPTHS), categories, cycles)]
    return Promotion(
        categories, "category", first, np.minimum(first + length, NUM_DAYS), np.where(runs & (first < NUM_DAYS), off, 0.0)
    )
