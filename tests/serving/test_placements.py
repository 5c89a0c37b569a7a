"""What each placement is filled with, through the gateway: what is bought together and again, what rises, several lists at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.shop import Blocked, ListRules
from features.store import FeatureStore
from infra.errors import EngineError, ReleaseError
from infra.home import Home
from serving.catalogue import Catalogue, Listing
from serving.execution import Graph
from serving.loading import Loader
from serving.nodes.item_facts import risen
from serving.nodes.last_good import LastGood
from serving.nodes.reasons import Reasons
from serving.nodes.retrieval import Retrieval
from serving.nodes.rules import Rules
from serving.nodes.user_purchases import UserPurchases
from serving.placements import Placements
from serving.schemas import RecommendRequest
from tests.serving.conftest import ITEMS, NOW, Ask, Registered, ServedShop, compose, purchases
from tests.serving.test_recommend import ON_SALE, ids, recommend
from training.recommender.encoder import Encoder
from training.recommender.model import Recommender
from training.recommender.network import Config, Network
from training.recommender.purchases import Purchases


def graph_of(served: ServedShop) -> Graph:
    return Loader(served.settings, served.shop, served.lake).load(served.manifests["recommend"], NOW)


def test_what_was_bought_in_one_session_with_an_item_comes_first(post: Ask) -> None:
    content = recommend(post, placement="bought_together", item_id="i0", k=9)
    assert ids(content)[:2] == ["i5", "i2"] or ids(content)[:2] == ["i2", "i5"]
    assert ids(content)[2] == "i6"
    assert (content["personalized"], content["degraded"]) == (False, [])
    assert {item["item_id"] for item in content["items"] if item["source"] == "purchases"} == {"i2", "i5", "i6"}
    assert set(ids(content)) == ON_SALE - {"i0"}  # the rest is filled with what is like it
    scores = [item["score"] for item in content["items"]]
    assert scores == sorted(scores, reverse=True)
    back = recommend(post, placement="bought_together", item_id="i6", k=9)
    assert "i0" in ids(back)[:2]  # both directions


def test_of_a_basket_all_items_speak_and_none_of_them_comes(post: Ask) -> None:
    content = recommend(post, placement="bought_together", basket=["i0", "i5", "no such"], item_id="i2", k=9, explain=True)
    assert set(ids(content)) == ON_SALE - {"i0", "i5", "i2"}
    assert (ids(content)[0], content["items"][0]["source"]) == ("i6", "purchases")
    reasons = content["items"][0]["reasons"]
    assert {reason["item_id"] for reason in reasons} <= {"i0", "i5", "i2"}
    weights = [reason["weight"] for reason in reasons]
    assert weights == sorted(weights, reverse=True)
    assert weights
    assert min(weights) > 0


def test_what_nobody_bought_goes_with_what_is_like_it_and_it_says_so(post: Ask) -> None:
    content = recommend(post, placement="bought_together", item_id="i8", k=3)
    assert content["degraded"] == ["no_purchases"]
    assert {item["source"] for item in content["items"]} == {"similar"}
    assert ids(content) == ids(recommend(post, placement="similar", item_id="i8", k=3))
    unknown = recommend(post, placement="bought_together", basket=["never seen", "nor this"], k=3)
    assert (ids(unknown), unknown["degraded"]) == (["i0", "i1", "i2"], ["unknown_item"])
    assert {item["source"] for item in unknown["items"]} == {"popular"}


def test_where_purchases_say_nothing_what_stands_near_in_histories_does(served: ServedShop) -> None:
    from scipy import sparse

    from training.recommender.sources import Near

    graph = graph_of(served)
    retrieval = graph.nodes["retrieval"]
    assert isinstance(retrieval, Retrieval)
    listing = retrieval.placements.listing
    table = np.zeros((len(ITEMS), len(ITEMS)), dtype=np.float32)
    table[8, 4] = 1.0
    model = replace(listing.model, counted={"co_occurrence": Near(sparse.csr_array(table), 0.5)})
    retrieval.placements = Placements(Listing(model, listing.purchases, listing.facts), {})
    request = RecommendRequest(placement="bought_together", item_id="i8", k=3)
    (content,) = graph.answer([request], NOW)
    assert isinstance(content, Mapping)
    assert (content["items"][0]["item_id"], content["items"][0]["source"]) == ("i4", "co_occurrence")
    assert content["degraded"] == ["no_purchases"]


def test_a_shop_says_how_much_each_source_counts(served: ServedShop) -> None:
    saved = served.manifests["recommend"].models["recommender"]
    folder = Home(served.settings).model_folder("sample.recommender", saved.version, saved.digest)
    model = Registered(saved.version, saved.digest, saved.run_id, {}, folder)
    loader = Loader(served.settings, served.shop, served.lake)

    def first(body: dict[str, Any], weights: dict[str, dict[str, float]]) -> dict[str, Any]:
        graph = loader.load(compose("recommend", {"recommender": model}, source_weights=weights), NOW)
        (content,) = graph.answer([RecommendRequest.model_validate(body)], NOW)
        assert isinstance(content, Mapping)
        found: dict[str, Any] = content["items"][0]
        return found

    together: dict[str, Any] = {"placement": "bought_together", "item_id": "i0"}
    assert first(together, {})["source"] == "purchases"
    assert first(together, {"bought_together": {"purchases": 0.0}})["source"] == "similar"
    assert first({"placement": "trending"}, {"trending": {"trending": 0.0}})["item_id"] == "i0"
    with pytest.raises(ReleaseError, match="leave for_you nothing"):
        first({}, {"for_you": {"network": 0.0}})


def test_what_comes_again_by_how_due_it_is(post: Ask) -> None:
    content = recommend(post, placement="buy_again", user_id="u1", k=9)
    assert ids(content) == ["i5", "i6"]  # i9 is withdrawn, and i2 nobody buys twice
    assert (content["personalized"], content["degraded"]) == (True, [])
    assert {item["source"] for item in content["items"]} == {"purchases"}
    assert ids(recommend(post, placement="buy_again", user_id="u1", k=1)) == ["i5"]
    assert ids(recommend(post, placement="buy_again", user_id="u1", exclude=["i5"])) == ["i6"]
    assert ids(recommend(post, placement="buy_again", user_id="u1", filters={"category": ["shoes"]})) == []
    explained = recommend(post, placement="buy_again", user_id="u1", explain=True)["items"][0]
    assert (explained["bought"]["times"], explained["bought"]["last_on"]) == (3, "2024-04-23")
    assert explained["bought"]["usual_gap_days"] == pytest.approx(7, rel=0.3)


def test_the_clock_of_the_request_says_what_is_due(served: ServedShop) -> None:
    graph = graph_of(served)
    request = RecommendRequest(placement="buy_again", user_id="u1")

    def score(days: float) -> float:
        (content,) = graph.answer([request], NOW + timedelta(days=days))
        assert isinstance(content, Mapping)
        return {item["item_id"]: float(item["score"]) for item in content["items"]}["i5"]

    assert score(0) > score(60) > score(300)


def test_a_purchase_of_this_session_counts_and_a_visitor_is_known_by_the_browser(post: Ask) -> None:
    bought = {"item_id": "i6", "event_type": "purchase"}
    assert set(ids(recommend(post, placement="buy_again", visitor_id="v7", session=[bought]))) == {"i5", "i6"}
    assert ids(recommend(post, placement="buy_again", session=[bought])) == ["i6"]
    assert ids(recommend(post, placement="buy_again", session=[{"item_id": "i6"}])) == []  # a view is no purchase


@pytest.mark.parametrize(
    ("body", "degraded"),
    [
        ({"user_id": "nobody"}, ["no_purchases"]),
        ({"visitor_id": "nobody"}, ["no_purchases"]),
        ({"user_id": "u2"}, ["no_purchases"]),  # known, but bought nothing
        ({"user_id": "u_once"}, ["no_purchases"]),  # nobody buys that again
        ({"user_id": "u1", "personalize": False}, ["no_purchases"]),
        ({}, ["no_purchases"]),
    ],
)
def test_who_bought_nothing_that_comes_again_gets_an_empty_list(body: dict[str, Any], degraded: list[str], post: Ask) -> None:
    content = recommend(post, placement="buy_again", **body)
    assert (content["items"], content["personalized"], content["degraded"]) == ([], False, degraded)


def test_nothing_of_the_person_is_read_where_no_list_is_made_of_it(served: ServedShop) -> None:
    class Watched(FeatureStore):
        """Refuses to be read."""

        def online_rows(self, *_: Any, **__: Any) -> dict[str, list[Any]]:
            raise AssertionError("the online store was read")

    node = UserPurchases(Watched(served.settings, served.shop, served.lake))
    quiet = RecommendRequest(user_id="u1", placement="buy_again", personalize=False)
    other = RecommendRequest(user_id="u1")
    assert [found.item_ids for found in node.run([quiet, other], NOW)] == [(), ()]


def test_a_store_that_does_not_answer_leaves_the_session(served: ServedShop) -> None:
    class Away(FeatureStore):
        """A store that does not answer."""

        def online_rows(self, *_: Any, **__: Any) -> dict[str, list[Any]]:
            raise EngineError("the online store does not answer")

    session = [{"item_id": "i6", "event_type": "purchase"}]
    request = RecommendRequest.model_validate({"user_id": "u1", "placement": "buy_again", "session": session})
    graph = graph_of(served)
    node = graph.nodes["user_purchases"]
    assert isinstance(node, UserPurchases)
    (before,) = graph.answer([request], NOW)
    node.store = Away(served.settings, served.shop, served.lake)
    (kept,) = graph.answer([request], NOW)
    assert isinstance(before, Mapping)
    assert isinstance(kept, Mapping)
    assert ids(dict(kept)) == ids(dict(before))
    assert kept["degraded"] == ["last_good_features"]
    node.last_good = LastGood()
    read = node.without([request], NOW)[0]
    assert (read.item_ids, read.days, read.degraded) == (("i6",), (NOW.date(),), ("history_unavailable",))


def test_what_rises_comes_before_what_is_popular(post: Ask) -> None:
    content = recommend(post, placement="trending", user_id="u1", k=9, explain=True)
    assert ids(content)[:2] == ["i3", "i6"]
    assert (content["personalized"], content["degraded"]) == (False, [])
    rises = {item["item_id"]: item["rise"] for item in content["items"]}
    assert rises["i3"] > rises["i6"] > 1 > rises["i0"] > 0  # i0 has most acts, but no more than ever
    sources = {item["item_id"]: item["source"] for item in content["items"]}
    assert (sources["i3"], sources["i6"], sources["i0"], sources["i7"]) == ("trending", "trending", "popular", "popular")
    assert ids(recommend(post, placement="trending", exclude=["i3"]))[0] == "i6"
    none = recommend(post, placement="trending", filters={"category": ["shoes"], "price_max": 15})
    assert (ids(none), none["degraded"]) == (["i0"], ["no_recent_activity"])


def test_few_acts_make_no_great_rise_and_a_festival_lifts_all_alike() -> None:
    week, season = np.array([2.0, 60.0, 700.0, 0.0, 0.0]), np.array([2.0, 400.0, 9000.0, 90.0, 0.0])
    rise = risen(week, season)
    assert rise[1] > rise[0] > 1
    assert rise[2] == pytest.approx(1, abs=0.1)
    assert rise[3:].tolist() == [0, 0]
    assert risen(3 * week, season + 2 * week)[1] == pytest.approx(rise[1], rel=0.2)


def test_several_lists_in_one_call_repeat_no_item(post: Ask) -> None:
    asked = [
        {"placement": "buy_again", "k": 1},
        {"placement": "bought_together"},
        {"placement": "similar", "item_id": "i5", "k": 1, "filters": {"brand": ["a"]}},
        {"placement": "trending", "filters": {"brand": ["b"]}},
        {"placement": "for_you"},
    ]
    content = recommend(post, user_id="u1", item_id="i0", k=2, placements=asked, exclude=["i7"])
    lists = content["lists"]
    assert [one["placement"] for one in lists] == [one["placement"] for one in asked]
    shown = [item["item_id"] for one in lists for item in one["items"]]
    assert len(shown) == len(set(shown))
    assert "i7" not in shown
    assert ids(lists[0]) == ["i5"]
    assert ids(lists[1]) == ["i2", "i6"]
    assert ids(lists[3])[0] == "i3"
    assert set(ids(lists[3])) == {"i1", "i3"}  # brand b, on sale, not shown before
    assert [len(one["items"]) for one in lists[:3]] == [1, 2, 1]
    assert len({one["list_id"] for one in lists}) == len(lists)
    assert {name: content[name] for name in ("list_id", "items", "personalized")} == {
        name: lists[0][name] for name in ("list_id", "items", "personalized")
    }
    alone = recommend(post, user_id="u1", k=200)
    assert "lists" not in alone
    rest = [item for item in ids(alone) if item not in shown[: -len(lists[4]["items"])] and item != "i7"]
    assert ids(lists[4]) == rest[:2]  # what for_you gives, less what was shown already


def test_what_could_not_be_used_in_any_list_is_told_of_all(post: Ask) -> None:
    asked = [{"placement": "for_you", "k": 1}, {"placement": "buy_again"}, {"placement": "similar", "item_id": "never seen"}]
    content = recommend(post, user_id="nobody", placements=asked)
    assert [one["degraded"] for one in content["lists"]] == [["unknown_user"], ["no_purchases"], ["unknown_item"]]
    assert content["degraded"] == ["no_purchases", "unknown_item", "unknown_user"]


@pytest.mark.parametrize("placement", ["for_you", "similar", "bought_together", "trending"])
def test_a_narrow_filter_acts_before_the_choice(placement: str, post: Ask) -> None:
    body = {"placement": placement, "item_id": "i0", "user_id": "u1", "session": [{"item_id": "i0"}]}
    for filters, allowed in (
        ({"brand": ["b"], "category": ["bags"]}, {"i5", "i7"}),
        ({"brand": ["a"], "price_min": 45, "price_max": 60}, {"i4"}),
        ({"brand": ["nobody's"]}, set()),
    ):
        assert set(ids(recommend(post, **body, k=len(allowed) or 5, filters=filters))) == allowed


def test_a_shop_of_one_item_answers_everything(served: ServedShop) -> None:
    graph = graph_of(served)
    config = Config(dim=4, num_blocks=1, num_heads=1, max_length=4)
    encoder = Encoder(("i0",), ("view", "purchase"), (1.0,))
    model = Recommender(config, encoder, Network(config, 1, 2).eval())

    def over(learned: Purchases) -> Graph:
        """The graph over that one item."""
        assert graph.catalogue is not None
        told, store = graph.catalogue.now.facts.told, graph.catalogue.store
        catalogue = Catalogue(store, told, model, learned, Blocked(items=ITEMS[1:]), NOW)
        retrieval, rules = Retrieval(catalogue, {}, (), 200, 200), Rules(catalogue, ListRules(), ())
        nodes = {**graph.nodes, "retrieval": retrieval, "rules": rules, "reasons": Reasons(catalogue, {})}
        return Graph(graph.manifest, nodes, catalogue, graph.metrics)

    small = over(Purchases.learn(purchases(), encoder, "Europe/Berlin"))
    bodies = [{"placement": name, "item_id": "i0"} for name in ("for_you", "similar", "bought_together", "buy_again", "trending")]
    requests = [RecommendRequest.model_validate(body) for body in bodies]
    found = [
        [item["item_id"] for item in content["items"]] for content in small.answer(requests, NOW) if isinstance(content, Mapping)
    ]
    assert found == [["i0"], [], [], [], ["i0"]]
    nothing = Purchases.learn(purchases().slice(0, 0), encoder, "Europe/Berlin")
    bare = over(nothing)
    again = RecommendRequest.model_validate({"placement": "buy_again", "session": [{"item_id": "i0", "event_type": "purchase"}]})
    (content,) = bare.answer([again], NOW)
    assert isinstance(content, Mapping)
    assert ([item["item_id"] for item in content["items"]], content["degraded"]) == (["i0"], [])  # nothing speaks against it


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"placement": "bought_together"}, "needs item_id or basket"),
        ({"placements": [{"placement": "similar"}]}, "needs item_id"),
        ({"placement": "for_you", "placements": [{"placement": "for_you"}]}, "not both"),
        ({"placements": []}, "at least 1"),
        ({"placements": [{"placement": "for_you", "k": 201}]}, "less than or equal to 200"),
        ({"placements": [{"placement": "for_you"}] * 11}, "at most 10"),
    ],
)
def test_what_cannot_be_asked_for_is_named(body: dict[str, Any], told: str, post: Ask) -> None:
    answer = post("/v1/recommend", body)
    assert answer.status_code == 422
    assert told in answer.text


def test_no_purchases_at_all_are_no_error(tmp_path: Any) -> None:
    encoder = Encoder(ITEMS, ("view",), (0.1,) * len(ITEMS))
    rows = purchases()
    views = rows.set_column(rows.column_names.index("event_type"), "event_type", pa.array(["view"] * rows.num_rows))
    learned = Purchases.learn(views, encoder, "Europe/Berlin")
    learned.save(tmp_path)
    assert Purchases.load(tmp_path).together.table.nnz == 0
