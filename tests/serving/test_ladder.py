"""What an answer goes down to where something is down or late: always 200, always in time, and it says what it went without."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from features.store import FeatureStore
from infra.errors import ReleaseError
from serving.execution import Graph
from serving.gateway import Gateway
from serving.nodes.node import Node
from serving.nodes.ranking import Ranking
from tests.serving.conftest import ITEMS, ServedShop, ask, compose
from tests.serving.test_ranker import composed
from tests.serving.test_recommend import ON_SALE, ids

Wrap = Callable[..., Any]
SHOES = {"category": ["shoes"]}


@pytest.fixture
def gateway(told_shop: ServedShop) -> Gateway:
    """One whose graph has a ranker, and which others do not share."""
    told_shop.releases.release(told_shop.releases.store(composed(told_shop)), who="test", why="ranked")
    return told_shop.gateway()


def graph_of(gateway: Gateway) -> Graph:
    return gateway.live.served["recommend"].stable.graph


def recommend(gateway: Gateway, budget_ms: int = 60_000, **body: Any) -> dict[str, Any]:
    answer = ask(gateway, "/v1/recommend", body, headers={"x-request-timeout-ms": str(budget_ms)})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


@contextmanager
def broken(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node that fails."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(node, "run", fail)
        yield


@contextmanager
def frozen(of: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that does not come back, as a store whose machine is gone."""
    gate = threading.Event()
    real = getattr(of, name)

    def wait(*arguments: Any, **more: Any) -> Any:
        gate.wait(30)
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(of, name, wait)
        yield
        gate.set()


def test_a_ranker_that_is_late_leaves_the_order_of_retrieval_in_time(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recommend(gateway, user_id="u1")
    assert whole["degraded"] == []
    with frozen(Ranking, "rank", monkeypatch):
        began = time.monotonic()
        content = recommend(gateway, 1000, user_id="u1")
        assert time.monotonic() - began < 1.2
        assert (content["degraded"], content["personalized"]) == (["unranked"], True)
        assert set(ids(content)) == set(ids(whole))
        assert recommend(gateway, 1000, placement="trending")["degraded"] == []  # nobody else goes without


def test_a_frozen_store_leaves_what_was_read_last(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    recommend(gateway, user_id="u1")
    with frozen(FeatureStore, "online_rows", monkeypatch):
        began = time.monotonic()
        content = recommend(gateway, 2000, user_id="u1")
        assert time.monotonic() - began < 2.2
        assert content["personalized"]
        assert "last_good_features" in content["degraded"]
        unknown = recommend(gateway, 2000, user_id="u2", session=[{"item_id": "i3"}])
        assert unknown["personalized"]  # by the session
        assert "history_unavailable" in unknown["degraded"]


def test_without_retrieval_comes_what_rises_in_the_category(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with broken(graph_of(gateway).nodes["retrieval"], monkeypatch):
        content = recommend(gateway, user_id="u1", k=9)
        assert (content["degraded"], content["personalized"]) == (["trending"], False)
        assert ids(content)[:2] == ["i3", "i6"]  # what rises, as the placement has it
        assert set(ids(content)) == ON_SALE
        assert ids(recommend(gateway, session=[{"item_id": "i8"}], k=4))[0] == "i6"  # of the bags
        assert set(ids(recommend(gateway, placement="similar", item_id="i8", k=3))) == {"i5", "i6", "i7"}
        assert set(ids(recommend(gateway, filters=SHOES, exclude=["i3"]))) == {"i0", "i1", "i2", "i4"}
        several = recommend(gateway, placements=[{"placement": "for_you", "k": 2}, {"placement": "trending", "k": 7}])
        shown = [item["item_id"] for one in several["lists"] for item in one["items"]]
        assert sorted(shown) == sorted(ON_SALE)


def test_where_no_time_is_left_the_answer_is_what_is_there(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    retrieval = graph_of(gateway).nodes["retrieval"]
    with frozen(retrieval, "run", monkeypatch):
        began = time.monotonic()
        content = recommend(gateway, 100, user_id="u1", k=3)
        assert time.monotonic() - began < 0.3
        assert (content["degraded"], len(content["items"])) == (["trending"], 3)


def test_the_end_is_a_fixed_list_of_what_may_be_shown(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    retrieval = graph_of(gateway).nodes["retrieval"]
    monkeypatch.setattr(retrieval, "without", retrieval.check)
    with broken(retrieval, monkeypatch):
        content = recommend(gateway, user_id="u1", k=3, exclude=["i0"])
        assert (ids(content), content["degraded"]) == (["i1", "i2", "i3"], ["static"])
        assert content["graph_version"] == graph_of(gateway).manifest.version
        assert "i9" not in ids(recommend(gateway, k=200))
        assert ids(recommend(gateway, placement="similar", item_id="i0", k=2, filters=SHOES)) == ["i1", "i2"]


def test_the_safe_mode_asks_nothing(gateway: Gateway, told_shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    told_shop.releases.safe("recommend", True, "test", "fire")
    gateway.live.poll()
    for step in graph_of(gateway).steps:
        monkeypatch.setattr(step.node, "run", None)
    content = recommend(gateway, user_id="u1", k=4)
    assert (ids(content), content["degraded"], content["personalized"]) == (["i0", "i1", "i2", "i3"], ["static"], False)
    monkeypatch.undo()
    told_shop.releases.safe("recommend", False, "test", "out")
    gateway.live.poll()
    assert recommend(gateway, user_id="u1")["degraded"] == []
    for product, is_on, told in (
        ("recommend", False, "is off already"),
        ("sentiment", True, "has no end that needs no model"),
        ("tea", True, "no tea graph is released"),
    ):
        with pytest.raises(ReleaseError, match=told):
            told_shop.releases.safe(product, is_on, "test", "")


@pytest.mark.parametrize("said", ["0", "-5", "soon", "1.5", "600001", "", "٣", "1" * 400])
def test_a_budget_that_is_no_number_is_refused(said: str, gateway: Gateway) -> None:
    answer = ask(gateway, "/v1/recommend", {}, headers={"x-request-timeout-ms": said.encode()})
    assert answer.status_code == 400
    assert "expected whole milliseconds from 1 to 600000" in answer.json()["detail"]


def test_only_what_has_no_ladder_is_too_late(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    sentiment = gateway.live.served["sentiment"].stable.graph.nodes["sentiment"]
    with frozen(sentiment, "run", monkeypatch):
        answer = ask(gateway, "/v1/sentiment", {"texts": ["good"]}, headers={"x-request-timeout-ms": "100"})
        assert answer.status_code == 504
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "urn:shopgraph:problem:too-late"


def test_the_ladder_and_the_fixed_list_are_part_of_the_version(served: ServedShop) -> None:
    manifest = served.manifests["recommend"]
    assert manifest.ladder[-1] == "static"
    assert manifest.static == ITEMS
    blocked = compose("recommend", dict(models(served)), rules={"blocked": {"items": ["i0"]}})
    assert blocked.static == ITEMS[1:]
    assert blocked.version != manifest.version


def models(served: ServedShop) -> Iterator[tuple[str, Any]]:
    from infra.home import Home
    from tests.serving.conftest import Registered

    for name, pin in served.manifests["recommend"].models.items():
        folder = Home(served.settings).model_folder(f"sample.{name}", pin.version, pin.digest)
        yield name, Registered(pin.version, pin.digest, pin.run_id, {}, folder)
