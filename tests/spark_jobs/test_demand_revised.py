"""daily_demand built step by step: whatever a step tells, the rows are those of one build of all."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from features.revisions import current_rows
from features.tables import CALENDAR, DAILY_DEMAND, INVENTORY, ITEMS, ORDERS, PROMOTIONS
from infra.lake import Lake, digest_of
from tests.spark_jobs.conftest import complete


def sale(day: str, item: str = "i1", number: str = "", **row):
    return {"order_id": f"{day}-{item}{number}", "order_line_id": "1", "item_id": item, "quantity": 1, "unit_price": 5,
            "event_timestamp": f"{day}T12:00+00:00"} | row  # fmt: skip


def told(day: str, item: str = "i1", **row):
    return {"item_id": item, "title": item, "category": "c", "price": 5, "event_timestamp": f"{day}T08:00+00:00"} | row


BEGIN = {
    ITEMS: [told("2024-04-30", item) for item in ("i1", "i2", "i3")],
    ORDERS: [
        sale("2024-05-02"),
        sale("2024-05-05", "i2"),
        sale("2024-05-06"),
        sale("2024-05-06", "i2", created_timestamp="2024-05-09T12:00+00:00"),
    ],
    INVENTORY: [{"item_id": "i3", "on_hand": 0, "event_timestamp": "2024-05-04T10:00+00:00"}],
    PROMOTIONS: [{"promotion_id": "p", "item_id": "i2", "starts_at": "2024-05-03T00:00+00:00", "ends_at": "2024-05-04T00:00+00:00",
                  "depth": 0.1}],
    CALENDAR: [{"date": "2024-05-05", "name": "own", "kind": "holiday"}],
}  # fmt: skip
LATE = {"created_timestamp": "2024-05-08T12:00+00:00"}
STEPS = {
    "a new day": {ORDERS: [sale("2024-05-10")]},
    "days without a sale between": {ORDERS: [sale("2024-05-20", "i3")]},
    "a late sale on a day that was closed": {ORDERS: [sale("2024-05-03", "i2", **LATE)]},
    "a late sale that came before the first of its day": {ORDERS: [sale("2024-05-06", "i3")]},
    "the only sale of the last day is cancelled": {
        ORDERS: [
            sale("2024-05-06", status="cancelled", **LATE),
            sale("2024-05-06", "i2", status="cancelled", created_timestamp="2024-05-10T12:00+00:00"),
        ]
    },
    "a sale before all others": {ORDERS: [sale("2024-05-01", "i2", **LATE)]},
    "withdrawn, told late": {ITEMS: [told("2024-05-05", withdrawn_at="2024-05-04T10:00+00:00", **LATE)]},
    "withdrawn, then sold again": {
        ITEMS: [told("2024-05-03", "i3", withdrawn_at="2024-05-03T10:00+00:00", **LATE)],
        ORDERS: [sale("2024-05-05", "i3", **LATE)],
    },
    "an item that nobody knew": {ORDERS: [sale("2024-05-04", "i9", **LATE)]},
    "another price and category since": {ITEMS: [told("2024-05-04", "i3", price=9, category="d", **LATE)]},
    "an offer of a category": {
        PROMOTIONS: [{"promotion_id": "q", "category": "c", "starts_at": "2024-05-04T00:00+00:00",
                      "ends_at": "2024-05-06T00:00+00:00", "depth": 0.3, **LATE}]
    },
    "an offer that ends earlier": {
        PROMOTIONS: [{"promotion_id": "p", "item_id": "i2", "starts_at": "2024-05-03T00:00+00:00",
                      "ends_at": "2024-05-03T12:00+00:00", "depth": 0.1, **LATE}]
    },
    "a day that was open, another holiday": {
        CALENDAR: [
            {"date": "2024-05-04", "name": "stocktaking", "kind": "open", **LATE},
            {"date": "2024-05-05", "name": "another", "kind": "holiday", **LATE},
        ]
    },
    "stock": {INVENTORY: [{"item_id": "i2", "on_hand": 0, "event_timestamp": "2024-05-05T10:00+00:00", **LATE}]},
}  # fmt: skip


def append(lake: Lake, rows) -> None:
    for table, found in rows.items():
        made = pa.Table.from_pylist([complete(table, row) for row in found], schema=table.schema)
        lake.write(table.path, made, "append", digest=digest_of(table.name, str(found)), metadata={"revised": len(found)})


def rows_of(lake: Lake) -> pa.Table:
    return current_rows(lake, DAILY_DEMAND).sort_by([("item_id", "ascending"), ("ds", "ascending")])


STEPS["all of these"] = {table: [row for step in STEPS.values() for row in step.get(table, [])] for table in BEGIN}
QUICK = ("all of these",)


@pytest.mark.parametrize("step", [pytest.param(step, marks=() if step in QUICK else pytest.mark.soak) for step in STEPS])
def test_a_step_leaves_the_rows_of_one_build_of_all(lake: Lake, build, tmp_path: Path, step: str) -> None:
    """And the step after it, which brings nothing but a day more, finds what was taken back."""
    assert_as_at_once(lake, build, tmp_path, [BEGIN, STEPS[step], {ORDERS: [sale("2024-05-22", "i2")]}])


def test_days_that_go_may_come_back_and_go_again(lake: Lake, build, tmp_path: Path) -> None:
    """The last day of the shop stands by one sale; the days before it, which had none, go and come with it."""

    def only(number: str, known: str, **row):
        return {ORDERS: [sale("2024-05-10", "i2", number, created_timestamp=known, **row)]}

    steps = [
        only("", "2024-05-10T12:00+00:00"),
        only("", "2024-05-11T12:00+00:00", status="cancelled"),
        only("again", "2024-05-12T12:00+00:00"),
        only("again", "2024-05-13T12:00+00:00", status="cancelled"),
    ]
    assert_as_at_once(lake, build, tmp_path, [BEGIN, *steps])
    assert max(rows_of(lake)["ds"].to_pylist()) == date(2024, 5, 6)


def assert_as_at_once(lake: Lake, build, tmp_path: Path, steps) -> None:
    whole = Lake(str(tmp_path / "whole"), "sample")
    for rows in steps:
        append(lake, rows)
        append(whole, rows)
        built = build("daily_demand", now="2024-06-01T00:00:00+00:00")["daily_demand"]
    assert built.added
    build("daily_demand", now="2024-06-01T00:00:00+00:00", lake=whole)
    stepped, at_once = rows_of(lake), rows_of(whole)
    assert stepped.drop_columns("created_timestamp").equals(at_once.drop_columns("created_timestamp"))
    pairs = zip(stepped["created_timestamp"].to_pylist(), at_once["created_timestamp"].to_pylist(), strict=True)
    assert all(gained >= once for gained, once in pairs)
