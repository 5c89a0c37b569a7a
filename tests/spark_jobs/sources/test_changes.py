from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from features.tables import ORDERS
from spark_jobs.sources.changes import CORRECTION, DUPLICATE, FATE, ORDER, decide

MORNING = datetime(2025, 6, 1, tzinfo=UTC)
Version = tuple[str, float]
SCHEMA = pa.schema(
    [
        pa.field("order_id", pa.string()),
        pa.field("order_line_id", pa.string()),
        pa.field("status", pa.string()),
        pa.field("created_timestamp", pa.timestamp("us", tz="UTC")),
        pa.field(ORDER, pa.int64()),
    ]
)


def frame(versions: list[Version]) -> pa.Table:
    """Versions (status, hour in which it could be known) of one order line, as they are told."""
    rows = [("1", "1", status, MORNING + timedelta(hours=hour), place) for place, (status, hour) in enumerate(versions)]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


def tell(spark: SparkSession, runs: list[list[Version]], is_said: bool) -> tuple[list[str], list[int]]:
    """What is stored after runs on day 1, 2 ..., in the order in which it could be known, and how much of each was new."""
    stored, counts = frame([]), []
    content = ["order_id", "order_line_id", "status", *(["created_timestamp"] if is_said else [])]
    for day, versions in enumerate(runs, 1):
        now = MORNING + timedelta(days=day)
        args = spark.createDataFrame(frame(versions)), spark.createDataFrame(stored.drop([ORDER])), ORDERS, content, now, "keep"
        decided = decide(*args).toArrow()
        new = [row for row in decided.to_pylist() if row[FATE] != DUPLICATE]
        known = {row["created_timestamp"] for row in stored.to_pylist()}
        assert all(row[FATE] == CORRECTION for row in new[not known :])
        assert not known & {row["created_timestamp"] for row in new}
        counts.append(len(new))
        stored = pa.concat_tables(
            [stored, decided.select(SCHEMA.names).cast(SCHEMA).filter([row in new for row in decided.to_pylist()])]
        )
    return stored.sort_by("created_timestamp")["status"].to_pylist(), counts


@pytest.mark.parametrize(
    ("runs", "stored", "counts"),
    [
        (["ab", "ab", "ab"], "ab", [2, 0, 0]),  # a file that grew elsewhere
        (["ab", "abc", "abc"], "abc", [2, 1, 0]),  # and here
        (["a", "b", "a"], "aba", [1, 1, 1]),
        (["a", "b", "a", "aba"], "aba", [1, 1, 1, 0]),
        (["ab", "ba"], "aba", [2, 1]),
        (["ab", "aba"], "aba", [2, 1]),
        (["ab", "axb", "axb"], "abaxb", [2, 3, 0]),
        (["aab"], "ab", [2]),
    ],
)
def test_history_that_is_told_again_is_no_correction(runs: list[str], stored: str, counts: list[int], spark: SparkSession) -> None:
    told = [[(status, 0.0) for status in run] for run in runs]
    assert tell(spark, told, is_said=False) == (list(stored), counts)


@pytest.mark.parametrize(
    ("runs", "stored", "counts"),
    [
        ([[("a", 10), ("b", 9), ("c", 11)]], "bac", [3]),
        ([[("a", 10)], [("b", 9)], [("a", 10), ("b", 9)]], "ba", [1, 1, 0]),
        ([[("a", 10)], [("b", 11)], [("a", 10)]], "ab", [1, 1, 0]),  # the older of two files grew
        ([[("a", 10)], [("c", 12)], [("b", 11)]], "abc", [1, 1, 1]),
        ([[("a", 10), ("b", 11)], [("a", 12)]], "aba", [2, 1]),
        ([[("a", 10)], [("a", 11)]], "a", [1, 0]),
        ([[("a", 10)], [("b", 10)], [("b", 10)], [("c", 10)]], "abc", [1, 1, 0, 1]),  # known when it was told
        ([[("a", 10), ("b", 10), ("c", 11)], [("a", 10), ("b", 10), ("c", 11)]], "abc", [3, 0]),
        ([[("a", 10)], [("a", 10), ("b", 10), ("c", 11)]], "abc", [1, 2]),
    ],
)
def test_a_source_that_says_when_orders_its_versions(
    runs: list[list[Version]], stored: str, counts: list[int], spark: SparkSession
) -> None:
    assert tell(spark, runs, is_said=True) == (list(stored), counts)
