"""The visits of the sample shop: sessions of typed acts per user, views by the planted process, wants by the planted demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from features.columns import EVENT_TYPES
from spark_jobs.sample.catalogue import CATEGORIES, Catalogue, Size, make_catalogue
from spark_jobs.sample.chance import Chance, Floats, Ints
from spark_jobs.sample.days import DAY_US, NUM_DAYS, make_days, start_of_history
from spark_jobs.sample.next_item import draw_next
from spark_jobs.sample.people import (
    CAMPAIGN_DAYS,
    CAMPAIGN_STARTS,
    COUPON_LIFT,
    COUPON_VISIT,
    People,
    exposed,
    has_coupon,
    make_people,
    running_campaign,
)
from spark_jobs.sample.prices import price_fen, wanted_rate

KIND = {name: number for number, name in enumerate(EVENT_TYPES)}

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
"""What a user did, as numbers: `number` counts a user's acts in time, `at` and `late` (when it reached the shop, after `at`) are
microseconds, `item`, `coupon` (number of the campaign) and `query` (row of `QUERIES`) are -1 for none. `rate` is the units a view was expected
to sell, in 1 / `RATE_SCALE`: whole numbers, because a sum of floats would depend on the order of the tasks."""

RATE_SCALE = 1_000_000_000
QUERIES = tuple(word for category in CATEGORIES for words in (category.chinese, category.english) for word in words)
SECOND = 1_000_000
USERS_PER_BATCH = 4096
HOURS = np.array([3, 1.5, 0.7, 0.4, 0.4, 0.8, 2, 3.5, 4, 4.5, 5, 5, 6, 5.5, 5, 5, 4.5, 4.5, 5, 6.5, 8.5, 9.5, 4.5, 0])
"""How traffic spreads over the local day; half of hour 22 and hour 23 are left empty, so that no visit runs past midnight."""
VISITS_APART = 120 * 60 * SECOND
"""Least time between the starts of two visits of one user."""


def acts(size: Size, seed: int, users: Ints) -> pa.Table:
    """Everything that some users did, ordered by user and time.

    Args:
        users: ascending ids; the rows of a user do not depend on who else is asked for.
    """
    people = make_people(size, seed, users)
    catalogue = make_catalogue(size, seed)
    visits = _visits(catalogue.chance, people)
    views = _views(catalogue, people, visits)
    columns = _acts(catalogue, people, visits, views)
    order = np.lexsort((columns["rank"], columns["at"], columns["user"]))
    user = columns["user"][order]
    starts = np.searchsorted(user, user)
    columns = {name: values[order] for name, values in columns.items()}
    columns["number"] = np.arange(len(order)) - starts
    return pa.table([pa.array(columns[f.name], f.type) for f in ACTS], schema=ACTS)


def _visits(chance: Chance, people: People) -> dict[str, Any]:
    """One entry per visit, ordered by user and time; `who` is the row in `people`."""
    traffic = np.concatenate([[0.0], np.cumsum(make_days().traffic)])
    count = np.clip(chance.poisson("visits", people.visits, people.users), 1, 400)
    who = np.repeat(np.arange(len(people.users)), count)
    number = np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)
    low, high = traffic[people.joined[who]], traffic[people.left[who]]
    day = np.searchsorted(traffic, low + chance.uniform("visit day", people.users[who], number) * (high - low), side="right") - 1

    for campaign, start in enumerate(CAMPAIGN_STARTS):
        reached = exposed(chance, people.users, campaign) & (people.registered < start) & has_coupon(chance, people.users, campaign)
        comes = chance.uniform("coupon visit", people.users, campaign) < COUPON_VISIT[people.segment]
        extra = np.flatnonzero(reached & comes)
        who = np.concatenate([who, extra])
        number = np.concatenate([number, np.full(len(extra), 1_000_000 + campaign)])
        day = np.concatenate([day, start + chance.below("coupon visit day", CAMPAIGN_DAYS, people.users[extra], campaign)])

    user = people.users[who]
    hours = np.concatenate([[0.0], np.cumsum(HOURS / HOURS.sum())])
    draw = chance.uniform("visit hour", user, number)
    hour = np.searchsorted(hours, draw, side="right") - 1
    part = (draw - hours[hour]) / (hours[hour + 1] - hours[hour])
    start_at = start_of_history() + day * DAY_US + ((hour + part * np.where(hour == 22, 0.5, 1.0)) * 3600 * SECOND).astype(np.int64)

    order = np.lexsort((start_at, who))
    who, number, day, start_at = who[order], number[order], day[order], start_at[order]
    apart = np.concatenate([[True], (np.diff(start_at) >= VISITS_APART) | (np.diff(who) != 0)])
    who, number, day, start_at = who[apart], number[apart], day[apart], start_at[apart]
    user = people.users[who]

    campaign = running_campaign(day)
    coupon = np.full(len(who), -1, dtype=np.int64)
    for running, start in enumerate(CAMPAIGN_STARTS):
        here = campaign == running
        holds = exposed(chance, user, running) & has_coupon(chance, user, running) & (people.registered[who] < start)
        coupon[here & holds] = running
    first = np.searchsorted(who, who)
    return {
        "who": who,
        "user": user,
        "key": number,
        "session": np.arange(len(who)) - first,
        "day": day,
        "at": start_at,
        "coupon": coupon,
        "app": chance.uniform("visit channel", user, number) < 0.65,
        "anonymous": chance.uniform("visit anonymous", user, number) < 0.04,
        "late": np.where(
            chance.uniform("visit late", user, number) < 0.01,
            (chance.uniform("visit lateness", user, number) * 6 * 3600 * SECOND).astype(np.int64),
            0,
        ),
        "num_views": np.minimum(1 + chance.poisson("visit views", 4.0, user, number), 20),
    }


def _views(catalogue: Catalogue, people: People, visits: dict[str, Any]) -> dict[str, Any]:
    """One entry per view, ordered by user and time; `visit` is the row in `visits`."""
    chance = catalogue.chance
    visit = np.repeat(np.arange(len(visits["who"])), visits["num_views"])
    who = visits["who"][visit]
    user = people.users[who]
    number = np.arange(len(who)) - np.searchsorted(who, who)
    day = visits["day"][visit]
    item = _chain(catalogue, people, who, number, day)

    place = np.arange(len(visit)) - np.searchsorted(visit, visit)
    gap = np.clip(-60 * np.log(chance.uniform("view gap", user, number)), 8, 220)
    elapsed = np.cumsum(gap)
    start = np.searchsorted(visit, visit)
    at = visits["at"][visit] + 10 * SECOND + ((elapsed - elapsed[start]) * SECOND).astype(np.int64)

    rate = wanted_rate(catalogue, item, day)
    rate *= np.where(visits["coupon"][visit] >= 0, COUPON_LIFT[people.segment[who]], 1.0)
    lines = chance.poisson("view wants", rate, user, number)
    extra = chance.poisson("view extra units", lines * catalogue.extra_units[item], user, number)
    return {
        "visit": visit,
        "user": user,
        "number": number,
        "place": place,
        "item": item,
        "day": day,
        "at": at,
        "fen": price_fen(catalogue, item, day),
        "rate": np.round(rate * (1 + catalogue.extra_units[item]) * RATE_SCALE).astype(np.int64),
        "quantity": lines + extra,
    }


def _chain(catalogue: Catalogue, people: People, who: Ints, number: Ints, day: Ints) -> Ints:
    """The items of all views, one step of all users at a time."""
    item = np.full(len(who), -1, dtype=np.int64)
    first = np.flatnonzero(number == 0)
    person = who[first]
    length = np.bincount(who, minlength=len(people.users))[person]
    longest = np.argsort(-length, kind="stable")
    first, person, length = first[longest], person[longest], length[longest]
    totals: Floats = np.cumsum(people.weights[person], axis=1)
    tastes = people.tastes[person]
    last = np.full(len(person), -1, dtype=np.int64)
    for step in range(int(length[0]) if len(length) else 0):
        active = int(np.searchsorted(-length, -step, side="left"))
        rows = first[:active] + step
        last = draw_next(catalogue, people.users[person[:active]], step, last[:active], day[rows], tastes[:active], totals[:active])
        item[rows] = last
    return item


def _acts(catalogue: Catalogue, people: People, visits: dict[str, Any], views: dict[str, Any]) -> dict[str, Any]:
    """All acts as columns, in no order; `rank` orders acts of one user at one instant."""
    chance = catalogue.chance
    user, number, visit = views["user"], views["number"], views["visit"]
    wants = views["quantity"] > 0
    left = ~wants & (chance.uniform("cart left", user, number) < 0.07)
    taken_out = left & (chance.uniform("cart taken out", user, number) < 0.25)
    liked = chance.uniform("favourite", user, number) < 0.04
    searched = (views["place"] == 0) & (chance.uniform("search", user, number) < 0.35)
    ends = np.zeros(len(visits["who"]), dtype=np.int64)
    np.maximum.at(ends, visit, views["at"])
    buys = np.zeros(len(ends), dtype=bool)
    buys[visit[wants]] = True
    carts = wants | left
    cart_at = views["at"] + 4 * SECOND
    login_at = np.full(len(ends), np.iinfo(np.int64).max)
    np.minimum.at(login_at, visit[carts], cart_at[carts] - SECOND)
    line = (np.cumsum(wants) - wants)[np.searchsorted(visit, visit)]
    line = np.cumsum(wants) - wants - line  # place of the line in its basket, from 0

    def of_views(kind: str, rows: Any, at: Any, rank: int, **more: Any) -> dict[str, Any]:
        return {
            "visit": visit[rows],
            "kind": np.full(int(rows.sum()), KIND[kind], dtype=np.int8),
            "item": views["item"][rows],
            "at": at[rows],
            "fen": views["fen"][rows],
            "quantity": np.full(int(rows.sum()), -1),
            "rate": np.zeros(int(rows.sum()), dtype=np.int64),
            "query": np.full(int(rows.sum()), -1),
            "rank": np.full(int(rows.sum()), rank),
            **more,
        }

    def of_visits(kind: str, rows: Any, at: Any, rank: int) -> dict[str, Any]:
        nothing = np.full(int(rows.sum()), -1)
        return {
            "visit": np.flatnonzero(rows),
            "kind": np.full(int(rows.sum()), KIND[kind], dtype=np.int8),
            "item": nothing,
            "at": at[rows],
            "fen": nothing,
            "quantity": nothing,
            "rate": np.zeros(int(rows.sum()), dtype=np.int64),
            "query": nothing,
            "rank": np.full(int(rows.sum()), rank),
        }

    english = ~people.chinese[visits["who"][visit]]
    query = catalogue.category[views["item"]] * 8 + english * 4 + catalogue.noun[views["item"]]
    units = np.maximum(views["quantity"], 1)
    every = np.ones(len(visit), dtype=bool)
    parts = [
        of_visits("page", chance.uniform("page", visits["user"], visits["key"]) < 0.15, visits["at"], 0),
        of_views("search", searched, views["at"] - 5 * SECOND, 1, query=query[searched]),
        of_views("view", every, views["at"], 2, rate=views["rate"]),
        of_views("favourite", liked, views["at"] + 3 * SECOND, 3),
        of_visits("login", visits["anonymous"] & (login_at < np.iinfo(np.int64).max), login_at, 4),
        of_views("cart", carts, cart_at, 5, quantity=units[carts]),
        of_views("uncart", taken_out, views["at"] + 6 * SECOND, 6, quantity=units[taken_out]),
        of_visits("checkout", buys, ends + 20 * SECOND, 7),
        of_views("purchase", wants, ends[visit] + 60 * SECOND + line * 1000, 8, quantity=views["quantity"][wants]),
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row = columns["visit"]
    columns["user"] = visits["user"][row]
    for name in ("session", "day", "app", "coupon"):
        columns[name] = visits[name][row]
    bought = columns["kind"] == KIND["purchase"]
    columns["coupon"] = np.where(bought, columns["coupon"], -1)
    late = np.where(visits["app"][row] & (columns["kind"] < KIND["checkout"]), visits["late"][row], 0)
    columns["late"] = np.minimum(late, start_of_history() + NUM_DAYS * DAY_US - 1 - columns["at"])
    columns["anonymous"] = visits["anonymous"][row] & (columns["at"] < login_at[row])
    return columns
