"""The request log: every answer once, in the spool at once and in the lake in the end, whatever dies between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features.tables import REQUESTS
from infra.errors import HomeError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving import list_ids, request_log
from serving.metrics import Metrics
from serving.request_log import Answered, RequestLog
from tests.serving.conftest import ServedShop, ask

NOW = datetime.now(UTC)
ONE = Answered(
    request_id="r1", answered_at=NOW, as_of=NOW, product="recommend", graph_version="3f" * 8, variant="stable", person="u1 知",
    list_ids=["l1", "l2"], request='{"user_id":"u1 知"}', answer="{}", degraded=["unranked"], seconds=0.01,
)  # fmt: skip


@pytest.fixture
def requests(settings: Settings) -> RequestLog:
    return RequestLog(settings, Lake.open(settings, "sample"))


def logged(requests: RequestLog) -> list[dict[str, Any]]:
    """What is in the lake."""
    return requests.lake.read(REQUESTS.path).to_pylist() if requests.lake.version(REQUESTS.path) is not None else []


def test_a_request_is_found_by_its_id_and_by_its_lists_before_and_after_it_is_in_the_lake(requests: RequestLog) -> None:
    listed = replace(ONE, answered_at=datetime.now(UTC), list_ids=[list_ids.whole(list_ids.new(), 3, "ab" * 8)])
    assert requests.find("r1") is None
    requests.keep(listed)
    requests.flush()
    for drained in (0, 1):
        assert len(logged(requests)) == drained
        for name in ("r1", *listed.list_ids):
            found = requests.find(name)
            assert found is not None
            assert {name: found[name] for name in vars(listed)} == vars(listed)
        assert requests.find("r") is None
        assert requests.find('r1" OR 1') is None
        assert requests.find(list_ids.whole(list_ids.new(), 3, "ab" * 8)) is None
        requests.drain()


def test_what_is_drained_is_there_once(requests: RequestLog) -> None:
    assert requests.drain() == 0
    for number in range(5):
        requests.keep(replace(ONE, request_id=f"r{number}"))
    requests.flush()
    assert requests.drain() == 5
    assert requests.drain() == 0
    assert [row["request_id"] for row in logged(requests)] == [f"r{number}" for number in range(5)]


def test_a_drain_that_was_killed_after_its_commit_is_gone_on_with(requests: RequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in range(3):
        requests.keep(replace(ONE, request_id=f"r{number}"))
    requests.flush()
    real = requests.lake.write
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "write", lambda *a, **m: (real(*a[1:], **m), dies()))
        with pytest.raises(KeyboardInterrupt):
            requests.drain()
    assert len(logged(requests)) == 3
    for number in range(3, 5):  # what came meanwhile is another batch
        requests.keep(replace(ONE, request_id=f"r{number}"))
    requests.flush()
    requests.drain()
    assert [row["request_id"] for row in logged(requests)] == [f"r{number}" for number in range(5)]


WRITER = """
import sys
from datetime import UTC, datetime
from infra.lake import Lake
from infra.settings import Settings
from serving.request_log import Answered, RequestLog
settings = Settings.load(home=sys.argv[1])
log = RequestLog(settings, Lake.open(settings, "sample"))
now = datetime.now(UTC)
for batch in range(10_000):
    for number in range(20):
        log.keep(Answered(f"{batch}-{number}", now, now, "recommend", "v", "stable", None, [], "{}", "{}", [], 0.01))
    log.flush()
    print(batch, flush=True)
    log.drain()
