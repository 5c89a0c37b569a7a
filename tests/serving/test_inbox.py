"""POST /v1/events and /v1/items: the contract over HTTP, and what survives the death of a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.columns import HISTORY_STEPS
from features.fresh.facts import MAX_ROWS
from features.shop import Shop
from features.store import FeatureStore
from features.tables import EVENTS, INVENTORY, ITEMS
from infra.errors import EngineError
from infra.home import Home
from infra.lake import Lake
from infra.processes import free_ports
from infra.settings import Settings
from serving.gateway import Gateway
from tests.ports import wait_until_open
from tests.serving.conftest import NOW, ServedShop, ask

EVENT = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "view", "event_timestamp": "2024-05-01T12:00:00Z"}
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def shop(settings: Settings, served: ServedShop) -> ServedShop:
    """A shop of its own with nothing in it."""
    return ServedShop(settings, served.shop, Lake.open(settings, "sample"), {})


@pytest.fixture
def gateway(shop: ServedShop) -> Gateway:
    return Gateway(live := shop.live(), shop.inbox(live), shop.requests(), shop.access(live), live.metrics, 100_000)


def test_each_row_is_answered_for(gateway: Gateway, shop: ServedShop) -> None:
    body = {"events": [EVENT, EVENT, EVENT | {"event_id": "e2", "event_type": "stare"}, {}, EVENT | {"price": 3}]}
    answer = ask(gateway, "/v1/events", body, headers={"x-request-id": "post.1"})
    assert answer.status_code == 202, answer.text
    content = answer.json()
    assert {name: content[name] for name in ("accepted", "corrections", "duplicates")} == {
        "accepted": 2, "corrections": 1, "duplicates": 1,
    }  # fmt: skip
    assert [row["row"] for row in content["quarantined"]] == [2, 3]
    assert content["quarantined"][0]["reason"] == "event_type: not one of ours"
    assert content["request_id"] == "post.1"
    assert content["as_of"].startswith(NOW.isoformat()[:19])
    gateway.inbox.drain()
    assert shop.lake.num_rows(EVENTS.path) == 2
    assert shop.lake.read("quarantine/events")["part"].to_pylist() == ["post.1", "post.1"]
    text = ask(gateway, "/metrics").text
    for line in (
        'shopgraph_told_rows_total{fate="accepted",kind="events"} 2.0',
        'shopgraph_told_rows_total{fate="duplicates",kind="events"} 1.0',
        'shopgraph_told_rows_total{fate="quarantined",kind="events"} 2.0',
        'shopgraph_drained_rows_total{table="raw/events"} 2.0',
        "shopgraph_spool_waiting_rows 0.0",
        "shopgraph_spool_oldest_seconds 0.0",
        'shopgraph_request_seconds_count{graph_version="",product="events",status="202",variant=""} 1.0',
    ):
        assert line in text


def test_items_are_told_of(gateway: Gateway, shop: ServedShop) -> None:
    body = {"items": [{"item_id": "i1", "title": "Shoe", "price": 10, "on_hand": 3}, {"item_id": "i1"}]}
    content = ask(gateway, "/v1/items", body).json()
    assert (content["accepted"], content["quarantined"]) == (1, [{"row": 1, "reason": "row: says nothing of the item"}])
    gateway.inbox.drain()
    assert shop.lake.read(ITEMS.path)["title"].to_pylist() == ["Shoe"]
    assert shop.lake.read(INVENTORY.path)["on_hand"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/events", b"", 400, "malformed-json"),
        ("/v1/events", b'{"events": [', 400, "malformed-json"),
        ("/v1/events", b'{"events": [{"price": NaN}]}', 400, "malformed-json"),
        ("/v1/events", b'{"events": [{"user_id": "\\ud800"}]}', 400, "malformed-json"),
        ("/v1/events", b"[" * 40_000 + b"]" * 40_000, 400, "malformed-json"),
        ("/v1/events", b"[]", 422, "invalid-request"),
        ("/v1/events", b'{"events": {}}', 422, "invalid-request"),
        ("/v1/events", b'{"events": []}', 422, "invalid-request"),
        ("/v1/events", b'{"items": [{}]}', 422, "invalid-request"),
        ("/v1/items", json.dumps({"items": [1] * (MAX_ROWS + 1)}).encode(), 422, "invalid-request"),
        ("/v1/events", b" " * 100_001, 413, "too-large"),
    ],
)
def test_a_body_that_holds_no_list_is_refused(gateway: Gateway, path: str, body: bytes, status: int, kind: str) -> None:
    answer = ask(gateway, path, method="POST", content=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:shopgraph:problem:{kind}")
    assert gateway.inbox.intake.spool.last() == 0


def test_a_method_that_is_not_taken(gateway: Gateway) -> None:
    answer = ask(gateway, "/v1/events")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_disk_that_takes_nothing_is_told_and_nothing_was_kept(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise EngineError("spool: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.inbox.intake.spool, "append", full)
        answer = ask(gateway, "/v1/events", {"events": [EVENT]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["type"] == "urn:shopgraph:problem:not-kept"
    assert ask(gateway, "/v1/events", {"events": [EVENT]}).json()["accepted"] == 1


def test_an_online_store_that_is_away_is_told_and_the_event_counts_once_it_is_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise EngineError("Redis does not answer")

    intake = gateway.inbox.intake
    with monkeypatch.context() as patch:
        patch.setattr(intake.applied.rows, "update", away)
        assert ask(gateway, "/v1/events", {"events": [EVENT]}).status_code == 503
    assert intake.applied.number() < intake.spool.last()
    assert ask(gateway, "/v1/events", {"events": [EVENT]}).json()["duplicates"] == 1
    assert intake.applied.number() == intake.spool.last()


def test_what_waits_is_told_while_the_tables_take_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise EngineError("the bucket does not answer")

    inbox = gateway.inbox
    assert ask(gateway, "/v1/events", {"events": [EVENT]}).json()["accepted"] == 1
    monkeypatch.setattr(inbox.intake, "drain", away)
    inbox.start()
    inbox.stop()
    assert "shopgraph_spool_waiting_rows 1.0" in gateway.metrics.text().decode()


def test_requests_that_wait_share_a_flush_and_too_many_are_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, batches = gateway.inbox.intake.spool, list[int]()
    append = spool.append
    held = threading.Event()

    def slow(deliveries: Any, *more: Any) -> Any:
        batches.append(len(deliveries))
        held.wait(10)
        return append(deliveries, *more)

    monkeypatch.setattr(spool, "append", slow)
    gateway.inbox._batcher.max_waiting = 50

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://localhost") as http:
            bodies = [{"events": [EVENT | {"event_id": f"e{number}"}]} for number in range(60)]
            asked = [asyncio.create_task(http.post("/v1/events", json=body)) for body in bodies]
            while sum(task.done() for task in asked) < 9:
                await asyncio.sleep(0.01)
            held.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(send())
    assert Counter(answer.status_code for answer in answers) == {202: 51, 503: 9}
    assert batches == [1, 50]
    assert {answer.json()["type"] for answer in answers if answer.status_code == 503} == {"urn:shopgraph:problem:overloaded"}
    assert len(spool.after(0, 100)) == 51


# -- real processes ---------------------------------------------------------------------------------------------------------


class Gateways:
    """Gateways of one home, each a process of its own that can be killed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *ports: int) -> None:
        for port in ports:
            command = [sys.executable, "-m", "uvicorn", "--factory", "tests.serving.test_inbox:application"]
            command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
            environment = {**os.environ, **self.settings.environment(), "OMP_NUM_THREADS": "1"}
            self.running[port] = subprocess.Popen(command, cwd=ROOT, env=environment)
        for port in ports:
            wait_until_open(port, self.running[port])

    def kill(self, port: int) -> None:
        process = self.running.pop(port)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(30)


