from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.tables import ORDERS
from spark_jobs.sources.changes import ACCEPTED, DUPLICATE, FATE, ORDER, decide

MORNING = datetime(2025, 6, 1, tzinfo=UTC)
Version = tuple[str, float]
Run = list[Version]
SCHEMA = pa.schema(
    [
        pa.field("order_id", pa.string()),
        pa.field("order_line_id", pa.string()),
        pa.field("status", pa.string()),
        pa.field("created_timestamp", pa.timestamp("us", tz="UTC")),
        pa.field(ORDER, pa.int64()),
    ]
)


def told(lines: list[Run]) -> pa.Table:
    """Versions (status, hour in which it could be known) of order lines, as they are told."""
    rows = [
        (f"{number}", "1", status, MORNING + timedelta(hours=hour), place)
        for number, versions in enumerate(lines)
        for place, (status, hour) in enumerate(versions)
    ]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


def tell(spark: SparkSession, lines: list[list[Run]], is_said: bool) -> list[tuple[str, list[int]]]:
    """Per line what is stored after its runs on day 1, 2 ..., in the order in which it could be known, and how much each added."""
    stored: dict[str, list[tuple[datetime, str]]] = {f"{number}": [] for number in range(len(lines))}
    counts: dict[str, list[int]] = {number: [] for number in stored}
    table = told([])
    content = ["order_id", "order_line_id", "status", *(["created_timestamp"] if is_said else [])]
    for day in range(max(len(runs) for runs in lines)):
        new = told([runs[day] if day < len(runs) else [] for runs in lines])
        frames = spark.createDataFrame(new), spark.createDataFrame(table.drop([ORDER]))
        decided = (
            decide(*frames, ORDERS, content, MORNING + timedelta(days=day + 1), "keep").where(F.col(FATE) != DUPLICATE).toArrow()
        )
        table = pa.concat_tables([table, decided.select(SCHEMA.names).cast(SCHEMA)])
        for number, versions in stored.items():
            added = [row for row in decided.to_pylist() if row["order_id"] == number]
            assert sum(row[FATE] == ACCEPTED for row in added) == (not versions)
            versions += [(row["created_timestamp"], row["status"]) for row in added]
            counts[number] += [len(added)] if day < len(lines[int(number)]) else []
    for versions in stored.values():
        assert len({created for created, _ in versions}) == len(versions)
    return [("".join(status for _, status in sorted(versions)), counts[number]) for number, versions in stored.items()]


def test_history_that_is_told_again_is_no_correction(spark: SparkSession) -> None:
    cases = [
        (["ab", "ab", "ab"], "ab", [2, 0, 0]),  # a file that grew elsewhere
        (["ab", "abc", "abc"], "abc", [2, 1, 0]),  # and here
        (["a", "b", "a"], "aba", [1, 1, 1]),
        (["a", "b", "a", "aba"], "aba", [1, 1, 1, 0]),
        (["ab", "ba"], "aba", [2, 1]),
        (["ab", "aba"], "aba", [2, 1]),
        (["ab", "axb", "axb"], "abaxb", [2, 3, 0]),
        (["aab"], "ab", [2]),
    ]
    lines = [[[(status, 0.0) for status in run] for run in runs] for runs, _, _ in cases]
    assert tell(spark, lines, is_said=False) == [(stored, counts) for _, stored, counts in cases]


def test_a_source_that_says_when_orders_its_versions(spark: SparkSession) -> None:
    cases: list[tuple[list[Run], str, list[int]]] = [
        ([[("a", 10), ("b", 9), ("c", 11)]], "bac", [3]),
        ([[("a", 10)], [("b", 9)], [("a", 10), ("b", 9)]], "ba", [1, 1, 0]),
        ([[("a", 10)], [("b", 11)], [("a", 10)]], "ab", [1, 1, 0]),  # the older of two files grew
        ([[("a", 10)], [("c", 12)], [("b", 11)]], "abc", [1, 1, 1]),
        ([[("a", 10), ("b", 11)], [("a", 12)]], "aba", [2, 1]),
        ([[("a", 10)], [("a", 11)]], "a", [1, 0]),
        ([[("a", 10)], [("b", 10)], [("b", 10)], [("c", 10)]], "abc", [1, 1, 0, 1]),  # known when it was told
        ([[("a", 10), ("b", 10)], [("c", 12)], [("a", 10), ("b", 10)], [("d", 10)]], "abcd", [2, 1, 0, 1]),  # told together
        ([[("a", 10), ("b", 10), ("c", 11)], [("a", 10), ("b", 10), ("c", 11)]], "abc", [3, 0]),
        ([[("a", 10)], [("a", 10), ("b", 10), ("c", 11)]], "abc", [1, 2]),
    ]
    assert tell(spark, [runs for runs, _, _ in cases], is_said=True) == [(stored, counts) for _, stored, counts in cases]