"""


def test_a_killed_replica_loses_nothing_that_was_flushed_and_doubles_nothing(settings: Settings) -> None:
    Home(settings).create()
    root = Path(__file__).parents[2]
    for seed in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(settings.home)], cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert process.stdout is not None
        last = [process.stdout.readline() for _ in range(3 + 2 * seed)][-1]
        process.send_signal(signal.SIGKILL)
        flushed = max([int(last), *(int(line) for line in process.communicate()[0].split())])
        requests = RequestLog(settings, Lake.open(settings, "sample"))
        requests.drain()
        rows = [row["request_id"] for row in logged(requests)]
        assert len(rows) == len(set(rows)) or seed > 0  # each writer numbers from 0
        counts = {name: rows.count(name) for name in set(rows)}
        assert all(counts[f"{batch}-{number}"] >= 1 for batch in range(flushed + 1) for number in range(20))
        assert max(counts.values()) <= seed + 1


def test_two_drain_at_once_and_each_row_is_there_once(requests: RequestLog) -> None:
    others = [RequestLog(requests.home.settings, requests.lake) for _ in range(4)]

    def work(log: RequestLog) -> None:
        name = id(log)
        for number in range(5):
            log.keep(replace(ONE, request_id=f"{name}-{number}"))
            log.flush()
            try:
                log.drain()
            except HomeError:
                continue

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, others))
    requests.drain()
    rows = [row["request_id"] for row in logged(requests)]
    assert len(rows) == len(set(rows)) == 20


def test_where_there_is_no_room_the_newest_are_dropped_and_counted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "_MOST_WAITING", 3)
    metrics = Metrics()
    requests = RequestLog(settings, Lake.open(settings, "sample"), metrics)
    for number in range(5):
        requests.keep(replace(ONE, request_id=f"r{number}"))
    requests.flush()
    requests.drain()
    assert [row["request_id"] for row in logged(requests)] == ["r0", "r1", "r2"]
    assert metrics.unlogged._value.get() == 2


def test_the_newest_of_a_product_come_first_from_spool_and_lake(requests: RequestLog) -> None:
    for number in range(6):
        product = "recommend" if number % 2 else "forecast"
        later = NOW + timedelta(seconds=number)
        requests.keep(replace(ONE, request_id=f"r{number}", product=product, answered_at=later, request=f'{{"k":{number}}}'))
        requests.flush()
        if number == 3:
            requests.drain()
    assert [row["request"] for row in requests.newest("recommend", 2)] == ['{"k":5}', '{"k":3}']
    assert len(requests.newest("recommend", 50)) == 3
    assert requests.newest("sentiment", 5) == []


def test_the_gateway_logs_what_it_answers_and_nothing_of_who_wants_that(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("recommend", {"user_id": "u1", "session": [{"item_id": "i3"}], "k": 2}),
        ("recommend", {"user_id": "secret person", "personalize": False, "session": [{"item_id": "i3"}]}),
        ("recommend", {"visitor_id": "v7", "placements": [{"placement": "for_you"}, {"placement": "trending"}]}),
        ("sentiment", {"texts": ["good"]}),
    ]
    answers = [ask(gateway, f"/v1/{product}", body).json() for product, body in bodies]
    assert ask(gateway, "/v1/recommend", {"k": 0}).status_code == 422  # refused: not logged
    gateway.requests.flush()
    gateway.requests.drain()
    rows = logged(gateway.requests)
    assert [row["request_id"] for row in rows] == [answer["request_id"] for answer in answers]
    assert [row["person"] for row in rows] == ["u1", None, "visitor:v7", None]
    assert "secret" not in str(rows)
    assert rows[2]["list_ids"] == [one["list_id"] for one in answers[2]["lists"]]
    assert [row["graph_version"] for row in rows] == [answer["graph_version"] for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert str(answer["request_id"]) in row["answer"]


def test_a_share_of_requests_is_logged(told_shop: ServedShop) -> None:
    none = replace(told_shop, settings=told_shop.settings.model_copy(update={"request_log": 0.0})).gateway()
    ask(none, "/v1/recommend", {"user_id": "u1"})
    none.requests.flush()
    assert none.requests.drain() == 0
    some = RequestLog(told_shop.settings.model_copy(update={"request_log": 0.3}), told_shop.lake)
    assert 200 < sum(some.is_drawn() for _ in range(1000)) < 400
