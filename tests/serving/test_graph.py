"""Manifests: immutable, named by their digest, and tied to what the features mean."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from features.shop import RankingRules, Shop
from infra.errors import ModelNotFoundError, ReleaseError
from serving.compiling import newest
from serving.graph import PRODUCTS, Manifest
from tests.serving.conftest import Registered, ServedShop, compose

SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
MODEL = Registered(3, "ab" * 32, "run-3", {"features/interactions": 7})


def test_the_version_is_the_digest_of_the_canonical_text() -> None:
    manifest = compose("recommend", {"recommender": MODEL})
    again = Manifest.model_validate_json(manifest.canonical())
    assert again == manifest
    assert again.version == manifest.version
    shuffled = json.dumps(dict(reversed(json.loads(manifest.canonical()).items())), indent=3)
    assert Manifest.model_validate_json(shuffled).version == manifest.version


@pytest.mark.parametrize(
    "other",
    [
        Registered(4, "ab" * 32, "run-3", {"features/interactions": 7}),
        Registered(3, "cd" * 32, "run-3", {"features/interactions": 7}),
        Registered(3, "ab" * 32, "run-3", {"features/interactions": 8}),
    ],
)
def test_another_model_or_table_version_is_another_graph(other: Registered) -> None:
    versions = {compose("recommend", {"recommender": model}).version for model in (MODEL, other)}
    assert len(versions) == 2
    assert compose("recommend", {"recommender": MODEL}, name="other").version not in versions


def test_what_a_shop_says_of_lists_is_part_of_the_graph_of_lists_alone() -> None:
    said = {"source_weights": {"for_you": {"co_occurrence": 0.5}}, "rules": {"explore": 0.1}}
    plain, other = compose("recommend", {"recommender": MODEL}), compose("recommend", {"recommender": MODEL}, **said)
    assert plain.version == compose("recommend", {"recommender": MODEL}).version != other.version
    assert Manifest.model_validate_json(other.canonical()) == other
    assert compose("sentiment", {"sentiment": MODEL}, **said).version == compose("sentiment", {"sentiment": MODEL}).version


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"similar": {"co_occurrence": 1.0}}, "expected for_you, bought_together, trending, got 'similar'"),
        ({"for_you": {"tea": 1.0}}, "expected network, co_occurrence, .*, content, popular, got tea"),
        ({"trending": {"trending": 0.0, "popular": 0.0}}, "all weights are 0"),
    ],
)
def test_weights_of_what_there_is_not_are_named(weights: dict[str, dict[str, float]], told: str) -> None:
    with pytest.raises(ReleaseError, match=told):
        compose("recommend", {"recommender": MODEL}, source_weights=weights)


def test_a_ranker_makes_another_graph_and_what_the_shop_says_of_ranking_is_part_of_it() -> None:
    older = Registered(1, "cd" * 32, "run-1", {"features/interactions": 5, "features/item_activity": 2})
    said = RankingRules(weights={"purchase": 8.0})
    plain = compose("recommend", {"recommender": MODEL})
    ranked = compose("recommend", {"recommender": MODEL, "ranker": older})
    ruled = compose("recommend", {"recommender": MODEL, "ranker": older}, ranking=said)
    assert len({plain.version, ranked.version, ruled.version}) == 3
    assert ranked.models.keys() == {"recommender", "ranker"}
    assert ranked.tables == {"features/interactions": 5, "features/item_activity": 2}
    assert Manifest.model_validate_json(ruled.canonical()) == ruled
    assert ruled.ranking == said
    assert compose("recommend", {"recommender": MODEL}, ranking=said).version == plain.version  # nothing is ranked
    seen = {"request"}
    for node in ranked.nodes:
        assert set(node.reads) <= seen
        seen.add(node.name)
    (ranking,) = (node for node in ranked.nodes if node.name == "ranking")
    text = ranked.canonical().replace(ranking.services["ranker"], "0" * 64)
    with pytest.raises(ReleaseError, match="feature service ranker is not the one it was made with"):
        Manifest.model_validate_json(text).check_definitions()


def test_a_graph_takes_a_ranker_where_there_is_one_and_needs_a_recommender() -> None:
    registered = {"recommender": MODEL}

    def fetch(name: str) -> Registered:
        if name not in registered:
            raise ModelNotFoundError(f"no {name}")
        return registered[name]

    assert newest(SHOP, "recommend", fetch) == {"recommender": MODEL}
    registered["ranker"] = MODEL
    assert newest(SHOP, "recommend", fetch).keys() == {"recommender", "ranker"}
    del registered["recommender"]
    with pytest.raises(ModelNotFoundError, match="no recommender"):
        newest(SHOP, "recommend", fetch)


def test_a_manifest_cannot_be_changed() -> None:
    manifest = compose("sentiment", {"sentiment": MODEL})
    with pytest.raises(ValidationError, match="frozen"):
        manifest.shop = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Manifest.model_validate({**json.loads(manifest.canonical()), "note": "x"})


def test_every_node_reads_only_what_comes_before_it(served: ServedShop) -> None:
    for product in PRODUCTS:
        seen = {"request"}
        for node in served.manifests[product].nodes:
            assert set(node.reads) <= seen
            seen.add(node.name)


def test_a_feature_service_with_another_meaning_is_refused() -> None:
    manifest = compose("recommend", {"recommender": MODEL})
    manifest.check_definitions()
    text = manifest.canonical().replace(manifest.nodes[0].services["recommender"], "0" * 64)
    with pytest.raises(ReleaseError, match=r"feature service recommender is not the one it was made with.*features apply"):
        Manifest.model_validate_json(text).check_definitions()
