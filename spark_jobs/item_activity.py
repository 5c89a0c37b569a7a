"""item_activity: what happened to an item over the last 1, 7, 30 and 90 local days, on the days on which that changes."""

from __future__ import annotations

from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, QUANTITY
from features.tables import INTERACTIONS, ITEM_ACTIVITY, ITEM_CATALOG
from features.windows import ITEM_WINDOWS
from spark_jobs.days import local_day
from spark_jobs.job import Inputs, Job, Scope
from spark_jobs.windows import DAY, IS_CHANGE, LATE, REACH_DAYS, accumulate, changes, daily, distinct_changes, recent, stamped


def transform(
    interactions: DataFrame, item_catalog: DataFrame, *, zone: str, last_day: date, first_days: DataFrame | None = None
) -> DataFrame:
    """Interactions -> one row per item and local day on which a windowed value or the last price changes, from its FIRST day up to
    `last_day`.
    """
    additive = [feature for feature in ITEM_WINDOWS if feature.aggregate != "distinct"]
    distinct = [feature for feature in ITEM_WINDOWS if feature.aggregate == "distinct"]
    paid = F.when((F.col(EVENT_TYPE) == "purchase") & (F.col("value") > 0), F.col("value") / F.col(QUANTITY))
    days = daily(interactions, [ITEM_ID], additive, zone, price=F.max(_price(paid)))
    days = recent(days, ITEM_ID, first_days, ["price"])
    listed = item_catalog.select(
        ITEM_ID, local_day(F.col(EVENT_TIMESTAMP), zone).alias(DAY), _price(F.col("price")).alias("price")
    ).where(F.col("price").isNotNull())
    log = changes(days, [ITEM_ID], additive, zone, carried=["price"]).unionByName(listed, allowMissingColumns=True)
    for feature in distinct:
        log = log.unionByName(distinct_changes(interactions, [ITEM_ID], feature, zone, first_days), allowMissingColumns=True)
    columns = [name for feature in ITEM_WINDOWS for name in feature.columns]
    rows = accumulate(log.where(F.col(DAY) <= F.lit(last_day)), [ITEM_ID], columns, carried=["price"])
    before = F.lag("price.price").over(Window.partitionBy(ITEM_ID).orderBy(DAY))
    rows = (
        rows.withColumn("price_last", F.col("price.price"))
        .withColumn(LATE, F.greatest(LATE, "price.known"))
        .withColumn("_is_new_price", ~F.col("price_last").eqNullSafe(before))
        .where(F.col(IS_CHANGE) | F.col("_is_new_price"))
    )
    return stamped(rows, zone).select(*ITEM_ACTIVITY.names)


def _price(price: Column) -> Column:
    """A price with its times; the greatest of a key is its last."""
    rounded = price.cast("decimal(18,4)").alias("price")
    return F.when(price.isNotNull(), F.struct(F.col(EVENT_TIMESTAMP), F.col(CREATED_TIMESTAMP).alias("known"), rounded))


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(
        inputs[INTERACTIONS], inputs[ITEM_CATALOG], zone=inputs.time_zone, last_day=inputs.last_day, first_days=inputs.first_days
    )


JOB = Job(ITEM_ACTIVITY, (INTERACTIONS, ITEM_CATALOG), run, scope=Scope(ITEM_ID, REACH_DAYS))
