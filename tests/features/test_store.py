"""The feature store on small hand-written tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES
from infra.errors import FeatureError
from infra.lake import Lake
from infra.settings import Settings

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def write(lake: Lake, name: str, rows: list[dict[str, Any]]) -> None:
    """Overwrite a feature table with these rows; times default to NOON, required columns must be there."""
    table = FEATURE_TABLES[name]
    rows = [{"event_timestamp": NOON, **row} for row in rows]
    rows = [{"created_timestamp": row["event_timestamp"], **row} for row in rows]
    content = pa.Table.from_pylist(rows, schema=table.schema)
    lake.write(table.path, content, "overwrite", digest=repr(rows), read_version=lake.version(table.path))


@pytest.fixture
def shop() -> Shop:
    return Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", now=(NOON + DAY).isoformat())


@pytest.fixture
def store(settings: Settings, shop: Shop, lake: Lake) -> FeatureStore:
    write(lake, "user_history", [
        {"user_id": "u1", "item_ids": ["a"], "event_types": ["view"], "event_timestamp": NOON - 3 * DAY},
        {"user_id": "u1", "item_ids": ["a", "b"], "event_types": ["view", "purchase"]},
        {"user_id": "u2", "item_ids": [], "event_types": None},
    ])  # fmt: skip
    write(lake, "item_catalog", [{"item_id": "a", "title": "Jacke", "price": Decimal("19.9900"), "created_at": NOON - 9 * DAY}])
    write(lake, "item_activity", [{"item_id": "a", "item_views_count_7d": 3, "price_last": Decimal("18.5000")}])
    day = {
        "units_sum": 2,
        "returned_units_sum": 0,
        "promotion_depth": 0.0,
        "is_promotion": False,
        "is_open": True,
        "is_stock_out": False,
    }
    write(lake, "daily_demand", [
        {"item_id": "a", "ds": date(2024, 4, 30), **day, "price_mean": 18.5},
        {"item_id": "a", "ds": date(2023, 4, 30), **day, "event_timestamp": NOON - 365 * DAY},
    ])  # fmt: skip
    return FeatureStore(settings, shop, lake)


def test_apply_registers_everything_once(store: FeatureStore) -> None:
    first = store.apply()
    assert {"view user_history", "view daily_demand", "service recommender", "entity user_id"} <= set(first["created"])
    again = store.apply()
    assert again["created"] == again["updated"] == again["deleted"] == []
    assert set(again["unchanged"]) == set(first["created"])


def test_training_frame_keeps_labels_and_appends_what_was_visible(store: FeatureStore) -> None:
    labels = pa.table({
        "weight": [1, 2, 3, 4],
        "user_id": ["u1", "nobody", "u1", None],
        "event_timestamp": pa.array([NOON, NOON, NOON - DAY, NOON], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    frame = store.training_frame(labels, "recommender")
    assert frame.column_names == ["weight", "user_id", "event_timestamp", "item_ids", "event_types"]
    assert frame.select(labels.column_names).equals(labels)
    assert frame["item_ids"].to_pylist() == [["a", "b"], None, ["a"], None]


def test_online_rows_equal_the_frame_at_the_same_instant(store: FeatureStore) -> None:
    store.apply()
    assert store.materialize() == {"item_catalog": 1, "user_history": 2, "item_activity": 1, "daily_demand": 1}
    users = store.online_rows("recommender", {"user_id": ["u2", "nobody", "u1"]})
    assert users["item_ids"] == [[], None, ["a", "b"]]
    assert users["user_history__event_timestamp"] == [NOON, None, NOON]
    items = store.online_rows("recommender", {"item_id": ["a"]})
    assert (items["price"], items["price_last"], items["item_views_count_7d"]) == ([19.99], [18.5], [3])
    assert items["created_at"] == [NOON - 9 * DAY]
    days = store.online_rows("demand", {"item_id": ["a", "a"], "ds": [date(2024, 4, 30), "2023-04-30"]})
    assert days["price_mean"] == [18.5, None]
    assert days["is_open"] == [True, None]


def test_a_mistaken_key_is_named(store: FeatureStore) -> None:
    with pytest.raises(FeatureError, match="no key user"):
        store.online_rows("recommender", {"user": ["u1"]})
    with pytest.raises(FeatureError, match="must be a string, got 7"):
        store.online_rows("recommender", {"user_id": [7]})
    with pytest.raises(FeatureError, match="offline only"):
        store.online_rows("sentiment", {"review_id": ["r"]})
    with pytest.raises(FeatureError, match="no feature service 'ranking'"):
        store.online_rows("ranking", {"user_id": ["u1"]})
