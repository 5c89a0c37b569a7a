"""What a sale is: order lines, signs and discounts, and orders winning over purchase events."""

from __future__ import annotations

from features.tables import EVENTS, ORDERS
from spark_jobs.sales import sales


def told(lines):
    rows = lines.orderBy("event_timestamp", "item_id").collect()
    return [(r.item_id, r.user_id, r.event_type, r.quantity, None if r.value is None else float(r.value)) for r in rows]


def line(**row):
    return {"order_id": "o", "order_line_id": str(row), "item_id": "a", "unit_price": 10, "user_id": "u"} | row


def test_order_lines_become_purchases_and_returns_with_their_value(raw):
    orders = raw(
        ORDERS,
        line(item_id="a", quantity=3, discount=5, event_timestamp="2024-05-01T01:00+00:00"),
        line(item_id="b", quantity=-2, discount=-4, event_timestamp="2024-05-01T02:00+00:00"),
        line(item_id="c", quantity=1, user_id=None, event_timestamp="2024-05-01T03:00+00:00"),
        line(item_id="d", quantity=1, discount=99, event_timestamp="2024-05-01T04:00+00:00"),
        line(item_id="e", quantity=0, event_timestamp="2024-05-01T05:00+00:00"),
        line(item_id="f", quantity=1, status="cancelled", event_timestamp="2024-05-01T06:00+00:00"),
        line(item_id="g", quantity=1, status="paid", event_timestamp="2024-05-01T07:00+00:00"),
    )
    assert told(sales(raw(EVENTS), orders, "UTC")) == [
        ("a", "u", "purchase", 3, 25.0),
        ("b", "u", "return", 2, 16.0),
        ("c", None, "purchase", 1, 10.0),
        ("d", "u", "purchase", 1, 0.0),  # a discount never makes a shop pay for a sale
        ("g", "u", "purchase", 1, 10.0),
    ]


def test_purchase_events_stand_alone_without_orders_and_default_to_one_unit(raw):
    events = raw(
        EVENTS,
        {
            "event_id": "1",
            "user_id": "u",
            "item_id": "a",
            "event_type": "purchase",
            "price": 3,
            "event_timestamp": "2024-05-01T01:00+00:00",
        },
        {
            "event_id": "2",
            "user_id": "u",
            "item_id": "b",
            "event_type": "return",
            "quantity": 2,
            "event_timestamp": "2024-05-01T02:00+00:00",
        },
        {
            "event_id": "3",
            "user_id": "u",
            "item_id": "c",
            "event_type": "view",
            "price": 3,
            "event_timestamp": "2024-05-01T03:00+00:00",
        },
    )
    assert told(sales(events, raw(ORDERS), "UTC")) == [("a", "u", "purchase", 1, 3.0), ("b", "u", "return", 2, None)]


def test_orders_win_from_the_local_day_of_the_first_one_on(raw):
    event = {"user_id": "u", "item_id": "a", "event_type": "purchase", "price": 3}
    events = raw(
        EVENTS,
        {**event, "event_id": "before", "item_id": "before", "event_timestamp": "2024-05-01T23:59+08:00"},
        {**event, "event_id": "same", "item_id": "same", "event_timestamp": "2024-05-02T00:00+08:00"},
        {**event, "event_id": "later", "item_id": "later", "event_timestamp": "2024-06-02T00:00+08:00"},
        {**event, "event_id": "back", "item_id": "back", "event_type": "return", "event_timestamp": "2024-06-03T00:00+08:00"},
    )
    orders = raw(ORDERS, line(item_id="ordered", quantity=1, event_timestamp="2024-05-02T12:00+08:00"))
    found = [item for item, *_ in told(sales(events, orders, "Asia/Shanghai"))]
    assert found == ["before", "ordered", "back"]  # no order line was ever returned, so return events count
