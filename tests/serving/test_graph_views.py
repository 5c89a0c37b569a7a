"""What people see of a graph version: every node and edge, and of two versions what differs and nothing else."""

from __future__ import annotations

from features.shop import RankingRules
from serving.graph_views import differences, mermaid
from tests.serving.conftest import Registered, compose

RECOMMENDER = Registered(1, "a" * 64, "run", {"features/interactions": 1})
RANKER = Registered(2, "b" * 64, "run", {"features/interactions": 2})


def test_the_picture_has_every_node_with_what_it_pins_and_every_edge() -> None:
    manifest = compose("recommend", {"recommender": RECOMMENDER, "ranker": RANKER})
    picture = mermaid(manifest).splitlines()
    assert picture[0] == "flowchart LR"
    for node in manifest.nodes:
        assert any(line.startswith(f"  {node.name}[") for line in picture)
        assert all(f"  {read} --> {node.name}" in picture for read in node.reads)
    assert '  ranking["ranking<br/>ranker version 2, bbbbbbbbbbbb<br/>features of ranker, ' in "\n".join(picture)
    assert [line for line in picture if line.endswith("--> answer")] == ["  reasons --> answer"]


def test_only_what_differs_is_told() -> None:
    old = compose("recommend", {"recommender": RECOMMENDER})
    assert differences(old, old) == []
    newer = Registered(3, "c" * 64, "run", {"features/interactions": 1})
    assert differences(old, compose("recommend", {"recommender": newer})) == [
        ("models.recommender.version", "1", "3"),
        ("models.recommender.digest", "a" * 64, "c" * 64),
    ]
    ranked = compose("recommend", {"recommender": RECOMMENDER, "ranker": RANKER}, ranking=RankingRules(times_price=True))
    found = differences(old, ranked)
    assert ("models.ranker.version", "", "2") in found
    assert ("ranking.times_price", "False", "True") in found
    assert not any(what.startswith("models.recommender") for what, _, _ in found)
