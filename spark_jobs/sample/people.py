"""Who visits the sample shop: how active a user is, from when to when, with which tastes, and how a coupon moves them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spark_jobs.sample.catalogue import Size, make_catalogue
from spark_jobs.sample.chance import Chance, Floats, Ints
from spark_jobs.sample.days import NUM_DAYS, make_days

NUM_TASTES = 4
"""Clusters that a user likes (the same one may be drawn twice)."""

EVENTS_PER_SESSION = 9.1
"""Mean number of events of a visit, measured; sets how many visits make `Size.num_events`."""

SEGMENTS = ("persuadable", "sure", "unmoved", "annoyed")
SEGMENT_SHARES = (0.25, 0.35, 0.30, 0.10)
COUPON_LIFT = np.array([1.8, 1.0, 1.0, 0.7])
"""What a coupon does to the lines a user wants, per segment."""
COUPON_VISIT = np.array([0.35, 0.05, 0.0, 0.0])
"""Probability that a coupon brings a user back for one more visit, per segment."""

CAMPAIGN_STARTS = tuple(range(45, NUM_DAYS - 20, 85))
CAMPAIGN_DAYS = 14
CAMPAIGN_REACH = 0.6
COUPON_PROPENSITY = 0.5
COUPON_DEPTH = 0.12


@dataclass(frozen=True)
class People:
    """One entry per user asked for. `visits` is the expected number of visits between `joined` and `left`, in days."""

    users: Ints
    joined: Ints
    left: Ints
    registered: Ints
    visits: Floats
    tastes: Ints
    weights: Floats
    chinese: NDArray[np.bool_]
    segment: Ints
    generosity: Floats


def make_people(size: Size, seed: int, users: Ints) -> People:
    """What is planted about some users."""
    chance = Chance(seed)
    catalogue = make_catalogue(size, seed)
    joined, left, weight = _presence(chance, users)
    before = joined == 0
    registered = np.where(before, -1 - chance.below("registered", 700, users), joined)
    draws = chance.uniform("user taste", users[:, None], np.arange(NUM_TASTES)[None, :])
    tastes = catalogue.cluster[catalogue.pick(np.zeros(draws.shape), np.full(draws.shape, catalogue.mass[-1]), draws)]
    weights = -np.log(chance.uniform("user taste weight", users[:, None], np.arange(NUM_TASTES)[None, :]))
    return People(
        users=users,
        joined=joined,
        left=left,
        registered=registered,
        visits=weight * visits_per_weight(size, seed),
        tastes=tastes,
        weights=weights / weights.sum(axis=1, keepdims=True),
        chinese=chance.uniform("user language", users) < 0.8,
        segment=np.searchsorted(np.cumsum(SEGMENT_SHARES), chance.uniform("user segment", users)).astype(np.int64),
        generosity=0.7 * chance.normal("user generosity", users),
    )


@lru_cache(maxsize=2)
def visits_per_weight(size: Size, seed: int) -> float:
    """Visits per unit of a user's weight, such that the shop has about `size.num_events` events."""
    sample = np.arange(min(size.num_users, 20_000))
    mean = _presence(Chance(seed), sample)[2].mean()
    return float(size.num_events / EVENTS_PER_SESSION / size.num_users / mean)


def expected_visits(size: Size, seed: int) -> Floats:
    """Mean number of visits of the whole shop per day, coupon visits not counted."""
    users = np.arange(size.num_users)
    joined, left, weight = _presence(Chance(seed), users)
    traffic = make_days().traffic
    total = np.concatenate([[0.0], np.cumsum(traffic)])
    activity = weight / (total[left] - total[joined])
    change = np.bincount(joined, activity, NUM_DAYS + 1) - np.bincount(left, activity, NUM_DAYS + 1)
    return np.cumsum(change)[:NUM_DAYS] * traffic * visits_per_weight(size, seed)


def exposed(chance: Chance, users: Ints, campaign: Ints | int) -> NDArray[np.bool_]:
    """Whether a campaign reached a user (it may only reach those registered at its start)."""
    return np.asarray(chance.uniform("campaign reach", users, campaign) < CAMPAIGN_REACH)


def has_coupon(chance: Chance, users: Ints, campaign: Ints | int) -> NDArray[np.bool_]:
    """The randomised arm: True for the coupon, False for the control."""
    return np.asarray(chance.uniform("campaign arm", users, campaign) < COUPON_PROPENSITY)


def running_campaign(days: Ints) -> Ints:
    """Number of the campaign that runs on each day, -1 for none."""
    starts = np.array(CAMPAIGN_STARTS)
    latest = np.searchsorted(starts, days, side="right") - 1
    return np.where((latest >= 0) & (days < starts[np.maximum(latest, 0)] + CAMPAIGN_DAYS), latest, -1)


def _presence(chance: Chance, users: Ints) -> tuple[Ints, Ints, Floats]:
    """First day, first day after the last, and activity x traffic in between."""
    joined = np.where(chance.uniform("user new", users) < 0.45, chance.below("user joined", NUM_DAYS - 30, users), 0)
    stays = 14 - 900 * np.log(chance.uniform("user stays", users))
    left = np.minimum(joined + stays.astype(np.int64), NUM_DAYS)
    activity = np.exp(0.7 * np.clip(chance.normal("user activity", users), -3, 3))
    total = np.concatenate([[0.0], np.cumsum(make_days().traffic)])
    return joined, left, activity * (total[left] - total[joined])
