"""The Spark half of features/revisions.py: current rows of a feature table, and what a new computation adds to it."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED, TO_BEFORE, TO_NOTHING
from features.tables import Table
from spark_jobs.job import KNOWN
from spark_jobs.session import POSITION

SINCE = "_since"
"""From when on, by event time, rows of a key were computed anew; null: all of them were."""
TAKEN = "_taken"
"""What was taken from a key: `since` when, by event time, its rows lack it (null: all), and when that was `known`. What a fact adds
makes the rows that hold it known later; what one takes leaves no trace there."""
TAKEN_TYPE = "array<struct<since:timestamp,known:timestamp>>"
IS_REVISION = "_is_revision"


def newest(rows: DataFrame, table: Table) -> DataFrame:
    """The newest revision of each row, those taken back included.

    Args:
        rows: a feature table as it is stored, with POSITION; without it each row has one revision.
    """
    if POSITION not in rows.columns:
        return rows
    of_row = Window.partitionBy(*table.keys, EVENT_TIMESTAMP).orderBy(F.col(CREATED_TIMESTAMP).desc(), F.col(POSITION).desc())
    return rows.withColumn("_number", F.row_number().over(of_row)).where(F.col("_number") == 1).drop("_number", POSITION)


def current(rows: DataFrame, table: Table) -> DataFrame:
    """The current rows of a feature table as `newest` takes it: declared columns."""
    return newest(rows, table).where(F.col(RETRACTED).isNull()).select(*table.names)


def revise(stored: DataFrame, computed: DataFrame, table: Table) -> DataFrame:
    """What has to be added to a table so that its current rows are those computed, and no reader of the past sees another value.

    A computed row that differs is known when it says so. Where that is no later than the row before it, what changed it lies in other
    facts, and it is known when the last of them was (KNOWN), as is a row that is taken back. A row that lost something (TAKEN) and
    gained something else is known no earlier than both. Columns that only group rows (`Table.grouping`) are renamed in their place.

    Args:
        stored: newest revisions of the rows of all touched keys; with SINCE, TAKEN and KNOWN of their key.
        computed: the rows these keys have now, in declared columns, with the same three.

    Returns:
        Declared columns, `retracted`, and IS_REVISION: the row was there before.
    """
    identity = [*table.keys, EVENT_TIMESTAMP]
    said = [name for name in table.names if name not in (*identity, CREATED_TIMESTAMP)]
    touch = [SINCE, TAKEN, KNOWN]
    is_anew = F.col(SINCE).isNull() | (F.col(EVENT_TIMESTAMP) >= F.col(SINCE))
    row = F.struct(*said, CREATED_TIMESTAMP)
    old = stored.select(*identity, *touch, row.alias("_old"), F.col(RETRACTED).alias("_old_retracted"))
    new = computed.where(is_anew).select(*identity, *touch, row.alias("_new"))
    rows = (
        old.unionByName(new, allowMissingColumns=True)
        .repartition(*table.keys)
        .groupBy(*identity)
        .agg(*[F.max(name).alias(name) for name in (*touch, "_old", "_old_retracted", "_new")])
    )
    is_old = F.col("_old").isNotNull()
    stands = F.col("_new").isNotNull()
    settled = F.when(~is_anew & F.col("_old_retracted").isNull(), F.col("_old"))
    earlier = Window.partitionBy(*table.keys).orderBy(EVENT_TIMESTAMP).rowsBetween(Window.unboundedPreceding, -1)
    before = F.last(F.coalesce("_new", settled), ignorenulls=True).over(earlier)
    rows = rows.withColumn("_before", before).where(is_anew).withColumn("_row", F.coalesce("_new", "_before", "_old"))
    retracted = F.when(~stands, F.when(F.col("_before").isNotNull(), TO_BEFORE).otherwise(TO_NOTHING))
    is_same = is_old & _said("_row", said).eqNullSafe(_said("_old", said)) & retracted.eqNullSafe(F.col("_old_retracted"))
    means = [name for name in said if name not in table.grouping]
    is_regrouped = stands & _said("_new", means).eqNullSafe(_said("_old", means)) & F.col("_old_retracted").isNull()
    new, old = (F.col(side)[CREATED_TIMESTAMP] for side in ("_new", "_old"))
    is_later = stands & (new > old)
    until_here = F.filter(TAKEN, lambda taken: taken["since"].isNull() | (taken["since"] <= F.col(EVENT_TIMESTAMP)))
    taken = F.array_max(F.transform(until_here, lambda taken: taken["known"]))
    created = (
        F.when(is_same | is_regrouped, F.greatest(new, old))
        .when(~stands | (new <= old), F.greatest(old, KNOWN, taken))
        .otherwise(F.greatest(new, taken))
    )
    return rows.where(~is_same | is_later).select(
        *identity,
        *[F.col("_row")[name].alias(name) for name in said],
        created.alias(CREATED_TIMESTAMP),
        retracted.alias(RETRACTED),
        is_old.alias(IS_REVISION),
    )


def _said(row: str, names: list[str]) -> Column:
    return F.struct(*[F.col(row)[name] for name in names])
