"""The Spark half of features/windows.py: windowed values from a change log, without a row per key and day.

A value over the last w days changes on the day an act falls in (+ its amount) and w days later, when it falls out (- its
amount). Acts are summed to days, each day gives one change per window end, and running sums over a key's changes give every
value on exactly the days on which it changes: one shuffle, n log n in the acts, whatever the length of the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE
from features.windows import WINDOWS_DAYS, WindowedFeature
from spark_jobs.days import local_day, stamp
from spark_jobs.job import FIRST

DAY = "_day"
LATE = "_late"
"""When acts that became known only after the day they tell of were known; a row that counts one is not known earlier."""
IS_CHANGE = "_is_change"
REACH_DAYS = (0, *WINDOWS_DAYS)
"""How many local days after its own an act changes windowed values: when it falls in, and when it falls out of each window."""


def daily(acts: DataFrame, keys: Sequence[str], features: Sequence[WindowedFeature], zone: str, **more: Column) -> DataFrame:
    """Acts -> one row per key and local day: a column per additive feature, `more` aggregates, and when all was known."""
    return (
        acts.withColumn(DAY, local_day(F.col(EVENT_TIMESTAMP), zone))
        .groupBy(*keys, DAY)
        .agg(
            *[F.sum(amount(feature)).alias(feature.name) for feature in features],
            F.max(CREATED_TIMESTAMP).alias(CREATED_TIMESTAMP),
            *[column.alias(name) for name, column in more.items()],
        )
    )


def changes(
    days: DataFrame, keys: Sequence[str], features: Sequence[WindowedFeature], zone: str, carried: Sequence[str] = ()
) -> DataFrame:
    """Daily sums -> the change log: key, day, the change of each window's value, and `carried` columns on their own day."""
    lengths = sorted({length for feature in features for length in feature.windows})
    entry = "struct<day:date,after:int,late:timestamp>"
    ends = [F.struct(F.date_add(DAY, n), F.lit(n), F.lit(None).cast("timestamp")).cast(entry) for n in (0, *lengths)]
    # A late act makes every row that counts it late, until the rows are stamped after it was known anyway.
    known = local_day(F.col(CREATED_TIMESTAMP), zone)
    last_late = F.least(F.date_add(DAY, lengths[-1] - 1), F.date_sub(known, 1))
    late_days = F.when(last_late >= F.col(DAY), F.sequence(F.col(DAY), last_late)).otherwise(F.array().cast("array<date>"))
    late = F.transform(late_days, lambda day: F.struct(day, F.lit(-1), F.col(CREATED_TIMESTAMP)).cast(entry))
    log = days.withColumn("_entry", F.explode(F.concat(F.array(*ends), late)))
    after = F.col("_entry.after")
    return log.select(
        *keys,
        F.col("_entry.day").alias(DAY),
        F.col("_entry.late").alias(LATE),
        *[
            F.when(after == 0, F.col(feature.name)).when(after == length, -F.col(feature.name)).alias(feature.column(length))
            for feature in features
            for length in feature.windows
        ],
        *[F.when(after == 0, F.col(name)).alias(name) for name in carried],
    )


def recent(days: DataFrame, key: str, first_days: DataFrame | None, carried: Sequence[str] = ()) -> DataFrame:
    """Of daily sums those that rows from a key's FIRST day on depend on: as far back as the longest window reaches.

    What the days before carry on stands on the last of them, with nothing else.
    """
    if first_days is None:
        return days
    days = days.join(first_days, key)
    is_recent = F.col(DAY) >= F.date_sub(FIRST, WINDOWS_DAYS[-1])
    kept = days.where(is_recent).drop(FIRST)
    if not carried:
        return kept
    last = F.date_sub(F.min(FIRST), WINDOWS_DAYS[-1] + 1)
    before = days.where(~is_recent).groupBy(key).agg(last.alias(DAY), *[F.max(name).alias(name) for name in carried])
    return kept.unionByName(before.withColumn(CREATED_TIMESTAMP, F.col(DAY).cast("timestamp")), allowMissingColumns=True)


def distinct_changes(
    acts: DataFrame, keys: Sequence[str], feature: WindowedFeature, zone: str, first_days: DataFrame | None = None
) -> DataFrame:
    """The change log of a count of different values: each value counts from a day it occurs until it was absent for w days.

    For one value the days it is counted are a union of intervals [day, day + w); an interval opens where the occurrence before
    is at least w days back and closes where the next is at least w days on.
    """
    value_days = (
        acts.where(F.col(EVENT_TYPE).isin(*feature.event_types) & F.col(feature.of).isNotNull())
        .select(*keys, F.col(feature.of).alias("_value"), local_day(F.col(EVENT_TIMESTAMP), zone).alias(DAY))
        .distinct()
    )
    value_days = recent(value_days, keys[0], first_days)
    in_order = Window.partitionBy(*keys, "_value").orderBy(DAY)
    since = F.coalesce(F.date_diff(DAY, F.lag(DAY).over(in_order)), F.lit(1 << 30))
    until = F.coalesce(F.date_diff(F.lead(DAY).over(in_order), DAY), F.lit(1 << 30))
    log = value_days.select(*keys, DAY, since.alias("_since"), until.alias("_until")).withColumn(
        "_after", F.explode(F.array(F.lit(0), *[F.lit(length) for length in feature.windows]))
    )
    counts = {
        feature.column(length): F.when((F.col("_after") == 0) & (F.col("_since") >= length), 1).when(
            (F.col("_after") == length) & (F.col("_until") >= length), -1
        )
        for length in feature.windows
    }
    return log.select(
        *keys, F.date_add(DAY, F.col("_after")).alias(DAY), *[column.cast("long").alias(name) for name, column in counts.items()]
    ).where(reduce(or_, [F.col(name).isNotNull() for name in counts]))


def accumulate(log: DataFrame, keys: Sequence[str], columns: Sequence[str], carried: Sequence[str] = ()) -> DataFrame:
    """The change log -> per key and day of the log: every value, the greatest `carried` so far, whether a value changed."""
    running = Window.partitionBy(*keys).orderBy(DAY).rowsBetween(Window.unboundedPreceding, 0)
    summed = log.groupBy(*keys, DAY).agg(
        *[F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in columns],
        *[F.max(name).alias(name) for name in carried],
        F.max(LATE).alias(LATE),
    )
    return summed.select(
        *keys,
        DAY,
        LATE,
        *[F.sum(name).over(running).alias(name) for name in columns],
        *[F.max(name).over(running).alias(name) for name in carried],
        reduce(or_, [F.col(name) != 0 for name in columns]).alias(IS_CHANGE),
    )


def stamped(rows: DataFrame, zone: str) -> DataFrame:
    """Rows of local days with their times: true from the first instant of the next day, known then or when the last act was."""
    return rows.withColumn(EVENT_TIMESTAMP, stamp(F.col(DAY), zone)).withColumn(
        CREATED_TIMESTAMP, F.greatest(EVENT_TIMESTAMP, LATE)
    )


def amount(feature: WindowedFeature) -> Column:
    """What one act adds to a feature."""
    weight = F.lit(1)
    for event_type, times in feature.weights.items():
        weight = F.when(F.col(EVENT_TYPE) == event_type, times).otherwise(weight)
    amount = F.col(feature.of) if feature.aggregate == "sum" else weight
    return F.coalesce(F.when(F.col(EVENT_TYPE).isin(*feature.event_types), amount), F.lit(0))
