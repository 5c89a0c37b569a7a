"""What the forecast and sentiment graphs answer, through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from features.store import FeatureStore
from serving.edges import Content
from serving.loading import Loader
from serving.nodes.daily_demand import DailyDemand
from serving.problems import Problem
from serving.schemas import ForecastRequest, Series
from tests.serving.conftest import NOW, Ask, ServedShop


def test_a_forecast_begins_on_the_day_of_the_clock_and_its_quantiles_never_cross(post: Ask) -> None:
    body = {"series": [{"item_id": "i1"}, {"item_id": "i0"}], "horizon": 7, "quantiles": [0.9, 0.1, 0.5]}
    content = post("/v1/forecast", body).json()
    assert content["degraded"] == []
    assert [series["item_id"] for series in content["series"]] == ["i1", "i0"]
    for series in content["series"]:
        assert series["ds"] == [(NOW.date() + timedelta(days=ahead)).isoformat() for ahead in range(7)]
        low, middle, high = (series["quantiles"][level] for level in ("0.1", "0.5", "0.9"))
        assert all(0 <= a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        assert len(series["mean"]) == 7


def test_the_local_day_counts(post: Ask) -> None:
    # 12:00 UTC is 14:00 in Berlin: the day of the clock is the first of May.
    assert post("/v1/forecast", {"series": [{"item_id": "i0"}], "horizon": 1}).json()["series"][0]["ds"] == ["2024-05-01"]


def test_an_unknown_item_gets_a_cold_forecast_that_says_so(post: Ask) -> None:
    content = post("/v1/forecast", {"series": [{"item_id": "i0"}, {"item_id": "no such"}], "horizon": 2}).json()
    assert content["degraded"] == ["unknown_item"]
    assert [series["degraded"] for series in content["series"]] == [[], ["unknown_item"]]
    assert all(value >= 0 for value in content["series"][1]["mean"])


def test_an_item_that_is_listed_but_did_not_sell_of_late_is_told_apart(post: Ask) -> None:
    content = post("/v1/forecast", {"series": [{"item_id": "i4"}], "horizon": 2}).json()
    assert content["degraded"] == content["series"][0]["degraded"] == ["no_recent_demand"]


@pytest.mark.parametrize(("days_late", "degraded"), [(0, []), (1, ["stale_history"]), (5, ["stale_history"])])
def test_days_that_are_not_built_yet_are_said_and_do_not_lower_the_forecast(
    served: ServedShop, days_late: int, degraded: list[str]
) -> None:
    graph = Loader(served.settings, served.shop, served.lake).load(served.manifests["forecast"], NOW)
    request = ForecastRequest(series=[Series(item_id="i0")], horizon=2)
    fresh, late = (graph.answer([request], NOW + timedelta(days=days))[0] for days in (0, days_late))
    assert isinstance(fresh, dict)
    assert isinstance(late, dict)
    assert late["degraded"] == late["series"][0]["degraded"] == degraded
    assert late["series"][0]["mean"] == pytest.approx(fresh["series"][0]["mean"], rel=0.2)


def test_an_item_sells_nothing_once_it_is_withdrawn(served: ServedShop) -> None:
    """i9 was withdrawn on the day of its last row: that later days have none is no gap."""
    node = DailyDemand(FeatureStore(served.settings, served.shop, served.lake), 30)
    request = ForecastRequest(series=[Series(item_id="i0"), Series(item_id="i9")], horizon=1)
    last, later = NOW.date() - timedelta(days=1), NOW + timedelta(days=3)
    (context,) = node.run([request], later)
    assert [series["ds"][-1] for series in context.series] == [last, last]
    assert [series["known_until"] for series in context.series] == [last, later.date() - timedelta(days=1)]


def test_history_reaches_the_model(post: Ask) -> None:
    known, unknown = post("/v1/forecast", {"series": [{"item_id": "i0"}, {"item_id": "no such"}], "horizon": 2}).json()["series"]
    assert known["mean"] != unknown["mean"]


def test_plans_change_the_forecast_and_are_not_filled(post: Ask) -> None:
    body = {"series": [{"item_id": "i0"}], "horizon": 2}
    plain = post("/v1/forecast", body).json()["series"][0]
    planned = {"price_mean": [5.0, None], "promotion_depth": [0.5, 0.0], "holiday": [None, None], "is_open": [True, False]}
    told = post("/v1/forecast", body | {"future": {"i0": planned}}).json()["series"][0]
    assert told["mean"][0] != plain["mean"][0]
    assert told["mean"][1] == 0.0  # the shop is closed
    assert len(told["filled"]) < len(plain["filled"])


def test_a_forecast_does_not_wait_for_those_that_came_after_it(served: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    one = served.gateway().live.served["forecast"].stable
    node, sizes = one.graph.nodes["demand"], []
    run = node.run

    def seen(requests: Sequence[ForecastRequest], at: datetime, *read: Sequence[Any]) -> list[Content | Problem]:
        sizes.append(len(requests))
        return run(requests, at, *read)

    async def ask_at_once() -> None:
        request = ForecastRequest(series=[Series(item_id="i0")], horizon=2)
        await asyncio.gather(*(one.queue.submit(request, 60) for _ in range(4)))

    monkeypatch.setattr(node, "run", seen)
    asyncio.run(ask_at_once())
    assert sizes == [1, 1, 1, 1]


def test_sentiment_answers_each_text_in_order_and_says_what_it_could_not_read(post: Ask) -> None:
    texts = ["很好 good quality", "", "☂☂", "bad and slow"]
    content = post("/v1/sentiment", {"texts": texts}).json()
    good, empty, unknown, bad = content["results"]
    assert (good["label"], good["degraded"], bad["label"], bad["degraded"]) == ("good", [], "bad", [])
    assert (empty["degraded"], unknown["degraded"]) == (["empty"], ["unknown"])
    assert content["degraded"] == ["empty", "unknown"]
    assert all(0.5 <= result["probability"] <= 1 for result in content["results"])
