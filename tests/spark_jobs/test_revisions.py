"""Feature tables that gain rows: built step by step they hold what one build of all holds, and the past stays what it was."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from features.columns import RETRACTED
from features.offline.frames import join
from features.revisions import current_rows, has_revisions
from features.tables import CREATED_TIME, EVENT_TIME, EVENTS, FEATURE_TABLES, ITEMS, ORDERS, REVIEWS, Column, Table
from features.views import VIEWS
from infra import clock
from infra.lake import Lake, digest_of
from spark_jobs.build import Built
from spark_jobs.job import KNOWN
from spark_jobs.revisions import IS_REVISION, SINCE, TAKEN, TAKEN_TYPE, revise
from spark_jobs.revisions import current as spark_current
from spark_jobs.session import read_table
from tests.spark_jobs.conftest import Row, complete, facts

Facts = dict[Table, list[Row]]
Build = Callable[..., dict[str, Built]]
NAMES = ("price", "event_timestamp", "created_timestamp")
ONLY_GAIN = ("interactions", "sessions", "user_history", "user_activity", "clean_reviews")
"""Tables from whose rows no late act takes anything. A late price or category of an item takes its acts from another price or
category: a table that saw both knows since when, one built at once does not."""
STEPS = (date(2024, 5, 1), date(2024, 5, 11), date(2024, 5, 21))


def append(lake: Lake, rows: Facts, revised: int = 0) -> None:
    """Add raw rows as an ingest does."""
    for table, found in rows.items():
        made = pa.Table.from_pylist([complete(table, row) for row in found], schema=table.schema)
        lake.write(table.path, made, "append", digest=digest_of(table.name, str(found)), metadata={"revised": revised})


def late(rows: Facts, since: date, seed: int) -> Facts:
    """The same facts, known some time in the ten days from `since` on."""
    chance = random.Random(seed)
    start = datetime(since.year, since.month, since.day, 3, tzinfo=UTC)
    found = {}
    rows[EVENTS] = [row for row in rows[EVENTS] if row["event_type"] != "login"]  # which would take acts from the visitor
    for table in (EVENTS, ORDERS, ITEMS, REVIEWS):
        known = [start + timedelta(minutes=chance.randrange(9 * 24 * 60)) for _ in rows[table]]
        found[table] = [{**row, "created_timestamp": at} for row, at in zip(rows[table], known, strict=True)]
    return found


def three_steps() -> list[Facts]:
    """Facts of three times ten days, each but the first with some that come late about the days before."""
    steps = [facts(number, since, 10) for number, since in enumerate(STEPS)]
    for number in (1, 2):
        for table, rows in late(facts(10 + number, date(2024, 5, 3), 6 * number), STEPS[number], number).items():
            steps[number][table] = steps[number][table] + rows
    line = {"order_id": "taken", "order_line_id": "1", "user_id": "u9", "item_id": "i1", "quantity": 3, "unit_price": 2}
    view = {"visitor_id": "x9", "item_id": "i2", "event_type": "view"}
    steps[0][ORDERS].append(line | {"event_timestamp": "2024-05-04T10:00+00:00"})
    steps[0][EVENTS].append(view | {"event_id": "taken-1", "event_timestamp": "2024-05-05T10:00+00:00"})
    steps[1][EVENTS].append(view | {"event_id": "taken-2", "event_timestamp": "2024-05-12T10:00+00:00"})
    known = {"created_timestamp": "2024-05-25T10:00+00:00"}
    steps[2][ORDERS].append(line | known | {"status": "cancelled", "event_timestamp": "2024-05-04T10:00+00:00"})
    login = {"user_id": "u8", "event_type": "login", "event_id": "taken-3", "event_timestamp": "2024-05-08T10:00+00:00"}
    steps[2][EVENTS].append({"visitor_id": "x9"} | login | known)
    return steps


LOSERS = ("u8", "u9", "visitor:x9")
"""Users to and from whom a late fact takes something: a cancelled order, a login that moves the view after it."""


def current(lake: Lake, name: str, *without: str) -> list[Row]:
    """The current rows of a table, sorted by key and time."""
    table = FEATURE_TABLES[name]
    rows = current_rows(lake, table).sort_by([(key, "ascending") for key in (*table.keys, "event_timestamp")])
    return rows.drop_columns(list(without)).to_pylist()


def past(lake: Lake, name: str, until: datetime, labels: pa.Table | None = None) -> pa.Table:
    """What a reader saw of every key (those of `labels`, if they are given) at some instants before `until`."""
    view = VIEWS[name]
    if labels is None:
        keys = lake.read(view.path, columns=list(view.key_names)).group_by(list(view.key_names)).aggregate([])
        instants = pa.array([until - timedelta(hours=11 * step) for step in range(25)], pa.timestamp("us", "UTC"))
        labels = pa.concat_tables(keys.append_column("event_timestamp", pa.repeat(at, keys.num_rows)) for at in instants)
    means = {column: column for column in view.column_names if column not in FEATURE_TABLES[name].grouping}
    return join(labels.select([*view.key_names, "event_timestamp"]), [view], {name: means}, lake)


@pytest.fixture
def whole(tmp_path: Path) -> Lake:
    """A second lake, for what is built at once."""
    return Lake(str(tmp_path / "whole"), "sample")


@pytest.mark.parametrize(
    "names",
    [
        ("sessions", "user_history", "user_activity"),
        ("daily_demand", "user_profile"),
        pytest.param(tuple(FEATURE_TABLES), id="all", marks=pytest.mark.soak),
    ],
)
def test_three_builds_with_late_rows_between_hold_what_one_build_holds(
    lake: Lake, whole: Lake, build: Build, names: tuple[str, ...]
) -> None:
    """And what was visible before the late rows were known stays so."""
    seen = {}
    for step in three_steps():
        for made in (lake, whole):
            append(made, step, revised=1)
        build(*names)
        until = clock.now("data", lake)
        seen[until] = {name: past(lake, name, until) for name in names}
    build(*names, lake=whole)
    for name in names:
        if name in ONLY_GAIN:
            gained, at_once = ([r for r in current(made, name) if r.get("user_id") not in LOSERS] for made in (lake, whole))
            assert gained == at_once, name
        assert current(lake, name, "created_timestamp") == current(whole, name, "created_timestamp"), name
        both = zip(current(lake, name), current(whole, name), strict=True)
        assert all(step["created_timestamp"] >= once["created_timestamp"] for step, once in both), name
        for until, tables in seen.items():
            assert past(lake, name, until, tables[name]).equals(tables[name]), (name, until)
    until, first = next(iter(seen.items()))
    changed = [name for name in names if not past(whole, name, until, first[name]).equals(first[name])]
    assert changed  # a table built at once has forgotten it


def test_facts_of_the_shops_future_touch_what_they_speak_of_once_they_are_told(lake: Lake, whole: Lake, build: Build) -> None:
    """All facts lie in the raw tables from the start; the shop's clock passes them."""
    names = ("sessions", "daily_demand")
    for step in three_steps():
        append(lake, step, revised=1)
    for now in ("2024-05-12T09:00+00:00", "2024-05-24T09:00+00:00", "2024-06-02T09:00+00:00"):
        built = build(*names, now=now)
    assert all(built[name].added for name in names)
    for step in three_steps():
        append(whole, step, revised=1)
    build(*names, now="2024-06-02T09:00+00:00", lake=whole)
    for name in names:
        assert current(lake, name, "created_timestamp") == current(whole, name, "created_timestamp"), name


