"""What the recommend graph answers, through the gateway: personal where it can be, honest where it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from features.store import FeatureStore
from infra.errors import EngineError, ModelNotFoundError
from infra.home import Home
from serving.loading import Loader
from serving.nodes.user_history import UserHistory
from serving.recommend import Asked
from serving.recommend import recommend as command
from serving.schemas import RecommendRequest
from tests.serving.conftest import ITEMS, NOW, Ask, ServedShop, ask
from training.tracking import Saved, Tracking

ON_SALE = set(ITEMS[:9])


def recommend(post: Ask, **body: Any) -> dict[str, Any]:
    answer = post("/v1/recommend", body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def ids(content: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in content["items"]]


def registered(monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Saved]) -> None:
    """Let the registry hold these models; the registry itself: tests/training/tracking and tests/test_thread.py."""

    def fetch(_: Tracking, name: str, version: str | None = None) -> Saved:
        if name not in models:
            raise ModelNotFoundError(f"no model {name}, version {version}")
        return models[name]

    monkeypatch.setattr(Tracking, "fetch", fetch)


def saved_recommender(shop: ServedShop) -> Saved:
    """The version that the shop's graph pins, as the registry gives it."""
    pin = shop.manifests["recommend"].models["recommender"]
    folder = Home(shop.settings).model_folder("sample.recommender", pin.version, pin.digest)
    return Saved(folder, "sample.recommender", pin.version, pin.digest, pin.run_id, shop.manifests["recommend"].tables)


def test_a_known_user_gets_a_personal_list_as_the_model_gives_it(post: Ask, served: ServedShop) -> None:
    content = recommend(post, user_id="u1", k=4)
    assert (content["personalized"], content["degraded"]) == (True, [])
    graph = Loader(served.settings, served.shop, served.lake).load(served.manifests["recommend"], NOW)
    assert graph.catalogue is not None
    expected = graph.catalogue.now.model.recommend([["i0", "i1"]], 5, event_types=[["view", "purchase"]])[0]
    assert ids(content) == [item for item, _ in expected if item != "i9"][:4]
    scores = [item["score"] for item in content["items"]]
    assert scores == sorted(scores, reverse=True)


def test_lists_have_names_of_their_own(post: Ask) -> None:
    assert recommend(post, user_id="u1")["list_id"] != recommend(post, user_id="u1")["list_id"]


@pytest.mark.parametrize(
    ("body", "degraded"),
    [
        ({"user_id": "nobody"}, ["unknown_user"]),
        ({"user_id": "u_liked"}, ["empty_history"]),  # a kind of act that the model did not learn from
        ({"user_id": "u_strange"}, ["unknown_item"]),
        ({"visitor_id": "v1"}, ["unknown_visitor"]),
        ({}, []),
        ({"user_id": "u1", "personalize": False}, []),
        ({"session": [{"item_id": "never seen"}]}, ["unknown_item"]),
        ({"session": [{"item_id": "i7", "event_type": "return"}]}, []),
        ({"user_id": "u_liked", "session": [{"item_id": "never seen"}]}, ["unknown_item"]),
        ({"placement": "similar", "item_id": "never seen"}, ["unknown_item"]),
    ],
)
def test_without_a_usable_history_the_popular_items_come_and_it_says_so(
    body: dict[str, Any], degraded: list[str], post: Ask
) -> None:
    content = recommend(post, **body, k=3)
    assert (content["personalized"], content["degraded"]) == (False, degraded)
    assert ids(content) == ["i0", "i1", "i2"]


def test_a_visitor_is_known_by_what_the_browser_did(post: Ask) -> None:
    content = recommend(post, visitor_id="v7", k=9)
    assert (content["personalized"], content["degraded"]) == (True, [])
    assert content["items"] == recommend(post, user_id="u2", k=9)["items"]
    longer = recommend(post, visitor_id="v7", session=[{"item_id": "i2"}], k=9)
    assert longer["items"] == recommend(post, user_id="u2", session=[{"item_id": "i2"}], k=9)["items"] != content["items"]


def test_the_running_visit_counts_at_once(post: Ask) -> None:
    by_session = recommend(post, session=[{"item_id": "i7"}], k=9)
    assert by_session["personalized"]
    assert by_session["degraded"] == []
    assert ids(by_session) == ids(recommend(post, user_id="u2", k=9))
    both = recommend(post, user_id="nobody", session=[{"item_id": "i7"}], k=9)
    assert (both["personalized"], both["degraded"]) == (True, ["unknown_user"])
    assert ids(both) == ids(by_session)


