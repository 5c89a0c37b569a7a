"""item_catalog: changes as the shop tells them, items nobody told of, and the price paid where no price is listed."""

from __future__ import annotations

from datetime import date

import pytest

from features.tables import EVENTS, ITEM_CATALOG, ITEMS, ORDERS, REVIEWS
from spark_jobs.item_catalog import transform


@pytest.fixture
def catalog(raw, written):
    def make(items=(), events=(), orders=(), reviews=(), last_day=date(2024, 12, 31)):
        raws = (raw(ITEMS, *items), raw(EVENTS, *events), raw(ORDERS, *orders), raw(REVIEWS, *reviews))
        return written(transform(*raws, zone="Asia/Shanghai", last_day=last_day), ITEM_CATALOG)

    return make


def sale(at, price, item_id="a", **row):
    return {
        "order_id": at,
        "order_line_id": "1",
        "item_id": item_id,
        "quantity": 2,
        "unit_price": price,
        "event_timestamp": at,
    } | row


def test_one_row_per_change_told(catalog, expected):
    items = [
        {"item_id": "a", "title": "Tea", "category": "food", "price": 5, "created_at": "2023-01-01T00:00+08:00",
         "event_timestamp": "2024-05-01T00:00+08:00"},
        {"item_id": "a", "title": "Tea", "category": "drinks", "price": 6, "created_at": "2023-01-01T00:00+08:00",
         "withdrawn_at": "2024-08-01T00:00+08:00", "event_timestamp": "2024-06-01T00:00+08:00"},
    ]  # fmt: skip
    orders = [sale("2024-05-03T10:00+08:00", 3)]  # a list price stands, whatever was paid
    assert catalog(items=items, orders=orders) == expected(ITEM_CATALOG, *items)


def test_who_tells_the_same_again_adds_no_row_unless_it_was_known_earlier(catalog):
    def told(at, title, known=None):
        return {
            "item_id": "a",
            "title": title,
            "event_timestamp": f"2024-05-{at}",
            "created_timestamp": known and f"2024-05-{known}",
        }

    items = [told("01", "Tea"), told("03", "Tea"), told("05", "Cup", "20"), told("07", "Cup"), told("09", "Cup")]
    rows = sorted(catalog(items=items), key=lambda row: row["event_timestamp"])
    assert [(r["title"], r["event_timestamp"].day, r["created_timestamp"].day) for r in rows] == [
        ("Tea", 1, 1), ("Cup", 5, 20), ("Cup", 7, 7)
    ]  # fmt: skip
    rows = sorted(catalog(items=[*items, told("02", "Mug", "10")]), key=lambda row: row["event_timestamp"])
    assert [(r["title"], r["event_timestamp"].day) for r in rows][:3] == [("Tea", 1), ("Mug", 2), ("Tea", 3)]


def test_items_are_derived_from_the_ids_seen(catalog, expected):
    found = catalog(
        events=[
            {"event_id": "1", "user_id": "u", "event_type": "view", "item_id": "seen", "event_timestamp": "2024-05-01T08:00+08:00"}
        ],
        reviews=[
            {"review_id": "r", "item_id": "seen", "review_text": "x", "event_timestamp": "2024-05-02T08:00+08:00"},
            {"review_id": "s", "item_id": "reviewed", "review_text": "y", "event_timestamp": "2024-05-02T08:00+08:00"},
        ],
    )
    assert found == expected(
        ITEM_CATALOG,
        *[{"item_id": i, "created_at": f"{day}T08:00+08:00", "event_timestamp": f"{day}T08:00+08:00"}
          for i, day in (("seen", "2024-05-01"), ("reviewed", "2024-05-02"))],
    )  # fmt: skip


def test_an_item_sold_before_it_was_told_begins_with_its_first_sale(catalog):
    rows = catalog(
        items=[{"item_id": "a", "title": "Tea", "event_timestamp": "2024-06-01T00:00+08:00"}],
        orders=[sale("2024-05-03T10:00+08:00", 3)],
    )
    rows = sorted(rows, key=lambda row: row["event_timestamp"])
    assert [(r["title"], r["price"] and float(r["price"]), r["event_timestamp"].isoformat()[:16]) for r in rows] == [
        (None, None, "2024-05-03T02:00"), (None, 3.0, "2024-05-03T16:00"), ("Tea", 3.0, "2024-05-31T16:00"),
    ]  # fmt: skip
    assert {r["created_at"] for r in rows} == {rows[0]["event_timestamp"]}


def test_the_last_price_paid_of_a_day_stands_in_from_the_next_day_on(catalog):
    orders = [
        sale("2024-05-03T10:00+08:00", 3),
        sale("2024-05-03T23:30+08:00", 4, discount=1, created_timestamp="2024-05-20T00:00+08:00"),
        sale("2024-05-04T00:30+08:00", "3.5"),
        sale("2024-05-06T12:00+08:00", 0),
        sale("2024-05-07T12:00+08:00", 9, quantity=-1),
        sale("2024-05-08T12:00+08:00", 9),
    ]
    rows = sorted(catalog(orders=orders, last_day=date(2024, 5, 7)), key=lambda row: row["event_timestamp"])
    # 3.5 of the second day was known before that of the first; gifts and returns are no price; the last day is not over at the clock.
    assert [(r["price"] and float(r["price"]), r["event_timestamp"].isoformat()[:16]) for r in rows] == [
        (None, "2024-05-03T02:00"), (3.5, "2024-05-03T16:00"), (3.5, "2024-05-04T16:00"),
    ]  # fmt: skip
    assert [r["created_timestamp"].isoformat()[:10] for r in rows] == ["2024-05-03", "2024-05-19", "2024-05-04"]


def test_at_one_instant_there_is_one_row(catalog):
    rows = catalog(
        items=[{"item_id": "a", "title": "Tea", "event_timestamp": "2024-05-04T00:00+08:00"}],
        orders=[sale("2024-05-03T10:00+08:00", 3)],
    )
    rows = sorted(rows, key=lambda row: row["event_timestamp"])
    assert [(r["title"], r["price"] and float(r["price"])) for r in rows] == [(None, None), ("Tea", 3.0)]


def test_nothing_known(catalog):
    assert catalog() == []
