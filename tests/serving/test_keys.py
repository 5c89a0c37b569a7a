"""API keys in SQL: made once, never told again, ended for good; in SQLite and Postgres."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.errors import AccessError, EngineError
from infra.settings import Settings
from serving.keys import FORMAT, Keys, digest, expiry, origin_of
from serving.scopes import SCOPES

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = 20_000


@pytest.fixture
def keys(settings: Settings) -> Keys:
    return Keys(settings, "sample")


def check_keys(keys: Keys) -> None:
    assert keys.all() == []
    server, whole = keys.create(
        "server", ["recommend", "events:write"], "me", rate=50, quota=1000, expires_at=NOW.replace(year=2999)
    )
    page, of_page = keys.create("web", ["events:write"], "me", origins=["https://shop.example"])
    assert FORMAT.fullmatch(whole.encode())
    assert (whole[:3], of_page[:4]) == ("sg_", "sgp_")
    assert server.digest == digest(whole.encode())
    assert [key.id for key in keys.all()] == [page.id, server.id]  # newest first
    assert keys.all()[1] == server
    assert (server.scopes, server.rate, server.quota) == (("events:write", "recommend"), 50, 1000)

    assert keys.look({}, DAY) == ([page, server], {})
    assert keys.look({(server.id, DAY): 2, (page.id, DAY): 1, (server.id, DAY - 1): 7}, DAY)[1] == {server.id: 2, page.id: 1}
    with ThreadPoolExecutor(4) as threads:  # replicas that tell at once, and nothing is lost
        list(threads.map(lambda _: keys.look({(page.id, DAY): 2, (server.id, DAY): 1}, DAY), range(20)))
    assert keys.used(DAY) == {server.id: 22, page.id: 41}
    assert keys.used(DAY - 1) == {server.id: 7}

    revoked = keys.revoke("web", "somebody")
    assert (revoked.id, revoked.revoked_by, revoked.state(NOW)) == (page.id, "somebody", "revoked")
    assert keys.revoke(page.id, "another") == revoked  # once, and for good
    again, _ = keys.create("web", ["metrics:read"], "me")
    assert again.id != page.id
    assert keys.revoke("web", "me").id == again.id


def test_keys_are_made_counted_and_ended(keys: Keys) -> None:
    check_keys(keys)


@pytest.mark.engines
def test_the_same_on_postgres(settings: Settings, postgres: str) -> None:
    configured = Settings.load(home=settings.home, releases_db=f"postgresql+psycopg://shop@{postgres}/postgres")
    check_keys(Keys(configured, "sample"))


@pytest.mark.engines
def test_replicas_that_begin_at_once_make_the_tables_once(settings: Settings, postgres: str) -> None:
    url = f"postgresql+psycopg://shop@{postgres}/postgres"
    with Keys(Settings.load(home=settings.home, releases_db=url), "sample").engine.begin() as sql:
        sql.exec_driver_sql("DROP TABLE api_keys, api_key_days")
    replicas = [Keys(Settings.load(home=settings.home, releases_db=url), "sample") for _ in range(6)]
    with ThreadPoolExecutor(len(replicas)) as threads:
        assert list(threads.map(lambda keys: keys.look({}, DAY), replicas)) == [([], {})] * len(replicas)


def test_no_two_keys_are_alike_and_none_is_kept(keys: Keys, settings: Settings) -> None:
    made = [keys.create(f"key-{number}", ["*"], "me")[1] for number in range(50)]
    assert len(set(made)) == len({whole.split("_")[1] for whole in made}) == 50
    letters = "".join(whole.split("_")[2] for whole in made)
    assert set(letters) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    kept = b"".join(path.read_bytes() for path in settings.home_path.rglob("releases.db*"))
    assert keys.all()[0].digest.hex().encode() in kept
    assert not [whole for whole in made if whole.split("_")[2].encode() in kept]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"name": ""}, "name: expected up to 64 letters"),
        ({"name": "a b"}, "name: expected"),
        ({"name": "x" * 65}, "name: expected"),
        ({"name": "taken"}, "there is a key named taken already.*keys revoke taken"),
        ({"scopes": []}, "expected a scope at least: recommend, forecast"),
        ({"scopes": ["recommend", "everything"]}, "expected one of recommend.* got 'everything'"),
        ({"origins": ["https://shop.example"], "scopes": ["events:write", "recommend"]}, "may allow events:write, not recommend"),
        ({"origins": ["https://shop.example"], "scopes": ["*"]}, r"may allow events:write, not \*"),
        ({"origins": ["shop.example"]}, "origin: expected scheme and host"),
        ({"rate": 0}, "rate: expected 1 to 1,000,000,000 requests, got 0"),
        ({"quota": -1}, "quota: expected 1"),
        ({"quota": 10**12}, "quota: expected 1"),
        ({"expires_at": NOW.replace(year=2020)}, "expires: expected a time to come, got 2020"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(keys: Keys, asked: dict[str, Any], told: str) -> None:
    keys.create("taken", ["recommend"], "me")
    with pytest.raises(AccessError, match=told):
        keys.create(**{"name": "new", "scopes": ["events:write"], "who": "me", **asked})
    assert len(keys.all()) == 1


@pytest.mark.parametrize(
    ("said", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("HTTPS://Shop.Example/", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("https://shop.example:8443", "https://shop.example:8443"),
        ("https://xn--fiqs8s.example", "https://xn--fiqs8s.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_an_origin_is_written_as_browsers_say_it(said: str, origin: str) -> None:
    assert origin_of(said) == origin


@pytest.mark.parametrize(
    "said",
    [
        "", "*", "null", "https://", "https://*", "https://*.shop.example", "https://shop.example/page", "https://me@shop.example",
        "https://商店.example", "https://shop.example:99999", "https://shop.example?", "ftp://shop.example", "http://shop.example",
        "http://127.0.0.1.evil.example", "http://localhost.evil.example", "https://shop.example\n", "https://shop.example\0", "https://[::1",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(said: str) -> None:
    with pytest.raises(AccessError, match="origin: expected"):
        origin_of(said)


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T10:00:00+02:00", datetime(2027, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_the_end_of_a_key_is_a_time_or_a_while(said: str, at: datetime) -> None:
    assert expiry(said, NOW) == at


@pytest.mark.parametrize("said", ["", "soon", "-1d", "90", "99999d", "2027-02-30"])
def test_what_is_no_end_is_refused(said: str) -> None:
    with pytest.raises(AccessError, match="expires: expected a time such as 2027-01-31 or .*, got " + re.escape(repr(said))):
        expiry(said, NOW)


def test_shops_do_not_see_each_other(keys: Keys, settings: Settings) -> None:
    mine, _ = keys.create("web", ["recommend"], "me")
    keys.look({(mine.id, DAY): 3}, DAY)
    other = Keys(settings, "other")
    assert other.look({}, DAY) == ([], {})
    for which in ("web", mine.id):
        with pytest.raises(AccessError, match="shop other has no key"):
            other.revoke(which, "me")


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE api_keys SET digest = 'no digest' WHERE name = 'bad'",
        "UPDATE api_keys SET digest = '00' WHERE name = 'bad'",
        "UPDATE api_keys SET scopes = 'no JSON' WHERE name = 'bad'",
        "UPDATE api_keys SET scopes = '[1]' WHERE name = 'bad'",
        "UPDATE api_keys SET scopes = '[\"*\"]' WHERE name = 'bad'",
        "UPDATE api_keys SET origins = '{}' WHERE name = 'bad'",
        "UPDATE api_keys SET rate = 'many' WHERE name = 'bad'",
        "UPDATE api_keys SET expires_at = 'never' WHERE name = 'bad'",
        "UPDATE api_keys SET revoked_at = 'no' WHERE name = 'bad'",
    ],
)
def test_a_row_that_no_key_makes_opens_nothing_and_holds_up_no_other(keys: Keys, tampering: str) -> None:
    keys.create("bad", ["events:write"], "me", origins=["https://shop.example"])
    good, _ = keys.create("good", ["events:write"], "me")
    with keys.engine.begin() as sql:
        assert sql.exec_driver_sql(tampering).rowcount == 1
    assert keys.all() == [good]


def test_a_database_that_does_not_answer_is_one_message(settings: Settings) -> None:
    away = Settings.load(home=settings.home, releases_db="postgresql+psycopg://shop:secret@127.0.0.1:1/none")
    with pytest.raises(EngineError, match=r"release database does not answer.*SHOPGRAPH_RELEASES_DB") as found:
        Keys(away, "sample").all()
    assert "secret" not in str(found.value)


def test_the_scopes_are_what_is_documented() -> None:
    assert SCOPES == ("recommend", "forecast", "sentiment", "events:write", "items:write", "metrics:read", "*")
