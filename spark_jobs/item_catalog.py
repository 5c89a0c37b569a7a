"""item_catalog: what is known of an item, one row per change; the one place that says what an item is at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import reduce

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, QUANTITY
from features.tables import EVENTS, ITEM_CATALOG, ITEMS, ORDERS, REVIEWS
from spark_jobs.days import local_day, stamp
from spark_jobs.job import Inputs, Job, Scope, of_keys
from spark_jobs.raw import ROW_ID
from spark_jobs.sales import MONEY, begins, cut_to, sales
from spark_jobs.states import changes

_TOLD = ("title", "category", "brand", "price", "created_at", "withdrawn_at")


def transform(
    items: DataFrame, events: DataFrame, orders: DataFrame, reviews: DataFrame, *, zone: str, last_day: date
) -> DataFrame:
    """Raw items and the ids seen elsewhere -> one row per item and change.

    An item seen before its first row in `items` (or without any) begins with a row at that sight. Where the shop gives no list
    price the last price paid stands in; it changes at most once a local day, from the first instant of the next one on.

    Args:
        items, events, orders, reviews: current rows of the raw tables.
    """
    known = F.col(CREATED_TIMESTAMP).alias("known")
    told = items.select(ITEM_ID, EVENT_TIMESTAMP, CREATED_TIMESTAMP, F.struct(*_TOLD, known).alias("told"))
    paid = _paid(sales(events, orders, zone), zone, last_day)
    rows = told.unionByName(_seen(events, orders, reviews), allowMissingColumns=True).unionByName(paid, allowMissingColumns=True)
    # At one instant the row of `items` comes last and stands for all.
    in_order = Window.partitionBy(ITEM_ID).orderBy(EVENT_TIMESTAMP, F.col("told").isNotNull())
    so_far = in_order.rowsBetween(Window.unboundedPreceding, 0)
    states = (
        rows.withColumn("told", F.last("told", ignorenulls=True).over(so_far))
        .withColumn("paid", F.last("paid", ignorenulls=True).over(so_far))
        .withColumn("_first", F.first(F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP)).over(so_far))
        .withColumn("_is_last", ~F.col(EVENT_TIMESTAMP).eqNullSafe(F.lead(EVENT_TIMESTAMP).over(in_order)))
        .where("_is_last")
        .withColumn("price", F.coalesce("told.price", "paid.price"))
        .withColumn("created_at", F.coalesce("told.created_at", "_first.event_timestamp"))
        .withColumn(
            CREATED_TIMESTAMP,
            F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP, "_first.created_timestamp", "told.known", "paid.known"),
        )
        .select(
            ITEM_ID, "told.title", "told.category", "told.brand", "price", "created_at", "told.withdrawn_at",
            EVENT_TIMESTAMP, CREATED_TIMESTAMP,
        )
    )  # fmt: skip
    return changes(states, ITEM_CATALOG.keys, _TOLD)


def _seen(*frames: DataFrame) -> DataFrame:
    """The first sight of each item: when anything first spoke of it."""
    sights = [
        frame.where(F.col(ITEM_ID).isNotNull()).select(ITEM_ID, F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP).alias("sight"))
        for frame in frames
    ]
    return reduce(DataFrame.unionByName, sights).groupBy(ITEM_ID).agg(F.min("sight").alias("sight")).select(ITEM_ID, "sight.*")


def _paid(lines: DataFrame, zone: str, last_day: date) -> DataFrame:
    """The last price paid of each item and local day, from the first instant of the next day on."""
    day = local_day(F.col(EVENT_TIMESTAMP), zone)
    price = (F.col("value") / F.col(QUANTITY)).cast(MONEY).alias("price")
    paid = F.struct(price, F.col(CREATED_TIMESTAMP).alias("known"))
    return (
        lines.where((F.col(EVENT_TYPE) == "purchase") & (F.col("value") > 0) & (day <= F.lit(last_day)))
        .groupBy(ITEM_ID, day.alias("_day"))
        .agg(F.max_by(paid, F.struct(EVENT_TIMESTAMP, ROW_ID)).alias("paid"))
        .select(ITEM_ID, "paid", stamp(F.col("_day"), zone).alias(EVENT_TIMESTAMP), F.col("paid.known").alias(CREATED_TIMESTAMP))
    )


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    frames = (inputs[ITEMS], inputs[EVENTS], inputs[ORDERS], inputs[REVIEWS])
    return transform(*frames, zone=inputs.time_zone, last_day=inputs.last_day)


def _cut(inputs: Inputs, keys: DataFrame) -> Mapping[str, DataFrame]:
    frames = {path: of_keys(rows, ITEM_ID, keys) for path, rows in inputs.frames.items()}
    return {**frames, ORDERS.path: cut_to(inputs[ORDERS], ITEM_ID, keys)}


SCOPE = Scope(ITEM_ID, is_daily=False, cut=_cut, common=lambda inputs: begins(inputs[ORDERS], inputs.time_zone))
JOB = Job(ITEM_CATALOG, (ITEMS, EVENTS, ORDERS, REVIEWS), run, scope=SCOPE)