def application() -> Any:
    """The gateway's ASGI application as a replica makes it, for uvicorn."""
    from serving.app import gateway

    folder = Home(Settings.load()).run / "metrics"
    folder.mkdir(exist_ok=True)
    return gateway(str(folder))


@pytest.fixture
def gateways(settings: Settings) -> Iterator[Gateways]:
    """Gateways of a fresh home, none of them running."""
    home = Home(settings)
    home.shop("sample").mkdir()
    (home.shop("sample") / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    made = Gateways(settings.model_copy(update={"drain_s": 0.2}))
    with ExitStack() as stack:
        stack.callback(made.stop)
        yield made


LOT, USERS = 50, 10


def event(number: int) -> dict[str, Any]:
    """Each of another instant and item, of ten users in turn."""
    at = NOW + timedelta(seconds=number)
    more = {"user_id": f"u{number % USERS}", "item_id": f"i{number}", "event_timestamp": at.isoformat()}
    return EVENT | {"event_id": f"e{number}", **more}


def send_all(ports: list[int], number: int, turn: int, on_sent: Callable[[], None]) -> None:
    """A client that sends events in lots, each again until a gateway answered with 202; it begins with gateway `turn`."""
    with httpx.Client(timeout=30) as http:
        for start in range(0, number, LOT):
            body = {"events": [event(one) for one in range(start, start + LOT)]}
            while True:
                with suppress(httpx.HTTPError):
                    answer = http.post(f"http://127.0.0.1:{ports[turn % len(ports)]}/v1/events", json=body)
                    if answer.status_code == 202:
                        break
                turn += 1
                time.sleep(0.05)
            assert answer.json()["accepted"] + answer.json()["duplicates"] == LOT
            on_sent()


def twice_with_a_kill(gateways: Gateways, lake: Lake, number: int) -> None:
    """Two clients send the same events to two gateways, one of which is killed in the middle and comes back.

    Each event is in the table exactly once and in its user's history exactly once.
    """
    ports = free_ports(2)
    gateways.start(*ports)
    lots, half = [0], threading.Event()

    def count() -> None:
        lots[0] += 1
        if lots[0] > 0.6 * number / LOT:  # of twice as many
            half.set()

    clients = [threading.Thread(target=send_all, args=(ports, number, client, count)) for client in range(2)]
    for client in clients:
        client.start()
    assert half.wait(120)
    gateways.kill(ports[0])
    gateways.start(ports[0])
    for client in clients:
        client.join(240)
        assert not client.is_alive()
    deadline = time.monotonic() + 60
    while lake.version(EVENTS.path) is None or lake.num_rows(EVENTS.path) < number:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    gateways.stop()
    users = [f"u{user}" for user in range(USERS)]
    found = FeatureStore(gateways.settings, SHOP, lake).online_rows("recommender", {"user_id": users})
    for user, items in enumerate(found["item_ids"]):
        assert items == [f"i{one}" for one in range(user, number, USERS)][-HISTORY_STEPS:]
    ids = lake.read(EVENTS.path)["event_id"].to_pylist()
    assert Counter(ids) == {f"e{one}": 1 for one in range(number)}


def test_events_sent_twice_around_a_kill_are_in_the_table_once(gateways: Gateways, lake: Lake) -> None:
    twice_with_a_kill(gateways, lake, 2_000)


@pytest.mark.soak
def test_ten_thousand_events_sent_twice_around_a_kill_are_in_the_table_once(gateways: Gateways, lake: Lake) -> None:
    twice_with_a_kill(gateways, lake, 10_000)
