"""The feature store on small hand-written tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from features.tables import FEATURE_TABLES
from features.views import VIEWS
from infra.errors import FeatureError, TableContractError
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
        {"item_id": "a", "ds": date(2023, 4, 24), **day, "event_timestamp": NOON - 372 * DAY},
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
    some = store.online_rows("recommender", {"item_id": ["a"]}, views=["item_catalog"])
    assert some["price"] == items["price"]
    assert "item_views_count_7d" not in some
    days = store.online_rows("demand", {"item_id": ["a", "a"], "ds": [date(2024, 4, 30), "2023-04-24"]})
    assert days["price_mean"] == [18.5, None]
    assert days["is_open"] == [True, None]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_latest_rows_in_parts_are_the_rows_that_are_kept_online(size: int, settings: Settings, shop: Shop, lake: Lake) -> None:
    store, table = FeatureStore(settings, shop, lake), FEATURE_TABLES["user_history"]
    for day in range(4):
        rows = [
            {
                "user_id": f"u{number}",
                "item_ids": [f"i{day}"],
                "event_types": ["view"],
                "event_timestamp": NOON - (3 - day) * DAY,
                "created_timestamp": NOON - (3 - day) * DAY,
                "retracted": "nothing" if (number, day) == (4, 2) else None,
            }
            for number in range(7)
            if day == 0 or number % day == 0
        ]
        lake.write(table.path, pa.Table.from_pylist(rows, schema=table.stored_schema), "append", digest=str(day))
    for as_of in (NOON, NOON - DAY, NOON - 9 * DAY):
        total, parts = store.latest_in_parts("user_history", as_of, 3, size)
        found = list(parts)
        assert {len(part) for part in found[:-1]} <= {size}
        assert sum(map(len, found)) == total
        assert pa.concat_tables([VIEWS["user_history"].schema.empty_table(), *found]).equals(store.latest("user_history", as_of))
    total, parts = store.latest_in_parts("user_history", NOON, 3, size, pc.field("user_id") > "u2")
    assert {user for part in parts for user in part["user_id"].to_pylist()} == {"u3", "u5", "u6"}
    assert total == 3


def test_a_mistaken_key_is_named(store: FeatureStore) -> None:
    with pytest.raises(FeatureError, match="no key user"):
        store.online_rows("recommender", {"user": ["u1"]})
    with pytest.raises(FeatureError, match="must be a string, got 7"):
        store.online_rows("recommender", {"user_id": [7]})
    with pytest.raises(FeatureError, match="offline only"):
        store.online_rows("sentiment", {"review_id": ["r"]})
    with pytest.raises(FeatureError, match="no feature service 'ranking'"):
        store.online_rows("ranking", {"user_id": ["u1"]})


def labels(**columns: Any) -> pa.Table:
    at = pa.array([NOON] * len(next(iter(columns.values()))), pa.timestamp("us", "UTC"))
    return pa.table({"event_timestamp": at, **columns})


def test_a_frame_may_hold_some_views_of_a_service(store: FeatureStore) -> None:
    whole, some = (store.training_frame(labels(item_id=["a"]), "recommender", views=views) for views in (None, ["item_catalog"]))
    assert set(some.column_names) == {"item_id", "event_timestamp", *(name for name, _ in VIEWS["item_catalog"].columns)}
    assert some.num_columns < whole.num_columns


def test_money_is_the_nearest_float_in_a_frame(store: FeatureStore) -> None:
    prices = ["0.0100", "19.9900", "-0.0700", "12345678901.2300", None]
    rows = [{"item_id": str(n), "price": None if p is None else Decimal(p)} for n, p in enumerate(prices)]
    write(store.lake, "item_catalog", rows)
    frame = store.training_frame(labels(item_id=["0", "1", "2", "3", "4"]), "recommender")
    assert frame["price"].to_pylist() == [0.01, 19.99, -0.07, 12345678901.23, None]
    assert store.latest("item_catalog", NOON)["price"].to_pylist() == frame["price"].to_pylist()


def test_label_times_may_be_naive_or_finer_and_keys_of_any_text_type(store: FeatureStore) -> None:
    nanoseconds = pa.array([int(NOON.timestamp()) * 10**9 + 999, int(NOON.timestamp()) * 10**9 - 1], pa.timestamp("ns"))
    users = pa.array(["u1", "u1"]).dictionary_encode()
    frame = store.training_frame(pa.table({"user_id": users, "event_timestamp": nanoseconds}), "recommender")
    assert frame["item_ids"].to_pylist() == [["a", "b"], ["a"]]
    assert frame["event_timestamp"].type == pa.timestamp("us", "UTC")
    days = store.training_frame(labels(item_id=["a", "a"], ds=["2024-04-30", None]), "demand")
    assert days["price_mean"].to_pylist() == [18.5, None]


def test_labels_that_do_not_fit_are_named(store: FeatureStore) -> None:
    for table, told in (
        (pa.table({"user_id": ["u1"]}), "need a column event_timestamp"),
        (pa.table({"user_id": ["u1"], "event_timestamp": [1]}), "must be a timestamp, it is int64"),
        (pa.table({"user_id": ["u1"], "event_timestamp": pa.array([None], pa.timestamp("us"))}), "1 null"),
        (labels(user=["u1"]), "needs key column.* user_id or item_id; got event_timestamp, user"),
        (labels(user_id=["u1"], item_ids=[1]), "already have item_ids"),
        (labels(item_id=["a"], ds=["yesterday"]), "key ds must be a date"),
    ):
        with pytest.raises(FeatureError, match=told):
            store.training_frame(table, "demand" if "ds" in table.column_names else "recommender")


def test_a_table_that_is_missing_empty_or_outdated(store: FeatureStore) -> None:
    with pytest.raises(TableContractError, match="features/clean_reviews .* does not exist"):
        store.training_frame(labels(review_id=["r"]), "sentiment")
    write(store.lake, "clean_reviews", [])
    assert store.training_frame(labels(review_id=["r"]), "sentiment")["review_text"].to_pylist() == [None]
    old = pa.table({"review_id": ["r"], "event_timestamp": pa.array([NOON]), "created_timestamp": pa.array([NOON])})
    path = FEATURE_TABLES["sessions"].path
    store.lake.write(path, old, "overwrite", digest="old", read_version=None)
    with pytest.raises(TableContractError, match="features/sessions lacks declared column"):
        store.latest("sessions", NOON)


def test_no_labels_give_an_empty_frame_with_every_column(store: FeatureStore) -> None:
    frame = store.training_frame(labels(user_id=pa.array([], pa.string())), "recommender")
    assert (frame.num_rows, frame.column_names) == (0, ["event_timestamp", "user_id", "item_ids", "event_types"])


def test_columns_that_two_views_share_carry_the_name_of_their_view(store: FeatureStore) -> None:
    both = Service("ranker", (VIEWS["user_activity"], VIEWS["item_activity"]))
    assert both.output_names["user_activity"]["item_views_count_7d"] == "user_activity__item_views_count_7d"
    assert both.output_names["item_activity"]["item_views_count_7d"] == "item_activity__item_views_count_7d"
    assert both.output_names["item_activity"]["price_last"] == "price_last"


def test_rows_expire_and_are_removed_by_the_next_materialisation(store: FeatureStore) -> None:
    store.materialize()
    keys = {"item_id": ["a"]}
    assert store.online_rows("recommender", keys, NOON + 120 * DAY)["item_views_count_7d"] == [3]
    late = NOON + 120 * DAY + timedelta(microseconds=1)
    assert store.online_rows("recommender", keys, late)["item_views_count_7d"] == [None]
    assert store.online_rows("recommender", keys, NOON - DAY)["title"] == [None], "nothing is seen before it was known"
    assert store.materialize(late)["item_activity"] == 0
    assert store.online_rows("recommender", keys, NOON)["item_views_count_7d"] == [None]
    assert store.online_rows("recommender", keys, NOON)["title"] == ["Jacke"]
