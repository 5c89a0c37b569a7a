"""user_purchases: what a user bought on which day, on the local days on which there was a purchase."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, PURCHASES_KEPT, USER_ID
from features.tables import INTERACTIONS, USER_PURCHASES
from spark_jobs.days import local_day, stamp
from spark_jobs.job import Inputs, Job, Scope


def transform(interactions: DataFrame, *, zone: str, last_day: date) -> DataFrame:
    """Interactions -> one row per user and local day with a purchase, up to `last_day`: the last `PURCHASES_KEPT` items and days.

    A return takes no purchase back: what was wanted once says as much of what will be.
    """
    day = local_day(F.col(EVENT_TIMESTAMP), zone)
    purchase = F.struct(ITEM_ID, F.date_format("_day", "yyyy-MM-dd").alias("date"), "_known")
    days = (
        interactions.where((day <= F.lit(last_day)) & (F.col(EVENT_TYPE) == "purchase"))
        .groupBy(USER_ID, day.alias("_day"), ITEM_ID)
        .agg(F.min(CREATED_TIMESTAMP).alias("_known"))
        .groupBy(USER_ID, "_day")
        .agg(_last(F.sort_array(F.collect_list(purchase))).alias("purchases"))
    )
    recent = Window.partitionBy(USER_ID).orderBy("_day").rowsBetween(-(PURCHASES_KEPT - 1), 0)
    return (
        days.withColumn("purchases", _last(F.flatten(F.collect_list("purchases").over(recent))))
        .select(
            USER_ID,
            F.col("purchases.item_id").alias("purchase_item_ids"),
            F.col("purchases.date").alias("purchase_dates"),
            stamp(F.col("_day"), zone).alias(EVENT_TIMESTAMP),
            F.array_max("purchases._known").alias("_known"),
        )
        .withColumn(CREATED_TIMESTAMP, F.greatest(EVENT_TIMESTAMP, "_known"))
        .select(*USER_PURCHASES.names)
    )


def _last(purchases: Column) -> Column:
    """The last `PURCHASES_KEPT` of an array."""
    return F.slice(purchases, F.greatest(F.lit(1), F.size(purchases) - (PURCHASES_KEPT - 1)), F.lit(PURCHASES_KEPT))


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[INTERACTIONS], zone=inputs.time_zone, last_day=inputs.last_day)


JOB = Job(USER_PURCHASES, (INTERACTIONS,), run, scope=Scope(USER_ID))
