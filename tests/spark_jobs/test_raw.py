"""Current raw rows: corrections win, rows without an id all stand."""

from __future__ import annotations

import pyarrow as pa

from features.revisions import has_revisions
from features.tables import EVENTS, INVENTORY, ORDERS, PROMOTIONS
from spark_jobs.raw import ROW_ID, current

AT = "2024-05-01T10:00+00:00"


def test_a_correction_replaces_what_it_corrects_and_is_known_when_it_came(frame):
    rows = frame(
        EVENTS,
        {"event_id": "e1", "event_type": "view", "item_id": "a", "event_timestamp": AT},
        {
            "event_id": "e1",
            "event_type": "view",
            "item_id": "b",
            "event_timestamp": AT,
            "created_timestamp": "2024-05-03T00:00+00:00",
        },
        {"event_id": "e2", "event_type": "view", "item_id": "c", "event_timestamp": AT},
    )
    found = current(rows, EVENTS).collect()
    assert sorted((row[ROW_ID], row.item_id, row.created_timestamp.day) for row in found) == [("e1", "b", 3), ("e2", "c", 1)]


def test_what_a_correction_leaves_as_it_was_is_known_since_before(frame):
    def told(day, **said):
        paid = {"order_id": "o", "order_line_id": "1", "item_id": "a", "quantity": 1, "unit_price": 2, "status": "paid"}
        return {**paid, "event_timestamp": AT, "created_timestamp": f"2024-05-{day:02}T00:00+00:00", **said}

    def found(*rows):
        (row,) = current(frame(ORDERS, *rows), ORDERS).collect()
        return row.created_timestamp.day, row.quantity, row.status

    shipped, delivered = told(3, status="shipped"), told(9, status="delivered", channel="web")
    assert found(told(2), shipped, delivered) == (2, 1, None)
    assert found(told(2), told(3, quantity=5), told(9, quantity=5, status="shipped")) == (3, 5, None)
    assert found(told(2), told(3, quantity=5), told(9)) == (9, 1, None)
    assert found(told(2), told(3, status="cancelled")) == (3, 1, "cancelled")


def test_equal_rows_without_an_id_are_all_kept_and_have_ids_that_later_rows_do_not_change(frame):
    line = {"order_id": "o", "item_id": "a", "quantity": 1, "unit_price": 2, "event_timestamp": AT}
    later = {**line, "created_timestamp": "2024-06-01T00:00+00:00"}
    before = {row[ROW_ID] for row in current(frame(ORDERS, line, line), ORDERS).collect()}
    after = {row[ROW_ID] for row in current(frame(ORDERS, line, line, later), ORDERS).collect()}
    assert len(before) == 2
    assert len(after) == 3
    assert before < after


def test_ids_of_composite_identities_do_not_run_together(frame):
    rows = frame(
        ORDERS,
        {"order_id": "1", "order_line_id": "23", "item_id": "a", "quantity": 1, "unit_price": 2, "event_timestamp": AT},
        {"order_id": "12", "order_line_id": "3", "item_id": "a", "quantity": 1, "unit_price": 2, "event_timestamp": AT},
    )
    assert len({row[ROW_ID] for row in current(rows, ORDERS).collect()}) == 2


def test_a_row_is_never_known_before_it_is_true(frame):
    early = {"item_id": "a", "on_hand": 1, "event_timestamp": AT, "created_timestamp": "2024-04-01T00:00+00:00"}
    (row,) = current(frame(INVENTORY, early), INVENTORY).collect()
    assert row.created_timestamp == row.event_timestamp


def test_a_table_without_an_event_time_keeps_its_newest_versions(frame):
    offer = {"promotion_id": "p", "item_id": "a", "starts_at": AT, "ends_at": "2024-06-01T00:00+00:00", "depth": 0.1}
    rows = frame(PROMOTIONS, offer, {**offer, "depth": 0.3, "created_timestamp": AT})
    (row,) = current(rows, PROMOTIONS).collect()
    assert row.depth == 0.3


def test_a_null_in_an_identity_that_needs_no_id_is_a_value_like_others(frame):
    offer = {"promotion_id": "p", "category": "tea", "starts_at": AT, "ends_at": "2024-06-01T00:00+00:00", "depth": 0.5}
    other = {**offer, "promotion_id": "q", "depth": 0.1}
    of_item = {**offer, "item_id": "a", "depth": 0.2}
    rows = frame(PROMOTIONS, offer, other, of_item, {**offer, "depth": 0.05, "created_timestamp": AT})
    found = current(rows, PROMOTIONS).collect()
    assert sorted(row.depth for row in found) == [0.05, 0.1, 0.2]
    assert len({row[ROW_ID] for row in found}) == 3
    stock = {"item_id": "a", "on_hand": 5, "event_timestamp": AT}
    (row,) = current(frame(INVENTORY, stock, {**stock, "on_hand": 0, "created_timestamp": "2024-05-02"}), INVENTORY).collect()
    assert row.on_hand == 0


def test_rows_without_corrections_stand_as_they_are(frame):
    at = {"event_timestamp": "2024-05-01", "created_timestamp": "2024-04-30"}
    line = {"order_id": "o", "user_id": "u", "item_id": "i", "quantity": 1, "unit_price": 2, **at}
    stock = {"item_id": "i", "on_hand": 1, **at}
    for table, rows in (
        (ORDERS, [line, line, line | {"order_line_id": "1"}, line | {"order_line_id": "2"}, line | {"order_id": "p"}]),
        (INVENTORY, [stock, stock | {"location_id": "x"}]),
    ):
        found = current(frame(table, *rows), table, is_revised=False)
        expected = current(frame(table, *rows), table)
        assert found.columns == expected.columns
        assert sorted(map(str, found.collect())) == sorted(map(str, expected.collect()))
        assert len(rows) == found.count()
    plan = current(frame(INVENTORY, stock), INVENTORY, is_revised=False)._jdf.queryExecution().toString()
    assert "Window" not in plan
    assert "Exchange" not in plan


def test_a_table_is_free_of_corrections_only_where_every_commit_says_so(lake):
    rows = pa.table({"item_id": ["i"]})

    def told(mode: str, **said: int) -> bool:
        version = lake.version(INVENTORY.path)
        made = lake.write(INVENTORY.path, rows, mode, digest=f"{version}", read_version=version, metadata=said)
        return has_revisions(lake, INVENTORY.path, made.version)

    assert [told("append", revised=0), told("append", revised=0), told("append", revised=2), told("append", revised=0)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert [told("overwrite", revised=0), told("append"), told("overwrite")] == [False, True, True]
    assert not has_revisions(lake, INVENTORY.path, 1), "a version does not know of later ones"