PRICES = Table(
    "prices", "features", "prices", (Column("key", "string", "k"), Column("price", "int", "p"), EVENT_TIME, CREATED_TIME), ("key",)
)
CASES: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    # stored (price, event, created, retracted), computed (price, event, created), added (price, event, created, retracted)
    "the same": ([(1, 1, 1, None)], [(1, 1, 1)], []),
    "new": ([], [(1, 1, 5)], [(1, 1, 5, None)]),
    "known later": ([(1, 1, 1, None)], [(1, 1, 4)], [(1, 1, 4, None)]),
    "known earlier": ([(1, 1, 4, None)], [(1, 1, 1)], []),
    "a late fact": ([(1, 1, 1, None)], [(2, 1, 4)], [(2, 1, 4, None)]),
    "another for what others say": ([(1, 1, 1, None)], [(2, 1, 1)], [(2, 1, 9, None)]),
    "gone, with one before it": ([(1, 1, 1, None), (2, 2, 2, None)], [(1, 1, 1)], [(1, 2, 9, "before")]),
    "gone, the first": ([(1, 1, 1, None), (2, 2, 2, None)], [(2, 2, 2)], [(1, 1, 9, "nothing")]),
    "gone before": ([(1, 1, 1, None), (1, 2, 9, "before")], [(1, 1, 1)], []),
    "gone before, then another before it": ([(1, 1, 1, None), (1, 3, 7, "before")], [(1, 1, 1), (5, 2, 8)],
                                            [(5, 2, 8, None), (5, 3, 9, "before")]),
    "gone, and back": ([(1, 1, 8, "nothing")], [(1, 1, 1)], [(1, 1, 9, None)]),
    "none left": ([(1, 1, 1, None), (2, 2, 2, None)], [], [(1, 1, 9, "nothing"), (2, 2, 9, "nothing")]),
    "null, then a price": ([(None, 1, 1, None)], [(3, 1, 6)], [(3, 1, 6, None)]),
}  # fmt: skip


def instant(number: int) -> datetime:
    return datetime(2024, 5, number, tzinfo=UTC)


def told(rows: list[tuple[Any, ...]], key: str, *, since: int | None = None, taken: Any = ()) -> list[Row]:
    """Rows of PRICES with what `revise` is told of their key; facts became known on the ninth."""
    names = ("price", "event_timestamp", "created_timestamp", RETRACTED)
    touch = {SINCE: since and instant(since), TAKEN: list(taken), KNOWN: instant(9)}
    made = [dict(zip(names, row, strict=False)) for row in rows]
    return [{"key": key} | row | {name: instant(row[name]) for name in names[1:3]} | touch for row in made]


