"""Rows of the sample shop that hang on a user: the account, the campaigns that reached it, and its truth.

Each function takes the numbers of the users wanted, (n,).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_jobs.sample.catalogue import Size
from spark_jobs.sample.chance import Chance, Ints
from spark_jobs.sample.days import NUM_DAYS, date_of
from spark_jobs.sample.people import (
    CAMPAIGN_STARTS,
    COUPON_LIFT,
    COUPON_PROPENSITY,
    COUPON_VISIT,
    NUM_TASTES,
    SEGMENTS,
    exposed,
    has_coupon,
    make_people,
)

USERS = pa.schema([("user", pa.int64()), ("country", pa.string()), ("language", pa.string()), ("registered", pa.int64())])
EXPOSURES = pa.schema(
    [("user", pa.int64()), ("coupon", pa.int64()), ("variant", pa.string()), ("propensity", pa.float64()), ("start", pa.int64())]
)
TASTES = pa.schema([("user", pa.int64()), ("cluster", pa.int64()), ("weight", pa.float64())])
TRUTH = pa.schema(
    [("user", pa.int64()), ("first_day", pa.date32()), ("last_day", pa.date32()), ("expected_visits", pa.float64()),
     ("segment", pa.string()), ("coupon_lift", pa.float64()), ("coupon_visit", pa.float64())]
)  # fmt: skip

COUNTRIES = np.array(["CN", "CN", "CN", "CN", "CN", "CN", "CN", "CN", "SG", "US"])


def users(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """One row per user; `registered` is the number of a day, negative for those who registered before day 0."""
    people = make_people(size, seed, wanted)
    columns = {
        "user": wanted,
        "country": COUNTRIES[Chance(seed).below("user country", len(COUNTRIES), wanted)],
        "language": np.where(people.chinese, "zh", "en"),
        "registered": people.registered,
    }
    return pa.table(columns, schema=USERS)


def exposures(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """Who was reached by each campaign, and the arm that was drawn."""
    people = make_people(size, seed, wanted)
    chance = Chance(seed)
    tables = []
    for campaign, start in enumerate(CAMPAIGN_STARTS):
        reached = wanted[exposed(chance, wanted, campaign) & (people.registered < start)]
        columns = {
            "user": reached,
            "coupon": np.full(len(reached), campaign),
            "variant": np.where(has_coupon(chance, reached, campaign), "coupon", "control"),
            "propensity": np.where(has_coupon(chance, reached, campaign), COUPON_PROPENSITY, 1 - COUPON_PROPENSITY),
            "start": np.full(len(reached), start),
        }
        tables.append(pa.table(columns, schema=EXPOSURES))
    return pa.concat_tables(tables)


def tastes(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """NUM_TASTES rows per user: a taste cluster and its weight; the weights of a user sum to 1."""
    people = make_people(size, seed, wanted)
    columns = {"user": np.repeat(wanted, NUM_TASTES), "cluster": people.tastes.ravel(), "weight": people.weights.ravel()}
    return pa.table(columns, schema=TASTES)


def truth(size: Size, seed: int, wanted: Ints) -> pa.Table:
    """What is planted about each user."""
    people = make_people(size, seed, wanted)
    columns = {
        "user": wanted,
        "first_day": [date_of(day) for day in people.joined],
        "last_day": [date_of(day) if day < NUM_DAYS else None for day in people.left],
        "expected_visits": people.visits,
        "segment": [SEGMENTS[segment] for segment in people.segment],
        "coupon_lift": COUPON_LIFT[people.segment],
        "coupon_visit": COUPON_VISIT[people.segment],
    }
    return pa.table(columns, schema=TRUTH)
