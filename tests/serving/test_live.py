"""Graphs follow their pointers without a pause, and the last good one stays while anything is wrong."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from infra.errors import EngineError
from infra.home import Home
from infra.settings import Settings
from serving.gateway import Gateway
from serving.nodes.item_tables import ItemTables
from serving.releases import Releases
from tests.serving.conftest import CATALOGUE, Registered, ServedShop, ask, compose, keep, save_recommender

BODY = {"user_id": "u1", "k": 3}


def catalogue_alone(folder: Path, _: int) -> None:
    """A model version of which too little is there."""
    shutil.copytree(CATALOGUE, folder)


ME = {"who": "test", "why": "test"}


@pytest.fixture
def shop(served: ServedShop, tmp_path: Path) -> ServedShop:
    """The served shop with releases of its own, the first recommend graph released."""
    own = Settings.load(home=served.settings.home, releases_db=f"sqlite:///{tmp_path / 'releases.db'}")
    made = replace(served, settings=own)
    made.releases.release(made.releases.store(served.manifests["recommend"]), who="test", why="first")
    return made


def second_graph(shop: ServedShop) -> str:
    """Store a recommend graph over a second model version."""
    model = keep(Home(shop.settings), "recommender", 2, save_recommender)
    return shop.releases.store(compose("recommend", {"recommender": model}))


def test_a_new_pointer_takes_over_and_the_old_one_comes_back(shop: ServedShop) -> None:
    gateway = shop.gateway()
    first = ask(gateway, "/v1/recommend", BODY).json()
    version = second_graph(shop)
    gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).json()["graph_version"] == first["graph_version"]  # stored is not released
    shop.releases.release(version, who="test", why="second")
    gateway.live.poll()
    second = ask(gateway, "/v1/recommend", BODY).json()
    assert (second["graph_version"], second["model_versions"]) == (version, {"recommender": "2"})
    assert second["items"] != first["items"]
    shop.releases.release(first["graph_version"], who="test", why="back")
    gateway.live.poll()
    again = ask(gateway, "/v1/recommend", BODY).json()
    assert (again["graph_version"], again["items"]) == (first["graph_version"], first["items"])


def versions_of(gateway: Gateway, bodies: Sequence[Mapping[str, Any]], **more: Any) -> list[str]:
    return [ask(gateway, "/v1/recommend", {"k": 1, **body}, **more).json()["graph_version"] for body in bodies]


def test_a_candidate_answers_those_who_were_drawn_and_they_stay(shop: ServedShop) -> None:
    gateway = shop.gateway()
    stable, candidate = gateway.live.served["recommend"].stable.version, second_graph(shop)
    users = [{"user_id": f"someone {number}"} for number in range(100)]
    shop.releases.deploy(candidate, **ME)
    gateway.live.poll()
    assert set(versions_of(gateway, users)) == {stable}  # a candidate without weight
    drawn: set[int] = set()
    for weight in (20, 60):
        shop.releases.canary("recommend", weight, **ME)
        gateway.live.poll()
        answered = versions_of(gateway, users)
        assert versions_of(gateway, users) == answered
        now = {place for place, version in enumerate(answered) if version == candidate}
        assert drawn < now
        drawn = now
    assert 40 < len(drawn) < 80
    assert ask(gateway, "/readyz").json()["candidates"] == {"recommend": candidate}
    shop.releases.promote("recommend", **ME)
    gateway.live.look()
    assert set(versions_of(gateway, users)) == {candidate}
    shop.releases.rollback("recommend", **ME)
    gateway.live.look()  # nothing is loaded for it: the version of before is held
    assert set(versions_of(gateway, users)) == {stable}


def test_who_has_no_name_sticks_by_visitor_session_or_not_at_all(shop: ServedShop) -> None:
    gateway = shop.gateway()
    shop.releases.deploy(second_graph(shop), **ME)
    shop.releases.canary("recommend", 50, **ME)
    gateway.live.poll()
    for body, headers in (({"visitor_id": "v1"}, {}), ({}, {"x-session-id": "s1"})):
        assert len(set(versions_of(gateway, [body] * 20, headers={"content-type": "application/json", **headers}))) == 1
    assert len(set(versions_of(gateway, [{}] * 40))) == 2


def test_a_candidate_that_cannot_be_loaded_takes_nothing_from_the_stable_one(shop: ServedShop) -> None:
    gateway = shop.gateway()
    stable = gateway.live.served["recommend"].stable.version
    broken = keep(Home(shop.settings), "recommender", 8, catalogue_alone)
    version = shop.releases.store(compose("recommend", {"recommender": broken}))
    shop.releases.deploy(version, **ME)
    shop.releases.canary("recommend", 100, **ME)
    gateway.live.poll()
    assert set(versions_of(gateway, [{"user_id": f"u{number}"} for number in range(10)])) == {stable}
    ready = ask(gateway, "/readyz")
    assert ready.status_code == 200
    assert f"graph {version} cannot be loaded" in ready.json()["held_back"]["recommend"]
    assert gateway.live.load() is False  # not again at once
    shop.releases.rollback("recommend", **ME)
    gateway.live.look()
    assert ask(gateway, "/readyz").json()["held_back"] == {}


def test_a_rollback_does_not_wait_for_a_candidate_that_is_loading(shop: ServedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    stable, second = shop.releases.current()["recommend"].stable, second_graph(shop)
    shop.releases.release(second, **ME)
    live = shop.live()
    live.start()
    try:
        until(lambda: "recommend" in live.served and len(live._held) == 2)
        loads, may_go_on = live.loader.load, threading.Event()

        def slowly(*arguments: Any) -> Any:
            may_go_on.wait(20)
            return loads(*arguments)

        monkeypatch.setattr(live.loader, "load", slowly)
        third = keep(Home(shop.settings), "recommender", 3, save_recommender)
        shop.releases.deploy(shop.releases.store(compose("recommend", {"recommender": third})), **ME)
        time.sleep(0.5)
        for _ in range(2):  # the candidate, then the version itself
            shop.releases.rollback("recommend", **ME)
        moved = time.monotonic()
        until(lambda: live.served["recommend"].stable.version == stable)
        assert time.monotonic() - moved < 1.0
        may_go_on.set()
    finally:
        live.stop()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_requests_during_flips_all_succeed_and_name_one_version_each(shop: ServedShop) -> None:
    gateway = shop.gateway()
    versions = [gateway.live.served["recommend"].stable.version, second_graph(shop)]
    expected = {}
    for version in versions:
        shop.releases.release(version, who="test", why="look")
        gateway.live.poll()
        expected[version] = ask(gateway, "/v1/recommend", BODY).json()["items"]

    async def load() -> list[httpx.Response]:
        done = asyncio.Event()
        answers: list[httpx.Response] = []

        async def client() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://localhost") as http:
                while not done.is_set():
                    patient = {"x-request-timeout-ms": "60000"}  # another list is of another version, not of a busy machine
                    answers.append(await http.post("/v1/recommend", json=BODY, headers=patient))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for number in range(10):
            shop.releases.release(versions[number % 2], who="test", why="flip")
            await asyncio.to_thread(gateway.live.poll)
            await asyncio.sleep(0.02)
        done.set()
        await asyncio.gather(*clients)
        return answers

    answers = asyncio.run(load())
    assert {answer.status_code for answer in answers} == {200}
    contents = [answer.json() for answer in answers]
    assert {content["graph_version"] for content in contents} == set(versions)
    for content in contents:  # items are those of the version that signs them
        assert [item["item_id"] for item in content["items"]] == [item["item_id"] for item in expected[content["graph_version"]]]


def test_the_last_good_graph_answers_while_the_next_cannot_be_loaded(shop: ServedShop) -> None:
    gateway = shop.gateway()
    missing = compose("recommend", {"recommender": Registered(7, "77" * 32, "run", {})})
    broken = keep(Home(shop.settings), "recommender", 7, catalogue_alone)
    assert broken.digest != missing.models["recommender"].digest
    graph = compose("recommend", {"recommender": broken})
    shop.releases.release(shop.releases.store(graph), who="test", why="broken")
    gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200
    ready = ask(gateway, "/readyz")
    assert ready.status_code == 503
    assert f"graph {graph.version} cannot be loaded" in ready.json()["waiting"]["recommend"]


def test_the_last_good_graph_answers_while_the_database_is_away(shop: ServedShop, tmp_path: Path) -> None:
    gateway = shop.gateway()
    gateway.live.releases = Releases(
        Settings.load(home=shop.settings.home, releases_db="postgresql+psycopg://a@127.0.0.1:1/a"), "sample"
    )
    with pytest.raises(EngineError):
        gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200


def test_a_locked_database_does_not_stop_the_thread(shop: ServedShop) -> None:
    live = shop.live()
    live.start()
    try:
        deadline = time.monotonic() + 20
        while "recommend" not in live.served and time.monotonic() < deadline:
            time.sleep(0.05)
        with shop.releases.engine.connect() as sql:
            sql.execute(sa.text("BEGIN EXCLUSIVE"))
            time.sleep(1)
            sql.rollback()
        version = second_graph(shop)
        shop.releases.release(version, who="test", why="second")
        moved = time.monotonic()
        while live.served["recommend"].stable.version != version and time.monotonic() - moved < 20:
            time.sleep(0.02)
        assert time.monotonic() - moved < 1.0
    finally:
        live.stop()


def test_before_any_release_a_request_is_told_what_to_do(settings: Settings, served: ServedShop) -> None:
    empty = replace(served, settings=Settings.load(home=settings.home))
    gateway = Gateway(live := empty.live(), empty.inbox(live), empty.requests(), empty.access(live), live.metrics, 1000)
    gateway.live.poll()
    answer = ask(gateway, "/v1/forecast", {"series": [{"item_id": "i0"}], "horizon": 2})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "`shopgraph train demand`, then `shopgraph up --latest`" in answer.json()["detail"]
    ready = ask(gateway, "/readyz")
    assert (ready.status_code, ready.json()) == (
        503,
        {"is_ready": False, "graphs": {}, "candidates": {}, "waiting": {}, "held_back": {}},
    )


def test_a_replica_takes_requests_only_once_it_has_looked_at_the_releases(shop: ServedShop) -> None:
    gateway = Gateway(live := shop.live(), shop.inbox(live), shop.requests(), shop.access(live), live.metrics, 1000)
    seen: list[tuple[str, set[str]]] = []

    async def live() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in ("startup", "shutdown"):
            asked.put_nowait({"type": f"lifespan.{event}"})

        async def send(message: dict[str, Any]) -> None:
            seen.append((message["type"], set(gateway.live.served)))

        await gateway({"type": "lifespan"}, asked.get, send)

    asyncio.run(live())
    assert seen == [("lifespan.startup.complete", {"recommend"}), ("lifespan.shutdown.complete", {"recommend"})]


def test_before_the_releases_are_read_none_is_said_to_be_missing(shop: ServedShop) -> None:
    gateway = Gateway(live := shop.live(), shop.inbox(live), shop.requests(), shop.access(live), live.metrics, 1000)
    answer = ask(gateway, "/v1/recommend", BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "still takes up what is released" in answer.json()["detail"]
    gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200


def test_facts_that_cannot_be_read_leave_the_last_ones_and_the_other_graphs(
    shop: ServedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = shop.gateway()
    graph = gateway.live.served["recommend"].stable.graph

    def broken(at: object) -> None:
        raise OSError("the store is away")

    monkeypatch.setattr(graph, "refresh", broken)
    gateway.live.refresh()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200


def recommended(gateway: Gateway, **more: Any) -> dict[str, float]:
    answer = ask(gateway, "/v1/recommend", {"user_id": "u1", "k": 10, **more})
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


def test_what_is_told_of_an_item_counts_within_a_second_and_through_a_refresh(told_shop: ServedShop) -> None:
    gateway, other = told_shop.gateway(), told_shop.gateway()  # two replicas: who is told is not who answers
    assert "i0" in recommended(other)
    cheap = {"price_max": 15.0}
    assert set(recommended(other, filters={**cheap, "category": ["shoes"]})) == {"i0"}
    other.live.start()
    try:
        withdrawn = {"item_id": "i0", "withdrawn_at": "2024-05-01T12:00:00Z"}
        body = {"items": [withdrawn, {"item_id": "i3", "price": 12.5}, {"item_id": "never seen", "price": 1}]}
        assert ask(gateway, "/v1/items", body).json()["accepted"] == 3
        time.sleep(1)
        assert "i0" not in recommended(other)
        assert set(recommended(other, filters=cheap)) == {"i3"}
        other.live.refresh()  # the tables do not know of it yet
        assert "i0" not in recommended(other)
        late = told_shop.gateway()  # a replica that comes up later
        late.live.tell()
        assert "i0" not in recommended(late)
    finally:
        other.live.stop()


def test_an_item_listed_after_the_model_learned_is_recommended_and_filtered_after_a_refresh(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    listed = [
        {"item_id": "new", "brand": "a", "category": "bags", "price": 7},
        {"item_id": "gone", "brand": "a", "withdrawn_at": "2024-05-01T11:00:00Z"},
        {"item_id": "strange", "brand": "never seen"},
    ]
    assert ask(gateway, "/v1/items", {"items": listed}).json()["accepted"] == 3
    gateway.live.tell()
    assert "new" not in recommended(gateway, k=50)
    gateway.live.refresh()
    everything = recommended(gateway, k=50)
    assert "new" in everything
    assert not {"gone", "strange"} & set(everything)
    assert set(recommended(gateway, filters={"price_max": 8})) == {"new"}
    beside = ask(gateway, "/v1/recommend", {"placement": "similar", "item_id": "new", "k": 3}).json()
    assert (len(beside["items"]), beside["degraded"]) == (3, [])
    for placement in ("trending", "buy_again", "bought_together"):
        answer = ask(gateway, "/v1/recommend", {"placement": placement, "item_id": "new", "user_id": "u1", "k": 30})
        assert answer.status_code == 200, answer.text
    session = [{"item_id": "new", "event_type": "view"}]
    assert ask(gateway, "/v1/recommend", {"session": session}).json()["personalized"]
    ask(gateway, "/v1/items", {"items": [{"item_id": "new", "brand": "b", "withdrawn_at": "2024-05-01T12:00:00Z"}]})
    gateway.live.refresh()
    gateway.live.tell()
    gateway.live.refresh()
    assert "new" not in recommended(gateway, k=50)


def test_a_catalogue_that_grew_by_several_shrinks_again(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    names = [f"new{number}" for number in range(4)]
    ask(gateway, "/v1/items", {"items": [{"item_id": name, "brand": "a"} for name in names]})
    gateway.live.tell()
    gateway.live.refresh()
    assert set(names) <= set(recommended(gateway, k=50))
    ask(gateway, "/v1/items", {"items": [{"item_id": name, "withdrawn_at": "2024-05-01T12:00:00Z"} for name in names[1:]]})
    gateway.live.tell()
    gateway.live.refresh()
    assert set(names) & set(recommended(gateway, k=50)) == {"new0"}
    catalogue = gateway.live.served["recommend"].stable.graph.catalogue
    assert catalogue is not None
    assert len(catalogue.now.ids) == 11
    again = ask(gateway, "/v1/recommend", {"placement": "buy_again", "user_id": "u1", "k": 9}).json()
    assert again["items"]


def test_what_the_tables_list_beyond_the_model_is_known_unless_it_was_told_anew(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    catalogue = gateway.live.served["recommend"].stable.graph.catalogue
    assert catalogue is not None
    facts = catalogue.now.facts
    tables = ItemTables.read(gateway.live.loader.store, gateway.live.clock.now())
    listed = facts.listed(facts.items[:5], tables)
    assert {item: row["brand"] for item, row in listed.items()} == {"i5": "b", "i6": "a", "i7": "b", "i8": "a"}  # i9 is withdrawn
    early = "2024-04-01T00:00:00Z"  # the tables' rows are of 30 April
    told = [
        {"item_id": "i6", "withdrawn_at": early, "event_timestamp": early},
        {"item_id": "i9", "brand": "b", "event_timestamp": early},
        {"item_id": "i7", "brand": "a"},
        {"item_id": "i8", "withdrawn_at": "2024-05-01T12:00:00Z"},
    ]
    assert ask(gateway, "/v1/items", {"items": told}).json()["accepted"] == 4
    gateway.live.tell()
    listed = facts.listed(facts.items[:5], replace(tables, as_of=gateway.live.clock.now()))
    assert {item: row["brand"] for item, row in listed.items()} == {"i5": "b", "i6": "a", "i7": "a"}


def test_the_tables_win_over_what_was_told_before(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    early = {"item_id": "i0", "withdrawn_at": "2024-04-01T00:00:00Z", "event_timestamp": "2024-04-01T00:00:00Z"}
    ask(gateway, "/v1/items", {"items": [early]})
    gateway.live.tell()
    assert "i0" in recommended(gateway)  # its row in item_catalog is of 30 April


def test_an_item_is_withdrawn_while_the_release_database_is_away(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    gateway.live.releases = Releases(
        Settings.load(home=told_shop.settings.home, releases_db="postgresql+psycopg://a@127.0.0.1:1/a"), "sample"
    )
    gateway.live.start()
    try:
        ask(gateway, "/v1/items", {"items": [{"item_id": "i0", "withdrawn_at": "2024-05-01T12:00:00Z"}]})
        time.sleep(1)
        assert "i0" not in recommended(gateway)
    finally:
        gateway.live.stop()
