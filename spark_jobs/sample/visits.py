"""When users visit the sample shop, on which device, and with which coupon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spark_jobs.sample.chance import Chance, Floats, Ints
from spark_jobs.sample.days import DAY_US, make_days, start_of_history
from spark_jobs.sample.people import (
    CAMPAIGN_DAYS,
    CAMPAIGN_STARTS,
    COUPON_VISIT,
    People,
    exposed,
    has_coupon,
    running_campaign,
)

SECOND = 1_000_000
HOURS = np.array([3, 1.5, 0.7, 0.4, 0.4, 0.8, 2, 3.5, 4, 4.5, 5, 5, 6, 5.5, 5, 5, 4.5, 4.5, 5, 6.5, 8.5, 9.5, 4.5, 0])
"""How visits spread over the local day; none begins after 22:30, so that none runs past midnight."""
APART = 2 * 3600 * SECOND
"""Least time between the starts of two visits of one user; one that comes sooner does not happen."""
COUPON_COUNTER = 1_000_000
"""Counters of visits that a coupon brought begin here."""
LATE_SHARE = 0.01
"""Share of visits by app whose acts reach the shop hours later, when the phone is online again."""


@dataclass(frozen=True)
class Visits:
    """One entry per visit, ordered by user and time.

    `who` is the row in `People`; `counter` the visit's own counter of draws; `session` counts a user's visits; `at` the start and
    `late` the delay of what reaches the shop late, in microseconds; `coupon` the campaign whose coupon the user holds, or -1.
    """

    who: Ints
    counter: Ints
    day: Ints
    at: Ints
    user: Ints
    session: Ints
    coupon: Ints
    app: NDArray[np.bool_]
    anonymous: NDArray[np.bool_]
    late: Ints
    num_views: Ints


def make_visits(chance: Chance, people: People) -> Visits:
    """The visits of some users: a Poisson number by traffic while the user is present, and some because of coupons."""
    traffic = np.concatenate([[0.0], np.cumsum(make_days().traffic)])
    count = np.clip(chance.poisson("visits", people.visits, people.users), 1, 400)
    who = np.repeat(np.arange(len(people.users)), count)
    counter = np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)
    low, high = traffic[people.joined[who]], traffic[people.left[who]]
    draw = chance.uniform("visit day", people.users[who], counter)
    day = np.searchsorted(traffic, low + draw * (high - low), side="right") - 1

    for campaign, first_day in enumerate(CAMPAIGN_STARTS):
        holds = _holds_coupon(chance, people.users, people.registered, campaign)
        comes = chance.uniform("coupon visit", people.users, campaign) < COUPON_VISIT[people.segment]
        extra = np.flatnonzero(holds & comes)
        who = np.concatenate([who, extra])
        counter = np.concatenate([counter, np.full(len(extra), COUPON_COUNTER + campaign)])
        day = np.concatenate([day, first_day + chance.below("coupon visit day", CAMPAIGN_DAYS, people.users[extra], campaign)])

    at = start_of_history() + day * DAY_US + _time_of_day(chance, people.users[who], counter)
    order = np.lexsort((at, who))
    happens = np.ones(len(order), dtype=bool)
    happens[1:] = (np.diff(at[order]) >= APART) | (np.diff(who[order]) != 0)
    order = order[happens]
    who, counter, day, at = who[order], counter[order], day[order], at[order]

    user = people.users[who]
    running = running_campaign(day)
    app = chance.uniform("visit channel", user, counter) < 0.65
    is_late = app & (chance.uniform("visit late", user, counter) < LATE_SHARE)
    delay = (chance.uniform("visit delay", user, counter) * 6 * 3600 * SECOND).astype(np.int64)
    return Visits(
        who=who,
        counter=counter,
        day=day,
        at=at,
        user=user,
        session=np.arange(len(who)) - np.searchsorted(who, who),
        coupon=np.where((running >= 0) & _holds_coupon(chance, user, people.registered[who], running), running, -1),
        app=app,
        anonymous=chance.uniform("visit anonymous", user, counter) < 0.04,
        late=np.where(is_late, delay, 0),
        num_views=np.minimum(1 + chance.poisson("visit views", 4.0, user, counter), 20),
    )


def _holds_coupon(chance: Chance, users: Ints, registered: Ints, campaign: Ints | int) -> NDArray[np.bool_]:
    """Whether each user was reached by the campaign, in its coupon arm."""
    was_there = registered < np.array(CAMPAIGN_STARTS)[campaign]
    return np.asarray(was_there & exposed(chance, users, campaign) & has_coupon(chance, users, campaign))


def _time_of_day(chance: Chance, users: Ints, counters: Ints) -> Ints:
    """Microseconds since local midnight."""
    total: Floats = np.concatenate([[0.0], np.cumsum(HOURS / HOURS.sum())])
    draw = chance.uniform("visit hour", users, counters)
    hour = np.searchsorted(total, draw, side="right") - 1
    part = (draw - total[hour]) / (total[hour + 1] - total[hour]) * np.where(hour == 22, 0.5, 1.0)
    return ((hour + part) * 3600 * SECOND).astype(np.int64)
