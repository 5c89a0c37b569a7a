"""Graphs follow their pointers without a pause, and the last good one stays while anything is wrong."""

from __future__ import annotations

import asyncio
import time
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
from serving.graph import compose
from serving.releases import Releases
from tests.serving.conftest import Registered, ServedShop, ask, keep, save_recommender

BODY = {"user_id": "u1", "k": 3}


@pytest.fixture
def shop(served: ServedShop, tmp_path: Path) -> ServedShop:
    """The served shop with releases of its own, the first recommend graph released."""
    own = Settings.load(home=served.settings.home, releases_db=f"sqlite:///{tmp_path / 'releases.db'}")
    made = replace(served, settings=own)
    made.releases.point(made.releases.store(served.manifests["recommend"]), who="test", why="first")
    return made


def second_graph(shop: ServedShop) -> str:
    """Store a recommend graph over a second model version."""
    model = keep(Home(shop.settings), "recommender", 2, save_recommender)
    return shop.releases.store(compose("sample", "recommend", {"recommender": model}))


def test_a_new_pointer_takes_over_and_the_old_one_comes_back(shop: ServedShop) -> None:
    gateway = shop.gateway()
    first = ask(gateway, "/v1/recommend", BODY).json()
    version = second_graph(shop)
    gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).json()["graph_version"] == first["graph_version"]  # stored is not released
    shop.releases.point(version, who="test", why="second")
    gateway.live.poll()
    second = ask(gateway, "/v1/recommend", BODY).json()
    assert (second["graph_version"], second["model_versions"]) == (version, {"recommender": "2"})
    assert second["items"] != first["items"]
    shop.releases.point(first["graph_version"], who="test", why="back")
    gateway.live.poll()
    again = ask(gateway, "/v1/recommend", BODY).json()
    assert (again["graph_version"], again["items"]) == (first["graph_version"], first["items"])


def test_requests_during_flips_all_succeed_and_name_one_version_each(shop: ServedShop) -> None:
    gateway = shop.gateway()
    versions = [gateway.live.served["recommend"].version, second_graph(shop)]
    expected = {}
    for version in versions:
        shop.releases.point(version, who="test", why="look")
        gateway.live.poll()
        expected[version] = ask(gateway, "/v1/recommend", BODY).json()["items"]

    async def load() -> list[httpx.Response]:
        done = asyncio.Event()
        answers: list[httpx.Response] = []

        async def client() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://shop") as http:
                while not done.is_set():
                    answers.append(await http.post("/v1/recommend", json=BODY))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for number in range(10):
            shop.releases.point(versions[number % 2], who="test", why="flip")
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
    missing = compose("sample", "recommend", {"recommender": Registered(7, "77" * 32, "run", {})})
    broken = keep(Home(shop.settings), "recommender", 7, lambda folder, _: folder.mkdir(parents=True))
    assert broken.digest != missing.pins["recommender"].digest
    graph = compose("sample", "recommend", {"recommender": broken})
    shop.releases.point(shop.releases.store(graph), who="test", why="broken")
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
        shop.releases.point(version, who="test", why="second")
        moved = time.monotonic()
        while live.served["recommend"].version != version and time.monotonic() - moved < 20:
            time.sleep(0.02)
        assert time.monotonic() - moved < 1.0
    finally:
        live.stop()


def test_before_any_release_a_request_is_told_what_to_do(settings: Settings, served: ServedShop) -> None:
    empty = replace(served, settings=Settings.load(home=settings.home))
    gateway = Gateway(live := empty.live(), empty.inbox(live), live.metrics, 1000)
    gateway.live.poll()
    answer = ask(gateway, "/v1/forecast", {"series": [{"item_id": "i0"}], "horizon": 2})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "`shopgraph train demand`, then `shopgraph up --latest`" in answer.json()["detail"]
    ready = ask(gateway, "/readyz")
    assert (ready.status_code, ready.json()) == (503, {"is_ready": False, "graphs": {}, "waiting": {}})


def test_a_replica_takes_requests_only_once_it_has_looked_at_the_releases(shop: ServedShop) -> None:
    gateway = Gateway(live := shop.live(), shop.inbox(live), live.metrics, 1000)
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
    gateway = Gateway(live := shop.live(), shop.inbox(live), live.metrics, 1000)
    answer = ask(gateway, "/v1/recommend", BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "still takes up what is released" in answer.json()["detail"]
    gateway.live.poll()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200


def test_facts_that_cannot_be_read_leave_the_last_ones_and_the_other_graphs(
    shop: ServedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = shop.gateway()
    graph = gateway.live.served["recommend"].graph

    def broken(at: object) -> None:
        raise OSError("the store is away")

    monkeypatch.setattr(graph, "refresh", broken)
    gateway.live.refresh()
    assert ask(gateway, "/v1/recommend", BODY).status_code == 200
