"""daily_demand: units per item and local day, zero-filled while the item is on sale, with what explains them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from functools import reduce

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
    RETRACTED,
)
from features.tables import CALENDAR, DAILY_DEMAND, EVENTS, INVENTORY, ITEM_CATALOG, ORDERS, PROMOTIONS, Table
from spark_jobs.days import local_day, stamp
from spark_jobs.job import FIRST, KNOWN, Inputs, Job, Scope
from spark_jobs.revisions import newest
from spark_jobs.sales import SALE_TYPES, begins, sales
from spark_jobs.session import POSITION
from spark_jobs.states import changes


def transform(
    lines: DataFrame,
    item_catalog: DataFrame,
    promotions: DataFrame,
    inventory: DataFrame,
    calendar: DataFrame,
    *,
    special: Mapping[date, str],
    zone: str,
    shop_days: tuple[date, date],
    first_days: DataFrame | None = None,
) -> DataFrame:
    """Sales -> one row per item and local day from its first (and its FIRST) to its last day on sale.

    The first day is that of the catalogue, not before the shop's first; the last that of its withdrawal, else the shop's last.
    Lines without a user count. Later facts never change a day's row.

    Args:
        lines: what `sales` gives.
        promotions, inventory, calendar: current rows of the raw tables.
        special: name of each holiday and shopping day.
        shop_days: first and last local day of the shop, both included; lines outside are left out.
    """
    first_day, last_day = (F.lit(day) for day in shop_days)
    sold = _sold(lines, first_day, last_day, zone)
    offers = _promotion_days(promotions, first_day, last_day, zone)
    rows = _together(
        [ITEM_ID, DS],
        _days_on_sale(_spans(sold, item_catalog, first_day, last_day, zone), first_days),
        sold,
        _told(item_catalog, first_day, zone),
        _stock(inventory, first_day, last_day, zone),
        _deepest(offers, ITEM_ID),
    )
    so_far = Window.partitionBy(ITEM_ID).orderBy(DS).rowsBetween(Window.unboundedPreceding, 0)
    rows = (
        rows.withColumn("_price", F.last(F.coalesce("paid", "listed"), ignorenulls=True).over(so_far))
        .withColumn("_in", F.last("categorised", ignorenulls=True).over(so_far))
        .withColumn(CATEGORY, F.col("_in.category"))
        .where("is_on_sale")
        .join(_deepest(offers, CATEGORY), [CATEGORY, DS], "left")
        .join(F.broadcast(_together([DS], _calendar(sold, calendar, special), _deepest(offers))), DS, "left")
    )
    levels = (f"offer_{ITEM_ID}", f"offer_{CATEGORY}", "offer_shop")
    deepest = F.greatest(*[F.col(level)["depth"] for level in levels])
    known = [F.col(name)["known"] for name in ("_price", *levels)]
    known.append(F.when(F.col(f"offer_{CATEGORY}").isNotNull(), F.col("_in.known")))
    return (
        rows.withColumn("units_sum", F.coalesce("units_sum", F.lit(0)))
        .withColumn("returned_units_sum", F.coalesce("returned_units_sum", F.lit(0)))
        .withColumn("price_mean", F.col("_price.price"))
        .withColumn("promotion_depth", F.coalesce(deepest, F.lit(0.0)))
        .withColumn("is_promotion", deepest.isNotNull())
        .withColumn("is_open", F.coalesce("is_open", F.lit(False)))
        .withColumn("is_stock_out", F.coalesce("is_stock_out", F.lit(False)))
        .withColumn(EVENT_TIMESTAMP, stamp(F.col(DS), zone))
        .withColumn(
            CREATED_TIMESTAMP, F.greatest(EVENT_TIMESTAMP, "sold_known", "stock_known", "calendar_known", "open_known", *known)
        )
        .select(*DAILY_DEMAND.names)
    )


def _together(keys: list[str], *frames: DataFrame) -> DataFrame:
    """Frames of one row per key side by side, one row per key that any of them has: one shuffle instead of a join each."""
    rows = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), frames)
    said = [name for name in rows.columns if name not in keys]
    return rows.repartition(keys[0]).groupBy(*keys).agg(*[F.max(name).alias(name) for name in said])


def _sold(lines: DataFrame, first_day: Column, last_day: Column, zone: str) -> DataFrame:
    """Per item and day of the shop with a line: units bought and returned, the mean price paid per unit, when all was known."""
    is_purchase = F.col(EVENT_TYPE) == "purchase"
    is_paid = is_purchase & (F.col("value") > 0)
    units = F.sum(F.when(is_purchase, F.col(QUANTITY)).otherwise(0))
    mean = F.sum(F.when(is_paid, F.col("value"))).cast("double") / F.sum(F.when(is_paid, F.col(QUANTITY)))
    known = F.max(CREATED_TIMESTAMP)
    day = local_day(F.col(EVENT_TIMESTAMP), zone)
    return (
        lines.where(day.between(first_day, last_day))
        .groupBy(ITEM_ID, day.alias(DS))
        .agg(
            units.alias("units_sum"),
            F.sum(F.when(is_purchase, 0).otherwise(F.col(QUANTITY))).alias("returned_units_sum"),
            F.when(mean.isNotNull(), F.struct(mean.alias("price"), known.alias("known"))).alias("paid"),
            known.alias("sold_known"),
            F.min(F.when(is_purchase, F.col(CREATED_TIMESTAMP))).alias("_first_known"),
        )
    )


def _spans(sold: DataFrame, item_catalog: DataFrame, first_day: Column, last_day: Column, zone: str) -> DataFrame:
    """The first and the last day on sale of every item; a sale outside what the catalogue says widens the span."""
    on_sale = item_catalog.groupBy(ITEM_ID).agg(
        local_day(F.min("created_at"), zone).alias("_created"),
        local_day(F.max_by("withdrawn_at", F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP)), zone).alias("_withdrawn"),
    )
    sales_days = sold.groupBy(ITEM_ID).agg(F.min(DS).alias("_first_sale"), F.max(DS).alias("_last_sale"))
    first = F.least("_first_sale", F.greatest("_created", first_day))
    last = F.least(last_day, F.greatest(F.coalesce("_withdrawn", last_day), "_last_sale"))
    spans = on_sale.join(sales_days, ITEM_ID, "full").select(ITEM_ID, first.alias("_begin"), last.alias("_end"))
    return spans.where(F.col("_begin") <= F.col("_end"))


def _days_on_sale(spans: DataFrame, first_days: DataFrame | None) -> DataFrame:
    """Every item with every local day on which it was on sale, in an incremental build from its FIRST day on."""
    if first_days is not None:
        begin = F.greatest("_begin", FIRST)
        spans = spans.join(first_days, ITEM_ID).withColumn("_begin", begin).where(F.col("_begin") <= F.col("_end"))
    return spans.select(ITEM_ID, F.explode(F.sequence("_begin", "_end")).alias(DS), F.lit(True).alias("is_on_sale"))


def _told(item_catalog: DataFrame, first_day: Column, zone: str) -> DataFrame:
    """Per item and day with a catalogue change: list price and category as of its end; all before the shop's first day on that."""
    day = F.greatest(local_day(F.col(EVENT_TIMESTAMP), zone), first_day)
    at = F.struct(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    known = F.col(CREATED_TIMESTAMP).alias("known")
    listed = F.when(F.col("price").isNotNull(), F.struct(F.col("price").cast("double").alias("price"), known))
    return item_catalog.groupBy(ITEM_ID, day.alias(DS)).agg(
        F.max_by(listed, at).alias("listed"), F.max_by(F.struct(CATEGORY, known), at).alias("categorised")
    )


def _stock(inventory: DataFrame, first_day: Column, last_day: Column, zone: str) -> DataFrame:
    """Items and days on which, for some time, no place had any stock, and days whose stock became known late.

    The stock of an item is a step function of time, the sum over its places; what a place owes (below zero) is no stock of
    another's. It is known once the row that holds is known of each place.
    """
    place = Window.partitionBy(ITEM_ID, "location_id").orderBy(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    steps = Window.partitionBy(ITEM_ID).orderBy(EVENT_TIMESTAMP)
    here = F.greatest(F.col("on_hand"), F.lit(0))
    told = (
        changes(inventory, [ITEM_ID, "location_id"], ["on_hand"])
        .withColumn("_step", here - F.coalesce(F.lag(here).over(place), F.lit(0)))
        .withColumn("_until", F.least(F.lead(EVENT_TIMESTAMP).over(place), CREATED_TIMESTAMP))
    )
    out = (
        told.groupBy(ITEM_ID, EVENT_TIMESTAMP)
        .agg(F.sum("_step").alias("_step"))
        .withColumn("_stock", F.sum("_step").over(steps.rowsBetween(Window.unboundedPreceding, 0)))
        .withColumn("_until", F.lead(EVENT_TIMESTAMP).over(steps))
        .where(F.col("_stock") <= 0)
        .withColumn("is_stock_out", F.lit(True))
    )
    late = told.where(F.col(EVENT_TIMESTAMP) < F.col("_until")).withColumn("stock_known", F.col(CREATED_TIMESTAMP))
    spans = out.unionByName(late, allowMissingColumns=True)
    days = _local_days(spans, F.col(EVENT_TIMESTAMP), F.col("_until"), first_day, last_day, zone)
    return days.groupBy(ITEM_ID, DS).agg(F.max("is_stock_out").alias("is_stock_out"), F.max("stock_known").alias("stock_known"))


def _promotion_days(promotions: DataFrame, first_day: Column, last_day: Column, zone: str) -> DataFrame:
    """Promotions, once per local day they touch: item_id or category (both null: the whole shop), ds, depth."""
    offers = promotions.where(F.col("starts_at") < F.col("ends_at"))
    return _local_days(offers, F.col("starts_at"), F.col("ends_at"), first_day, last_day, zone).select(
        ITEM_ID, CATEGORY, DS, F.coalesce("depth", F.lit(0.0)).alias("depth"), CREATED_TIMESTAMP
    )


def _deepest(offers: DataFrame, level: str | None = None) -> DataFrame:
    """The deepest promotion of each day, per item, per category, or (None) of the whole shop; known when all of them were."""
    named = F.when(F.col(ITEM_ID).isNotNull(), ITEM_ID).when(F.col(CATEGORY).isNotNull(), CATEGORY).otherwise("shop")
    offer = F.struct(F.max("depth").alias("depth"), F.max(CREATED_TIMESTAMP).alias("known"))
    keys = [level, DS] if level else [DS]
    return offers.where(named == (level or "shop")).groupBy(*keys).agg(offer.alias(f"offer_{level or 'shop'}"))


def _calendar(sold: DataFrame, calendar: DataFrame, special: Mapping[date, str]) -> DataFrame:
    """Per day: its name, the shop's own before the common one, and whether the shop sold anything or is declared open."""
    is_named = F.col("kind").isNull() | F.col("kind").isin("holiday", "shopping_day")
    own = calendar.select(
        F.col("date").alias(DS),
        F.when(is_named, F.col("name")).alias("_own"),
        F.when(F.col("kind").isin("open", "shopping_day"), True).alias("is_open"),
        F.col(CREATED_TIMESTAMP).alias("calendar_known"),
    )
    names = pa.table({DS: pa.array(special.keys(), pa.date32()), "_common": pa.array(special.values(), pa.string())})
    trade = sold.where(F.col("units_sum") > 0).groupBy(DS).agg(F.min("_first_known").alias("open_known"))
    days = _together([DS], own, sold.sparkSession.createDataFrame(names), trade.withColumn("is_open", F.lit(True)))
    return days.select(DS, "is_open", F.coalesce("_own", "_common").alias("holiday"), "calendar_known", "open_known")


def _local_days(rows: DataFrame, since: Column, until: Column, first_day: Column, last_day: Column, zone: str) -> DataFrame:
    """`rows` once per local day that their time [since, until) touches (null: no end), within the shop's days."""
    last = F.coalesce(local_day(F.timestamp_micros(F.unix_micros(until) - 1), zone), last_day)
    return (
        rows.withColumn("_since", F.greatest(local_day(since, zone), first_day))
        .withColumn("_last", F.least(last, last_day))
        .where(F.col("_since") <= F.col("_last"))
        .withColumn(DS, F.explode(F.sequence("_since", "_last")))
    )


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop, from its first day with a sale to its last, no later than the last that is over."""
    others = (inputs[table] for table in (ITEM_CATALOG, PROMOTIONS, INVENTORY, CALENDAR))
    shop_days = _shop_days(inputs)
    special = special_days(inputs.calendars, *shop_days)
    return transform(
        _lines(inputs), *others, special=special, zone=inputs.time_zone, shop_days=shop_days, first_days=inputs.first_days
    )


def _lines(inputs: Inputs) -> DataFrame:
    return sales(inputs[EVENTS], inputs[ORDERS], inputs.time_zone)


def _shop_days(inputs: Inputs) -> tuple[date, date]:
    """The first and the last day with a sale; without any the last lies before the first."""
    day = local_day(F.col(EVENT_TIMESTAMP), inputs.time_zone)
    first, last = _lines(inputs).where(day <= F.lit(inputs.last_day)).agg(F.min(day), F.max(day)).collect()[0]
    return (first, last) if first else (inputs.last_day + timedelta(1), inputs.last_day)


def _due(inputs: Inputs, stored: DataFrame, _built: date) -> DataFrame:
    """Items whose days on sale, now that more days are over and more is told, are not those that have rows."""
    if POSITION in stored.columns:  # few rows were ever taken back: only those are put in order
        gone = stored.where(F.col(RETRACTED).isNotNull()).select(ITEM_ID, DS).distinct()
        again = newest(stored.join(gone, [ITEM_ID, DS], "left_semi"), DAILY_DEMAND).where(F.col(RETRACTED).isNull())
        stored = stored.join(gone, [ITEM_ID, DS], "left_anti").drop(POSITION).unionByName(again)
    standing = stored.groupBy(ITEM_ID).agg(F.min(DS).alias("_min"), F.max(DS).alias("_max"))
    first_day, last_day = (F.lit(day) for day in _shop_days(inputs))
    sold = _sold(_lines(inputs), first_day, last_day, inputs.time_zone)
    spans = _spans(sold, inputs[ITEM_CATALOG], first_day, last_day, inputs.time_zone).join(standing, ITEM_ID, "full")
    begins = F.when(~F.col("_begin").eqNullSafe(F.col("_min")), F.least("_begin", "_min"))
    ends = F.when(~F.col("_end").eqNullSafe(F.col("_max")), F.date_add(F.least("_end", "_max"), 1))
    return spans.select(ITEM_ID, F.least(begins, ends).alias(FIRST)).where(F.col(FIRST).isNotNull())


def _of_all(table: Table, rows: DataFrame, inputs: Inputs) -> DataFrame | None:
    """All items, from the first day on of which something is told that is no item's own: an offer, a holiday, that it was open."""
    if table is CALENDAR:
        days = rows.select(F.col("date").alias(FIRST), KNOWN)
    elif table is PROMOTIONS:
        days = rows.where(F.col(ITEM_ID).isNull()).select(local_day(F.col("starts_at"), inputs.time_zone).alias(FIRST), KNOWN)
    elif table in (EVENTS, ORDERS):
        days = _openings(rows if table is ORDERS else rows.where(F.col(EVENT_TYPE).isin(*SALE_TYPES)), inputs)
    else:
        return None
    first = days.agg(F.min(FIRST).alias(FIRST), F.max(KNOWN).alias(KNOWN)).where(F.col(FIRST).isNotNull())
    return inputs[ITEM_CATALOG].select(ITEM_ID).distinct().crossJoin(F.broadcast(first))


def _openings(rows: DataFrame, inputs: Inputs) -> DataFrame:
    """The days of sales that were known before any other of the day, or are all it has: whether and since when it was open."""
    day = local_day(F.col(EVENT_TIMESTAMP), inputs.time_zone)
    told = F.min(F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP)).alias("_told")
    days = rows.groupBy(day.alias(FIRST)).agg(told, F.max(KNOWN).alias(KNOWN))
    bought = _lines(inputs).where((F.col(EVENT_TYPE) == "purchase") & (F.col(QUANTITY) > 0))
    open_known = bought.groupBy(day.alias(FIRST)).agg(F.min(CREATED_TIMESTAMP).alias("_open_known"))
    is_first = F.col("_open_known").isNull() | (F.col("_told") <= F.col("_open_known"))
    return days.join(open_known, FIRST, "left").where(is_first).select(FIRST, KNOWN)


SCOPE = Scope(
    ITEM_ID,
    reach_days=(),
    due=_due,
    others=_of_all,
    cut=lambda inputs, _: inputs.frames,  # what a day was like is told by all its sales
    common=lambda inputs: begins(inputs[ORDERS], inputs.time_zone),
)
JOB = Job(DAILY_DEMAND, (EVENTS, ORDERS, ITEM_CATALOG, PROMOTIONS, INVENTORY, CALENDAR), run, scope=SCOPE)
