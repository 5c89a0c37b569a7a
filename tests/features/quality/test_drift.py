"""The population stability index, its fixed bins, and the drift of a model's features."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from features.quality.drift import drift, stability_index
from features.quality.models import model_drift, newest_models, trained_on
from features.quality.profile import Statistics, bin_of, bounds_of
from features.tables import DAILY_DEMAND, ITEM_CATALOG
from infra.pins import pin
from tests.features.quality.conftest import PRICES, honest


def of_numbers(values, nulls=0):
    codes, counts = np.unique(bin_of(np.asarray(values, float)), return_counts=True)
    return Statistics(len(values) + nulls, nulls, bins=Counter(dict(zip(codes.tolist(), counts.tolist(), strict=True))))


def of_words(**values):
    return Statistics(sum(values.values()), values=Counter(values))


def test_a_bin_holds_its_numbers_and_neighbours_touch():
    chance = np.random.default_rng(3)
    values = np.concatenate([chance.lognormal(0, 9, 20_000) * chance.choice([-1, 1], 20_000), [0, 1, -1, 2, 1e-300, 1e300, -1e300]])
    for value, code in zip(values, bin_of(values), strict=True):
        low, high = bounds_of(int(code))
        if 1e-9 < abs(value) < 1e29:
            assert low * (1 - 1e-12 * np.sign(low)) <= value <= high * (1 + 1e-12 * np.sign(high)), value
    assert np.all(np.diff(bin_of(np.sort(values))) >= 0)
    assert bounds_of(0) == (0, 0)
    for code in (-300, -2, 1, 7, 130):
        assert bounds_of(code)[1] == pytest.approx(bounds_of(code + 1)[0])


def test_the_index_is_the_sum_of_the_formula():
    then, now = of_words(a=600, b=300, c=100), of_words(a=300, b=300, d=400)
    shares = [(600.5, 300.5), (300.5, 300.5), (100.5, 0.5), (0.5, 400.5)]
    p, q = (sum(side) for side in zip(*shares, strict=True))
    expected = sum((b / q - a / p) * math.log((b / q) / (a / p)) for a, b in shares)
    assert stability_index(then, now) == pytest.approx(expected)
    assert stability_index(then, then) == 0


def test_rows_of_one_population_are_alike_and_of_another_are_not():
    chance = np.random.default_rng(5)
    for draw in (
        lambda n: chance.lognormal(3, 1, n),
        lambda n: chance.poisson(0.3, n),
        lambda n: chance.normal(0, 5, n),
        lambda n: chance.uniform(0, 1, n),
        lambda n: np.zeros(n),
    ):
        then, now = draw(5000), draw(700)
        assert stability_index(of_numbers(then), of_numbers(now)) < 0.1
        assert stability_index(of_numbers(then), of_numbers(now, nulls=400)) > 0.25
    prices = chance.lognormal(3, 0.5, 3000)
    assert drift("t", "c", of_numbers(prices), of_numbers(prices * 100)).verdict == "another population"
    assert drift("t", "c", of_numbers(prices), of_numbers(prices * 1.2)).verdict == "moved"
    assert drift("t", "c", of_numbers(prices), of_numbers(prices)).verdict == "alike"
    assert stability_index(of_numbers(prices), of_numbers(-prices)) > 1
    day = np.where(np.arange(3000) < 430, prices * 100, prices)  # one day of seven
    assert stability_index(of_numbers(prices), of_numbers(day)) > 0.25


def test_zero_is_a_group_of_its_own():
    chance = np.random.default_rng(6)
    then = np.abs(chance.normal(0, 5, 3000)) + 0.01
    assert stability_index(of_numbers(then), of_numbers(np.where(np.arange(3000) < 900, 0, then))) > 0.25
    assert stability_index(of_numbers(np.zeros(1000)), of_numbers(np.full(1000, 1e-6))) > 0.25
    some, next_to_it = (np.where(np.arange(3000) < 200, value, then) for value in (0, 0.01))
    assert stability_index(of_numbers(some), of_numbers(next_to_it)) > 0.25


def test_little_is_said_of_few_rows_and_nothing_without_statistics():
    few, many = of_numbers(np.ones(299)), of_numbers(np.ones(300))
    assert drift("t", "c", few, many).verdict == drift("t", "c", many, few).verdict == "too few rows"
    assert drift("t", "c", few, many).psi is None
    assert drift("t", "c", Statistics(900, 5), Statistics(900, 7)).verdict == "no statistics"


def test_the_features_of_a_model_are_held_against_the_versions_it_was_trained_on(send, lake, monkeypatch):
    monkeypatch.setattr("features.quality.models._TABLES", {PRICES.path: PRICES})
    loose = {"columns": {"price": {"stable": False}}}
    send(honest(), rules=loose)
    send(honest(seed=2), rules=loose)
    pinned = {PRICES.path: 0, "raw/calendar": 2}
    for version in (9, 10):
        pin(lake, "model", f"shop.demand-{version}", pinned)
    pin(lake, "run", "ab12", {PRICES.path: 1})
    (kept,) = newest_models(lake)
    assert kept == trained_on(lake, "demand", 10, pinned, datetime.now(UTC))
    same = model_drift(lake, kept)
    assert {one.column for one in same.features} == set(PRICES.names) - {"item_id", "event_timestamp", "created_timestamp"}
    assert all(one.psi is None or one.psi < 0.1 for one in same.features)
    assert same.newest == {PRICES.path: 1}
    assert same.unknown == {"raw/calendar": "no quality report of version 2 is kept"}

    moved = [row | {"price": row["price"] * 3, "kind": "new", "share": None} for row in honest(seed=3)]
    send(moved, rules=loose)
    found = model_drift(lake, kept)
    assert {one.column for one in found.features if one.verdict == "another population"} == {"price", "kind", "share"}
    assert found.features[0].psi == max(one.psi for one in found.features if one.psi is not None)
    price = next(one for one in found.features if one.column == "price")
    assert price.mean_now == pytest.approx(3 * price.mean_then, rel=0.1)
    assert found.newest == {PRICES.path: 2}


def test_tables_of_a_service_that_its_run_did_not_read_count_as_they_stood_then(lake):
    for number in range(2):
        lake.write(ITEM_CATALOG.path, ITEM_CATALOG.schema.empty_table(), "append", digest=str(number))
    before, _ = (entry["timestamp"] / 1000 for entry in reversed(lake.history(ITEM_CATALOG.path)))
    at = datetime.fromtimestamp(before, UTC)
    assert trained_on(lake, "recommender", 1, {"features/interactions": 7}, at).tables[ITEM_CATALOG.path] == 0
    assert trained_on(lake, "recommender", 1, {}, datetime.now(UTC)).tables == {ITEM_CATALOG.path: 1}
    assert trained_on(lake, "recommender", 1, {ITEM_CATALOG.path: 0}, datetime.now(UTC)).tables == {ITEM_CATALOG.path: 0}
    assert trained_on(lake, "demand", 1, {DAILY_DEMAND.path: 3}, at).tables == {DAILY_DEMAND.path: 3}