def test_session_events_are_ordered_by_their_times(post: Ask) -> None:
    later = {"item_id": "i7", "event_timestamp": "2024-05-01T11:00:00Z"}
    earlier = {"item_id": "i2", "event_timestamp": "2024-05-01T12:00:00+02:00"}
    in_order = [{"item_id": "i2"}, {"item_id": "i7"}]
    scores = recommend(post, session=[later, earlier])["items"]
    assert scores == recommend(post, session=in_order)["items"]
    without_zone = {**later, "event_timestamp": "2024-05-01T11:00:00"}
    assert scores == recommend(post, session=[without_zone, earlier])["items"]  # taken as UTC
    assert scores != recommend(post, session=in_order[::-1])["items"]


def test_impressions_say_nothing_of_taste(post: Ask) -> None:
    seen = {"item_id": "i7", "event_type": "impression"}
    assert recommend(post, session=[seen]) | {"list_id": "", "request_id": ""} == recommend(post) | {
        "list_id": "",
        "request_id": "",
    }


def test_personalize_false_reads_nothing_about_the_person(served: ServedShop) -> None:
    class Watched(FeatureStore):
        """Refuses to be read."""

        def online_rows(self, *_: Any, **__: Any) -> dict[str, list[Any]]:
            raise AssertionError("the online store was read")

    node = UserHistory(Watched(served.settings, served.shop, served.lake))
    request = RecommendRequest(user_id="u1", session=[{"item_id": "i7"}], personalize=False)  # type: ignore[list-item]
    trending = RecommendRequest(user_id="u1", placement="trending")
    assert [history.item_ids for history in node.run([request, trending], NOW)] == [(), ()]


def test_a_store_that_does_not_answer_degrades_the_list(served: ServedShop) -> None:
    away = replace(served, settings=served.settings.model_copy(update={"online_store": "redis://127.0.0.1:1/0"}))

    class Away(FeatureStore):
        """Its online store is gone."""

        def online_rows(self, *_: Any, **__: Any) -> dict[str, list[Any]]:
            raise EngineError("the online store does not answer")

    request = RecommendRequest(user_id="u1", session=[{"item_id": "i7"}])  # type: ignore[list-item]
    graph = Loader(served.settings, served.shop, served.lake).load(served.manifests["recommend"], NOW)
    node = graph.nodes["user_history"]
    assert isinstance(node, UserHistory)
    node.store = Away(away.settings, away.shop, away.lake)
    (content,) = graph.answer([request], NOW)
    assert isinstance(content, dict)
    assert (content["personalized"], content["degraded"]) == (True, ["history_unavailable"])
    assert node.without([request], NOW)[0].item_ids == ("i7",)
    node.store = FeatureStore(served.settings, served.shop, served.lake)
    (whole,) = graph.answer([request], NOW)
    node.store = Away(away.settings, away.shop, away.lake)
    (kept,) = graph.answer([request], NOW)
    assert isinstance(whole, dict)
    assert isinstance(kept, dict)
    assert (kept["items"], kept["degraded"]) == (whole["items"], ["last_good_features"])


def test_withdrawn_items_never_come(post: Ask) -> None:
    for body in ({"user_id": "u1"}, {}, {"placement": "similar", "item_id": "i9"}, {"placement": "trending"}):
        assert "i9" not in ids(recommend(post, **body, k=200))


def test_filters_and_exclusions(post: Ask) -> None:
    shoes = recommend(post, user_id="u1", k=10, filters={"category": ["shoes"]})
    assert set(ids(shoes)) == set(ITEMS[:5])
    assert set(ids(recommend(post, k=10, filters={"category": ["shoes", "bags"]}))) == ON_SALE
    assert ids(recommend(post, k=10, filters={"category": ["hats"]})) == []
    assert set(ids(recommend(post, k=10, filters={"price_min": 20, "price_max": 30}))) == {"i1", "i2"}
    assert set(ids(recommend(post, k=10, filters={"price_max": 1e9}))) == set(ITEMS[:5])  # what has no price is left out
    assert set(ids(recommend(post, user_id="u1", k=10, exclude=["i0", "i5", "no such"]))) == ON_SALE - {"i0", "i5"}


