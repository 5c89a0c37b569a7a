"""What was told since the last build reads as one list with what the table says, for whoever it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, HISTORY_STEPS
from features.fresh.applied import HISTORY, Applied
from features.fresh.facts import EVENT_CONTRACT
from features.fresh.history import MOST_ACTS, Act, merged
from features.fresh.intake import Intake
from features.online.packing import key_texts, pack_rows, to_microseconds
from features.online.read import read_columns
from features.online.rows import Rows
from features.shop import Shop
from infra.errors import EngineError
from infra.lake import Lake
from infra.settings import Settings

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
MIDNIGHT = datetime(2024, 4, 30, 22, tzinfo=UTC)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")


@pytest.fixture
def intake(settings: Settings, lake: Lake, rows: Rows) -> Intake:
    return Intake(settings, SHOP, lake, rows, "wall", lambda: NOW)


def event(number: int, item: str, at: datetime = NOW, **more: Any) -> dict[str, Any]:
    who = {} if more.keys() & {"user_id", "visitor_id", "session_id"} else {"user_id": "u"}
    row = {"event_id": f"e{number}", "item_id": item, "event_type": "view", "event_timestamp": at.isoformat()}
    return {**row, **who, **more}


def post(intake: Intake, *events: dict[str, Any]) -> None:
    (receipt,) = intake.take([EVENT_CONTRACT.read(events, "http", "r", NOW)])
    assert receipt.quarantined == ()


def read(rows: Rows, who: str = "u", now: datetime = NOW + timedelta(seconds=1)) -> tuple[Any, Any]:
    _, values = read_columns(rows, {HISTORY: key_texts([[who]])}, to_microseconds(now))[HISTORY]
    return values["item_ids"][0], values["event_types"][0]


def build(rows: Rows, items: list[str], stamp: datetime = MIDNIGHT, known: datetime | None = None) -> None:
    row = {"user_id": "u", "item_ids": items, "event_types": ["view"] * len(items), EVENT_TIMESTAMP: stamp}
    table = pa.Table.from_pylist([{**row, CREATED_TIMESTAMP: known or stamp}], schema=HISTORY.schema)
    with rows.rebuild([HISTORY], NOW) as put:
        put(HISTORY, pack_rows(HISTORY, table))


def test_the_next_read_sees_what_was_told(intake: Intake, rows: Rows) -> None:
    assert read(rows) == (None, None)
    post(intake, event(2, "b", event_type="cart"), event(1, "a", NOW - timedelta(minutes=1)))
    assert read(rows) == (["a", "b"], ["view", "cart"])
    post(intake, event(1, "a", NOW - timedelta(minutes=1)))  # again
    assert read(rows) == (["a", "b"], ["view", "cart"])
    post(intake, event(3, "c", NOW - timedelta(seconds=30)))  # out of order
    assert read(rows)[0] == ["a", "c", "b"]
    post(intake, event(4, "x", event_type="impression"), event(5, "x", event_type="return"), event(6, "x", event_type="uncart"))
    assert read(rows)[0] == ["a", "c", "b"]


def test_what_is_ahead_of_the_clock_shows_when_it_is_true_and_hides_nothing(intake: Intake, rows: Rows) -> None:
    post(intake, event(1, "a"), event(2, "b", NOW + timedelta(minutes=4)))
    assert read(rows)[0] == ["a"]
    assert read(rows, now=NOW + timedelta(minutes=4))[0] == ["a", "b"]


def test_a_build_takes_over_what_it_holds_and_nothing_is_told_twice(intake: Intake, rows: Rows) -> None:
    yesterday = MIDNIGHT - timedelta(hours=1)
    intake.now = lambda: yesterday
    post(intake, event(1, "a", yesterday))
    intake.now = lambda: NOW
    post(intake, event(2, "b"))
    assert read(rows)[0] == ["a", "b"]
    build(rows, ["z", "a"])
    assert read(rows)[0] == ["z", "a", "b"]
    post(intake, event(3, "b", event_type="cart"))  # the same step goes on
    assert read(rows) == (["z", "a", "b", "b"], ["view", "view", "view", "cart"])
    post(intake, event(4, "late", yesterday - timedelta(hours=1)))  # for a day that was built: the next build has it
    assert read(rows)[0] == ["z", "a", "b", "b"]
    build(rows, ["z", "late", "a"], known=NOW)
    assert read(rows)[0] == ["z", "late", "a", "b", "b"]


def test_a_correction_replaces_what_it_corrects_also_for_another_user(intake: Intake, rows: Rows) -> None:
    post(intake, event(1, "a"), event(2, "b"))
    post(intake, event(2, "c"))
    assert read(rows)[0] == ["a", "c"]
    post(intake, event(1, "a", user_id="other"))
    assert (read(rows)[0], read(rows, "other")[0]) == (["c"], ["a"])


def test_a_login_joins_the_visitor_from_then_on_also_when_it_is_told_late(intake: Intake, rows: Rows) -> None:
    minute = timedelta(minutes=1)
    v = {"visitor_id": "v"}
    post(intake, *(event(n, item, NOW - n * minute, **v) for n, item in ((5, "a"), (3, "b"), (1, "c"))))
    assert read(rows, "visitor:v")[0] == ["a", "b", "c"]
    post(intake, event(10, "a", NOW - 4 * minute, event_type="login", user_id="u", visitor_id="v"))
    assert (read(rows, "visitor:v")[0], read(rows)[0]) == (["a"], ["b", "c"])
    post(intake, event(11, "a", NOW - 2 * minute, event_type="login", user_id="w", visitor_id="v"))
    assert (read(rows)[0], read(rows, "w")[0]) == (["b"], ["c"])
    post(intake, event(12, "d", **v), event(13, "s", session_id="s"))
    assert (read(rows, "w")[0], read(rows, "session:s")[0]) == (["c", "d"], ["s"])
    post(intake, event(14, "e", user_id="w"))  # who speaks of no visitor moves none of their acts
    assert (read(rows, "w")[0], read(rows, "visitor:v")[0]) == (["c", "d", "e"], ["a"])


def test_purchases_come_from_orders_where_there_are_any(intake: Intake, rows: Rows, lake: Lake) -> None:
    post(intake, event(1, "a", event_type="purchase"))
    assert read(rows)[0] == ["a"]
    from features.tables import ORDERS

    lake.write(ORDERS.path, ORDERS.schema.empty_table(), "append", digest="orders")
    intake.applied._look_at = 0.0
    post(intake, event(2, "b", event_type="purchase"), event(3, "c"))
    assert read(rows)[0] == ["a", "c"]


def test_who_comes_after_a_death_between_disk_and_rows_goes_on(intake: Intake, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise EngineError("the online store is away")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "update", away)
        with pytest.raises(EngineError):
            post(intake, event(1, "a"))
    assert read(rows)[0] is None
    post(intake, event(2, "b"))
    assert read(rows)[0] == ["a", "b"]
    with monkeypatch.context() as patch:
        patch.setattr(Applied, "apply", away)
        with pytest.raises(EngineError):
            post(intake, event(3, "c"))
    intake.catch_up()
    assert read(rows)[0] == ["a", "b", "c"]
    assert intake.applied.number() == intake.spool.last()


def test_a_watermark_that_moved_meanwhile_is_followed(intake: Intake, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process applies the same entries between our reading and our step."""
    update: Callable[..., int] = rows.update
    turns = []

    def raced(*arguments: Any) -> int:
        turns.append(1)
        if len(turns) == 1:
            update(*arguments)
        return update(*arguments)

    monkeypatch.setattr(rows, "update", raced)
    post(intake, event(1, "a"), event(2, "b"))
    assert read(rows)[0] == ["a", "b"]
    assert len(turns) == 1


