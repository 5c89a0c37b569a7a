"""interactions: who did what with which item, in which visit; nothing twice and nobody unknown lost."""

from __future__ import annotations

import pytest

from features.tables import EVENTS, INTERACTIONS, ORDERS
from spark_jobs.interactions import transform


def event(event_id, at, **row):
    return {"event_id": event_id, "event_type": "view", "item_id": "a", "event_timestamp": f"2024-05-01T{at}+00:00"} | row


@pytest.fixture
def told(written):
    return lambda frame, *names: sorted(tuple(row[name] for name in names) for row in written(frame, INTERACTIONS))


def test_the_whole_frame_of_a_small_shop(raw, written, expected):
    events = raw(
        EVENTS,
        event("e1", "10:00", user_id="u", session_id="s", price=5),
        event("e2", "10:01", user_id="u", session_id="s", event_type="search", item_id=None, query="red shoes"),
        event("e3", "10:02", user_id="u", session_id="s", event_type="purchase", quantity=1, price=5),
        event("e4", "10:03", user_id="u", session_id="s", event_type="impression"),
        event("e5", "10:04", user_id="v", session_id="t", event_type="cart", created_timestamp="2024-05-02T00:00+00:00"),
    )
    at = {"event_timestamp": "2024-05-01T10:05+00:00"}
    orders = raw(
        ORDERS,
        {
            "order_id": "o",
            "order_line_id": "1",
            "user_id": "u",
            "item_id": "a",
            "quantity": 2,
            "unit_price": 5,
            "discount": 1,
            **at,
        },
        {"order_id": "p", "order_line_id": "1", "user_id": None, "item_id": "a", "quantity": 2, "unit_price": 5, **at},
    )
    found = written(transform(events, orders, zone="UTC"), INTERACTIONS)
    (line,) = [row["interaction_id"] for row in found if row["event_type"] == "purchase"]
    assert len(line) == 32
    assert found == expected(
        INTERACTIONS,
        {"interaction_id": "e1", "user_id": "u", "session_id": "s", "item_id": "a", "event_type": "view",
         "event_timestamp": "2024-05-01T10:00+00:00"},
        {"interaction_id": line, "user_id": "u", "session_id": "s", "item_id": "a", "event_type": "purchase", "quantity": 2, "value": 9,
         **at},
        {"interaction_id": "e5", "user_id": "v", "session_id": "t", "item_id": "a", "event_type": "cart",
         "event_timestamp": "2024-05-01T10:04+00:00", "created_timestamp": "2024-05-02T00:00+00:00"},
    )  # fmt: skip


def test_a_login_names_the_visitor_from_then_on_and_no_other(raw, told):
    events = raw(
        EVENTS,
        event("e1", "10:00", visitor_id="x"),
        event("e2", "10:05", visitor_id="x", user_id="u", event_type="login", item_id=None),
        event("e3", "10:05", visitor_id="x"),
        event("e4", "10:06", visitor_id="y"),
        event(
            "e5", "11:00", visitor_id="x", user_id="w", event_type="login", item_id=None, created_timestamp="2024-05-03T00:00+00:00"
        ),
        event("e6", "12:00", visitor_id="x"),
        event("e7", "12:01", visitor_id="x", user_id="own"),
        event("e8", "12:02", session_id="s"),
    )
    frame = transform(events, raw(ORDERS), zone="UTC")
    assert told(frame, "interaction_id", "user_id") == [
        ("e1", "visitor:x"), ("e3", "u"), ("e4", "visitor:y"), ("e6", "w"), ("e7", "own"), ("e8", "session:s"),
    ]  # fmt: skip
    known = {row.interaction_id: row.created_timestamp.day for row in frame.collect()}
    assert known["e6"] == 3  # whose act it was became known with the login
    assert known["e3"] == 1


def test_a_gap_over_thirty_minutes_ends_a_visit(raw, told):
    events = raw(
        EVENTS,
        event("e1", "10:00", user_id="u"),
        event("e2", "10:30", user_id="u"),
        event("e3", "11:00:00.000001", user_id="u"),
        event("e4", "10:10", user_id="v"),
    )
    visit = dict(told(transform(events, raw(ORDERS), zone="UTC"), "interaction_id", "session_id"))
    assert visit["e1"] == visit["e2"]
    assert len(set(visit.values())) == 3


def test_an_order_joins_the_visit_it_falls_in_and_a_later_act_never_renames_it(raw, told):
    events = [event("e1", "10:00", user_id="u", session_id="s"), event("e2", "12:00", user_id="u", session_id="t")]
    line = {"order_id": "o", "order_line_id": "1", "user_id": "u", "item_id": "b", "quantity": 1, "unit_price": 1}
    orders = raw(
        ORDERS,
        {**line, "event_timestamp": "2024-05-01T10:20+00:00"},
        {**line, "order_id": "p", "event_timestamp": "2024-05-01T11:59+00:00"},
    )
    before = {
        t[2]: t[1] for t in told(transform(raw(EVENTS, events[0]), orders, zone="UTC"), "user_id", "session_id", "event_timestamp")
    }
    after = {
        t[2]: t[1] for t in told(transform(raw(EVENTS, *events), orders, zone="UTC"), "user_id", "session_id", "event_timestamp")
    }
    assert [session for _, session in sorted(after.items())][:2] == ["s", "s"]
    assert {at: after[at] for at in before} == before


def test_equal_events_without_an_id_are_kept(raw, told):
    twice = {**event(None, "10:00", user_id="u"), "event_id": None}
    assert len(set(told(transform(raw(EVENTS, twice, twice), raw(ORDERS), zone="UTC"), "interaction_id"))) == 2


def test_nothing_in_nothing_out(raw, told):
    assert told(transform(raw(EVENTS), raw(ORDERS), zone="UTC"), "user_id") == []
