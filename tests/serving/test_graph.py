"""Manifests: immutable, named by their digest, and tied to what the features mean."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from features.shop import RankingRules
from infra.errors import ModelNotFoundError, ReleaseError
from serving.graph import PRODUCTS, Manifest, compose, newest
from tests.serving.conftest import Registered, ServedShop

MODEL = Registered(3, "ab" * 32, "run-3", {"features/interactions": 7})


def test_the_version_is_the_digest_of_the_canonical_text() -> None:
    manifest = compose("sample", "recommend", {"recommender": MODEL})
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
    versions = {compose("sample", "recommend", {"recommender": model}).version for model in (MODEL, other)}
    assert len(versions) == 2
    assert compose("other", "recommend", {"recommender": MODEL}).version not in versions


def test_weights_of_a_shop_make_another_graph_and_none_leave_its_name() -> None:
    plain, said = (
        compose("sample", "recommend", {"recommender": MODEL}, weights) for weights in ({}, {"for_you": {"co_occurrence": 0.5}})
    )
    assert "weights" not in json.loads(plain.canonical())
    assert plain.version == compose("sample", "recommend", {"recommender": MODEL}).version != said.version
    assert Manifest.model_validate_json(said.canonical()) == said
    assert compose("sample", "sentiment", {"sentiment": MODEL}, {"for_you": {"co_occurrence": 0.5}}).weights == {}


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
        compose("sample", "recommend", {"recommender": MODEL}, weights)


def test_a_ranker_makes_another_graph_and_what_the_shop_says_of_ranking_is_part_of_it() -> None:
    older = Registered(1, "cd" * 32, "run-1", {"features/interactions": 5, "features/item_activity": 2})
    said = RankingRules(weights={"purchase": 8.0})
    plain = compose("sample", "recommend", {"recommender": MODEL})
    ranked = compose("sample", "recommend", {"recommender": MODEL, "ranker": older})
    ruled = compose("sample", "recommend", {"recommender": MODEL, "ranker": older}, ranking=said)
    assert len({plain.version, ranked.version, ruled.version}) == 3
    assert ranked.pins.keys() == {"recommender", "ranker"}
    assert ranked.tables == {"features/interactions": 5, "features/item_activity": 2}
    assert Manifest.model_validate_json(ruled.canonical()) == ruled
    assert ruled.ranking == said
    assert compose("sample", "recommend", {"recommender": MODEL}, ranking=said).version == plain.version  # nothing is ranked
    assert not {"ranking", "weights"} & json.loads(ranked.canonical()).keys()
    seen = {"request"}
    for node in ranked.nodes:
        assert set(node.reads) <= seen
        seen.add(node.name)
    text = ranked.canonical().replace(str(ranked.nodes[-1].definition), "0" * 64)
    with pytest.raises(ReleaseError, match="feature service ranker is not the one it was made with"):
        Manifest.model_validate_json(text).check_definitions()


def test_a_graph_takes_a_ranker_where_there_is_one_and_needs_a_recommender() -> None:
    registered = {"recommender": MODEL}

    def fetch(name: str) -> Registered:
        if name not in registered:
            raise ModelNotFoundError(f"no {name}")
        return registered[name]

    assert newest("recommend", fetch) == {"recommender": MODEL}
    registered["ranker"] = MODEL
    assert newest("recommend", fetch).keys() == {"recommender", "ranker"}
    del registered["recommender"]
    with pytest.raises(ModelNotFoundError, match="no recommender"):
        newest("recommend", fetch)


def test_a_manifest_cannot_be_changed() -> None:
    manifest = compose("sample", "sentiment", {"sentiment": MODEL})
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
    manifest = compose("sample", "recommend", {"recommender": MODEL})
    manifest.check_definitions()
    text = manifest.canonical().replace(str(manifest.nodes[0].definition), "0" * 64)
    with pytest.raises(ReleaseError, match=r"feature service recommender is not the one it was made with.*features apply"):
        Manifest.model_validate_json(text).check_definitions()
