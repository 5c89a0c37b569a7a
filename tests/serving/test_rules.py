"""What a shop wants of every list: each rule moves what it should, nothing else, and its trace gives the list again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.shop import Shop
from infra.errors import ReleaseError, SettingsError
from infra.home import Home
from serving.compiling import compile_graph
from serving.edges import Content, Shortlist, Shortlists
from serving.execution import Graph
from serving.loading import Loader
from serving.nodes.rules import Rules, replay
from serving.schemas import RecommendAnswer, RecommendRequest
from tests.serving.conftest import NOW, ServedShop
from tests.serving.test_ladder import models
from tests.serving.test_recommend import ON_SALE, ids

HEAD = "name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n"


def load(served: ServedShop, shop: Shop) -> Graph:
    manifest = compile_graph(Home(served.settings), shop, "recommend", dict(models(served)))
    return Loader(served.settings, shop, served.lake).load(manifest, NOW)


def graph_of(served: ServedShop, **rules: Any) -> Graph:
    """The graph of the shop where it wants this of lists."""
    return load(
        served, served.shop.model_copy(update={"rules": Shop.model_validate({**served.shop.model_dump(), "rules": rules}).rules})
    )


def answer(graph: Graph, **body: Any) -> Content:
    (content,) = graph.answer([RecommendRequest.model_validate({"k": 9, "trace": True, **body})], NOW)
    assert isinstance(content, Mapping)
    found = dict(content)
    for one in found.get("lists", [found]):
        assert replay(one["trace"])[: len(one["items"])] == [item["item_id"] for item in one["items"]]
    RecommendAnswer.model_validate({**found, "as_of": NOW, "graph_version": "", "model_versions": {}, "request_id": ""})
    return found


@pytest.fixture(scope="module")
def plain(served: ServedShop) -> Graph:
    return graph_of(served)


def test_without_rules_nothing_moves(plain: Graph) -> None:
    content = answer(plain, user_id="u1")
    assert content["trace"] == {"before": ids(content), "steps": []}
    assert "trace" not in answer_of(plain, user_id="u1")
    assert "propensity" not in content["items"][0]


def answer_of(graph: Graph, **body: Any) -> Content:
    (content,) = graph.answer([RecommendRequest.model_validate(body)], NOW)
    assert isinstance(content, Mapping)
    return dict(content)


def test_what_is_blocked_is_shown_nowhere(served: ServedShop) -> None:
    graph = graph_of(served, blocked={"items": ["i3"], "brand": ["a"]})
    for body in ({"user_id": "u1"}, {"placement": "trending"}, {"placement": "similar", "item_id": "i0"}, {"user_id": "nobody"}):
        assert set(ids(answer(graph, **body))) <= {"i1", "i5", "i7"}
    assert "i3" not in graph.manifest.static
    bottom = graph.bottom(RecommendRequest(k=9))
    assert bottom is not None
    assert set(ids(bottom)) == {"i1", "i5", "i7"}


def test_what_was_bought_is_hidden_where_the_shop_says_so(served: ServedShop) -> None:
    graph = graph_of(served, hide_bought=["for_you"])
    assert set(ids(answer(graph, user_id="u1"))) == ON_SALE - {"i2", "i5", "i6"}
    assert "i5" in ids(answer(graph, user_id="u1", placement="trending"))
    assert "i5" in ids(answer(graph, user_id="u1", placement="buy_again"))
    bought = {"item_id": "i7", "event_type": "purchase"}
    assert "i7" not in ids(answer(graph, session=[bought]))
    assert "i5" in ids(answer(graph, user_id="u1", personalize=False))


def test_a_boost_counts_an_item_so_many_times_as_much(served: ServedShop, plain: Graph) -> None:
    before = answer(plain, user_id="u1")
    scores = {item["item_id"]: item["score"] for item in before["items"]}
    boosts = [{"name": "own_brand", "factor": 1000, "brand": ["b"]}, {"name": "slow", "factor": 0.001, "items": ["i0"]}]
    content = answer(graph_of(served, boosts=boosts), user_id="u1")
    first = ids(content)
    assert set(first[:4]) == {"i1", "i3", "i5", "i7"}
    assert first[-1] == "i0"
    assert [item for item in first if item in {"i1", "i3", "i5", "i7"}] == [
        item for item in ids(before) if item in {"i1", "i3", "i5", "i7"}
    ]
    for item in content["items"]:
        grown = np.log(1000) * ((item["item_id"] in {"i1", "i3", "i5", "i7"}) - (item["item_id"] == "i0"))
        assert item["score"] == pytest.approx(scores[item["item_id"]] + grown)
    assert [step["rule"] for step in content["trace"]["steps"]] == ["own_brand", "slow"]
    new = answer(graph_of(served, boosts=[{"name": "new", "factor": 1000, "new_days": 3}]), placement="trending")
    assert set(ids(new)[:3]) == {"i0", "i1", "i2"}  # created one, two and three days ago


def test_of_one_brand_come_so_many_before_all_others_had_their_turn(served: ServedShop, plain: Graph) -> None:
    before = ids(answer(plain, user_id="u1"))
    content = answer(graph_of(served, most_of_one={"brand": 1, "category": 2}), user_id="u1", k=4)
    brands, shoes = (["ab"[int(item[1]) % 2] for item in ids(content)], [int(item[1]) < 5 for item in ids(content)])
    assert ids(content)[0] == before[0]
    assert sorted(brands[:2]) == ["a", "b"]
    assert len(ids(content)) == 4  # full all the same
    assert shoes.count(True) <= 4
    bags = answer(graph_of(served, most_of_one={"category": 1}), user_id="u1", filters={"category": ["bags"]})
    assert set(ids(bags)) == {"i5", "i6", "i7", "i8"}


def test_places_below_the_first_are_drawn_with_the_chances_that_are_told(served: ServedShop, plain: Graph) -> None:
    usual = ids(answer(plain, user_id="u1"))
    graph = graph_of(served, explore=0.5)
    firsts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    times = 600
    for _ in range(times):
        content = answer(graph, user_id="u1", k=3)
        firsts[ids(content)[0]] += 1
        seconds[ids(content)[1]] += 1
        chances = [item["propensity"] for item in content["items"]]
        assert chances[0] == 1
        expected = 0.5 / 8 + (0.5 if ids(content)[1] == usual[1] else 0)
        assert chances[1] == pytest.approx(expected)
    assert firsts == {usual[0]: times}
    for item in usual[1:]:
        chance = 0.5 / 8 + (0.5 if item == usual[1] else 0)
        assert abs(seconds[item] - times * chance) < 4.5 * np.sqrt(times * chance * (1 - chance))


def test_several_lists_repeat_nothing_whatever_moves_them(served: ServedShop) -> None:
    graph = graph_of(served, explore=0.8, most_of_one={"brand": 1}, boosts=[{"name": "bags", "factor": 3, "category": ["bags"]}])
    asked = [{"placement": "for_you", "k": 3}, {"placement": "trending", "k": 3}, {"placement": "for_you", "k": 3}]
    for _ in range(20):
        content = answer(graph, user_id="u1", placements=asked)
        shown = [item["item_id"] for one in content["lists"] for item in one["items"]]
        assert sorted(shown) == sorted(ON_SALE)


def own_shop(tmp_path: Path, text: str, rules: str = "own: [house_rule]") -> Shop:
    (tmp_path / "rules").mkdir(exist_ok=True)
    (tmp_path / "rules" / "house_rule.py").write_text(text)
    (tmp_path / "shop.yaml").write_text(f"{HEAD}now: '{NOW.isoformat()}'\nrules: {{{rules}}}\n")
    return Shop.read(tmp_path / "shop.yaml")


CHEAP = """
import numpy as np

