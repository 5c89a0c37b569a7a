"""Rows of the sample shop that hang on a day: shopping days, campaigns, and the truth about traffic and season."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_jobs.sample.catalogue import CATEGORIES, Size, make_catalogue
from spark_jobs.sample.days import NUM_DAYS, date_of, make_days
from spark_jobs.sample.people import CAMPAIGN_DAYS, CAMPAIGN_STARTS, expected_visits


def shopping_days() -> pa.Table:
    """The shop's own festivals; public holidays come with the calendars that shop.yaml names."""
    rows = [
        {"date": date_of(day), "name": festival.name, "kind": "shopping_day"}
        for festival in make_days().festivals
        for day in range(festival.first, festival.last + 1)
    ]
    return pa.Table.from_pylist(rows)


def campaigns(size: Size) -> pa.Table:
    """One row per campaign; a push costs the shop two fen per account."""
    starts = np.array(CAMPAIGN_STARTS)
    columns = {
        "coupon": np.arange(len(starts)),
        "channel": ["push"] * len(starts),
        "cost_fen": np.full(len(starts), 2 * size.num_users),
        "first": starts,
        "after": starts + CAMPAIGN_DAYS,
    }
    return pa.table(columns)


def truth(size: Size, seed: int) -> pa.Table:
    """Factors of traffic per day, and the visits they make of the users present."""
    days = make_days()
    columns = {
        "ds": [date_of(day) for day in range(NUM_DAYS)],
        "week": days.week,
        "year": days.year,
        "holiday": days.holiday,
        "expected_visits": expected_visits(size, seed),
    }
    return pa.table(columns)


def seasons(size: Size, seed: int) -> pa.Table:
    """The seasonal factor of every category and day."""
    season = make_catalogue(size, seed).season
    columns = {
        "category": np.repeat([category.name for category in CATEGORIES], NUM_DAYS),
        "ds": [date_of(day) for day in range(NUM_DAYS)] * len(CATEGORIES),
        "factor": season.ravel(),
    }
    return pa.table(columns)