def revised(spark: SparkSession, stored: list[Row], computed: list[Row], table: Table = PRICES) -> dict[str, list[tuple[Any, ...]]]:
    """What `revise` adds, per key, with days for times."""
    touch = f"{SINCE} timestamp, {TAKEN} {TAKEN_TYPE}, {KNOWN} timestamp"
    schema = "key string, price bigint, event_timestamp timestamp, created_timestamp timestamp"
    frames = (
        spark.createDataFrame([tuple(row[name] for name in names) for row in rows], types)
        for rows, names, types in (
            (stored, ["key", *NAMES, RETRACTED, SINCE, TAKEN, KNOWN], f"{schema}, {RETRACTED} string, {touch}"),
            (computed, ["key", *NAMES, SINCE, TAKEN, KNOWN], f"{schema}, {touch}"),
        )
    )
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in revise(*frames, table).orderBy("key", "event_timestamp").collect():
        days = (row.event_timestamp.day, row.created_timestamp.day)
        assert row[IS_REVISION] == any(old["key"] == row.key and old["event_timestamp"].day == days[0] for old in stored)
        found.setdefault(row.key, []).append((row.price, *days, row[RETRACTED]))
    return found


def test_what_differs_is_added_and_what_is_gone_is_taken_back(spark: SparkSession) -> None:
    stored = [row for key, (rows, _, _) in CASES.items() for row in told(rows, key)]
    computed = [row for key, (_, rows, _) in CASES.items() for row in told(rows, key)]
    found = revised(spark, stored, computed)
    for key, (*_, added) in CASES.items():
        assert found.get(key, []) == added, key


def test_a_row_that_lost_something_is_known_no_earlier_than_the_loss(spark: SparkSession) -> None:
    stored, computed = [(1, 1, 1, None), (1, 2, 2, None), (1, 3, 3, None)], [(5, 1, 4), (5, 2, 4), (5, 3, 8)]
    taken = [{"since": instant(2), "known": instant(7)}]
    found = revised(spark, told(stored, "a", taken=taken), told(computed, "a", taken=taken))
    assert found["a"] == [(5, 1, 4, None), (5, 2, 7, None), (5, 3, 8, None)]


def test_what_only_groups_rows_is_renamed_in_its_place(spark: SparkSession) -> None:
    grouped = dataclasses.replace(PRICES, grouping=("price",))
    found = revised(spark, told([(1, 1, 1, None)], "a"), told([(2, 1, 1)], "a"), grouped)
    assert found["a"] == [(2, 1, 1, None)]


def test_rows_before_the_touched_days_stay_and_are_what_comes_before(spark: SparkSession) -> None:
    stored = told([(1, 1, 1, None), (2, 2, 2, None), (3, 3, 3, None)], "a", since=2)
    assert revised(spark, stored, told([(9, 1, 1)], "a", since=2)) == {"a": [(1, 2, 9, "before"), (1, 3, 9, "before")]}


def test_current_rows_are_the_newest_revisions_that_stand(lake: Lake, spark: SparkSession) -> None:
    """The same in memory and in Spark; of revisions known at one time the one added last counts."""
    rows = [("a", 1, 1, 1, None), ("a", 2, 2, 2, None), ("b", 3, 1, 1, None), ("c", 4, 1, 1, None)]
    more = [("a", 7, 1, 1, None), ("b", 3, 1, 5, "nothing"), ("c", 5, 1, 3, None), ("d", 6, 1, 1, None)]
    names = ("key", "price", "event_timestamp", "created_timestamp", RETRACTED)
    for number, part in enumerate((rows, more)):
        assert has_revisions(lake, PRICES.path) is False if number else lake.version(PRICES.path) is None
        values = [dict(zip(names, row, strict=True)) for row in part]
        made = [row | {name: instant(row[name]) for name in names[2:4]} for row in values]
        table = pa.Table.from_pylist(made, schema=PRICES.stored_schema)
        lake.write(PRICES.path, table, "append" if number else "overwrite", digest=str(number), metadata={"revised": 3 * number})
    assert has_revisions(lake, PRICES.path)
    assert has_revisions(lake, PRICES.path, since=0)
    assert not has_revisions(lake, PRICES.path, version=0)
    expected = [("a", 7, 1), ("a", 2, 2), ("c", 5, 1), ("d", 6, 1)]
    found = current_rows(lake, PRICES, columns=["key", "price", "event_timestamp"]).to_pylist()
    assert sorted((row["key"], row["price"], row["event_timestamp"].day) for row in found) == sorted(expected)
    frame = spark_current(read_table(spark, lake, PRICES, in_order=True), PRICES)
    assert sorted((row.key, row.price, row.event_timestamp.day) for row in frame.collect()) == sorted(expected)
    assert current_rows(lake, PRICES, 0).num_rows == len(rows)