def test_the_tail_is_bounded(intake: Intake, rows: Rows) -> None:
    acts = [event(n, f"i{n}", NOW - timedelta(seconds=1000 - n)) for n in range(MOST_ACTS + 10)]
    post(intake, *acts)
    found = read(rows)[0]
    assert found == [f"i{n}" for n in range(MOST_ACTS + 10 - HISTORY_STEPS, MOST_ACTS + 10)]


def test_acts_in_a_row_on_one_item_are_one_step() -> None:
    kinds = ["view", "cart", "view", "view"]
    acts = [Act(n, str(n), "a", kind, n, "day") for n, kind in enumerate(kinds)]
    assert merged([], [], [*acts, Act(9, "9", "b", "view", 9, "day")]) == (["a", "a", "b"], ["cart", "view", "view"])
    assert merged(["a"], ["view"], acts) == (["a"] * 3, ["view", "cart", "view"])  # of each day the last of each kind


def test_only_the_last_steps_and_days_are_read() -> None:
    acts = [Act(n, str(n), f"i{n}", "view", n, f"day {n // 10:03}") for n in range(HISTORY_STEPS - 1)]
    items, _ = merged(["old", "last"], ["view", "view"], acts)
    assert items == ["last", *(act.item_id for act in acts)]
    same = [Act(n, str(n), "i", "view", n, f"day {n:03}") for n in range(HISTORY_STEPS)]
    assert merged(["i"], ["cart"], same) == (["i"] * HISTORY_STEPS, ["view"] * HISTORY_STEPS)
