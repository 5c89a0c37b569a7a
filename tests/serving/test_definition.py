"""A graph as a person writes it: what cannot work is found before anything is pinned, and said by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from features.shop import Shop
from infra.errors import ReleaseError
from infra.home import Home
from infra.settings import Settings
from serving.compiling import compile_graph
from serving.definition import OURS, Definition, load, read
from serving.graph import PRODUCTS
from tests.serving.conftest import Registered, compose

RECOMMENDER = Registered(1, "a" * 64, "run", {})
RANKER = Registered(2, "b" * 64, "run", {})


def ours(product: str = "recommend") -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((OURS / f"{product}.yaml").read_text())
    return content


def written(folder: Path, content: Any) -> Path:
    file = folder / "recommend.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("product", PRODUCTS)
def test_our_graphs_can_work(product: Any) -> None:
    definition = read(OURS / f"{product}.yaml", product)
    seen = {"request"}
    for name in definition.order():
        assert set(definition.nodes[name].reads) <= seen
        seen.add(name)


def test_without_its_model_an_optional_node_is_passed_by() -> None:
    plain = compose("recommend", {"recommender": RECOMMENDER})
    ranked = compose("recommend", {"recommender": RECOMMENDER, "ranker": RANKER})
    wiring = {node.name: node.reads for node in plain.nodes}
    assert "ranking" not in wiring
    assert wiring["rules"] == ("retrieval",)
    assert "unranked" not in plain.ladder
    assert {node.name: node.reads for node in ranked.nodes}["rules"] == ("ranking",)
    assert ranked.ladder[:2] == ("unexplained", "unranked")


def changed(**nodes: Any) -> dict[str, Any]:
    """Our graph with nodes that are other or more."""
    content = ours()
    for name, said in nodes.items():
        content["nodes"][name] = {**content["nodes"].get(name, {}), **said}
    return content


TWICE_RANKED = {"kind": "ranking", "reads": ["user_history", "ranking"], "settings": {}}
CIRCLE = {**changed(retrieval=TWICE_RANKED), "ladder": []}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(rules={"reads": ["reasons"]}), r"rules reads Shortlists; got reasons \(an answer\)"),
        (changed(rules={"reads": ["request"]}), "rules reads Shortlists; got the request alone"),
        (changed(retrieval={"reads": ["user_purchases", "user_history"]}), "retrieval reads History, Purchased; got"),
        (changed(rules={"reads": ["nobody"]}), "rules reads nobody, which there is not"),
        (changed(price={"reads": ["request"]}), "price: expected a kind .*, got 'price'"),
        (changed(retrieval={"settings": {"candidates": 0}}), "retrieval: settings candidates: .*greater than or equal to 1"),
        (changed(retrieval={"settings": {"tea": 1}}), "retrieval: settings tea: Extra inputs"),
        (changed(ranking={"share": 1.5}), "nodes.ranking.share: .*less than or equal to 1"),
        (changed(retrieval={"optional": True}), "retrieval cannot be optional: nothing passes through it"),
        (CIRCLE, "in a circle: .*ranking"),
        ({**ours(), "answer": "ranking"}, "answer: ranking gives Shortlists, which is no answer"),
        ({**ours(), "answer": "nobody"}, "answer: expected one of .*user_history.*, got 'nobody'"),
        ({**ours(), "ladder": ["static", "trending"]}, "ladder: expected .*, got 'static'"),
        ({**ours(), "ladder": ["elevator"]}, "got 'elevator'"),
        ({**ours(), "budget_ms": 0}, "budget_ms: .*greater than 0"),
        ({**ours(), "product": "forecast"}, "expected product recommend, got forecast"),
        ({**ours(), "nodes": {"A b": {"reads": ["request"]}}}, "nodes.A b"),
        ("[1, 2]", "valid dictionary"),
        ("a: [", "is not YAML"),
        ("", "valid dictionary"),
    ],
)
def test_what_cannot_work_is_named(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=told):
        read(written(tmp_path, content), "recommend")


def test_bytes_that_are_no_text_are_no_graph(tmp_path: Path) -> None:
    file = tmp_path / "recommend.yaml"
    file.write_bytes(b"\xff\xfe\x00graph")
    with pytest.raises(ReleaseError, match="is not YAML in UTF-8"):
        read(file, "recommend")


def test_a_shop_has_a_graph_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    shop = Shop.read(tmp_path / "shop.yaml")
    usual = compose("recommend", {"recommender": RECOMMENDER})
    home = Home(Settings())
    assert compile_graph(home, shop, "recommend", {"recommender": RECOMMENDER}).version == usual.version
    content = changed(retrieval={"settings": {"candidates": 50}})
    content["budget_ms"] = 80
    written(tmp_path / "graphs", content)
    assert isinstance(load(shop, "recommend"), Definition)
    own = compile_graph(home, shop, "recommend", {"recommender": RECOMMENDER})
    assert own.version != usual.version
    assert own.budget_ms == 80
    (retrieval,) = (node for node in own.nodes if node.name == "retrieval")
    assert retrieval.settings == {"candidates": 50}


def test_a_model_that_is_needed_must_be_there() -> None:
    with pytest.raises(ReleaseError, match=r"the recommend graph needs the model recommender; run `shopgraph train recommender`"):
        compose("recommend", {"ranker": RANKER})
