"""Who the gateway lets in: keys, scopes, pages, limits and traces, over HTTP on real answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infra import log
from infra.errors import EngineError
from infra.settings import Settings
from serving.access import POLL_S, Access
from serving.gateway import Gateway
from serving.keys import DAY_S, Keys
from serving.metrics import Metrics
from serving.scopes import NEEDS, SCOPES
from tests.serving.conftest import ServedShop, ask
from tests.serving.test_gateway import GOOD, problem

ELSEWHERE = "203.0.113.9"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
PAGE = "https://shop.example"
WHO = "test"


@dataclass
class Clock:
    """The machine's clocks, as a test moves them: `now` may jump, `ticks` only goes on."""

    now: float = NOON
    ticks: float = 100.0

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.ticks += seconds


@dataclass(frozen=True)
class Replica:
    """A gateway and what decides at its door."""

    gateway: Gateway
    access: Access
    clock: Clock

    def __call__(self, path: str = "/v1/recommend", key: str | None = None, **more: Any) -> httpx.Response:
        """Ask from another machine, unless `client` says otherwise."""
        headers = {
            "content-type": "application/json",
            **({"authorization": f"Bearer {key}"} if key else {}),
            **more.pop("headers", {}),
        }
        body = None if path == "/metrics" else json.dumps(GOOD.get(path.removeprefix("/v1/"), {})).encode()
        method = more.pop("method", "GET" if body is None else "POST")
        return ask(self.gateway, path, method=method, content=body, headers=headers, **{"client": ELSEWHERE, **more})

    def refusals(self) -> dict[str, float]:
        """Why requests were refused, and how often."""
        samples = [sample for metric in self.access.metrics.refused.collect() for sample in metric.samples]
        return {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("_total")}


Open = Callable[..., Replica]


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """Keys in a database of their own."""
    return Keys(settings, "sample")


@pytest.fixture
def replica(gateway: Gateway, settings: Settings) -> Open:
    """Makes replicas over the graphs of the served shop, with the settings and the clock that are given."""

    def make(clock: Clock | None = None, **more: Any) -> Replica:
        own = Settings.load(home=settings.home, **more)
        clock = clock or Clock()
        access = Access(Keys(own, "sample"), own, Metrics(), now=lambda: clock.now, ticks=lambda: clock.ticks)
        if "releases_db" not in more:
            access.poll()
        return Replica(Gateway(gateway.live, gateway.inbox, gateway.requests, access, access.metrics, 100_000), access, clock)

    return make


def is_let_in(answer: httpx.Response) -> bool:
    """An empty delivery of events or items is read, and then refused for what it says."""
    assert answer.status_code in (200, 401, 403, 422), answer.text
    return answer.status_code in (200, 422)


