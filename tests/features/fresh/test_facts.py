"""Which rows are good, and what each bad one is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from features.columns import EVENT_TYPES
from features.fresh.facts import EVENT_CONTRACT, ITEM_CONTRACT, Contract
from features.online.packing import to_microseconds

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
EVENT = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "view", "event_timestamp": "2024-05-01T12:00:00Z"}


def reasons(contract: Contract[Any], *rows: Any) -> list[str]:
    return [refused.reason for refused in contract.read(rows, "test", "part", NOW).refused]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_id": None}, "event_id: Input should be a valid string"),
        ({"event_id": "  "}, "event_id: String should have at least 1 character"),
        ({"user_id": None}, "user_id, visitor_id, session_id: all missing"),
        ({"user_id": 17850}, "user_id: Input should be a valid string"),
        ({"item_id": None}, "item_id: missing for an event that speaks of an item"),
        ({"event_type": "stare"}, "event_type: not one of ours"),
        ({"event_timestamp": "2024-05-01T12:05:00.000001Z"}, "event_timestamp: in the future"),
        ({"event_timestamp": "2024-05-01T14:05:01+02:00"}, "event_timestamp: in the future"),
        ({"event_timestamp": "yesterday"}, "event_timestamp: Input should be a valid datetime"),
        ({"event_timestamp": 1714564800}, "event_timestamp: Input should be a valid datetime"),
        ({"event_timestamp": "9999-12-31T23:59:59-05:00"}, "event_timestamp: Value error, outside the years 1 to 9999"),
        ({"price": -1}, "price: Input should be greater than or equal to 0"),
        ({"price": 1e15}, "price: Input should be less than 100000000000000"),
        ({"quantity": 1.5}, "quantity: Input should be a valid integer"),
        ({"quantity": 10**9}, "quantity: Input should be less than 1000000000"),
        ({"quantity": -1}, "quantity: Input should be greater than or equal to 0"),
        ({"quantity": 10**8, "price": 1e6}, "quantity, price: their product is too large"),
        ({"position": -1}, "position: Input should be greater than or equal to 0"),
        ({"query": "x" * 2001}, "query: String should have at most 2000 characters"),
        ({"userid": "u"}, "userid: Extra inputs are not permitted"),
    ],
)
def test_an_event_that_breaks_the_contract_is_told_why(change: dict[str, Any], reason: str) -> None:
    (told,) = reasons(EVENT_CONTRACT, EVENT | change)
    assert told.startswith(reason)


@pytest.mark.parametrize(
    "change",
    [
        {"event_timestamp": "2024-05-01T12:05:00Z"},
        {"event_timestamp": "2024-05-01T12:00:00"},
        {"event_timestamp": "0001-01-01T00:00:00Z"},
        {"user_id": None, "session_id": "s"},
        {"user_id": None, "visitor_id": "v"},
        {"item_id": None, "event_type": "search", "query": "红鞋 'NULL' \x00"},
        {"price": "19.99", "quantity": 10**9 - 1, "position": 0},
    ],
)
def test_an_event_that_keeps_it_is_accepted(change: dict[str, Any]) -> None:
    assert reasons(EVENT_CONTRACT, EVENT | change) == []


def test_a_bad_row_does_not_lose_the_good_ones() -> None:
    rows = [EVENT, 5, None, [], "x", {}, EVENT | {"event_id": "e2"}]
    delivery = EVENT_CONTRACT.read(rows, "test", "part", NOW)
    assert [told.place for told in delivery.told] == [0, 6]
    assert [refused.place for refused in delivery.refused] == [1, 2, 3, 4, 5]
    assert delivery.rows == 7


def test_every_type_of_the_closed_list_is_taken() -> None:
    assert reasons(EVENT_CONTRACT, *[EVENT | {"event_type": kind} for kind in EVENT_TYPES]) == []


def test_a_row_is_kept_as_the_table_will_hold_it() -> None:
    zoned = {
        "event_timestamp": "2024-05-01T14:00:00.123456+02:00",
        "price": 0.30000000000000004,
        "user_id": " 17850.0 ",
        "query": "",
    }
    (told,) = EVENT_CONTRACT.read([EVENT | zoned], "test", "part", NOW).told
    assert told.row["event_timestamp"] == to_microseconds(NOW + timedelta(microseconds=123456))
    assert told.row["price"] == "0.3000"
    assert told.row["user_id"] == "17850"  # as ingest reads an id that a spreadsheet made a number of
    assert "query" not in told.row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"item_id": "i1"}, "row: says nothing of the item"),
        ({"item_id": "i1", "event_timestamp": "2024-05-01T00:00:00Z"}, "row: says nothing of the item"),
        ({"title": "shoe"}, "item_id: Field required"),
        ({"item_id": "i1", "on_order": 3}, "on_hand: missing beside on_order or location_id"),
        ({"item_id": "i1", "price": -3}, "price: Input should be greater than or equal to 0"),
        ({"item_id": "i1", "price": 3, "event_timestamp": "2024-05-02T00:00:00Z"}, "event_timestamp: in the future"),
    ],
)
def test_an_item_that_breaks_the_contract_is_told_why(row: dict[str, Any], reason: str) -> None:
    assert reasons(ITEM_CONTRACT, row) == [reason]


def test_an_item_gives_a_row_of_facts_and_one_of_stock() -> None:
    told = ITEM_CONTRACT.read(
        [{"item_id": "i1", "price": None, "on_hand": 0}, {"item_id": "i2", "title": "t"}], "test", "p", NOW
    ).told
    assert [(one.path, one.place, one.row) for one in told] == [
        ("raw/items", 0, {"item_id": "i1", "price": None}),
        ("raw/inventory", 0, {"item_id": "i1", "on_hand": 0}),
        ("raw/items", 1, {"item_id": "i2", "title": "t"}),
    ]
