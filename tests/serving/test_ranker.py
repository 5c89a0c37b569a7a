"""The ranker in the recommend graph: its features are those it learned from, its order is what is answered, and nothing depends on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.columns import EVENT_TYPE
from features.online.packing import to_microseconds
from features.shop import RankingRules, Shop
from features.store import FeatureStore
from features.tables import INTERACTIONS
from infra.errors import EngineError, ReleaseError, SettingsError
from infra.home import Home
from serving.execution import Graph
from serving.graph import Manifest
from serving.loading import Loader
from serving.nodes.ranking import Ranking
from serving.recommend import Asked
from serving.recommend import recommend as command
from serving.schemas import RecommendRequest
from tests.serving.conftest import DAY, ITEMS, NOW, ServedShop, ask, compose, keep, save_ranker, save_recommender
from tests.serving.test_recommend import ON_SALE, ids, registered
from tests.training.ranker.conftest import rows_of
from training import splits
from training.ranker.candidates import SOURCES
from training.ranker.data import make_lists
from training.ranker.encoder import cross_features
from training.ranker.retrieval import Sessions
from training.tracking import Saved

Content = dict[str, Any]


def composed(shop: ServedShop, ranking: RankingRules | None = None, ranker: int = 1, recommender: int = 1) -> Manifest:
    """A recommend graph over versions that are kept."""
    wanted = {"recommender": recommender, "ranker": ranker}
    saves = {"recommender": save_recommender, "ranker": save_ranker}
    models = {}
    for name, version in wanted.items():
        is_kept = Home(shop.settings).model_folder(f"sample.{name}", version, f"{version:02d}" * 32).exists()
        models[name] = keep(Home(shop.settings), name, version, (lambda *_: None) if is_kept else saves[name])
    return compose("recommend", models, ranking=ranking or RankingRules())


def load(shop: ServedShop, manifest: Manifest) -> Graph:
    return Loader(shop.settings, shop.shop, shop.lake).load(manifest, NOW)


def answers(graph: Graph, *bodies: Mapping[str, Any]) -> list[Content]:
    """The answers to some requests in one batch."""
    contents = graph.answer([RecommendRequest.model_validate(body) for body in bodies], NOW)
    return [dict(content) for content in contents if isinstance(content, Mapping)]


def answer(graph: Graph, **body: Any) -> Content:
    (content,) = answers(graph, body)
    return content


def chances_of(content: Content) -> dict[str, list[float]]:
    return {item["item_id"]: list(item["chances"].values()) for item in content["items"]}


@pytest.fixture(scope="module")
def plain(served: ServedShop) -> Graph:
    """The graph without a ranker."""
    return load(served, served.manifests["recommend"])


@pytest.fixture
def ranked(served: ServedShop) -> Graph:
    return load(served, composed(served))


def ranking_of(graph: Graph) -> Ranking:
    node = graph.nodes["ranking"]
    assert isinstance(node, Ranking)
    return node


def planted(graph: Graph, feature: str, weight: float, task: int = 0) -> None:
    """Let the ranker of a graph listen to one cross feature alone."""
    network = ranking_of(graph).ranker.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.direct.weight[task, cross_features(SOURCES).index(feature)] = weight


def test_features_are_those_of_the_point_in_time_join_at_the_same_instant(served: ServedShop) -> None:
    """What the ranker says of each candidate while serving is what it says of the frame that it would have learned from."""
    keep(Home(served.settings), "recommender", 9, lambda folder, seed: save_recommender(folder, seed, ITEMS[:9]))  # without i9
    graph = load(served, composed(served, recommender=9))
    at = to_microseconds(NOW)
    before, now = [("u1", "i0", "view", -3 * DAY), ("u1", "i1", "purchase", -2 * DAY)], timedelta(microseconds=1)
    before += [(user, "i7", "view", -2 * DAY) for user in ("u2", "visitor:v7")]
    acts = [*before, *((user, "i2", "view", now) for user in ("u1", "u2", "visitor:v7"))]
    told = [
        {
            **{"interaction_id": str(number), "user_id": user, "item_id": item, EVENT_TYPE: kind},
            **{"session_id": f"{user} {when >= now}", "event_timestamp": NOW + when, "created_timestamp": NOW + when},
        }
        for number, (user, item, kind, when) in enumerate(acts)
    ]
    assert graph.catalogue is not None
    model = graph.catalogue.now.model
    sessions = Sessions.of(splits.every_session(rows_of(INTERACTIONS, told), at, at + 2), model)
    assert set(sessions.at.tolist()) == {at}
    store = FeatureStore(served.settings, served.shop, served.lake)
    lists = make_lists(sessions, model, store, np.arange(len(sessions)))
    learned = ranking_of(graph).ranker.chances(lists.candidates)
    found = {}
    for number, user in enumerate(lists.users):
        who = {"visitor_id": user.removeprefix("visitor:")} if user.startswith("visitor:") else {"user_id": user}
        found[user] = chances_of(answer(graph, **who, k=9, explain=True))
        own = slice(lists.offsets[number], lists.offsets[number + 1])
        expected = zip(lists.item[own], learned[own], strict=True)
        assert found[user] == {ITEMS[item]: pytest.approx(chances, abs=1e-7) for item, chances in expected}
    assert found.keys() == {"u1", "u2", "visitor:v7"}
    assert all(
        found["u2"][item] != pytest.approx(found["visitor:v7"][item], abs=1e-5) for item in ON_SALE
    )  # one history, other features


def test_where_a_feature_says_so_the_order_is_another_than_that_of_retrieval(ranked: Graph, plain: Graph) -> None:
    body: Content = {"user_id": "u1", "filters": {"category": ["shoes"]}}
    retrieved = ids(answer(plain, **body))
    assert ids(answer(ranked, **body)) != retrieved
    planted(ranked, "price_to_usual", -3.0)  # what is cheap for who usually pays 20
    content = answer(ranked, **body)
    assert ids(content) == ["i0", "i1", "i2", "i3", "i4"] != retrieved
    scores = [item["score"] for item in content["items"]]
    assert scores == sorted(scores, reverse=True)
    assert content["degraded"] == []
    assert ids(answer(ranked, **{**body, "user_id": "u2"})) == ids(
        answer(plain, **{**body, "user_id": "u2"})
    )  # usual price unknown


def test_a_ranker_that_says_nothing_leaves_the_order_of_retrieval(ranked: Graph, plain: Graph) -> None:
    planted(ranked, "rank", -1.0)
    bodies: tuple[Content, ...] = (
        {"user_id": "u1"},
        {"visitor_id": "v7"},
        {"session": [{"item_id": "i3"}]},
        {"user_id": "u1", "k": 3},
    )
    for one, other in zip(answers(ranked, *bodies), answers(plain, *bodies), strict=True):
        assert ids(one) == ids(other)


def test_the_session_counts_as_history(ranked: Graph) -> None:
    planted(ranked, "times_before", 5.0)
    session = [{"item_id": "i6"}, {"item_id": "i4"}, {"item_id": "i6"}]
    assert ids(answer(ranked, session=session))[:2] == ["i6", "i4"]
    planted(ranked, "bought_before", 5.0)
    assert ids(answer(ranked, user_id="u1", session=session))[0] == "i1"


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"user_id": "nobody"}, {"user_id": "u_liked"}, {"user_id": "u1", "personalize": False}, {"placement": "trending"}),
        *({"placement": "similar", "item_id": "i0", "user_id": "u1"}, {"placement": "buy_again", "user_id": "u1"}),
    ],
)
def test_what_is_not_personal_is_not_ranked(body: Content, ranked: Graph, plain: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the ranker was asked")

    monkeypatch.setattr(Ranking, "rank", refuse)
    (content, expected), rest = (answer(graph, **body) for graph in (ranked, plain)), {"list_id": ""}
    assert content | rest == expected | rest


def test_a_ranked_list_says_what_it_is_made_of(ranked: Graph, plain: Graph) -> None:
    body = {"user_id": "u1", "k": 9}
    content, retrieved = answer(ranked, **body, explain=True), answer(plain, **body, explain=True)
    reasons = {item["item_id"]: item["reasons"] for item in retrieved["items"]}
    for item in content["items"]:
        click, cart, purchase = (item["chances"][task] for task in ("click", "cart", "purchase"))
        assert 0 < max(cart, purchase) <= click < 1
        assert item["score"] == pytest.approx(click + 4 * purchase)
        assert item["reasons"] == reasons[item["item_id"]]  # why it was retrieved
    assert not any("chances" in item for item in answer(ranked, **body)["items"] + retrieved["items"])


def test_filters_exclusions_and_withdrawals_act_before_the_ranker(ranked: Graph) -> None:
    for body, allowed in (
        ({"filters": {"brand": ["b"], "category": ["bags"]}}, {"i5", "i7"}),
        ({"filters": {"price_min": 45}}, {"i4"}),
        ({"filters": {"brand": ["nobody's"]}}, set()),
        ({"exclude": ["i0", "i5", "no such"], "k": 50}, ON_SALE - {"i0", "i5"}),
    ):
        content = answer(ranked, user_id="u1", **{"k": len(allowed) or 5, **body})
        assert set(ids(content)) == allowed
        assert content["degraded"] == []


def test_several_lists_repeat_no_item_and_are_each_full(ranked: Graph) -> None:
    asked = [
        {"placement": "for_you", "k": 2},
        {"placement": "similar", "item_id": "i0", "k": 1},
        {"placement": "for_you", "filters": {"category": ["bags"]}, "k": 1},  # of four bags one is left
    ]
    content = answer(ranked, user_id="u1", placements=asked)
    shown = [item["item_id"] for one in content["lists"] for item in one["items"]]
    assert (len(shown), len(set(shown))) == (4, 4)
    assert ids(content) == ids(answer(ranked, user_id="u1", k=2))


def test_a_batch_is_answered_as_each_alone_and_reads_the_store_twice(ranked: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Content] = [
        {"user_id": "u1", "filters": {"category": ["bags"]}, "explain": True},
        *({"user_id": "u2", "k": 2}, {"visitor_id": "v7"}, {"user_id": "nobody"}, {"session": [{"item_id": "i3"}]}, {}),
    ]
    alone = [answer(ranked, **body) for body in bodies]
    reads: list[str] = []
    real = FeatureStore.online_rows

    def counted(store: FeatureStore, service: str, *arguments: Any, **more: Any) -> dict[str, list[Any]]:
        reads.append(service)
        return real(store, service, *arguments, **more)

    monkeypatch.setattr(FeatureStore, "online_rows", counted)
    for one, other in zip(answers(ranked, *bodies), alone, strict=True):
        assert ids(one) == ids(other)
        assert [item["score"] for item in one["items"]] == pytest.approx([item["score"] for item in other["items"]])
    assert reads.count("ranker") == 2  # what is known of the people, then of them and the categories


def failing_store(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FeatureStore.online_rows

    def away(store: FeatureStore, service: str, *arguments: Any, **more: Any) -> dict[str, list[Any]]:
        if service == "ranker":
            raise EngineError("the online store does not answer")
        return real(store, service, *arguments, **more)

    monkeypatch.setattr(FeatureStore, "online_rows", away)


def broken_ranker(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(type(ranking_of(graph).ranker), "chances_of", broken)


def ranker_of_nothing(graph: Graph, _: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        ranking_of(graph).ranker.network.heads.bias.fill_(torch.nan)


@pytest.mark.parametrize("break_", [failing_store, broken_ranker, ranker_of_nothing])
def test_a_ranker_that_fails_leaves_the_list_of_retrieval_and_it_says_so(
    break_: Callable[[Graph, pytest.MonkeyPatch], None], ranked: Graph, plain: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_(ranked, monkeypatch)
    bodies: tuple[Content, ...] = ({"user_id": "u1"}, {"user_id": "nobody"}, {"user_id": "nobody", "session": [{"item_id": "i3"}]})
    found, expected = answers(ranked, *bodies), answers(plain, *bodies)
    assert [content["items"] for content in found] == [content["items"] for content in expected]
    assert [content["degraded"] for content in found] == [["unranked"], ["unknown_user"], ["unknown_user", "unranked"]]
    several = answer(ranked, user_id="u1", placements=[{"placement": "trending", "k": 3}, {"placement": "for_you"}])
    assert several["degraded"] == ["unranked"]


def test_a_request_reads_no_table(ranked: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a table was read")

    monkeypatch.setattr(FeatureStore, "latest", refuse)
    monkeypatch.setattr(FeatureStore, "training_frame", refuse)
    assert answer(ranked, user_id="u1")["degraded"] == []


def test_a_shop_says_what_is_ordered_by(served: ServedShop, plain: Graph) -> None:
    body = {"user_id": "u1", "k": 9, "explain": True}
    chances = chances_of(answer(load(served, composed(served)), **body))
    carts = load(served, composed(served, RankingRules(weights={"click": 0, "purchase": 0, "cart": 1})))
    scores = {item["item_id"]: item["score"] for item in answer(carts, **body)["items"]}
    assert scores == {item: pytest.approx(of[1]) for item, of in chances.items()}
    revenue = load(served, composed(served, RankingRules(weights={"click": 0}, times_price=True)))
    content = answer(revenue, **body)
    prices = {
        f"i{number}": 10.0 * (number + 1) if number < 5 else 0.0 for number in range(9)
    }  # what has no price brings nothing in
    assert {item["item_id"]: item["score"] for item in content["items"]} == {
        item: pytest.approx(4 * of[2] * prices[item]) for item, of in chances.items()
    }
    bags = [item for item in ids(content) if prices[item] == 0]
    assert ids(content)[-4:] == bags == [item for item in ids(answer(plain, **body)) if item in bags]
    with pytest.raises(ReleaseError, match="leave the ranker nothing"):
        load(served, composed(served, RankingRules(weights={"click": 0, "purchase": 0})))


def test_what_a_shop_says_of_ranking_is_checked_as_it_is_read(tmp_path: Path) -> None:
    said = tmp_path / "shop.yaml"
    head = "name: trial\ncurrency: EUR\ntime_zone: Europe/Berlin\n"
    said.write_text(head + "ranking: {weights: {purchase: 8}, times_price: true}\n")
    assert Shop.read(said).ranking == RankingRules(weights={"purchase": 8}, times_price=True)
    for wrong in ("{weights: {smile: 1}}", "{weights: {cart: -1}}", "{by: price}"):
        said.write_text(head + f"ranking: {wrong}\n")
        with pytest.raises(SettingsError, match="ranking"):
            Shop.read(said)


def test_an_item_that_was_listed_after_both_learned_is_ranked(told_shop: ServedShop) -> None:
    told_shop.releases.release(told_shop.releases.store(composed(told_shop)), who="test", why="ranked")
    gateway = told_shop.gateway()
    told = {"item_id": "new", "brand": "a", "price": 15, "category": "hats", "created_at": "2024-05-01T09:00:00Z"}
    assert ask(gateway, "/v1/items", {"items": [told, {"item_id": "bare", "brand": "b"}]}).json()["accepted"] == 2
    gateway.live.tell()
    gateway.live.refresh()
    content = ask(gateway, "/v1/recommend", {"user_id": "u1", "k": 50, "explain": True}).json()
    assert content["degraded"] == []
    assert set(ids(content)) == ON_SALE | {"new", "bare"}
    assert all(0 < chance < 1 for chances in chances_of(content).values() for chance in chances)
    assert content["model_versions"] == {"recommender": "1", "ranker": "1"}


def test_a_price_that_is_told_counts_at_once(told_shop: ServedShop) -> None:
    told_shop.releases.release(
        told_shop.releases.store(composed(told_shop, RankingRules(times_price=True))), who="test", why="ranked"
    )
    gateway = told_shop.gateway()
    ask(gateway, "/v1/items", {"items": [{"item_id": "i3", "price": 1e6, "category": "shoes"}]})
    assert ids(ask(gateway, "/v1/recommend", {"user_id": "u1", "k": 9}).json())[0] != "i3"
    gateway.live.tell()
    assert ids(ask(gateway, "/v1/recommend", {"user_id": "u1", "k": 9}).json())[0] == "i3"


def test_a_ranker_of_other_features_is_refused(served: ServedShop) -> None:
    def save(folder: Path, version: int) -> None:
        save_ranker(folder, version)
        content = json.loads((folder / "encoder.json").read_text())
        content["cross"]["names"][0] = "share_of_a_source_that_was"
        (folder / "encoder.json").write_text(json.dumps(content))

    keep(Home(served.settings), "ranker", 5, save)
    with pytest.raises(ReleaseError, match=r"share_of_a_source_that_was.*train it again"):
        load(served, composed(served, ranker=5))


def test_the_command_gives_the_list_of_the_endpoint(served: ServedShop, ranked: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = ranked.manifest.models
    models = {
        name: Saved(
            Home(served.settings).model_folder(f"sample.{name}", pin.version, pin.digest),
            *(f"sample.{name}", pin.version, pin.digest, pin.run_id, ranked.manifest.tables),
        )
        for name, pin in pins.items()
    }
    registered(monkeypatch, models)
    told = command(served.settings, Asked("u1", items=("i7", "i2")), 9)
    asked = answer(ranked, user_id="u1", session=[{"item_id": "i7"}, {"item_id": "i2"}], k=9, explain=True)
    assert told["items"] == asked["items"]
    assert told["graph_version"] == ranked.manifest.version
    assert told["model_versions"] == {"recommender": "1", "ranker": "1"}
