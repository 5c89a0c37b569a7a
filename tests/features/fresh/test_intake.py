"""What is taken is kept once, whoever sends it how often, and is in the tables once, whatever dies in between."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import infra.home
from features.fresh.facts import EVENT_CONTRACT, ITEM_CONTRACT
from features.fresh.intake import Intake
from features.fresh.spool import Receipt
from features.online.packing import to_microseconds
from features.online.rows import open_rows
from features.shop import Shop
from features.tables import EVENTS, ITEMS
from infra import upkeep
from infra.errors import EngineError, HomeError
from infra.home import Home
from infra.journal import Append, Journal
from infra.lake import Lake
from infra.settings import Settings

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")
SECOND = timedelta(seconds=1)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def intake(settings: Settings, lake: Lake, clock: Clock) -> Intake:
    return Intake(settings, SHOP, lake, open_rows(settings, "sample"), "wall", clock)


def event(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}", "user_id": "u1", "item_id": "i1", "event_type": "view", "event_timestamp": "2024-05-01T11:00:00Z",
        **more,
    }  # fmt: skip


def post(intake: Intake, *rows: Any, part: str = "r") -> Receipt:
    return intake.take([EVENT_CONTRACT.read(rows, "http", part, intake.present)])[0]


def post_items(intake: Intake, *rows: Any) -> Receipt:
    return intake.take([ITEM_CONTRACT.read(rows, "http", "r", intake.present)])[0]


def counts(receipt: Receipt) -> tuple[int, int, int, int]:
    return receipt.accepted, receipt.corrections, receipt.duplicates, len(receipt.quarantined)


def test_the_same_again_is_a_duplicate_and_something_else_a_correction(intake: Intake, clock: Clock) -> None:
    assert counts(post(intake, event(1), event(2), event(1))) == (2, 0, 1, 0)
    assert counts(post(intake, event(1, user_id="u2"))) == (1, 1, 0, 0)
    assert counts(post(intake, event(1))) == (0, 0, 1, 0)  # a late retry does not undo the correction
    clock.now -= SECOND  # a clock that is set back does not either
    assert counts(post(intake, event(1, user_id="u3"))) == (1, 1, 0, 0)
    entries = [entry for entry in intake.spool.after(0, 10) if entry.key == "e1"]
    assert [entry.row["user_id"] for entry in sorted(entries, key=lambda entry: entry.received)] == ["u1", "u2", "u3"]
    assert [entry.received - to_microseconds(NOW) for entry in entries] == [0, 1, 2]


def test_what_the_tables_hold_is_what_was_sent(intake: Intake, lake: Lake) -> None:
    sent = event(
        1, price=19.99, quantity=2, query="红鞋 \x00'", position=0, list_id="l", channel="web", visitor_id="v", session_id="s"
    )
    post(intake, sent, event(2, price=None))
    assert intake.drain() == {"raw/events": 2}
    first, second = lake.read(EVENTS.path).to_pylist()
    assert first == {**sent, "price": Decimal("19.9900"), "event_timestamp": NOW - 3600 * SECOND, "created_timestamp": NOW}
    assert second["price"] is None
    assert lake.table(EVENTS.path).history()[0]["number"] == "2"


def test_a_bad_row_is_in_quarantine_once_however_often_it_is_sent(intake: Intake, lake: Lake) -> None:
    for part in ("first", "second"):
        assert counts(post(intake, event(1), {"event_id": 5}, part=part)) == ((1, 0, 0, 1) if part == "first" else (0, 0, 1, 1))
        intake.drain()
    (row,) = lake.read("quarantine/events").to_pylist()
    assert row["source"] == "http"
    assert (row["part"], row["row"], row["source_row"]) == ("first", 1, '{"event_id":5}')
    assert row["reason"].startswith("event_id: ")


def test_a_drain_that_dies_after_its_commit_repeats_nothing(intake: Intake, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    post(intake, *map(event, range(5)))
    post_items(intake, {"item_id": "i1", "price": 3})

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(intake.spool, "note", die)
        with pytest.raises(KeyboardInterrupt):
            intake.drain()
    post(intake, *map(event, range(5, 8)))
    post_items(intake, {"item_id": "i1", "price": 4})
    with monkeypatch.context() as patch:  # between two tables
        patch.setattr(intake, "_commit", lambda path, *more: die() if path == ITEMS.path else Intake._commit(intake, path, *more))
        with pytest.raises(KeyboardInterrupt):
            intake.drain()
    post(intake, event(8))
    intake.drain()
    ids = lake.read(EVENTS.path)["event_id"].to_pylist()
    assert sorted(ids) == [f"e{number}" for number in range(9)]
    assert lake.read(ITEMS.path)["price"].to_pylist() == [Decimal(3), Decimal(4)]
    assert intake.drain() == {}


def test_a_drain_first_finishes_what_a_killed_ingest_began(intake: Intake, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"event_id": "old", "user_id": "u", "event_type": "page", "event_timestamp": NOW, "created_timestamp": NOW}
    attempt = lake.attempt(EVENTS.path)
    pq.write_table(pa.Table.from_pylist([row], schema=EVENTS.schema), f"{attempt.uri}/part-0.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Journal(lake, "ingest").commit([Append(attempt, EVENTS.schema, "ingest")])
    post(intake, event(1))
    intake.drain()
    assert lake.read(EVENTS.path)["event_id"].to_pylist() == ["old", "e1"]


def test_many_drains_leave_few_files_and_what_was_told_once(intake: Intake, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MOST_SMALL", 3)
    for number in range(12):
        post(intake, event(number), event(number - 1))
        if number % 5 == 4:  # as after a restore: the number that counts is in the table's log
            intake.spool.note(0, {})
        intake.drain()
        assert len(lake.file_uris(EVENTS.path)) <= 4
    assert lake.read(EVENTS.path)["event_id"].to_pylist() == [f"e{number}" for number in (0, -1, *range(1, 12))]


def test_where_nothing_was_told_a_drain_makes_nothing(intake: Intake, lake: Lake) -> None:
    assert intake.drain() == {}
    assert not intake.spool.path.exists()
    assert lake.tables() == []


def test_a_spool_of_an_older_day_repeats_nothing(intake: Intake, lake: Lake) -> None:
    """As after a restore: the spool knows of fewer commits than the table holds."""
    post(intake, *map(event, range(3)))
    intake.drain()
    intake.spool.note(0, {})
    post(intake, event(3))
    assert intake.drain() == {"raw/events": 1}
    assert lake.num_rows(EVENTS.path) == 4


def test_while_an_ingest_runs_the_rows_wait(intake: Intake, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.home, "_MOMENT_S", 0.05)
    post(intake, event(1))
    with Home(settings).lock(f"ingest-{settings.shop}"), pytest.raises(HomeError, match="already running"):
        intake.drain()
    assert intake.spool.waiting()[0] == 1
    assert intake.drain() == {"raw/events": 1}
    assert intake.spool.waiting() == (0, None)


def test_columns_that_the_shop_keeps_beyond_the_declared_ones_stay(intake: Intake, lake: Lake) -> None:
    schema = pa.schema([*EVENTS.schema, pa.field("browser", pa.string())])
    row = {
        "event_id": "old",
        "user_id": "u",
        "event_type": "page",
        "event_timestamp": NOW,
        "created_timestamp": NOW,
        "browser": "lynx",
    }
    lake.write(EVENTS.path, pa.Table.from_pylist([row], schema=schema), "append", digest="old")
    post(intake, event(1))
    intake.drain()
    assert lake.read(EVENTS.path)["browser"].to_pylist() == ["lynx", None]


def test_an_item_keeps_what_is_not_said_of_it(intake: Intake, lake: Lake, clock: Clock) -> None:
    told = {"item_id": "i1", "title": "Shoe", "price": Decimal("10"), "cost": Decimal("4"), "event_timestamp": NOW - SECOND}
    lake.write(ITEMS.path, pa.Table.from_pylist([{**told, "created_timestamp": NOW}], schema=ITEMS.schema), "append", digest="old")
    assert counts(post_items(intake, {"item_id": "i1", "price": 9.5})) == (1, 0, 0, 0)
    clock.now += SECOND
    post_items(intake, {"item_id": "i1", "withdrawn_at": "2024-05-01T12:00:01Z", "title": None}, {"item_id": "i2", "title": "New"})
    intake.drain()
    rows = lake.read(ITEMS.path).sort_by("event_timestamp").to_pylist()
    said = [(row["item_id"], row["title"], row["price"], row["cost"], row["withdrawn_at"]) for row in rows]
    assert said == [
        ("i1", "Shoe", Decimal("10"), Decimal("4"), None),
        ("i1", "Shoe", Decimal("9.5"), Decimal("4"), None),
        ("i1", None, Decimal("9.5"), Decimal("4"), NOW + SECOND),
        ("i2", "New", None, None, None),
    ]
    assert [row["event_timestamp"] for row in rows] == [NOW - SECOND, NOW, NOW + SECOND, NOW + SECOND]


def test_what_is_said_of_an_item_comes_in_order_and_once_per_instant(intake: Intake) -> None:
    at = {"item_id": "i1", "event_timestamp": "2024-05-01T11:00:00Z"}
    assert counts(post_items(intake, at | {"price": 3, "on_hand": 1})) == (1, 0, 0, 0)
    assert counts(post_items(intake, at | {"price": 3, "on_hand": 1})) == (0, 0, 1, 0)
    assert counts(post_items(intake, at | {"price": 4})) == (1, 1, 0, 0)
    early = at | {"price": 5, "on_hand": 5, "event_timestamp": "2024-05-01T10:59:59Z"}
    receipt = post_items(intake, early)
    assert counts(receipt) == (0, 0, 0, 1)
    assert receipt.quarantined[0].reason == "event_timestamp: before what was told of the item already"
    assert [entry.row.get("on_hand") for entry in intake.spool.after(0, 10) if entry.path == "raw/inventory"] == [1]


def test_on_a_data_clock_a_row_is_known_when_it_is_true(settings: Settings, lake: Lake) -> None:
    intake = Intake(settings, SHOP, lake, open_rows(settings, "sample"), "data", lambda: NOW)
    receipt = post(intake, event(1, event_timestamp="2025-01-01T00:00:00Z"), event(2))
    assert counts(receipt) == (2, 0, 0, 0)  # ahead of the shop's newest fact, but not of the machine's clock
    assert receipt.known == to_microseconds(datetime(2025, 1, 1, tzinfo=UTC))
    assert [entry.received for entry in intake.spool.after(0, 10)] == [receipt.known, to_microseconds(NOW)]
    assert counts(post(intake, event(3, event_timestamp="2999-01-01T00:00:00Z"))) == (0, 0, 0, 1)


def test_old_rows_go_but_not_before_they_are_in_the_tables(intake: Intake) -> None:
    post(intake, event(1))
    post_items(intake, {"item_id": "i1", "price": 3})
    post_items(intake, {"item_id": "i1", "price": 4})
    later = time.time() + 1
    assert intake.prune(later) == 0
    intake.drain()
    assert intake.prune(time.time() - 3600) == 0
    assert intake.prune(later) == 2
    assert [entry.row for entry in intake.spool.after(0, 10)] == [{"item_id": "i1", "price": "4.0000"}]
    assert intake.drain() == {}
    post(intake, event(2))
    assert intake.drain() == {"raw/events": 1}


def test_a_full_disk_accepts_nothing_and_loses_nothing(intake: Intake) -> None:
    post(intake, event(1))
    connection = intake.spool._connections.get()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite says of a disk without room
    with pytest.raises(EngineError, match="database or disk is full"):
        post(intake, *(event(number, query="x" * 2000) for number in range(2, 50)))
    assert [entry.key for entry in intake.spool.after(0, 100)] == ["e1"]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert counts(post(intake, *(event(number, query="x" * 2000) for number in range(1, 50)))) == (49, 1, 0, 0)


def test_takers_that_are_sent_the_same_at_once_keep_and_commit_it_once(settings: Settings, lake: Lake) -> None:
    """Each taker has its own connections and locks, as a process has (two of them: tests/serving/test_inbox.py)."""
    barrier = threading.Barrier(3)

    def take_all(_: int) -> int:
        intake = Intake(settings, SHOP, lake, open_rows(settings, "sample"), "wall", lambda: NOW)
        barrier.wait()
        accepted = 0
        for start in range(0, 600, 20):
            accepted += post(intake, *map(event, range(start, start + 20))).accepted
            if start % 100 == 0:
                with suppress(HomeError):  # others hold the tables for long on a busy machine
                    intake.drain()
        return accepted

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(take_all, range(3))) == 600
    Intake(settings, SHOP, lake, open_rows(settings, "sample"), "wall", lambda: NOW).drain()
    assert sorted(lake.read(EVENTS.path)["event_id"].to_pylist()) == sorted(f"e{number}" for number in range(600))
