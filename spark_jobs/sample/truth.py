"""What was planted in the sample shop, as tables under `truth/` of its lake: later models are asked how much they recover.

The tables alone say the truth (training reads them, not this code): the next-item process is `process`, `successors`,
`user_tastes` and `items` put together as `spark_jobs.sample.next_item` writes the formula; `next_item_probabilities` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa

from features.tables import Column, Table
from spark_jobs.sample.catalogue import ASPECTS
from spark_jobs.sample.chance import Floats


def _truth(name: str, meaning: str, keys: tuple[str, ...], *columns: Column) -> Table:
    return Table(name, "truth", meaning, columns, keys, keys)


ITEMS = _truth(
    "items",
    "each item's place in the next-item process, its demand response and how well its aspects please",
    ("item_id",),
    Column("item_id", "string", "item", required=True),
    Column("cluster", "int", "taste cluster", required=True),
    Column("popularity", "float", "share of the popularity part; sums to 1 over the shop", required=True),
    Column("first_day", "date", "first local day on sale", required=True),
    Column("last_day", "date", "first local day it is no longer on sale; null while it is"),
    Column("reference_price", "float", "price at which the price factor is 1", "CNY", required=True),
    Column("conversion", "float", "order lines per view at factor 1", required=True),
    Column("units_per_line", "float", "mean units of an order line", "units", required=True),
    Column("elasticity", "float", "price factor = (price / reference_price) ^ elasticity", required=True),
    Column("rival_elasticity", "float", "rival factor = (cheapest competitor / reference_price) ^ rival_elasticity", required=True),
    Column("promotion_lift", "float", "factor on days of a promotion, beside the price's", required=True),
    Column("return_share", "float", "share of its lines returned", "0-1", required=True),
    *(
        Column(f"{aspect}_leaning", "float", f"log-odds that its {aspect} pleases, less the user's part", required=True)
        for aspect in ASPECTS
    ),
)
SUCCESSORS = _truth(
    "successors",
    "which items follow an item, where the visitor follows one",
    ("item_id", "next_item_id"),
    Column("item_id", "string", "item viewed", required=True),
    Column("next_item_id", "string", "item viewed next", required=True),
    Column("probability", "float", "sums to 1 per item; the same pair may come twice and adds up", "0-1", required=True),
)
PROCESS = _truth(
    "process",
    "shares of the three parts of the next-item process",
    ("part",),
    Column("part", "string", "successor, taste or popularity", required=True),
    Column("share", "float", "share; sums to 1", "0-1", required=True),
)
USER_TASTES = _truth(
    "user_tastes",
    "taste vector of each user over the clusters",
    ("user_id", "cluster"),
    Column("user_id", "string", "user", required=True, mark="pseudonym"),
    Column("cluster", "int", "taste cluster", required=True),
    Column("weight", "float", "sums to 1 per user; the same cluster may come twice and adds up", "0-1", required=True),
)
USERS = _truth(
    "users",
    "how each user visits and answers a coupon",
    ("user_id",),
    Column("user_id", "string", "user", required=True, mark="pseudonym"),
    Column("first_day", "date", "first local day the user may visit", required=True),
    Column("last_day", "date", "first local day the user no longer visits; null if still active at the end"),
    Column("expected_visits", "float", "mean number of visits in between", required=True),
    Column("segment", "string", "persuadable, sure, unmoved or annoyed", required=True),
    Column("coupon_lift", "float", "factor on the lines wanted while holding a coupon", required=True),
    Column("coupon_visit", "float", "probability of one more visit because of a coupon", "0-1", required=True),
)
DAYS = _truth(
    "days",
    "factors of traffic; traffic = week x year x holiday",
    ("ds",),
    Column("ds", "date", "local day", required=True),
    Column("week", "float", "factor of the weekday", required=True),
    Column("year", "float", "factor of the season", required=True),
    Column("holiday", "float", "factor of holidays and shopping festivals", required=True),
    Column("expected_visits", "float", "mean number of visits by the users present that day", required=True),
)
SEASONS = _truth(
    "seasons",
    "seasonal factor of a category's demand",
    ("category", "ds"),
    Column("category", "string", "category", required=True),
    Column("ds", "date", "local day", required=True),
    Column("factor", "float", "factor on lines per view", required=True),
)
DEMAND = _truth(
    "demand",
    "demand per item and local day with at least one view; wanted less sold was lost to an empty shelf",
    ("item_id", "ds"),
    Column("item_id", "string", "item", required=True),
    Column("ds", "date", "local day", required=True),
    Column("views", "int", "views", required=True),
    Column("expected_units", "float", "mean units wanted, given the views", "units", required=True),
    Column("wanted_units", "int", "units wanted", "units", required=True),
    Column("sold_units", "int", "units sold", "units", required=True),
)
REVIEWS = _truth(
    "reviews",
    "sentiment of each review",
    ("review_id",),
    Column("review_id", "string", "review", required=True),
    Column("score", "float", "weighted mean sentiment of its aspects, before the noise of the rating", "-1 to 1", required=True),
    *(Column(aspect, "int", f"sentiment about {aspect}: -1 or 1, null where it is not mentioned") for aspect in ASPECTS),
)

TRUTH_TABLES = {
    table.name: table for table in (ITEMS, SUCCESSORS, PROCESS, USER_TASTES, USERS, DAYS, SEASONS, DEMAND, REVIEWS)
}  # fmt: skip


def next_item_probabilities(truth: Mapping[str, pa.Table], user_id: str, last_item_id: str | None, day: date) -> dict[str, float]:
    """The Bayes-optimal distribution of the item that a user views next.

    Args:
        truth: the rows of `truth/items`, `truth/successors`, `truth/process` and `truth/user_tastes`, by name.
        last_item_id: the item the user viewed before, None at the first view of their life.
        day: local day of the view.

    Returns:
        item_id -> probability over the items on sale, summing to 1.

    Raises:
        KeyError: the user or item is not in the tables.
    """
    items = truth["items"]
    ids = items["item_id"].to_pylist()
    row = {item_id: index for index, item_id in enumerate(ids)}
    popularity: Floats = items["popularity"].to_numpy()
    cluster = items["cluster"].to_numpy()
    share = dict(zip(truth["process"]["part"].to_pylist(), truth["process"]["share"].to_pylist(), strict=True))

    mass = np.bincount(cluster, weights=popularity)
    tastes = truth["user_tastes"].filter(pa.compute.equal(truth["user_tastes"]["user_id"], user_id))
    if not tastes.num_rows:
        raise KeyError(f"no tastes of user {user_id!r} in truth/user_tastes")
    taste = np.bincount(tastes["cluster"].to_numpy(), weights=tastes["weight"].to_numpy(), minlength=len(mass))
    probability = share["popularity"] * popularity + share["taste"] * taste[cluster] * popularity / mass[cluster]
    if last_item_id is not None:
        following = truth["successors"].filter(pa.compute.equal(truth["successors"]["item_id"], last_item_id))
        for next_id, weight in zip(following["next_item_id"].to_pylist(), following["probability"].to_pylist(), strict=True):
            probability[row[next_id]] += share["successor"] * weight
        probability[row[last_item_id]] = 0.0
    on_sale = np.array(
        [
            first <= day and (last is None or day < last)
            for first, last in zip(items["first_day"].to_pylist(), items["last_day"].to_pylist(), strict=True)
        ]
    )
    probability = probability * on_sale
    return dict(zip(ids, (probability / probability.sum()).tolist(), strict=True))