def test_similar_items(post: Ask) -> None:
    content = recommend(post, placement="similar", item_id="i2", k=200, user_id="u1")
    assert set(ids(content)) == ON_SALE - {"i2"}
    assert (content["personalized"], content["degraded"]) == (False, [])
    assert ids(recommend(post, placement="similar", item_id="i2", exclude=ids(content)[:1], k=1)) == [ids(content)[1]]
    bags = recommend(post, placement="similar", item_id="i2", filters={"category": ["bags"]}, k=200)
    assert set(ids(bags)) == {"i5", "i6", "i7", "i8"}


def test_reasons_are_what_a_score_loses_without_an_item_of_the_history(post: Ask, served: ServedShop) -> None:
    plain = recommend(post, user_id="u1", k=9)
    content = recommend(post, user_id="u1", k=9, explain=True)
    assert ids(content) == ids(plain)
    assert all("reasons" not in item for item in plain["items"])
    graph = Loader(served.settings, served.shop, served.lake).load(served.manifests["recommend"], NOW)
    assert graph.catalogue is not None
    model = graph.catalogue.now.model

    def share(history: list[str], kinds: list[str], item: str) -> float:
        scores = model.scores([history], [kinds])[0]
        return float(scores[ITEMS.index(item)] - np.log(np.exp(scores).sum()))

    for item in content["items"]:
        whole = share(["i0", "i1"], ["view", "purchase"], item["item_id"])
        falls = {
            "i0": whole - share(["i1"], ["purchase"], item["item_id"]),
            "i1": whole - share(["i0"], ["view"], item["item_id"]),
        }
        expected = sorted(((fall, name) for name, fall in falls.items() if fall > 0), reverse=True)
        assert [reason["item_id"] for reason in item["reasons"]] == [name for _, name in expected]
        assert [reason["weight"] for reason in item["reasons"]] == pytest.approx([fall for fall, _ in expected], abs=1e-5)
    assert any(item["reasons"] for item in content["items"])


def test_a_popular_list_has_no_reasons_and_one_item_is_held_against_what_is_popular(post: Ask) -> None:
    assert all(item["reasons"] == [] for item in recommend(post, user_id="nobody", explain=True)["items"])
    alone = recommend(post, session=[{"item_id": "i7"}], explain=True, k=9)["items"]
    assert {reason["item_id"] for item in alone for reason in item["reasons"]} == {"i7"}


def test_the_command_gives_the_list_of_the_endpoint(post: Ask, served: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, {"recommender": saved_recommender(served)})
    bodies: tuple[dict[str, Any], ...] = (
        {"placement": "similar", "item_id": "i0"},
        {"placement": "bought_together", "basket": ["i0", "i7"]},
        {"placement": "trending"},
        {"placement": "buy_again", "user_id": "u1"},
    )
    for body in bodies:
        items = tuple(body.get("basket", [body["item_id"]] if "item_id" in body else []))
        told = command(served.settings, Asked(body.get("user_id"), items=items, placement=body["placement"]), 9)
        assert json.loads(json.dumps(told["items"], default=str)) == recommend(post, **body, k=9, explain=True)["items"]
    with pytest.raises(ValidationError, match="needs item_id"):
        command(served.settings, Asked(placement="similar"), 9)
    told = command(served.settings, Asked("u1", items=("i7", "i2")), 9)
    asked = recommend(post, user_id="u1", session=[{"item_id": "i7"}, {"item_id": "i2"}], k=9, explain=True)
    assert told["items"] == asked["items"]
    assert told["graph_version"] == asked["graph_version"]
    assert (told["catalogue"], told["degraded"]) == (len(ITEMS), [])
    with pytest.raises(ValidationError):
        command(served.settings, Asked("u1"), 0)


def test_the_command_knows_what_was_told_of_an_item_meanwhile(told_shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, {"recommender": saved_recommender(told_shop)})
    first, *others = ids(command(told_shop.settings, Asked("u1"), 9))
    body = {"items": [{"item_id": first, "withdrawn_at": "2020-01-01T00:00:00Z"}]}
    assert ask(told_shop.gateway(), "/v1/items", body).json()["accepted"] == 1
    assert ids(command(told_shop.settings, Asked("u1"), 9)) == others
