"""user_activity: what a user did over the last 1, 7, 30 and 90 local days, on the days on which that changes."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TYPE, USER_ID
from features.tables import INTERACTIONS, USER_ACTIVITY
from features.windows import USER_WINDOWS
from spark_jobs.job import Inputs, Job, Scope
from spark_jobs.windows import DAY, IS_CHANGE, LATE, REACH_DAYS, accumulate, changes, daily, recent, stamped


def transform(interactions: DataFrame, *, zone: str, last_day: date, first_days: DataFrame | None = None) -> DataFrame:
    """Interactions -> one row per user and local day on which a windowed value changes, from its FIRST day up to `last_day`.

    `days_since_last_purchase` is as of the row; that it grows from day to day is no change.
    """
    day_known = F.struct(F.col(DAY).alias("day"), F.col(CREATED_TIMESTAMP).alias("known"))
    bought = F.max(F.when(F.col(EVENT_TYPE) == "purchase", day_known))
    days = daily(interactions.repartition(USER_ID), [USER_ID], USER_WINDOWS, zone, last_purchase=bought)
    days = recent(days, USER_ID, first_days, ["last_purchase"])
    log = changes(days, [USER_ID], USER_WINDOWS, zone, carried=["last_purchase"]).where(F.col(DAY) <= F.lit(last_day))
    columns = [name for feature in USER_WINDOWS for name in feature.columns]
    rows = accumulate(log, [USER_ID], columns, carried=["last_purchase"]).where(IS_CHANGE)
    rows = rows.withColumn("days_since_last_purchase", F.date_diff(DAY, "last_purchase.day")).withColumn(
        LATE, F.greatest(LATE, "last_purchase.known")
    )
    return stamped(rows, zone).select(*USER_ACTIVITY.names)


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[INTERACTIONS], zone=inputs.time_zone, last_day=inputs.last_day, first_days=inputs.first_days)


JOB = Job(USER_ACTIVITY, (INTERACTIONS,), run, scope=Scope(USER_ID, REACH_DAYS))
