"""A canary from its first answer to its withdrawal: counted in each replica, judged by what all of them counted, told in the history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import shopgraph
from serving import list_ids
from serving.canaries import JUDGE
from serving.gateway import Gateway
from serving.graph_views import mermaid
from serving.observations import Observations, Phase
from serving.releases import Bounds
from tests.serving.conftest import NOW, ServedShop, ask
from tests.serving.test_live import second_graph

ME = {"who": "test", "why": "test"}
PATIENT = {"x-request-timeout-ms": "60000"}


@pytest.fixture
def canary(told_shop: ServedShop) -> tuple[ServedShop, list[Gateway]]:
    """Half of the people are answered by a candidate, in two replicas; 50 of either side are enough."""
    releases = told_shop.releases
    releases.deploy(second_graph(told_shop), **ME)
    releases.canary("recommend", 50, **ME, bounds=Bounds(minimum=50, slow=1.0))
    gateways = [told_shop.gateway() for _ in range(2)]
    for gateway in gateways:
        gateway.canaries.look()
    return told_shop, gateways


def ask_all(gateways: list[Gateway], count: int) -> list[dict[str, Any]]:
    """The answers to as many people, half by either replica."""

    async def load(gateway: Gateway, first: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(gateway, raise_app_exceptions=False), base_url="http://localhost"
        ) as http:
            bodies = [{"user_id": f"p{number}", "k": 3} for number in range(first, count, len(gateways))]
            return [await http.post("/v1/recommend", json=body, headers=PATIENT) for body in bodies]

    answers = [answer for first, gateway in enumerate(gateways) for answer in asyncio.run(load(gateway, first))]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


def act(gateway: Gateway, answers: list[dict[str, Any]], kinds: Callable[[dict[str, Any]], list[str]]) -> None:
    """What people do with lists they were given."""
    events = [
        {
            "event_id": f"{content['list_id']} {kind} {number}", "user_id": "somebody", "item_id": content["items"][0]["item_id"],
            "event_type": kind, "event_timestamp": NOW.isoformat(), "list_id": content["list_id"], "position": 0,
        }
        for content in answers
        for number, kind in enumerate(kinds(content))
    ]  # fmt: skip
    for start in range(0, len(events), 100):
        answer = ask(gateway, "/v1/events", {"events": events[start : start + 100]})
        assert answer.json()["accepted"] == len(events[start : start + 100]), answer.text


def test_lists_say_which_version_made_them(canary: tuple[ServedShop, list[Gateway]]) -> None:
    _, gateways = canary
    answers = ask_all(gateways, 40)
    assert len({content["graph_version"] for content in answers}) == 2
    for content in answers:
        served = list_ids.read(content["list_id"])
        assert served is not None
        assert list_ids.is_of(content["graph_version"], served)
    several = ask(gateways[0], "/v1/recommend", {"placements": [{"placement": "for_you"}, {"placement": "trending"}]}).json()
    assert several["list_id"] == several["lists"][0]["list_id"]
    assert all(list_ids.read(one["list_id"]) for one in several["lists"])


def test_both_sides_are_counted_in_all_replicas(canary: tuple[ServedShop, list[Gateway]]) -> None:
    shop, gateways = canary
    answers = ask_all(gateways, 200)
    act(gateways[0], answers, lambda _: ["impression", "impression", "click"])
    act(gateways[1], answers[:20], lambda _: ["purchase"])
    sides = counted(shop, gateways)
    for version, side in sides.items():
        own = sum(content["graph_version"] == version for content in answers)
        counts = {name: int(parts.sum()) for name, parts in side.counts.items()}
        assert (counts["requests"], counts["errors"], counts["seen"], counts["clicked"]) == (own, 0, own, own)
        assert counts["carted"] == sum(content["graph_version"] == version for content in answers[:20])
    assert shop.releases.current()["recommend"].candidate is not None  # nothing is wrong with it


def counted(shop: ServedShop, gateways: list[Gateway]) -> Any:
    for gateway in gateways:
        gateway.canaries.look()
    release = shop.releases.current()["recommend"]
    assert release.candidate is not None
    phase = Phase.of(release.stable, release.candidate, shop.releases.manifest(release.stable))
    return Observations(shop.releases).of("recommend", phase.name)


def test_a_candidate_that_is_clicked_half_as_much_is_withdrawn_and_it_is_told_why(
    canary: tuple[ServedShop, list[Gateway]],
) -> None:
    shop, gateways = canary
    release = shop.releases.current()["recommend"]
    answers = ask_all(gateways, 400)
    lucky = {content["list_id"] for number, content in enumerate(answers) if number % 5 < 4}

    def kinds(content: dict[str, Any]) -> list[str]:
        is_clicked = content["list_id"] in lucky and (
            content["graph_version"] == release.stable or int(content["list_id"][8], 16) % 2
        )
        return ["impression", "click"] if is_clicked else ["impression"]

    act(gateways[0], answers, kinds)
    for gateway in gateways:
        gateway.canaries.look()
    now = shop.releases.current()["recommend"]
    assert (now.stable, now.candidate) == (release.stable, None)
    move = shop.releases.history("recommend")[0]
    assert (move.verb, move.who) == ("rollback", JUDGE)
    assert move.why.startswith("clicks: ")
    assert shop.releases.verify() == []
    assert len(shop.releases.history("recommend")) == 4  # the second replica withdrew nothing more
    for gateway in gateways:
        gateway.live.poll()
        gateway.canaries.look()
    assert {content["graph_version"] for content in ask_all(gateways, 50)} == {release.stable}


def test_a_candidate_that_fails_is_withdrawn(canary: tuple[ServedShop, list[Gateway]], monkeypatch: pytest.MonkeyPatch) -> None:
    shop, gateways = canary
    for gateway in gateways:
        candidate = gateway.live.served["recommend"].candidate
        assert candidate is not None
        monkeypatch.setattr(candidate.graph.nodes["retrieval"], "run", None)
    answers = ask_all(gateways, 200)  # every one of them is answered
    assert {tuple(content["degraded"]) for content in answers} == {("unknown_user",), ("trending",)}
    for gateway in gateways:
        gateway.canaries.look()
    assert shop.releases.current()["recommend"].candidate is None
    assert shop.releases.history()[0].why.startswith("degraded: ")


def test_lists_of_before_and_of_others_are_not_counted(canary: tuple[ServedShop, list[Gateway]]) -> None:
    shop, gateways = canary
    (content,) = ask_all(gateways[:1], 1)
    old = {**content, "list_id": f"{0:08x}{content['list_id'][8:]}"}
    other = {**content, "list_id": content["list_id"][:-8] + "0" * 8}
    act(gateways[0], [old, other, {**content, "list_id": "made up"}], lambda _: ["impression"])
    assert sum(int(side.counts["seen"].sum()) for side in counted(shop, gateways).values()) == 0


def test_a_new_weight_is_a_new_count(canary: tuple[ServedShop, list[Gateway]]) -> None:
    shop, gateways = canary
    ask_all(gateways, 20)
    counted(shop, gateways)
    before = shop.releases.current()["recommend"].candidate
    shop.releases.canary("recommend", 60, **ME)
    after = shop.releases.current()["recommend"].candidate
    assert before is not None
    assert after is not None
    assert after.bounds == before.bounds
    assert after.phase != before.phase
    for gateway in gateways:
        gateway.live.poll()
    assert sum(int(side.counts["requests"].sum()) for side in counted(shop, gateways).values()) == 0
    shop.releases.canary("recommend", 0, **ME)
    for gateway in gateways:
        gateway.live.poll()
        gateway.canaries.look()
        assert gateway.live.phases == {}


def test_how_a_canary_stands_is_shown(canary: tuple[ServedShop, list[Gateway]]) -> None:
    shop, gateways = canary
    ask_all(gateways, 120)
    counted(shop, gateways)

    def told(*arguments: str) -> str:
        done = CliRunner().invoke(shopgraph.app, ["--home", str(shop.settings.home), "graph", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    (recommend,) = (row for row in json.loads(told("status", "--json")) if row["product"] == "recommend")
    measures = {one["measure"]: one for one in recommend["measures"]}
    assert measures.keys() == {"errors", "degraded", "slow", "clicks", "carts"}
    assert measures["errors"]["seen"] > 30
    assert (measures["errors"]["candidate"], measures["clicks"]["is_enough"]) == (0.0, False)
    assert "recommend errors" in told("status")
    assert "too few yet" in told("status")
    told("canary", "recommend", "--weight", "70", "--bound", "clicks=0.02", "--bound", "slow_ms=20")
    candidate = shop.releases.current()["recommend"].candidate
    assert candidate is not None
    assert (candidate.bounds.clicks, candidate.bounds.slow_ms, candidate.bounds.minimum) == (0.02, 20, 50)
    for wrong in ("clicks=2", "tea=1", "clicks", "minimum=0", "error_rate=0"):
        done = CliRunner().invoke(
            shopgraph.app, ["--home", str(shop.settings.home), "graph", "canary", "recommend", "--weight", "70", "--bound", wrong]
        )
        assert done.exit_code != 0
        assert "--bound" in done.output + str(done.exception)
    assert mermaid(shop.releases.manifest(candidate.version)).startswith("flowchart")
