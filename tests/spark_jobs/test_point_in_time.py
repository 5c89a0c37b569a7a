"""The point-in-time join on Spark: the oracle of the embedded engine holds it too, and its frames are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.offline import frames
from features.offline.labels import Labels, plain
from features.tables import Type
from features.views import View
from infra.errors import FeatureError
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import point_in_time
from tests.point_in_time import Answers, Case, World, bits, hold_to_oracle


@pytest.fixture
def joined(spark: SparkSession, tmp_path: Path) -> Callable[..., pa.Table]:
    """`joined(labels, views, names, lake)`: the frame as Spark writes it, the labels read from two files."""
    calls = 0

    def join(labels: pa.Table, views: Sequence[View], names: dict[str, dict[str, str]], lake: Lake) -> pa.Table:
        nonlocal calls
        calls += 1
        folder = tmp_path / f"labels {calls} é"
        folder.mkdir()
        half = labels.num_rows // 2
        pq.write_table(labels.slice(0, half), folder / "1.parquet", row_group_size=max(half // 3, 1))
        pq.write_table(labels.slice(half), folder / "2.parquet")
        found = Labels.find(folder)
        frame = point_in_time.join(spark, found, views, names, lake)
        point_in_time.write(frame, found.num_rows, tmp_path / f"frame{calls}", parts=3)
        return pq.read_table(tmp_path / f"frame{calls}")

    return join


@pytest.mark.parametrize("kinds", [("string", "string"), ("date", "int")])
def test_random_cases_equal_the_oracle(joined: Callable[..., pa.Table], settings: Settings, kinds: tuple[Type, ...]) -> None:
    calls = 0

    def engine(cases: Sequence[Case]) -> dict[int | None, Answers]:
        nonlocal calls
        calls += 1
        world, lake = World(cases, kinds), Lake.open(settings, f"shop{calls}")
        world.write(lake)
        frame = joined(world.labels(), world.views, world.names, lake)
        assert bits(frame).equals(bits(frames.join(world.labels(), world.views, world.names, lake, with_times=True)))
        return world.answers(frame)

    hold_to_oracle(engine, 5_000, number=10 + len(kinds[0]))


VIEW = View(
    "prices", "features/prices", (("item_id", "string"), ("ds", "date"), ("shelf", "int")), (("price", "float"),), ttl_days=1
)
NAMES = {"prices": {"price": "price"}}
UTC_TIME = pa.timestamp("us", "UTC")
T = datetime(2024, 5, 1, 12, tzinfo=UTC)


def write(lake: Lake, rows: list[dict[str, Any]]) -> None:
    """Rows of `prices`, known when true, of one item, day and shelf, unless they say otherwise."""
    schema = pa.schema([
        ("item_id", pa.string()), ("ds", pa.date32()), ("shelf", pa.int64()), ("price", pa.decimal128(18, 4)),
        ("event_timestamp", UTC_TIME), ("created_timestamp", UTC_TIME),
    ])  # fmt: skip
    made = [{"item_id": "a", "ds": date(2024, 5, 1), "shelf": 7, "event_timestamp": T, **row} for row in rows]
    made = [{"created_timestamp": row["event_timestamp"], **row} for row in made]
    lake.write(VIEW.path, pa.Table.from_pylist(made, schema=schema), "append", digest=repr(rows))


def labels(times: pa.Array, **columns: Any) -> pa.Table:
    n = len(times)
    return pa.table({
        "item_id": ["a"] * n, "ds": pa.array([date(2024, 5, 1)] * n), "shelf": [7] * n, "event_timestamp": times, **columns,
    })  # fmt: skip


@pytest.fixture
def both(joined: Callable[..., pa.Table], lake: Lake) -> Callable[[pa.Table], pa.Table]:
    """`both(labels)`: the frame, after both engines gave the same one."""

    def join(given: pa.Table) -> pa.Table:
        frame = joined(given, [VIEW], NAMES, lake)
        expected = frames.join(as_read(given), [VIEW], NAMES, lake, with_times=True)
        assert frame.schema == expected.schema
        assert bits(frame).equals(bits(expected))
        return frame

    return join


def as_read(given: pa.Table) -> pa.Table:
    """Labels as they come out of a file."""
    return given.cast(pa.schema([(field.name, plain(field)) for field in given.schema]), safe=False)


def test_the_hour_that_comes_twice_is_told_apart(both: Callable[[pa.Table], pa.Table], lake: Lake) -> None:
    """02:30 of 29 October 2023 in Berlin is 00:30 and, an hour later, 01:30 UTC; a time without a zone is UTC."""
    first, second = (datetime(2023, 10, 29, hour, 30, tzinfo=UTC) for hour in (0, 1))
    write(lake, [{"price": Decimal("1.00"), "event_timestamp": first}, {"price": Decimal("2.00"), "event_timestamp": second}])
    berlin = [datetime(2023, 10, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1)]
    frame = both(labels(pa.array(berlin, pa.timestamp("us", "Europe/Berlin"))))
    assert frame["price"].to_pylist() == [1.0, 2.0]
    naive = pa.array([second.replace(tzinfo=None), first.replace(tzinfo=None) - timedelta(microseconds=1)], pa.timestamp("ns"))
    assert both(labels(naive))["price"].to_pylist() == [2.0, None]


def test_labels_keep_their_columns_order_and_number(both: Callable[[pa.Table], pa.Table], lake: Lake) -> None:
    write(lake, [{"price": Decimal("19.9900")}, {"price": None, "shelf": 8}])
    at = pa.array([T, T, T - timedelta(days=1), T, T], UTC_TIME)
    given = labels(at).set_column(2, "shelf", pa.array([7, 8, 7, 7, None], pa.int16()))
    given = given.set_column(0, "item_id", given["item_id"].dictionary_encode())
    given = given.set_column(1, "ds", given["ds"].cast(pa.string()))
    extra = {
        "Ünit. `x`": pa.array([5, 4, 3, 2, 1], pa.uint8()),
        "share": pa.array([0.1, float("nan"), None, -0.0, 5e-324]),
        "tags": pa.array([["x"], [], None, [None], ["y", "z"]]),
        "raw": pa.array([b"\x00", b"", None, b"a", b"b"]),
    }  # fmt: skip
    for name, column in extra.items():
        given = given.append_column(name, column)
    frame = both(given)
    assert frame.column_names == [*given.column_names, "price", "prices__event_timestamp", "prices__created_timestamp"]
    assert frame["Ünit. `x`"].to_pylist() == [5, 4, 3, 2, 1]
    assert frame["ds"].to_pylist() == ["2024-05-01"] * 5
    assert frame["price"].to_pylist() == [19.99, None, None, 19.99, None]
    assert frame["prices__event_timestamp"].to_pylist() == [T, T, None, T, None], "a row that holds null is not the lack of a row"


def test_times_of_all_years(both: Callable[[pa.Table], pa.Table], lake: Lake) -> None:
    years = [datetime(1, 1, 1, tzinfo=UTC), datetime(1582, 10, 5, tzinfo=UTC), datetime(1969, 12, 31, 23, tzinfo=UTC),
             datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]  # fmt: skip
    write(lake, [{"price": Decimal(n), "event_timestamp": year} for n, year in enumerate(years)])
    frame = both(labels(pa.array([*years, years[0] + timedelta(days=1)], UTC_TIME)))
    assert frame["price"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 0.0]


def test_no_labels_and_no_rows(both: Callable[[pa.Table], pa.Table], lake: Lake) -> None:
    write(lake, [])
    assert both(labels(pa.array([T], UTC_TIME)))["price"].to_pylist() == [None]
    write(lake, [{"price": Decimal(1)}])
    assert both(labels(pa.array([], UTC_TIME))).num_rows == 0


def test_labels_that_do_not_fit_are_named(joined: Callable[..., pa.Table], lake: Lake) -> None:
    write(lake, [{"price": Decimal(1)}])
    at = pa.array([T, T], UTC_TIME)
    for given, told in (
        (labels(at).drop_columns("event_timestamp"), "labels need a column event_timestamp"),
        (labels(at).drop_columns("ds"), "needs key column.* ds"),
        (labels(at, price=[1, 2]), "already have price"),
        (labels(at, prices__created_timestamp=at), "already have prices__created_timestamp"),
        (labels(at, Price=[1, 2]), "Price and price, which are one to Spark"),
        (labels(at).set_column(1, "ds", pa.array(["2024-05-01", "yesterday"])), "key ds must be a date, it is string"),
        (labels(pa.array([T, None], UTC_TIME)), "1 null"),
        (labels(at, took=pa.array([1, 2], pa.duration("s"))), "took is of type duration"),
    ):
        with pytest.raises(FeatureError, match=told):
            joined(given, [VIEW], NAMES, lake)
