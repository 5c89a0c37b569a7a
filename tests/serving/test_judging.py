"""The judge of canaries: it finds what is worse soon, and lets what is as good run on for as long as it likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from serving.judging import evidence, judge, share
from serving.list_ids import BUCKETS
from serving.observations import Phase, Side
from serving.releases import Bounds

A, B = "a" * 16, "b" * 16
PER_SECOND = 100
"""Requests, and seen lists, of either side; a fraction of what one replica answers."""
HEALTHY = {"errors": 0.001, "degraded": 0.01, "slow": 0.05, "clicked": 0.1, "carted": 0.03}


def phase(**bounds: Any) -> Phase:
    return Phase("phase", 0.0, A, B, 0.025, Bounds(**bounds))


def second(draw: np.random.Generator, rates: Mapping[str, float], mood: Any, count: int = PER_SECOND) -> Side:
    """What one side counts in a second. `mood`: (BUCKETS,) how much likelier its people are to click than others."""
    side = Side()
    of = draw.integers(0, BUCKETS, count)
    for name in ("requests", "seen"):
        side.counts[name] = np.bincount(of, minlength=BUCKETS)
    for name, rate in rates.items():
        chance = np.minimum(rate * (mood[of] if name in ("clicked", "carted") else 1.0), 1.0)
        side.counts[name] = np.bincount(of[draw.random(count) < chance], minlength=BUCKETS)
    return side


def seconds_until_out(seed: int, rates: Mapping[str, float], most: int, **bounds: Any) -> tuple[int, list[str]] | None:
    """When a candidate with these rates beside a healthy stable version is withdrawn, and for what; it is looked at every second."""
    draw = np.random.default_rng(seed)
    sides, now = {A: Side(), B: Side()}, phase(**bounds)
    # The two sides are not the same people; some 16 of each part, of whom some click twice as much as others.
    moods = {version: draw.gamma(64, 1 / 64, BUCKETS) for version in sides}
    for passed in range(1, most + 1):
        for version, of in ((A, HEALTHY), (B, {**HEALTHY, **rates})):
            sides[version].add(second(draw, of, moods[version]))
        if out := [one.name for one in judge(sides, now) if one.is_out]:
            return passed, out
    return None


def test_of_200_healthy_canaries_at_most_one_is_withdrawn() -> None:
    withdrawn = [found for seed in range(200) if (found := seconds_until_out(seed, {}, 120))]
    assert len(withdrawn) <= 1, withdrawn


@pytest.mark.parametrize(
    ("worse", "named"),
    [
        ({"errors": 0.05}, "errors"),
        ({"slow": 0.5}, "slow"),
        ({"degraded": 0.3}, "degraded"),
        ({"clicked": 0.05}, "clicks"),
        ({"carted": 0.0}, "carts"),
    ],
)
def test_what_is_planted_is_found_within_a_minute_and_named(worse: dict[str, float], named: str) -> None:
    for seed in range(10):
        found = seconds_until_out(seed, worse, 60)
        assert found is not None
        assert named in found[1]


def test_what_is_within_its_bounds_runs_on() -> None:
    worse = {"errors": 0.006, "slow": 0.1, "clicked": 0.095}
    assert seconds_until_out(1, worse, 300) is None
    assert seconds_until_out(1, worse, 300, errors=0.0, slow=0.0, minimum=100) is not None


def test_nothing_is_said_of_few() -> None:
    sides = {A: Side(), B: Side()}
    for side in sides.values():
        side.counts["requests"][:] = 0
    sides[A].counts["requests"][:199] = 1
    sides[B].counts["requests"][:199] = sides[B].counts["errors"][:199] = 1
    errors = judge(sides, phase())[0]
    assert (errors.is_enough, errors.is_out) == (False, False)
    for version in sides:
        sides[version].counts["requests"][200] = 1
    errors = judge(sides, phase())[0]
    assert errors.is_out
    assert errors.why == "errors: 99.50% of 200 against 0.00% of 200; the bound is 1.00%"
    assert not any(one.is_out for one in judge({}, phase()))


def test_acts_of_the_same_people_say_less_than_those_of_many() -> None:
    hits, totals = np.zeros(BUCKETS, dtype=np.int64), np.full(BUCKETS, 40)
    hits[::2] = 8
    together = share(hits, totals)
    apart = share(np.full(BUCKETS, 4), totals)
    assert together.value == apart.value == 0.1
    assert together.variance > 4 * apart.variance
    assert apart.variance == pytest.approx(0.1 * 0.9 / (40 * BUCKETS), rel=0.01)
    assert share(np.zeros(BUCKETS, dtype=np.int64), totals).variance > 0


def test_evidence_is_the_logarithm_of_a_likelihood_ratio_whose_mean_is_one_where_nothing_is_worse() -> None:
    """By Ville's inequality it then exceeds 1 / a with a chance of at most a."""
    draw = np.random.default_rng(7)
    values = draw.normal(0, 0.1, 200_000)
    found = np.array([evidence(abs(value), 0.01, 500, 200) for value in values])
    assert np.exp(found).mean() == pytest.approx(1, rel=0.02)
    assert evidence(-0.1, 0.01, 500, 200) == -np.inf
    assert evidence(0.5, 0.01, 500, 200) > evidence(0.4, 0.01, 500, 200) > 0
