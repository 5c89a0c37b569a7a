"""Feast itself, as a user of Feast would call it, on the same registry, tables and online rows: the same values as ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import redis

from features.definitions import OURS, Definitions
from features.repo import write_repo
from features.services import SERVICES, Service
from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES
from features.views import VIEWS
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=123_456)  # Feast knows no clock but the machine's
DAY = timedelta(days=1)


def write(lake: Lake, name: str, *rows: dict[str, Any], version: int | None = None) -> None:
    table = FEATURE_TABLES[name]
    full = [{"created_timestamp": row["event_timestamp"], **row} for row in rows]
    lake.write(table.path, pa.Table.from_pylist(full, schema=table.schema), "overwrite", digest=repr(rows), read_version=version)


@pytest.fixture
def store(settings: Settings, lake: Lake) -> FeatureStore:
    write(
        lake,
        "user_history",
        {"user_id": "u1", "item_ids": ["a"], "event_types": ["view"], "event_timestamp": NOW - 3 * DAY},
        {"user_id": "u1", "item_ids": ["a", "b"], "event_types": ["view", "cart"], "event_timestamp": NOW - DAY},
        {
            "user_id": "u1",
            "item_ids": ["late"],
            "event_types": ["view"],
            "event_timestamp": NOW - 2 * DAY,
            "created_timestamp": NOW,
        },
        {"user_id": "u2", "item_ids": ["c"], "event_types": ["view"], "event_timestamp": NOW - 2 * DAY},
    )
    write(lake, "item_catalog", {"item_id": "a", "title": "Jacke", "created_at": NOW - 9 * DAY, "event_timestamp": NOW - 9 * DAY})
    write(
        lake,
        "item_activity",
        {"item_id": "a", "item_views_count_7d": 3, "event_timestamp": NOW - DAY},
        {"item_id": "b", "item_views_count_7d": 1, "event_timestamp": NOW - 121 * DAY},
    )
    day = {
        "units_sum": 2,
        "returned_units_sum": 0,
        "promotion_depth": 0.1,
        "is_promotion": True,
        "is_open": True,
        "is_stock_out": False,
    }
    write(lake, "daily_demand", {"item_id": "a", "ds": date(2024, 4, 30), **day, "event_timestamp": NOW - DAY})
    return FeatureStore(settings, Shop(name="sample", currency="EUR", time_zone="Europe/Berlin"), lake)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.engines)])
def on_either(request: pytest.FixtureRequest, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """The store, its online rows in SQLite or on Redis; Feast takes the address from the environment."""
    if request.param == "embedded":
        return store
    address = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(address) as client:
        client.flushdb()
    monkeypatch.setenv("SHOPGRAPH_ONLINE_STORE", address)
    return FeatureStore(Settings.load(home=store.settings.home), store.shop, store.lake)


def test_feasts_online_answer_is_ours(on_either: FeatureStore) -> None:
    store = on_either
    store.apply()
    store.feast.materialize(datetime(1970, 1, 1, tzinfo=UTC), NOW)
    ours = store.online_rows("recommender", {"user_id": ["u1", "u2", "x"], "item_id": ["a", "b", "x"]})
    service = store.feast.get_feature_service("recommender")
    rows = [{"user_id": "u1", "item_id": "a"}, {"user_id": "u2", "item_id": "b"}, {"user_id": "x", "item_id": "x"}]
    theirs = store.feast.get_online_features(service, rows).to_dict()
    for name in ("item_ids", "event_types", "title", "price", "item_views_count_7d"):
        assert theirs[name] == ours[name]
    assert ours["item_ids"] == [["a", "b"], ["c"], None]
    assert ours["item_views_count_7d"] == [3, None, None], "121 days is past the expiry of 120"
    assert theirs["created_at"][0] == ours["created_at"][0].replace(microsecond=0), "Feast keeps whole seconds"

    demand = store.feast.get_online_features(store.feast.get_feature_service("demand"), [{"item_id": "a", "ds": "2024-04-30"}])
    assert demand.to_dict()["units_sum"] == [2]
    assert store.online_rows("demand", {"item_id": ["a"], "ds": [date(2024, 4, 30)]})["units_sum"] == [2]


def test_feasts_own_writes_are_read_by_us_and_never_older_ones(on_either: FeatureStore) -> None:
    store = on_either
    store.apply()
    store.materialize(NOW)
    for item, at in (("z", NOW), ("old", NOW - timedelta(microseconds=1))):
        times = {"event_timestamp": [at], "created_timestamp": [at]}
        pushed = pd.DataFrame({"user_id": ["u9"], "item_ids": [[item]], "event_types": [["view"]], **times})
        store.feast.write_to_online_store("user_history", pushed)
    answer = store.online_rows("recommender", {"user_id": ["u9"]}, NOW)
    assert answer["item_ids"] == [["z"]]
    assert answer["user_history__event_timestamp"] == [NOW]


def test_feast_materialises_a_range_on_top_of_what_is_there(on_either: FeatureStore) -> None:
    store, users = on_either, {"user_id": ["u1", "u2"]}
    store.apply()
    store.feast.materialize(NOW - 1.5 * DAY, NOW, feature_views=["user_history"])
    assert store.online_rows("recommender", users, NOW)["item_ids"] == [["a", "b"], None]
    store.materialize(NOW)
    store.feast.materialize(NOW - 1.5 * DAY, NOW, feature_views=["user_history"])
    assert store.online_rows("recommender", users, NOW)["item_ids"] == [["a", "b"], ["c"]]


def test_a_restored_table_takes_back_what_is_newer(on_either: FeatureStore) -> None:
    store, items = on_either, {"item_id": ["a", "b"]}
    store.materialize(NOW)
    write(store.lake, "item_catalog", {"item_id": "a", "title": "Hose", "event_timestamp": NOW - 10 * DAY}, version=0)
    store.materialize(NOW - 9.5 * DAY, ["item_catalog"])
    assert store.online_rows("recommender", items, NOW)["title"] == ["Jacke", None], "rows newer than the instant stay"
    assert store.materialize(NOW - 9.5 * DAY, ["item_catalog"], back_to={}) == {"item_catalog": 1}
    assert store.online_rows("recommender", items, NOW)["title"] == ["Hose", None]


def test_feasts_training_frame_is_ours(store: FeatureStore) -> None:
    store.apply()
    labels = pd.DataFrame({
        "user_id": ["u2", "u1", "u1", "nobody", "u1"],
        "item_id": ["a", "b", "a", "a", "a"],
        "event_timestamp": [NOW, NOW, NOW - 2 * DAY, NOW, NOW - 4 * DAY],
        "label": [1, 2, 3, 4, 5],
    })  # fmt: skip
    service = store.feast.get_feature_service("recommender")
    theirs = store.feast.get_historical_features(labels, service).to_arrow()
    ours = store.training_frame(pa.Table.from_pandas(labels, preserve_index=False), "recommender")
    assert theirs.num_rows == 5
    for name in ("label", "item_ids", "title", "created_at", "item_views_count_7d"):
        assert theirs[name].to_pylist() == ours[name].to_pylist()
    assert ours["item_ids"].to_pylist() == [["c"], ["a", "b"], ["a"], None, None], "a late row about an older day never leaks"


def test_a_changed_declaration_is_seen_and_what_is_gone_is_deleted(store: FeatureStore, settings: Settings) -> None:
    store.apply()
    assert _changed(store.changes()) == {}
    wider = replace(VIEWS["user_history"], columns=(*VIEWS["user_history"].columns, ("num_items", "int")))
    views = {**{name: view for name, view in VIEWS.items() if name != "sessions"}, "user_history": wider}
    services = {**SERVICES, "recommender": Service("recommender", (wider, VIEWS["item_catalog"]))}
    changed = FeatureStore(settings, store.shop, store.lake, Definitions(OURS.tables, views, services))
    assert changed.service("recommender").digest != store.service("recommender").digest
    assert changed.service("demand").digest == store.service("demand").digest
    expected = {
        "updated": ["service recommender", "source features_user_history", "view user_history"],
        "deleted": ["entity session_id", "source features_sessions", "view sessions"],
    }
    assert _changed(changed.changes()) == expected
    assert _changed(changed.apply()) == expected
    assert _changed(changed.changes()) == {}


def test_two_shops_share_a_registry_and_nothing_else(store: FeatureStore, settings: Settings) -> None:
    store.apply()
    other = FeatureStore(settings, Shop(name="other", currency="CNY", time_zone="Asia/Shanghai"), Lake.open(settings, "other"))
    assert "view user_history" in other.apply()["created"]
    store.materialize(NOW)
    assert other.materialize(NOW) == {}
    assert other.online_rows("recommender", {"user_id": ["u1"]}, NOW)["item_ids"] == [None]
    assert store.online_rows("recommender", {"user_id": ["u1"]}, NOW)["item_ids"] == [["a", "b"]]


def test_the_feast_command_works_on_the_written_file(store: FeatureStore, settings: Settings) -> None:
    folder = write_repo(settings, "sample")
    assert folder == Home(settings).path / "feast" / "sample"

    def feast(*words: str) -> str:
        command = [Path(sys.executable).parent / "feast", "-c", folder, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_environment(settings))
        assert done.returncode == 0, done.stderr
        return done.stdout

    feast("apply")
    assert _changed(store.changes()) == {}, "the command registers what our own apply does"
    assert "user_history" in feast("feature-views", "list")
    feast("materialize", "1970-01-01T00:00:00", NOW.isoformat(), "-v", "user_history")
    assert store.online_rows("recommender", {"user_id": ["u1"]}, NOW)["item_ids"] == [["a", "b"]]


@pytest.mark.engines
def test_the_registry_lives_on_postgres_too(store: FeatureStore, settings: Settings, postgres: str, redis_url: str) -> None:
    address = f"postgresql+psycopg://shop@{postgres}/postgres"
    there = Settings.load(home=settings.home, feast_registry=address, online_store=redis_url)
    moved = FeatureStore(there, store.shop, store.lake)
    assert "service demand" in moved.apply()["created"]
    assert _changed(moved.apply()) == {}
    assert address not in (Home(there).path / "feast" / "sample" / "feature_store.yaml").read_text(), "addresses may hold passwords"
    moved.materialize(NOW)
    store.materialize(NOW)
    keys = {"user_id": ["u1", "u2", "x"], "item_id": ["a", "b", "x"]}
    assert moved.online_rows("recommender", keys, NOW) == store.online_rows("recommender", keys, NOW)


def _changed(report: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {word: names for word, names in report.items() if names and word != "unchanged"}


def _environment(settings: Settings) -> dict[str, str]:
    import os

    return {**os.environ, **settings.environment()}
