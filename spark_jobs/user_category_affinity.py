"""user_category_affinity: how much of a user's recent attention a category has, on the local days on which that changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CATEGORY, CREATED_TIMESTAMP, USER_ID
from features.tables import INTERACTIONS, ITEM_CATALOG, USER_CATEGORY_AFFINITY
from features.windows import AFFINITY_SHARE_DAYS, AFFINITY_WINDOWS
from spark_jobs.categories import of_moved_items, with_category
from spark_jobs.job import Inputs, Job, Scope
from spark_jobs.windows import DAY, IS_CHANGE, LATE, REACH_DAYS, accumulate, changes, daily, recent, stamped

(_COUNT,) = AFFINITY_WINDOWS
_SHARED = _COUNT.column(AFFINITY_SHARE_DAYS)
_KEYS = [USER_ID, CATEGORY]


def transform(
    interactions: DataFrame, item_catalog: DataFrame, *, zone: str, last_day: date, first_days: DataFrame | None = None
) -> DataFrame:
    """Interactions -> one row per user, category and local day on which a count or the share changes, from the user's FIRST day up
    to `last_day`.

    The category is the one the item was in at the interaction; items without a category have no part in it. The share of a
    category also changes when the user turns to another one, so those days get a row while its 30 days hold anything.
    """
    acts = with_category(interactions, item_catalog, "_category").withColumnRenamed("_category", CATEGORY)
    days = daily(acts.where(F.col(CATEGORY).isNotNull()).repartition(USER_ID), _KEYS, [_COUNT], zone)
    days = recent(days, USER_ID, first_days)
    log = changes(days, _KEYS, [_COUNT], zone).where(F.col(DAY) <= F.lit(last_day))
    user_log = _user_log(days, zone).where(F.col(DAY) <= F.lit(last_day))
    totals = accumulate(user_log.unionByName(log.select(USER_ID, DAY), allowMissingColumns=True), [USER_ID], [_SHARED])
    log = log.unionByName(_other_days(days, totals), allowMissingColumns=True)
    rows = accumulate(log, _KEYS, _COUNT.columns).join(
        totals.select(USER_ID, DAY, F.col(_SHARED).alias("_total"), F.col(LATE).alias("_total_late")), [USER_ID, DAY]
    )
    share = F.when(F.col("_total") > 0, F.col(_SHARED) / F.col("_total")).otherwise(0.0)
    before = F.lag("affinity_share_30d", default=0.0).over(Window.partitionBy(*_KEYS).orderBy(DAY))
    rows = (
        rows.withColumn("affinity_share_30d", share)
        .withColumn(LATE, F.greatest(LATE, "_total_late"))
        .withColumn("_is_new_share", F.col("affinity_share_30d") != before)
        .where(F.col(IS_CHANGE) | F.col("_is_new_share"))
    )
    return stamped(rows, zone).select(*USER_CATEGORY_AFFINITY.names)


def _user_log(days: DataFrame, zone: str) -> DataFrame:
    """The change log of a user's acts in all categories, over the window of the share."""
    known = F.max(CREATED_TIMESTAMP).alias(CREATED_TIMESTAMP)
    user_days = days.groupBy(USER_ID, DAY).agg(F.sum(_COUNT.name).alias(_COUNT.name), known)
    return changes(user_days, [USER_ID], [replace(_COUNT, windows=(AFFINITY_SHARE_DAYS,))], zone)


def _other_days(days: DataFrame, totals: DataFrame) -> DataFrame:
    """Days on which the user's total changes while the category has acts in the window of the share: entries without a change."""
    in_order = Window.partitionBy(*_KEYS).orderBy(DAY)
    gap = F.date_diff(DAY, F.lag(DAY).over(in_order))
    spans = (
        days.withColumn("_begins", F.when(gap <= AFFINITY_SHARE_DAYS, 0).otherwise(1))
        .withColumn("_span", F.sum("_begins").over(in_order))
        .groupBy(*_KEYS, "_span")
        .agg(F.min(DAY).alias("_first"), F.date_add(F.max(DAY), AFFINITY_SHARE_DAYS).alias("_end"))
    )
    turns = totals.where(IS_CHANGE).select(USER_ID, DAY)
    return spans.join(turns, USER_ID).where((F.col(DAY) > F.col("_first")) & (F.col(DAY) < F.col("_end"))).select(*_KEYS, DAY)


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(
        inputs[INTERACTIONS], inputs[ITEM_CATALOG], zone=inputs.time_zone, last_day=inputs.last_day, first_days=inputs.first_days
    )


JOB = Job(USER_CATEGORY_AFFINITY, (INTERACTIONS, ITEM_CATALOG), run, scope=Scope(USER_ID, REACH_DAYS, others=of_moved_items))
