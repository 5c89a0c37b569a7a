"""What visitors of the sample shop look at, by the planted next-item process, and want, by the planted demand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_jobs.sample.catalogue import Catalogue
from spark_jobs.sample.chance import Ints
from spark_jobs.sample.next_item import draw_next
from spark_jobs.sample.people import COUPON_LIFT, People
from spark_jobs.sample.prices import price_fen, wanted_rate
from spark_jobs.sample.visits import SECOND, Visits

RATE_SCALE = 1_000_000_000
"""Expected units are kept as whole numbers of 1 / this: a sum of floats would depend on the order of the tasks."""


@dataclass(frozen=True)
class Views:
    """One entry per view, ordered by user and time.

    `visit` is the row in `Visits`; `counter` counts a user's views; `place` those of the visit; `rate` the units the view was
    expected to sell (see `RATE_SCALE`), `quantity` the units the visitor wants.
    """

    visit: Ints
    user: Ints
    counter: Ints
    place: Ints
    day: Ints
    at: Ints
    item: Ints
    fen: Ints
    rate: Ints
    quantity: Ints


def make_views(catalogue: Catalogue, people: People, visits: Visits) -> Views:
    """The views of some visits."""
    chance = catalogue.chance
    visit = np.repeat(np.arange(len(visits.who)), visits.num_views)
    who, day = visits.who[visit], visits.day[visit]
    user = people.users[who]
    counter = np.arange(len(who)) - np.searchsorted(who, who)
    item = _chain(catalogue, people, who, counter, day)

    start = np.searchsorted(visit, visit)
    elapsed = np.cumsum(np.clip(-60 * np.log(chance.uniform("view gap", user, counter)), 8, 220))
    lift = np.where(visits.coupon[visit] >= 0, COUPON_LIFT[people.segment[who]], 1.0)
    rate = wanted_rate(catalogue, item, day) * lift
    lines = chance.poisson("view wants", rate, user, counter)
    return Views(
        visit=visit,
        user=user,
        counter=counter,
        place=np.arange(len(visit)) - start,
        day=day,
        at=visits.at[visit] + 10 * SECOND + np.round((elapsed - elapsed[start]) * 1000).astype(np.int64) * 1000,
        item=item,
        fen=price_fen(catalogue, item, day),
        rate=np.round(rate * (1 + catalogue.extra_units[item]) * RATE_SCALE).astype(np.int64),
        quantity=lines + chance.poisson("view extra units", lines * catalogue.extra_units[item], user, counter),
    )


def _chain(catalogue: Catalogue, people: People, who: Ints, counter: Ints, day: Ints) -> Ints:
    """The items of all views: one step of the process for all users at a time, those with most views first in line."""
    item = np.full(len(who), -1, dtype=np.int64)
    first = np.flatnonzero(counter == 0)
    length = np.diff(np.concatenate([first, [len(who)]]))
    longest = np.argsort(-length, kind="stable")
    first, length = first[longest], length[longest]
    person = who[first]
    totals = np.cumsum(people.weights[person], axis=1)
    tastes = people.tastes[person]
    last = np.full(len(person), -1, dtype=np.int64)
    for step in range(int(length.max(initial=0))):
        active = int((length > step).sum())
        rows = first[:active] + step
        users = people.users[person[:active]]
        last = draw_next(catalogue, users, step, last[:active], day[rows], tastes[:active], totals[:active])
        item[rows] = last
    return item
