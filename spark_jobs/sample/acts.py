"""Everything users of the sample shop did, as typed acts: page, search, view, favourite, login, cart, uncart, checkout, purchase.

Purchases here are what visitors want to buy; the warehouse (`stock`) decides what they get.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import EVENT_TYPES
from spark_jobs.sample.catalogue import CATEGORIES, Catalogue, Size, make_catalogue
from spark_jobs.sample.chance import Ints
from spark_jobs.sample.days import DAY_US, NUM_DAYS, start_of_history
from spark_jobs.sample.people import People, make_people
from spark_jobs.sample.views import Views, make_views
from spark_jobs.sample.visits import SECOND, Visits, make_visits

KIND = {name: number for number, name in enumerate(EVENT_TYPES)}
QUERIES = tuple(word for category in CATEGORIES for words in (category.chinese, category.english) for word in words)
"""What people search for: per category the words of one language, then of the other."""

ACTS = pa.schema(
    [
        ("user", pa.int64()),
        ("number", pa.int64()),
        ("session", pa.int64()),
        ("kind", pa.int8()),
        ("item", pa.int64()),
        ("at", pa.int64()),
        ("late", pa.int64()),
        ("fen", pa.int64()),
        ("quantity", pa.int64()),
        ("app", pa.bool_()),
        ("anonymous", pa.bool_()),
        ("coupon", pa.int64()),
        ("day", pa.int64()),
        ("query", pa.int64()),
        ("rate", pa.int64()),
    ]
)
"""One act. `number` counts a user's acts in time, `kind` is the place in EVENT_TYPES; `at`, and `late` after it when it reached the
shop, are microseconds; `coupon` (a campaign) and `query` (a row of QUERIES) are numbers; `rate` is in 1 / RATE_SCALE units; item,
fen, quantity, coupon and query are -1 for none."""

_NONE = {"item": -1, "fen": -1, "quantity": -1, "query": -1, "rate": 0}
NEVER = np.iinfo(np.int64).max


def make_acts(size: Size, seed: int, users: Ints) -> pa.Table:
    """Everything that some users did, ordered by user and time.

    Args:
        users: ascending ids; the rows of a user do not depend on who else is asked for.
    """
    people = make_people(size, seed, users)
    catalogue = make_catalogue(size, seed)
    visits = make_visits(catalogue.chance, people)
    columns = _acts(catalogue, people, visits, make_views(catalogue, people, visits))
    order = np.lexsort((columns["rank"], columns["at"], columns["user"]))
    user = columns["user"][order]
    columns["number"] = np.empty(len(order), dtype=np.int64)
    columns["number"][order] = np.arange(len(order)) - np.searchsorted(user, user)
    return pa.table([pa.array(columns[field.name][order], field.type) for field in ACTS], schema=ACTS)


def _acts(catalogue: Catalogue, people: People, visits: Visits, views: Views) -> dict[str, NDArray[np.generic]]:
    """All acts as columns, in no order; `rank` orders acts of one user at one instant."""
    chance = catalogue.chance
    user, counter = views.user, views.counter
    wants = views.quantity > 0
    leaves = ~wants & (chance.uniform("cart left", user, counter) < 0.07)
    takes_out = leaves & (chance.uniform("cart taken out", user, counter) < 0.25)
    likes = chance.uniform("favourite", user, counter) < 0.04
    searches = (views.place == 0) & (chance.uniform("search", user, counter) < 0.35)
    looks_round = chance.uniform("page", visits.user, visits.counter) < 0.15

    cart_at = views.at + 4 * SECOND
    login_at = np.full(len(visits.who), NEVER)
    np.minimum.at(login_at, views.visit[wants | leaves], cart_at[wants | leaves] - SECOND)
    login_at = np.where(visits.anonymous, login_at, NEVER)
    end_at = np.zeros(len(visits.who), dtype=np.int64)
    np.maximum.at(end_at, views.visit, views.at)
    buys = np.bincount(views.visit, wants, len(visits.who)) > 0
    lines_before: Ints = np.cumsum(wants) - wants
    place_in_basket: Ints = lines_before - lines_before[np.searchsorted(views.visit, views.visit)]

    english = ~people.chinese[visits.who[views.visit]]
    query = catalogue.category[views.item] * 8 + english * 4 + catalogue.noun[views.item]
    shown = {"item": views.item, "fen": views.fen}
    units = {"quantity": np.maximum(views.quantity, 1)}
    every = np.ones(len(user), dtype=bool)
    of_view, of_visit = views.visit, np.arange(len(visits.who))
    parts = [
        _part("page", 0, looks_round, of_visit, visits.at),
        _part("search", 1, searches, of_view, views.at - 5 * SECOND, {"query": query}),
        _part("view", 2, every, of_view, views.at, shown | {"rate": views.rate}),
        _part("favourite", 3, likes, of_view, views.at + 3 * SECOND, shown),
        _part("login", 4, login_at != NEVER, of_visit, login_at),
        _part("cart", 5, wants | leaves, of_view, cart_at, shown | units),
        _part("uncart", 6, takes_out, of_view, views.at + 6 * SECOND, shown | units),
        _part("checkout", 7, buys, of_visit, end_at + 20 * SECOND),
        _part("purchase", 8, wants, of_view, end_at[of_view] + 60 * SECOND + place_in_basket * 1000, shown | units),
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    visit, at, kind = columns.pop("visit"), columns["at"], columns["kind"]
    late = np.where(kind < KIND["checkout"], visits.late[visit], 0)
    return columns | {
        "user": visits.user[visit],
        "session": visits.session[visit],
        "day": visits.day[visit],
        "app": visits.app[visit],
        "anonymous": visits.anonymous[visit] & (at < login_at[visit]),
        "coupon": np.where(kind == KIND["purchase"], visits.coupon[visit], -1),
        "late": np.minimum(late, start_of_history() + NUM_DAYS * DAY_US - 1 - at),
    }


def _part(
    kind: str, rank: int, rows: NDArray[np.bool_], visit: Ints, at: Ints, columns: Mapping[str, Ints] | None = None
) -> dict[str, Ints]:
    """The acts of one kind: those `rows` of the views or visits that `visit`, `at` and `columns` are given for."""
    count = int(rows.sum())
    constant = {"kind": KIND[kind], "rank": rank} | _NONE
    told = {"visit": visit, "at": at, **(columns or {})}
    return {name: np.full(count, value) for name, value in constant.items()} | {name: all_[rows] for name, all_ in told.items()}