def factors(items, placement):
    return np.where(items["price"] > 30, 0.0, np.where(items["category"] == "bags", 1000.0, 1.0))
"""


def test_a_rule_of_the_shop_is_one_file_and_means_one_thing_for_good(served: ServedShop, tmp_path: Path) -> None:
    shop = own_shop(tmp_path, CHEAP)
    graph = load(served, shop)
    content = answer(graph, user_id="u1")
    assert set(ids(content)) == ON_SALE - {"i3", "i4"}
    assert set(ids(content)[:4]) == {"i5", "i6", "i7", "i8"}
    assert content["trace"]["steps"][0]["rule"] == "house_rule"
    assert set(content["trace"]["steps"][0]["removed"]) == {"i3", "i4"}
    changed = own_shop(tmp_path, CHEAP.replace("30", "1"))
    newer = load(served, changed)
    assert newer.manifest.version != graph.manifest.version
    assert set(ids(answer(newer, user_id="u1"))) == {"i5", "i6", "i7", "i8"}
    again = Loader(served.settings, shop, served.lake).load(graph.manifest, NOW)  # the version of before, as it was
    assert set(ids(answer(again, user_id="u1"))) == ON_SALE - {"i3", "i4"}
    kept = Home(served.settings).rule_file(graph.manifest.own_rules["house_rule"])
    kept.write_text("factors = print")
    with pytest.raises(ReleaseError, match="was changed"):
        Loader(served.settings, shop, served.lake).load(graph.manifest, NOW)
    kept.unlink()
    with pytest.raises(ReleaseError, match="is not kept in this home"):
        Loader(served.settings, shop, served.lake).load(graph.manifest, NOW)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def factors(", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("factor = 1", "says no `factors"),
        ("factors = 3", "says no `factors"),
    ],
)
def test_a_rule_that_is_none_is_refused_as_the_graph_is_compiled(text: str, told: str, served: ServedShop, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=told):
        compile_graph(Home(served.settings), own_shop(tmp_path, text), "recommend", dict(models(served)))
    (tmp_path / "rules" / "house_rule.py").unlink()
    with pytest.raises(ReleaseError, match="there is no .*house_rule.py"):
        compile_graph(Home(served.settings), Shop.read(tmp_path / "shop.yaml"), "recommend", dict(models(served)))


@pytest.mark.parametrize("gives", ["None", "[1.0]", "items['score'] * float('nan')", "-1.0 + 0 * items['score']", "1 / 0", "'x'"])
def test_a_rule_that_fails_is_left_out_and_it_is_told(gives: str, served: ServedShop, plain: Graph, tmp_path: Path) -> None:
    graph = load(served, own_shop(tmp_path, f"def factors(items, placement):\n    return {gives}\n"))
    content = answer(graph, user_id="u1")
    assert (ids(content), content["degraded"]) == (ids(answer(plain, user_id="u1")), ["without_rules"])


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "explore: 1.5",
            "explore: -0.1",
            "own: [../../etc/passwd]",
            "own: [A]",
            "most_of_one: {category: 0}",
            "boosts: [{name: x}]",
        ),
        *("boosts: [{name: x, factor: 0}]", "most_of_one: {colour: 1}", "hide_bought: [everywhere]", "blocked: [i0]", "tea: 1"),
    ],
)
def test_what_a_shop_wants_is_checked_as_it_is_read(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(f"{HEAD}rules: {{{wrong}}}\n")
    with pytest.raises(SettingsError, match="rules"):
        Shop.read(tmp_path / "shop.yaml")


@given(data=st.data())
def test_a_trace_gives_the_list_again_whatever_the_rules_are(data: st.DataObject, plain: Graph) -> None:
    """Boosts, an own rule that takes away, variety, exploration and lists before, over shortlists of any size."""
    catalogue = plain.catalogue
    assert catalogue is not None
    size = data.draw(st.integers(0, 9))
    draw = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    said = {
        "explore": data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        "most_of_one": data.draw(st.sampled_from([{}, {"brand": 1}, {"category": 1, "brand": 2}])),
        "boosts": [
            {
                "name": f"boost_{number}",
                "factor": float(draw.choice([0.01, 0.5, 1.0, 2.0, 100.0])),
                "items": [f"i{draw.integers(9)}"],
            }
            for number in range(data.draw(st.integers(0, 3)))
        ],
    }
    rules = Shop.model_validate({"name": "a", "currency": "EUR", "time_zone": "UTC", "rules": said}).rules
    taken = draw.choice([0.0, 1.0, 3.0], size=9)

    class Taking:
        """An own rule."""

        name = "taking"

        @staticmethod
        def of(items: Mapping[str, Any], placement: str) -> Any:
            return taken[: len(items["item_id"])]

    node = Rules(catalogue, rules, [Taking()])  # type: ignore[list-item]
    steepness = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    lists = []
    for _ in range(2):
        items = np.array([f"i{number}" for number in draw.permutation(9)[:size]], dtype=object)
        scores = -np.sort(-np.round(draw.random(size), 1))  # with ties
        lists.append(Shortlist(items, scores, ("history",) * size, steepness=steepness))
    request = RecommendRequest.model_validate({"trace": True, "placements": [{"placement": "for_you", "k": 3}] * 2})
    (content,) = node.run([request], NOW, [Shortlists(tuple(lists))])
    check_lists(content["lists"], lists, taken)
    (bare,) = node.without([request], NOW, [Shortlists(tuple(lists))])
    check_lists(bare["lists"], lists, np.ones(9))


def check_lists(contents: Sequence[Content], lists: Sequence[Shortlist], factors: Any) -> None:
    shown: set[str] = set()
    for content, shortlist in zip(contents, lists, strict=True):
        order = [item["item_id"] for item in content["items"]]
        assert replay(content["trace"])[: len(order)] == order
        allowed = {item for item, factor in zip(shortlist.items, factors, strict=False) if factor > 0} - shown
        assert set(order) <= allowed
        assert len(order) == min(3, len(allowed))
        shown |= set(order)


def test_the_time_of_the_request_says_what_is_new(served: ServedShop) -> None:
    graph = graph_of(served, boosts=[{"name": "new", "factor": 1000, "new_days": 1}])

    def first(at: datetime) -> list[str]:
        (content,) = graph.answer([RecommendRequest(placement="trending", k=9)], at)
        assert isinstance(content, Mapping)
        return ids(dict(content))

    assert first(NOW)[0] == "i0"
    assert first(NOW.replace(month=6))[0] == "i3"
