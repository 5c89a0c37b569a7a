"""Which keys of a table new facts touch, from which local day on, and when it became known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.revisions import has_revisions
from features.tables import Table
from infra.lake import Lake
from spark_jobs.days import local_day, stamp
from spark_jobs.job import ANY_DAY, FIRST, Inputs, Scope
from spark_jobs.revisions import CORRECTIONS, CORRECTIONS_TYPE, KNOWN, SINCE
from spark_jobs.session import read_table

_CORRECTED, _TAKES = "_corrected", "_takes"
"""Of a touch that corrects: when it became known, and whether it takes the row from its key."""


@dataclass(frozen=True)
class Change:
    """What came to an input: the files of its rows between two of its versions."""

    table: Table
    since: int | None
    version: int
    files: Sequence[str]


def touched_keys(spark: SparkSession, lake: Lake, scope: Scope, changes: Sequence[Change], whole: Inputs, built: date) -> DataFrame:
    """The keys whose rows may differ since a table was built, each with FIRST, SINCE, CORRECTIONS and KNOWN.

    Args:
        changes: the inputs that changed since.
        whole: all inputs as they are now.
        built: the last local day the table was built for; what later days bring about is touched too.
    """
    zone = whole.time_zone
    found = [touch for change in changes for touch in _touches(spark, lake, scope, change, whole)]
    if scope.reach_days is not None and whole.last_day > built:
        day = local_day(F.col(EVENT_TIMESTAMP), zone)
        due = day.between(F.date_sub(F.lit(built), scope.reach_days - 1), F.lit(whole.last_day))
        found += [
            rows.where(due).select(scope.key, F.greatest(day, F.date_add(F.lit(built), 1)).alias(FIRST))
            for rows in whole.frames.values()
            if {scope.key, EVENT_TIMESTAMP} <= set(rows.columns)
        ]
    nothing = spark.createDataFrame(
        [], f"`{scope.key}` string, {FIRST} date, {_CORRECTED} timestamp, {_TAKES} boolean, {KNOWN} timestamp"
    )
    keys = (
        reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), found, nothing)
        .where(F.col(scope.key).isNotNull())
        .groupBy(scope.key)
        .agg(
            F.min(FIRST).alias(FIRST),
            F.max(KNOWN).alias(KNOWN),
            F.collect_set(F.when(F.col(_CORRECTED).isNotNull(), F.struct(FIRST, _CORRECTED, _TAKES))).alias(CORRECTIONS),
        )
    )

    def since(day: Column) -> Column:
        return F.lit(None).cast("timestamp") if scope.reach_days is None else stamp(day, zone)

    corrections = F.transform(CORRECTIONS, lambda c: F.struct(since(c[FIRST]), c[_CORRECTED], c[_TAKES]))
    return keys.withColumns({SINCE: since(F.col(FIRST)), CORRECTIONS: corrections.cast(CORRECTIONS_TYPE)})


def _touches(spark: SparkSession, lake: Lake, scope: Scope, change: Change, whole: Inputs) -> list[DataFrame]:
    """The keys that the new rows of one input speak of, and those that the rows spoke of which they correct."""
    table = change.table
    rows = read_table(spark, lake, table, change.version, change.files)
    if scope.key not in table.names:
        return [scope.others(table, rows, whole)] if scope.others else []
    known = F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP) if EVENT_TIMESTAMP in table.names else F.col(CREATED_TIMESTAMP)
    day = local_day(F.col(EVENT_TIMESTAMP), whole.time_zone) if EVENT_TIMESTAMP in table.names else F.lit(ANY_DAY).cast("date")
    found = [rows.select(scope.key, day.alias(FIRST), known.alias(KNOWN))]
    if change.since is not None and has_revisions(lake, table.path, change.version, change.since):
        identity = table.identity if table.kind == "raw" else (*table.keys, EVENT_TIMESTAMP)
        before = read_table(spark, lake, table, change.since)
        names = [*identity, scope.key, *({RETRACTED} & set(rows.columns))]
        anew = rows.select(*[F.col(name).alias(f"__{name}") for name in dict.fromkeys(names)], known.alias(KNOWN))
        takes = ~F.col(scope.key).eqNullSafe(F.col(f"__{scope.key}"))
        if RETRACTED in rows.columns:
            takes |= F.col(f"__{RETRACTED}").isNotNull()
        pairs = before.join(anew, _same(identity))
        touch = [day.alias(FIRST), KNOWN, F.col(KNOWN).alias(_CORRECTED), takes.alias(_TAKES)]
        found += [pairs.select(scope.key, *touch), pairs.select(F.col(f"__{scope.key}").alias(scope.key), *touch)]
    return found


def _same(identity: Sequence[str]) -> Column:
    return reduce(Column.__and__, (F.col(name).eqNullSafe(F.col(f"__{name}")) for name in identity))


def cut(frames: Mapping[str, DataFrame], key: str, keys: DataFrame) -> dict[str, DataFrame]:
    """The frames with only the rows of some keys; those without the key whole."""
    wanted = keys.select(key)
    return {path: rows.join(wanted, key, "left_semi") if key in rows.columns else rows for path, rows in frames.items()}