def test_this_machine_needs_no_key_and_others_do(replica: Open) -> None:
    door = replica()
    for client, host, is_in in (
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost", True),
        ("::1", "[::1]:8000", True),
        ("::ffff:127.0.0.1", "[::1]", True),
        (ELSEWHERE, "127.0.0.1:8000", False),
        ("::ffff:203.0.113.9", "localhost", False),
        ("127.0.0.1", "shop.example", False),  # a proxy of this machine, or a page that gave its name our address
        ("127.0.0.1", "127.0.0.1.evil.example:8000", False),
        ("127.0.0.1", "localhost:8000@evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "x" * 5000, False),
    ):
        answer = door(client=client, headers={"host": host})
        assert is_let_in(answer) == is_in, (client, host)
    assert problem(answer, 401, "unauthorized")["detail"].startswith("send a key as `authorization: Bearer sg_...`")
    assert answer.headers["www-authenticate"] == 'Bearer realm="shopgraph"'


def test_an_api_for_other_machines_needs_keys_of_all(replica: Open) -> None:
    for more in ({"http_host": "0.0.0.0"}, {"http_host": "::"}, {"http_host": "shop.internal"}, {"http_keys": "required"}):
        door = replica(**more)
        assert not is_let_in(door(client="127.0.0.1", headers={"host": "localhost"})), more
    assert is_let_in(replica(http_host="0.0.0.0", http_keys="optional")())
    assert not is_let_in(replica(http_keys="optional")(key="sg_of_yesterday"))  # a key that is shown must hold


def test_health_and_documents_are_open_and_metrics_are_not(replica: Open, keys: Keys) -> None:
    _, reader = keys.create("prometheus", ["metrics:read"], WHO)
    door = replica(http_keys="required")
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert ask(door.gateway, path, client=ELSEWHERE).status_code == 200
    problem(ask(door.gateway, "/v1/nothing", {}, client=ELSEWHERE), 404, "not-found")
    problem(door("/metrics"), 401, "unauthorized")
    assert b"shopgraph_refused_total" in door("/metrics", key=reader).content


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_its_path_and_no_other(scope: str, replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", [scope], WHO)
    door = replica()
    assert {path for path in NEEDS if is_let_in(door(path, whole))} == {
        path for path, need in NEEDS.items() if scope in (need, "*")
    }
    if scope == "forecast":
        answer = door("/v1/items", whole)
        assert "the scope items:write" in problem(answer, 403, "forbidden")["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="shopgraph", error="insufficient_scope", scope="items:write"'


def test_a_key_is_shown_in_either_header(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO)
    door = replica()
    for headers in (
        {"authorization": f"Bearer {whole}"},
        {"authorization": f"bearer   {whole} "},
        {"x-api-key": whole},
        {"authorization": "Basic b2Y6cHJveHk=", "x-api-key": whole},  # of a proxy in front
        {"authorization": f"Bearer {whole}", "x-api-key": "of another api"},
    ):
        assert is_let_in(door(headers=headers)), headers
    for headers in (
        {"authorization": whole},
        {"authorization": f"Basic {whole}"},
        {"x-api-key": f"Bearer {whole}"},
        {"cookie": whole},
    ):
        assert not is_let_in(door(headers=headers)), headers


def test_why_a_key_does_not_hold_is_told_to_us_and_not_to_the_caller(replica: Open, keys: Keys) -> None:
    clock = Clock()
    _, live = keys.create("live", ["*"], WHO)
    _, other = keys.create("other", ["*"], WHO)
    _, ended = keys.create("ended", ["*"], WHO, expires_at=datetime.now(UTC) + timedelta(days=1))
    _, revoked = keys.create("revoked", ["*"], WHO)
    keys.revoke("revoked", WHO)
    door = replica(clock)
    clock.now = time.time() + 2 * DAY_S
    prefix, key_id, secret = live.split("_")
    shown = {
        "unknown": [
            f"{prefix}_{key_id}_{other.split('_')[2]}",
            f"{prefix}_{key_id}_{secret[:-1]}{'a' if secret[-1] != 'a' else 'b'}",
            f"{prefix}_{'0' * 12}_{secret}",
            f"sgp_{key_id}_{secret}",
        ],
        "revoked": [revoked],
        "expired": [ended],
        "malformed": [live.upper(), live[:-1], live + "a", key_id, secret, "sg__", "null", live + "_" + live, "x" * 60_000],
    }
    assert is_let_in(door(key=live))
    answers = {reason: [door(key=key, headers={"x-request-id": "same"}) for key in those] for reason, those in shown.items()}
    assert door.refusals() == {reason: len(those) for reason, those in shown.items()}
    told = {(one.status_code, one.content, str(sorted(one.headers.items()))) for those in answers.values() for one in those}
    assert len(told) == 1
    some = answers["revoked"][0]
    problem(some, 401, "unauthorized")
    assert some.headers["www-authenticate"] == 'Bearer realm="shopgraph", error="invalid_token"'


def test_digests_are_compared_in_constant_time_whether_there_is_such_a_key_or_not(
    replica: Open, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, whole = keys.create("one", ["recommend"], WHO)
    door = replica()
    compared = []
    really = hmac.compare_digest

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return really(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for shown in (whole, f"sg_{key.id}_{'x' * 43}", f"sg_{'0' * 12}_{'x' * 43}"):
        door(key=shown)
    assert [(len(left), len(right)) for left, right in compared] == [(32, 32)] * 3
    assert [right == key.digest for _, right in compared] == [True, True, False]


def raw(gateway: Gateway, headers: list[tuple[bytes, bytes]], path: str = "/v1/recommend") -> tuple[int, dict[bytes, bytes], bytes]:
    """A request as a server hands it on, whatever bytes its headers hold: status, headers, body."""
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": (ELSEWHERE, 1)}
    sent: list[Mapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"user_id": "u1"}'}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(gateway(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


_NAMES = st.sampled_from([b"authorization", b"x-api-key", b"origin", b"traceparent", b"host", b"x-request-id"])
_VALUES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: b"Bearer " + text.encode("utf-8", "surrogatepass")),
    st.from_regex(rb"[Bb]earer sgp?_[a-z0-9]{12}_[A-Za-z0-9]{43}", fullmatch=True),
)


@pytest.fixture(scope="module")
def closed(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A door with one key, that of the page."""
    settings = Settings.load(home=tmp_path_factory.mktemp("closed"), http_keys="required")
    (settings.home_path / "sql").mkdir()
    keys = Keys(settings, "sample")
    keys.create("web", ["events:write"], WHO, origins=[PAGE])
    access = Access(keys, settings, Metrics())
    access.poll()
    return Gateway(gateway.live, gateway.inbox, gateway.requests, access, access.metrics, 100_000)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=6))
@example([(b"authorization", b"Bearer " + b"\0" * 64)])
@example([(b"authorization", b"Bearer \xff\xfe"), (b"host", b"\xff:\0")])
@example([(b"authorization", b"Bearer " + "sg_ключ_🔑".encode())])
@example([(b"authorization", b"Bearer " + b"sg_" * 1_000_000)])
@example([(b"x-api-key", b"sg_aaaaaaaaaaaa_" + b"a" * 43 + b"\n")])
@example([(b"origin", PAGE.encode())])
def test_garbage_in_headers_opens_nothing_and_breaks_nothing(closed: Gateway, headers: list[tuple[bytes, bytes]]) -> None:
    status, told, body = raw(closed, headers)
    assert status == 401
    assert json.loads(body)["type"] == "urn:shopgraph:problem:unauthorized"
    if b"access-control-allow-origin" in told:
        assert told[b"access-control-allow-origin"] == PAGE.encode()
    assert all(b"\n" not in value and b"\r" not in value for value in told.values())


def test_a_leaked_database_yields_no_usable_key(replica: Open, keys: Keys, settings: Settings) -> None:
    wholes = [keys.create(f"key-{number}", ["*"], WHO)[1] for number in range(3)]
    door = replica()
    with sqlite3.connect(settings.home_path / "sql" / "releases.db") as leaked:
        rows = leaked.execute("SELECT * FROM api_keys").fetchall()
    texts = [value for row in rows for value in row if isinstance(value, str)]
    for row in rows:
        for text in texts:
            for shown in (text, f"sg_{row[0]}_{text}", f"sg_{row[0]}_{text[:43]}", f"sg_{row[0]}_{text.ljust(43, '0')}"):
                assert not is_let_in(door(key=shown))
    assert [whole for whole in wholes if is_let_in(door(key=whole))] == wholes


def test_a_revoked_key_is_refused_by_every_replica_within_two_seconds(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO)
    doors = [replica(), replica()]
    for door in doors:
        door.access.start()
    try:
        assert all(is_let_in(door(key=whole)) for door in doors)
        keys.revoke("one", WHO)
        began = time.monotonic()
        while any(is_let_in(door(key=whole)) for door in doors):
            assert time.monotonic() - began < 2
            time.sleep(0.01)
        _, new = keys.create("one", ["recommend"], WHO)
        while not all(is_let_in(door(key=new)) for door in doors):
            assert time.monotonic() - began < 4
            time.sleep(0.01)
    finally:
        for door in doors:
            door.access.stop()


def test_a_key_ends_when_it_was_said_to_end(replica: Open, keys: Keys) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    _, whole = keys.create("one", ["recommend"], WHO, expires_at=end)
    clock = Clock(end.timestamp() - 0.1)
    door = replica(clock)
    assert is_let_in(door(key=whole))
    clock.go_on(0.1)
    assert not is_let_in(door(key=whole))
    clock.now -= 3600  # set back: the key holds again until then, as its time says
    assert is_let_in(door(key=whole))


def test_the_last_known_keys_hold_while_the_database_is_away(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO)
    door = replica()
    with keys.engine.begin() as sql:
        sql.exec_driver_sql("ALTER TABLE api_keys RENAME TO gone")
    with pytest.raises(EngineError):
        door.access.poll()
    assert is_let_in(door(key=whole))
    door.access.start()
    try:
        time.sleep(POLL_S * 1.5)
        assert is_let_in(door(key=whole))
        with keys.engine.begin() as sql:
            sql.exec_driver_sql("ALTER TABLE gone RENAME TO api_keys")
        keys.revoke("one", WHO)
        time.sleep(2)
        assert not is_let_in(door(key=whole))
    finally:
        door.access.stop()


def test_before_any_key_could_be_read_nobody_is_told_that_a_key_is_wrong(replica: Open) -> None:
    door = replica(releases_db="postgresql+psycopg://a@127.0.0.1:1/a")
    answer = door(key=f"sg_{'a' * 12}_{'a' * 43}")
    problem(answer, 503, "keys-unknown")
    assert answer.headers["retry-after"] == "1"
    problem(door(), 401, "unauthorized")
    assert is_let_in(door(client="127.0.0.1", headers={"host": "localhost"}))


def test_a_page_may_tell_events_from_its_origin_alone(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("web", ["events:write"], WHO, origins=[PAGE, "http://localhost:3000"])
    door = replica()
    answer = door("/v1/events", whole, headers={"origin": PAGE})
    assert is_let_in(answer)  # and what is wrong with the body, the page may read
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "origin"
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert (
        door("/v1/events", whole, headers={"origin": "http://localhost:3000"})
        .headers["access-control-allow-origin"]
        .endswith(":3000")
    )
    for headers in (
        {}, {"origin": "null"}, {"origin": ""}, {"origin": "https://evil.example"}, {"origin": f"{PAGE}.evil.example"},
        {"origin": PAGE.replace("https", "http")}, {"origin": f"{PAGE}:444"}, {"referer": PAGE},
    ):  # fmt: skip
        answer = door("/v1/events", whole, headers=headers)
        problem(answer, 403, "forbidden")
        assert "access-control-allow-origin" not in answer.headers
    answer = door("/v1/recommend", whole, headers={"origin": PAGE})
    problem(answer, 403, "forbidden")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert door("/v1/events", whole[:-1], headers={"origin": PAGE}).headers["access-control-allow-origin"] == PAGE


def test_who_is_no_page_gets_no_word_for_browsers(replica: Open, keys: Keys) -> None:
    keys.create("web", ["events:write"], WHO, origins=[PAGE])
    _, server = keys.create("server", ["*"], WHO)
    door = replica()
    for answer in (
        door(key=server, headers={"origin": PAGE}),
        door(client="127.0.0.1", headers={"host": "localhost", "origin": PAGE}),
        ask(door.gateway, "/metrics", headers={"origin": PAGE}),
    ):
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def preflight(door: Replica, path: str, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return door(path, headers=headers, method="OPTIONS")


def test_a_browser_is_told_what_a_page_may_send(replica: Open, keys: Keys) -> None:
    keys.create("web", ["events:write"], WHO, origins=[PAGE])
    door = replica()
    answer = preflight(door, "/v1/events", PAGE)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert {"authorization", "content-type", "x-api-key"} <= set(answer.headers["access-control-allow-headers"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers
    for path, origin in (("/v1/recommend", PAGE), ("/v1/items", PAGE), ("/metrics", PAGE), ("/v1/events", "https://evil.example")):
        problem(preflight(door, path, origin), 403, "forbidden")
    assert "access-control-allow-origin" not in preflight(door, "/v1/events", "https://evil.example").headers
    keys.revoke("web", WHO)
    door.access.poll()
    problem(preflight(door, "/v1/events", PAGE), 403, "forbidden")
    local = ask(door.gateway, "/v1/events", method="OPTIONS")
    assert problem(local, 405, "method-not-allowed")
    assert local.headers["allow"] == "POST"


def policies(answer: httpx.Response, name: str) -> dict[str, dict[str, int]]:
    """A header of limits as `{"rate": {"r": 9, "t": 1}}`."""
    found = {}
    for one in answer.headers[name].split(", "):
        label, *parameters = one.split(";")
        found[json.loads(label)] = {key: int(value) for key, value in (parameter.split("=") for parameter in parameters)}
    return found


def test_a_rate_is_held_and_told(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO, rate=5)
    _, free = keys.create("free", ["recommend"], WHO)
    clock = Clock()
    door = replica(clock)
    left = [policies(door(key=whole), "ratelimit")["rate"]["r"] for _ in range(5)]
    assert left == [4, 3, 2, 1, 0]
    answer = door(key=whole)
    assert "at most 5 requests a second" in problem(answer, 429, "rate-limited")["detail"]
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["ratelimit-policy"] == '"rate";q=5;w=1'
    assert policies(answer, "ratelimit") == {"rate": {"r": 0, "t": 1}}
    assert "ratelimit" not in door(key=free).headers
    clock.now -= 10 * DAY_S  # the wall clock does not count
    assert door(key=whole).status_code == 429
    clock.now += 20 * DAY_S
    assert door(key=whole).status_code == 429
    clock.ticks += 0.4
    assert [door(key=whole).status_code for _ in range(3)] == [200, 200, 429]
    door.access.poll()  # nothing is given back when the keys are read again
    assert door(key=whole).status_code == 429


def test_replicas_share_a_rate(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO, rate=10)
    doors = [replica(http_replicas=2), replica(http_replicas=2)]
    went = [[door(key=whole).status_code for _ in range(10)].count(200) for door in doors]
    assert went == [5, 5]
    doors[0].clock.go_on(0.2)
    answer = doors[0](key=whole)
    assert policies(answer, "ratelimit-policy") == {"rate": {"q": 10, "w": 1}}  # of the key
    assert answer.status_code == 200


def test_a_quota_is_counted_by_all_replicas_and_ends_with_the_day(replica: Open, keys: Keys) -> None:
    key, whole = keys.create("one", ["recommend"], WHO, quota=10)
    clock = Clock()
    doors = [replica(clock), replica(clock)]
    for door in doors:
        for _ in range(3):
            assert door(key=whole).status_code == 200
    for door in (*doors, doors[0]):
        door.access.poll()
    assert keys.used(int(NOON // DAY_S)) == {key.id: 6}
    answer = doors[0](key=whole)
    assert policies(answer, "ratelimit") == {"day": {"r": 3, "t": DAY_S // 2}}
    assert policies(answer, "ratelimit-policy") == {"day": {"q": 10, "w": DAY_S}}
    assert [doors[0](key=whole).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    for door in doors:
        door.access.poll()
    refused = doors[1](key=whole)
    assert "at most 10 requests a day (UTC)" in problem(refused, 429, "quota-exceeded")["detail"]
    assert refused.headers["retry-after"] == str(DAY_S // 2)
    assert replica(clock)(key=whole).status_code == 429  # one that begins anew knows it
    assert keys.used(int(NOON // DAY_S)) == {key.id: 10}  # what is refused is not counted

    clock.go_on(DAY_S / 2)
    assert doors[1](key=whole).status_code == 200
    doors[1].access.poll()
    clock.now -= DAY_S / 2  # set back to yesterday, whose quota is used up
    doors[1].access.poll()
    assert doors[1](key=whole).status_code == 429
    assert keys.used(int(NOON // DAY_S) + 1) == {key.id: 1}


def test_what_could_not_be_counted_is_counted_later(replica: Open, keys: Keys) -> None:
    key, whole = keys.create("one", ["recommend"], WHO, quota=4)
    door = replica()
    assert door(key=whole).status_code == 200
    with keys.engine.begin() as sql:
        sql.exec_driver_sql("ALTER TABLE api_keys RENAME TO gone")
    for _ in range(2):
        with pytest.raises(EngineError):
            door.access.poll()
        assert door(key=whole).status_code == 200
    with keys.engine.begin() as sql:
        sql.exec_driver_sql("ALTER TABLE gone RENAME TO api_keys")
    door.access.poll()
    assert keys.used(int(NOON // DAY_S)) == {key.id: 3}
    assert [door(key=whole).status_code for _ in range(2)] == [200, 429]


def test_a_replica_that_stops_tells_what_it_counted(replica: Open, keys: Keys) -> None:
    key, whole = keys.create("one", ["recommend"], WHO)
    door = replica()
    door.access.start()
    door(key=whole)
    door.access.stop()
    assert keys.used(int(NOON // DAY_S)) == {key.id: 1}


def test_what_is_refused_costs_neither_tokens_nor_quota(replica: Open, keys: Keys) -> None:
    _, whole = keys.create("one", ["recommend"], WHO, rate=1, quota=2)
    door = replica()
    for _ in range(3):
        assert door("/v1/forecast", whole).status_code == 403
    assert door(key=whole).status_code == 200
    for _ in range(3):
        assert door(key=whole).status_code == 429
    door.clock.ticks += 1
    assert door(key=whole).status_code == 200
    door.clock.ticks += 1
    problem(door(key=whole), 429, "quota-exceeded")


@pytest.mark.engines
def test_two_replicas_on_postgres(replica: Open, settings: Settings, postgres: str) -> None:
    url = f"postgresql+psycopg://shop@{postgres}/postgres"
    keys = Keys(Settings.load(home=settings.home, releases_db=url), "two-replicas")
    _, whole = keys.create("one", ["recommend"], WHO, quota=5)
    doors = [replica(releases_db=url), replica(releases_db=url)]
    for door in doors:
        door.access.keys = keys
        door.access.poll()
        assert [door(key=whole).status_code for _ in range(2)] == [200, 200]
    for door in (*doors, *doors):
        door.access.poll()
    assert [door(key=whole).status_code for door in (doors[0], doors[0])] == [200, 429]
    keys.revoke("one", WHO)
    doors[1].access.poll()
    assert doors[1](key=whole).status_code == 401


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was logged, line by line."""
    log.set_up("DEBUG", json=True)
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    log.set_up()


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_trace_and_the_caller_are_in_the_answer_and_the_log(
    replica: Open, keys: Keys, served: ServedShop, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    key, whole = keys.create("one", ["recommend"], WHO)
    door = replica()
    broken = served.gateway()
    broken.access = door.access
    broken.live.served["recommend"].stable.graph.check = None  # type: ignore[assignment, method-assign]
    traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}
    answer = Replica(broken, door.access, door.clock)(key=whole, headers=traced)
    assert answer.status_code == 500
    version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    (line,) = [line for line in logged() if line["event"] == "request failed"]
    assert (line["trace_id"], line["span_id"], line["key_id"], line["request_id"]) == (TRACE, span_id, key.id, "mine")
    assert whole.split("_")[2] not in json.dumps(line)
    log.get("test").info("afterwards")
    assert set(logged()[0]) == {"event", "module", "level", "timestamp"}  # nothing stays of it

    assert door(headers=traced).headers["traceparent"].startswith(f"00-{TRACE}-")  # who is refused finds it as well
    for malformed in ("", "00-zz", f"00-{'0' * 32}-00f067aa0ba902b7-01"):
        answer = door(key=whole, headers={"traceparent": malformed})
        assert answer.status_code == 200
        assert "traceparent" not in answer.headers
