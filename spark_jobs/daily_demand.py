"""daily_demand: units per item and local day, zero-filled while the item is on sale, with what explains them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.calendars import special_days
from features.columns import (
    CATEGORY,
    CREATED_TIMESTAMP,
    DS,
    EVENT_TIMESTAMP,
    EVENT_TYPE,
    ITEM_ID,
    QUANTITY,
)
from features.tables import CALENDAR, DAILY_DEMAND, EVENTS, INVENTORY, ITEM_CATALOG, ORDERS, PROMOTIONS
from spark_jobs.days import local_day, stamp
from spark_jobs.job import Inputs, Job
from spark_jobs.sales import sales

FIRST_HOLIDAY = date(1970, 1, 1)
"""Special days are looked up from here on; earlier days carry none."""


def transform(
    events: DataFrame,
    orders: DataFrame,
    item_catalog: DataFrame,
    promotions: DataFrame,
    inventory: DataFrame,
    calendar: DataFrame,
    *,
    special: Mapping[date, str],
    zone: str,
    last_day: date,
) -> DataFrame:
    """Sales -> one row per item and local day from its first to its last day on sale.

    The first day is that of the catalogue, not before the shop's first sale; the last that of its withdrawal, else the shop's
    last day with a sale, up to `last_day`. Lines without a customer count. Later facts never change a day's row.

    Args:
        events, orders, promotions, inventory, calendar: current rows of the raw tables.
        special: name of each holiday and shopping day.
    """
    lines = sales(events, orders, zone).withColumn(DS, local_day(F.col(EVENT_TIMESTAMP), zone)).where(F.col(DS) <= F.lit(last_day))
    sold = _sold(lines)
    days = _days_on_sale(sold, item_catalog, zone)
    first_days = days.groupBy(ITEM_ID).agg(F.min(DS).alias("_first"))
    shop_days = days.agg(F.min(DS).alias("_from"), F.max(DS).alias("_to"))
    rows = (
        days.join(sold, [ITEM_ID, DS], "left")
        .join(_told(item_catalog, first_days, zone), [ITEM_ID, DS], "left")
        .join(_stock_outs(inventory, shop_days, zone), [ITEM_ID, DS], "left")
    )
    so_far = Window.partitionBy(ITEM_ID).orderBy(DS).rowsBetween(Window.unboundedPreceding, 0)
    rows = rows.withColumn("_price", F.last(F.coalesce("paid", "listed"), ignorenulls=True).over(so_far))
    rows = rows.withColumn("_in", F.last("categorised", ignorenulls=True).over(so_far)).withColumn(CATEGORY, F.col("_in.category"))
    offers = _promotion_days(promotions, shop_days, zone)
    for level in ([ITEM_ID], [CATEGORY], []):
        rows = _with_promotions(rows, offers, level)
    rows = _with_calendar(rows, calendar, special)
    depths = [F.col(name) for name in rows.columns if name.startswith("_depth")]
    known = [F.col(name) for name in rows.columns if name.startswith("_known")]
    known += [F.col("_price.known"), F.when(F.col("_depth_category").isNotNull(), F.col("_in.known"))]
    return (
        rows.withColumn("units_sum", F.coalesce("units_sum", F.lit(0)))
        .withColumn("returned_units_sum", F.coalesce("returned_units_sum", F.lit(0)))
        .withColumn("price_mean", F.col("_price.price"))
        .withColumn("promotion_depth", F.coalesce(F.greatest(*depths), F.lit(0.0)))
        .withColumn("is_promotion", F.greatest(*depths).isNotNull())
        .withColumn("is_stock_out", F.coalesce("is_stock_out", F.lit(False)))
        .withColumn(EVENT_TIMESTAMP, stamp(F.col(DS), zone))
        .withColumn(CREATED_TIMESTAMP, F.greatest(EVENT_TIMESTAMP, *known))
        .select(*DAILY_DEMAND.names)
    )


def _sold(lines: DataFrame) -> DataFrame:
    """Per item and day with a line: units bought and returned, the mean price paid per unit, when all was known."""
    is_purchase = F.col(EVENT_TYPE) == "purchase"
    is_paid = is_purchase & (F.col("value") > 0)
    units = F.sum(F.when(is_purchase, F.col(QUANTITY)).otherwise(0))
    mean = F.sum(F.when(is_paid, F.col("value"))).cast("double") / F.sum(F.when(is_paid, F.col(QUANTITY)))
    known = F.max(CREATED_TIMESTAMP)
    return lines.groupBy(ITEM_ID, DS).agg(
        units.alias("units_sum"),
        F.sum(F.when(is_purchase, 0).otherwise(F.col(QUANTITY))).alias("returned_units_sum"),
        F.when(mean.isNotNull(), F.struct(mean.alias("price"), known.alias("known"))).alias("paid"),
        known.alias("_known_sold"),
    )


def _days_on_sale(sold: DataFrame, item_catalog: DataFrame, zone: str) -> DataFrame:
    """Every item with every local day on which it was on sale."""
    on_sale = item_catalog.groupBy(ITEM_ID).agg(
        local_day(F.min("created_at"), zone).alias("_created"),
        local_day(F.max_by("withdrawn_at", F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP)), zone).alias("_withdrawn"),
    )
    sales_days = sold.groupBy(ITEM_ID).agg(F.min(DS).alias("_first_sale"), F.max(DS).alias("_last_sale"))
    shop = sold.agg(F.min(DS).alias("_shop_first"), F.max(DS).alias("_shop_last"))
    first = F.least("_first_sale", F.greatest("_created", "_shop_first"))
    last = F.least("_shop_last", F.greatest(F.coalesce("_withdrawn", "_shop_last"), "_last_sale"))
    return (
        on_sale.join(sales_days, ITEM_ID, "full")
        .crossJoin(F.broadcast(shop))
        .select(ITEM_ID, first.alias("_first"), last.alias("_last"))
        .where(F.col("_first") <= F.col("_last"))
        .select(ITEM_ID, F.explode(F.sequence("_first", "_last")).alias(DS))
    )


def _told(item_catalog: DataFrame, first_days: DataFrame, zone: str) -> DataFrame:
    """Per item and day with a catalogue change: list price and category as of its end; earlier changes count on the first day."""
    day = F.greatest(local_day(F.col(EVENT_TIMESTAMP), zone), F.col("_first"))
    at = F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    known = F.col(CREATED_TIMESTAMP).alias("known")
    listed = F.when(F.col("price").isNotNull(), F.struct(F.col("price").cast("double").alias("price"), known))
    return (
        item_catalog.join(first_days, ITEM_ID)
        .groupBy(ITEM_ID, day.alias(DS))
        .agg(F.max_by(listed, at).alias("listed"), F.max_by(F.struct(CATEGORY, known), at).alias("categorised"))
    )


def _stock_outs(inventory: DataFrame, shop_days: DataFrame, zone: str) -> DataFrame:
    """Items and days on which, for some time, no place had any stock.

    The stock of an item is a step function of time, the sum over its places; what a place owes (below zero) is no stock of
    another's.
    """
    place = Window.partitionBy(ITEM_ID, "location_id").orderBy(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    steps = Window.partitionBy(ITEM_ID).orderBy(EVENT_TIMESTAMP)
    here = F.greatest(F.col("on_hand"), F.lit(0))
    out = (
        inventory.withColumn("_step", here - F.coalesce(F.lag(here).over(place), F.lit(0)))
        .groupBy(ITEM_ID, EVENT_TIMESTAMP)
        .agg(F.sum("_step").alias("_step"), F.max(CREATED_TIMESTAMP).alias("_known_stock"))
        .withColumn("_stock", F.sum("_step").over(steps.rowsBetween(Window.unboundedPreceding, 0)))
        .withColumn("_until", F.lead(EVENT_TIMESTAMP).over(steps))
        .where(F.col("_stock") <= 0)
    )
    return (
        _local_days(out, F.col(EVENT_TIMESTAMP), F.col("_until"), shop_days, zone)
        .groupBy(ITEM_ID, DS)
        .agg(F.lit(True).alias("is_stock_out"), F.max("_known_stock").alias("_known_stock"))
    )


def _promotion_days(promotions: DataFrame, shop_days: DataFrame, zone: str) -> DataFrame:
    """Promotions, once per local day they touch: item_id or category (both null: the whole shop), ds, depth."""
    offers = promotions.where(F.col("starts_at") < F.col("ends_at"))
    return _local_days(offers, F.col("starts_at"), F.col("ends_at"), shop_days, zone).select(
        ITEM_ID, CATEGORY, DS, F.coalesce("depth", F.lit(0.0)).alias("depth"), CREATED_TIMESTAMP
    )


def _with_promotions(rows: DataFrame, offers: DataFrame, level: list[str]) -> DataFrame:
    """`rows` with the deepest promotion of the day for their item, their category, or the whole shop."""
    name = level[0] if level else "shop"
    named = F.col(ITEM_ID).isNotNull() if name == ITEM_ID else F.col(ITEM_ID).isNull()
    if name != ITEM_ID:
        named = named & (F.col(CATEGORY).isNotNull() if name == CATEGORY else F.col(CATEGORY).isNull())
    deepest = offers.where(named).groupBy(*level, DS)
    return rows.join(
        deepest.agg(F.max("depth").alias(f"_depth_{name}"), F.max(CREATED_TIMESTAMP).alias(f"_known_{name}")), [*level, DS], "left"
    )


def _with_calendar(rows: DataFrame, calendar: DataFrame, special: Mapping[date, str]) -> DataFrame:
    """`rows` with the day's name (the shop's own before the common one) and whether the shop was open."""
    is_named = F.col("kind").isNull() | F.col("kind").isin("holiday", "shopping_day")
    own = calendar.groupBy(F.col("date").alias(DS)).agg(
        F.min(F.when(is_named, F.col("name"))).alias("_own"),
        F.max(F.when(F.col("kind").isin("open", "shopping_day"), True)).alias("_declared_open"),
    )
    names = pa.table({DS: pa.array(special.keys(), pa.date32()), "_common": pa.array(special.values(), pa.string())})
    common = rows.sparkSession.createDataFrame(names)
    trade = rows.groupBy(DS).agg((F.sum("units_sum") > 0).alias("_sold_any"))
    for days in (own, common, trade):
        rows = rows.join(F.broadcast(days), DS, "left")
    return rows.withColumn("holiday", F.coalesce("_own", "_common")).withColumn(
        "is_open", F.coalesce(F.col("_sold_any"), F.lit(False)) | F.coalesce(F.col("_declared_open"), F.lit(False))
    )


def _local_days(rows: DataFrame, since: Column, until: Column, shop_days: DataFrame, zone: str) -> DataFrame:
    """`rows` once per local day that their time [since, until) touches (null: no end), within the shop's days."""
    last = F.when(until.isNull(), F.col("_to")).otherwise(local_day(F.timestamp_micros(F.unix_micros(until) - 1), zone))
    return (
        rows.crossJoin(F.broadcast(shop_days))
        .withColumn("_since", F.greatest(local_day(since, zone), F.col("_from")))
        .withColumn("_last", F.least(last, F.col("_to")))
        .where(F.col("_since") <= F.col("_last"))
        .withColumn(DS, F.explode(F.sequence("_since", "_last")))
    )


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    frames = (inputs[table] for table in (EVENTS, ORDERS, ITEM_CATALOG, PROMOTIONS, INVENTORY, CALENDAR))
    special = special_days(inputs.calendars, FIRST_HOLIDAY, inputs.last_day)
    return transform(*frames, special=special, zone=inputs.time_zone, last_day=inputs.last_day)


JOB = Job(DAILY_DEMAND, (EVENTS, ORDERS, ITEM_CATALOG, PROMOTIONS, INVENTORY, CALENDAR), run)
