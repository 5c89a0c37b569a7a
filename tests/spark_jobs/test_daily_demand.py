"""daily_demand: every day on sale, what was sold on it, and what explains it as far as it was known."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from features.tables import CALENDAR, DAILY_DEMAND, EVENTS, INVENTORY, ITEM_CATALOG, ORDERS, PROMOTIONS
from spark_jobs.daily_demand import transform
from spark_jobs.sales import sales

FIRST, LAST = date(2024, 3, 29), date(2024, 4, 2)  # clocks go forward in Berlin on 31 March


@pytest.fixture
def demand(raw, frame, written):
    def make(
        orders=(), catalog=(), promotions=(), inventory=(), calendar=(), special=None, days=(FIRST, LAST), zone="Europe/Berlin"
    ):
        return written(
            transform(
                sales(raw(EVENTS), raw(ORDERS, *orders), zone),
                frame(ITEM_CATALOG, *catalog),
                raw(PROMOTIONS, *promotions),
                raw(INVENTORY, *inventory),
                raw(CALENDAR, *calendar),
                special=special or {},
                zone=zone,
                shop_days=days,
            ),
            DAILY_DEMAND,
        )

    return make


def sale(at, quantity=1, price=10, item_id="a", **row):
    return {"order_id": f"{at}{quantity}{item_id}", "order_line_id": "1", "item_id": item_id, "quantity": quantity, "unit_price": price,
            "event_timestamp": at} | row  # fmt: skip


def item(item_id="a", at="2024-03-01T00:00+01:00", **row):
    return {"item_id": item_id, "created_at": at, "event_timestamp": at} | row


def by_day(rows, *names, item_id="a"):
    return {
        str(row["ds"]): tuple(row[n] for n in names) if len(names) > 1 else row[names[0]]
        for row in rows
        if row["item_id"] == item_id
    }


def test_the_whole_frame_of_one_item(demand, expected):
    found = demand(
        orders=[
            sale("2024-03-30T10:00+01:00", 2, user_id="u"),
            sale("2024-03-30T11:00+01:00", 1, 13, user_id=None),
            sale("2024-03-31T23:30+02:00", -1),
            sale("2024-04-01T00:10+02:00", 1, 8, created_timestamp="2024-04-20T00:00+02:00"),
        ],
        catalog=[item(price=12)],
        special={date(2024, 4, 1): "Easter Monday"},
    )
    day = {"item_id": "a", "units_sum": 0, "returned_units_sum": 0, "promotion_depth": 0.0, "is_promotion": False, "is_open": False,
           "is_stock_out": False}  # fmt: skip
    late = {"created_timestamp": "2024-04-20T00:00+02:00"}
    assert found == expected(
        DAILY_DEMAND,
        {**day, "ds": "2024-03-29", "price_mean": 12.0, "event_timestamp": "2024-03-30T00:00+01:00"},
        {**day, "ds": "2024-03-30", "units_sum": 3, "price_mean": 11.0, "is_open": True, "event_timestamp": "2024-03-31T00:00+01:00"},
        {**day, "ds": "2024-03-31", "returned_units_sum": 1, "price_mean": 11.0, "event_timestamp": "2024-04-01T00:00+02:00"},
        {**day, "ds": "2024-04-01", "units_sum": 1, "price_mean": 8.0, "is_open": True, "holiday": "Easter Monday",
         "event_timestamp": "2024-04-02T00:00+02:00", **late},
        {**day, "ds": "2024-04-02", "price_mean": 8.0, "event_timestamp": "2024-04-03T00:00+02:00", **late},
    )  # fmt: skip


def test_days_on_sale(demand):
    rows = demand(
        orders=[
            *[sale("2024-03-29T12:00+01:00", item_id=i) for i in ("early", "gone", "sold_late")],
            sale("2024-04-02T12:00+02:00", item_id="sold_late"),
        ],
        catalog=[
            item("early"),
            item("new", "2024-03-31T10:00+02:00"),
            item("gone", withdrawn_at="2024-03-30T18:00+01:00"),
            item("sold_late", "2024-03-30T10:00+01:00", withdrawn_at="2024-03-31T10:00+02:00"),
            item("future", "2024-05-01T10:00+02:00"),
        ],
    )
    days = {i: (min(by_day(rows, "ds", item_id=i)), max(by_day(rows, "ds", item_id=i))) for i in {r["item_id"] for r in rows}}
    assert days == {
        "early": ("2024-03-29", "2024-04-02"),
        "new": ("2024-03-31", "2024-04-02"),
        "gone": ("2024-03-29", "2024-03-30"),
        "sold_late": ("2024-03-29", "2024-04-02"),
    }
    assert len(rows) == 5 + 3 + 2 + 5


def test_the_last_known_price_is_paid_or_listed_whatever_came_last(demand):
    rows = demand(
        orders=[sale("2024-03-30T12:00+01:00", 1, 9)],
        catalog=[item(price=12), item(at="2024-04-01T15:00+02:00", price=7)],
    )
    assert by_day(rows, "price_mean") == {"2024-03-29": 12, "2024-03-30": 9, "2024-03-31": 9, "2024-04-01": 7, "2024-04-02": 7}


def test_promotions_of_item_category_and_shop_by_local_day(demand):
    catalog = [item(category="tea"), item("b", category="tea"), item("b", "2024-04-01T00:00+02:00", category="mugs")]
    offer = {"starts_at": "2024-03-31T00:00+01:00", "ends_at": "2024-04-01T00:00+02:00"}
    rows = demand(
        orders=[sale("2024-03-29T12:00+01:00")],
        catalog=catalog,
        promotions=[
            {"promotion_id": "1", "item_id": "a", "depth": 0.3, **offer},
            {"promotion_id": "2", "category": "tea", "depth": 0.1, **offer, "ends_at": "2024-04-01T00:00:00.000001+02:00"},
            {"promotion_id": "3", "depth": 0.2, "starts_at": "2024-04-02T23:59+02:00", "ends_at": "2030-01-01T00:00+00:00"},
            {"promotion_id": "4", "item_id": "b", "starts_at": "2020-01-01T00:00+00:00", "ends_at": "2024-03-29T00:00:01+01:00"},
        ],
    )
    assert by_day(rows, "promotion_depth", "is_promotion") == {
        "2024-03-29": (0.0, False), "2024-03-30": (0.0, False), "2024-03-31": (0.3, True), "2024-04-01": (0.1, True),
        "2024-04-02": (0.2, True),
    }  # fmt: skip
    assert by_day(rows, "promotion_depth", "is_promotion", item_id="b") == {
        "2024-03-29": (0.0, True), "2024-03-30": (0.0, False), "2024-03-31": (0.1, True), "2024-04-01": (0.0, False),
        "2024-04-02": (0.2, True),
    }  # fmt: skip


def test_stock_outs_of_a_step_function_over_places(demand):
    def stock(at, on_hand, place="p", item_id="a"):
        return {"item_id": item_id, "location_id": place, "on_hand": on_hand, "event_timestamp": at}

    rows = demand(
        orders=[sale("2024-03-29T12:00+01:00")],
        catalog=[item(), item("b"), item("c")],
        inventory=[
            stock("2024-03-01T00:00+01:00", 5),
            stock("2024-03-30T10:00+01:00", 0),
            stock("2024-03-30T11:00+01:00", 4),  # out for an hour
            stock("2024-03-31T23:30+02:00", -2),
            stock("2024-04-02T00:00+02:00", 1),  # back with the first instant of the day: not out on it
            stock("2024-03-01T00:00+01:00", 0, "p", "b"),
            stock("2024-03-01T00:00+01:00", 3, "q", "b"),
            stock("2024-03-30T12:00+01:00", -3, "p", "b"),  # what one place owes is no stock of the other's
            stock("2024-04-02T12:00+02:00", 0, "q", "b"),
        ],
    )
    out = [day for day, is_out in by_day(rows, "is_stock_out").items() if is_out]
    assert sorted(out) == ["2024-03-30", "2024-03-31", "2024-04-01"]
    assert [day for day, is_out in by_day(rows, "is_stock_out", item_id="b").items() if is_out] == ["2024-04-02"]
    assert not any(by_day(rows, "is_stock_out", item_id="c").values())


def test_a_state_told_again_stands_against_one_that_comes_late_before_it(demand):
    def stock(item_id, at, on_hand, known=None):
        at = f"{at}T10:00+02:00"
        return {"item_id": item_id, "on_hand": on_hand, "event_timestamp": at, "created_timestamp": known or at}

    late = "2024-04-20T00:00+02:00"
    rows = demand(
        orders=[sale("2024-03-29T12:00+01:00")],
        catalog=[item(), item("b"), item("c")],
        inventory=[
            *(stock("a", "2024-03-30", 5), stock("a", "2024-04-01", 5), stock("a", "2024-03-31", 0, late)),
            *(stock("b", "2024-03-31", 0), stock("b", "2024-04-01", 0, late)),  # told again, it is out since no later
            *(stock("c", "2024-03-31", 0, late), stock("c", "2024-04-01", 0)),  # the later one was known earlier
        ],
    )

    def out(item_id):
        found = by_day(rows, "is_stock_out", "created_timestamp", item_id=item_id)
        return {day: str(known.date()) for day, (is_out, known) in found.items() if is_out}

    assert out("a") == {"2024-03-31": "2024-04-19", "2024-04-01": "2024-04-19"}
    assert out("b") == {"2024-03-31": "2024-03-31", "2024-04-01": "2024-04-01", "2024-04-02": "2024-04-02"}
    assert out("c") == {"2024-03-31": "2024-04-19", "2024-04-01": "2024-04-19", "2024-04-02": "2024-04-02"}


def test_stock_that_becomes_known_late_makes_its_days_late(demand):
    def stock(item_id, day, on_hand, known=None, place="p"):
        at = f"{day}T10:00+02:00"
        return {
            "item_id": item_id,
            "location_id": place,
            "on_hand": on_hand,
            "event_timestamp": at,
            "created_timestamp": known or at,
        }

    late = "2024-04-02T20:00+02:00"
    rows = demand(
        orders=[sale("2024-03-29T12:00+01:00")],
        catalog=[item(), item("b")],
        inventory=[
            *(stock("a", "2024-03-29", 0), stock("a", "2024-03-31", 5, late)),  # back, but nobody knew
            *(stock("b", "2024-03-29", 0, late), stock("b", "2024-03-31", 0, place="q")),  # out once both places are
        ],
    )
    known = by_day(rows, "is_stock_out", "created_timestamp")
    assert {day: is_out for day, (is_out, _) in known.items()} == dict.fromkeys(
        ("2024-03-29", "2024-03-30", "2024-03-31"), True
    ) | {
        "2024-04-01": False,
        "2024-04-02": False,
    }
    is_late = {day: at == datetime.fromisoformat(late) for day, (_, at) in known.items()}
    assert is_late == {"2024-03-29": False, "2024-03-30": False, "2024-03-31": True, "2024-04-01": True, "2024-04-02": False}
    of_b = by_day(rows, "created_timestamp", item_id="b")
    assert {day for day, at in of_b.items() if at == datetime.fromisoformat(late)} == {
        "2024-03-29", "2024-03-30", "2024-03-31", "2024-04-01",
    }  # fmt: skip


def test_the_shops_own_calendar_wins_and_may_declare_a_day_open(demand):
    rows = demand(
        orders=[sale("2024-03-29T12:00+01:00")],
        catalog=[item()],
        calendar=[
            {"date": "2024-03-30", "name": "Founder's day", "kind": "shopping_day"},
            {"date": "2024-03-31", "name": "Stock taking", "kind": "closed", "created_timestamp": "2024-04-20T00:00+02:00"},
        ],
        special={date(2024, 3, 30): "Common", date(2024, 3, 31): "Easter"},
    )
    told = by_day(rows, "holiday", "is_open")
    assert told["2024-03-29"] == (None, True)
    assert told["2024-03-30"] == ("Founder's day", True)
    assert told["2024-03-31"] == ("Easter", False)
    known = by_day(rows, "created_timestamp")
    assert [day for day, at in known.items() if at == datetime(2024, 4, 19, 22, tzinfo=UTC)] == ["2024-03-31"]


def test_no_sales_no_days(demand):
    assert demand(catalog=[item()], days=(date(2024, 4, 3), date(2024, 4, 2))) == []
