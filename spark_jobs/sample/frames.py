"""Numbers to rows: what the simulated visits, warehouse and aftermath say, as the declared raw and truth tables.

Ids are short strings with a letter for what they name: u user, i item, e event, b return, s session, d device, o order, l line,
r return order, p payment, v review, t ticket, c campaign, m promotion.

What comes in has the columns of the schemas beside the code that simulates it (`ACTS`, `LEDGER`, `AFTERMATH`, ...): times in
microseconds UTC, days by number (but dates in the calendar), money in fen. What goes out has timestamps, dates and CNY.
"""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.columns import EVENT_TYPES
from spark_jobs.sample.acts import ACTS, KIND, QUERIES
from spark_jobs.sample.catalogue import ASPECTS
from spark_jobs.sample.days import DAY_US, FIRST_DAY, NUM_DAYS, start_of_history
from spark_jobs.sample.people import COUPON_DEPTH
from spark_jobs.sample.views import RATE_SCALE

LOCATION = "WH1"
TICKET_CHANNELS = ("chat", "phone", "mail")
PAYMENT_METHODS = ("alipay", "wechat", "card")


def small(spark: SparkSession, rows: pa.Table) -> DataFrame:
    """A table that fits in memory as a frame of one partition."""
    return spark.createDataFrame(rows).coalesce(1)


def _padded(column: str, width: int) -> Column:
    return F.lpad(F.col(column).cast("string"), width, "0")


def user_id(column: str = "user") -> Column:
    """`u` and the seven digits of the user number in a column."""
    return F.concat(F.lit("u"), _padded(column, 7))


def item_id(column: str = "item") -> Column:
    """`i` and the six digits of the item number in a column; null where it is negative, for none."""
    return F.when(F.col(column) >= 0, F.concat(F.lit("i"), _padded(column, 6)))


def _act_id(letter: str) -> Column:
    return F.concat(F.lit(letter), _padded("user", 7), F.lit("-"), _padded("number", 5))


def review_id() -> Column:
    """The id of the review of a sale, from the columns `user` and `number`."""
    return _act_id("v")


def _session_id(letter: str) -> Column:
    return F.concat(F.lit(letter), _padded("user", 7), F.lit("-"), _padded("session", 4))


def _coupon_id() -> Column:
    return F.when(F.col("coupon") >= 0, F.concat(F.lit("c"), _padded("coupon", 2)))


def _money(column: str = "fen") -> Column:
    return F.when(F.col(column) >= 0, F.col(column) * F.lit(Decimal("0.01")))


def _first_instant(column: str = "day") -> Column:
    """First instant of a day by its number; the zone of the shop has no summer time."""
    return F.timestamp_micros(F.lit(start_of_history()) + F.col(column) * F.lit(DAY_US))


def _one_of(words: tuple[str, ...], index: Column) -> Column:
    return F.element_at(F.array(*map(F.lit, words)), index.cast("int") + 1)


def _channel() -> Column:
    return F.when(F.col("app"), "app").otherwise("web")


def events(others: DataFrame, sales: DataFrame, returns: DataFrame) -> DataFrame:
    """All acts but purchases, the purchases that found stock, and the returns."""
    took_back = returns.select(
        *[F.col(name) for name in ACTS.names if name not in ("kind", "at")],
        F.lit(KIND["return"]).cast("byte").alias("kind"),
        F.col("returned_at").alias("at"),
    )
    acts = others.unionByName(sales).unionByName(took_back)
    kind = _one_of(EVENT_TYPES, F.col("kind"))
    is_return, is_search = F.col("kind") == KIND["return"], F.col("kind") == KIND["search"]
    at = F.timestamp_micros("at")
    return acts.select(
        F.when(is_return, _act_id("b")).otherwise(_act_id("e")).alias("event_id"),
        F.when(~F.col("anonymous"), user_id()).alias("user_id"),
        F.concat(F.lit("d"), _padded("user", 7), F.substring(_channel(), 1, 1)).alias("visitor_id"),
        F.when(~is_return, _session_id("s")).alias("session_id"),
        F.when(~is_search, item_id()).alias("item_id"),
        kind.alias("event_type"),
        at.alias("event_timestamp"),
        _money().alias("price"),
        F.when(F.col("quantity") > 0, F.col("quantity")).alias("quantity"),
        _channel().alias("channel"),
        F.when(is_search, _one_of(QUERIES, F.col("query"))).alias("query"),
        F.lit(None).cast("string").alias("list_id"),
        F.lit(None).cast("int").alias("position"),
        F.timestamp_micros(F.col("at") + F.col("late")).alias("created_timestamp"),
    )


def lines(sales: DataFrame, returns: DataFrame) -> DataFrame:
    """Order lines: one per purchase event and one, negative, per return."""
    off = F.when(F.col("coupon") >= 0, F.round(F.col("fen") * F.col("quantity") * F.lit(COUPON_DEPTH)).cast("long")).otherwise(0)
    bought = sales.select("*", F.lit(None).cast("long").alias("returned_at"))
    both = bought.unionByName(returns).withColumn("off", off)
    is_return = F.col("returned_at").isNotNull()
    sign = F.when(is_return, -1).otherwise(1)
    at = F.timestamp_micros(F.coalesce("returned_at", "at"))
    return both.select(
        F.when(is_return, _act_id("r")).otherwise(_session_id("o")).alias("order_id"),
        F.when(is_return, _act_id("r")).otherwise(_act_id("l")).alias("order_line_id"),
        user_id().alias("user_id"),
        item_id().alias("item_id"),
        F.lit(LOCATION).alias("location_id"),
        (sign * F.col("quantity")).alias("quantity"),
        _money().alias("unit_price"),
        (sign * F.col("off") * F.lit(Decimal("0.01"))).alias("discount"),
        _coupon_id().alias("coupon_id"),
        _channel().alias("channel"),
        F.when(is_return, "returned").otherwise("shipped").alias("status"),
        at.alias("event_timestamp"),
        F.when(is_return, _session_id("o")).alias("returned_order_id"),
        at.alias("created_timestamp"),
    )


def payments(lines: DataFrame) -> DataFrame:
    """One payment per order and one refund per return."""
    paid = F.sum(F.col("quantity") * F.col("unit_price") - F.col("discount"))
    orders = lines.groupBy("order_id").agg(
        paid.alias("amount"), F.max("event_timestamp").alias("event_timestamp"), F.max("returned_order_id").alias("_bought")
    )
    order = F.coalesce("_bought", "order_id")
    method = _one_of(PAYMENT_METHODS, F.pmod(F.xxhash64(order), F.lit(len(PAYMENT_METHODS))))
    return orders.select(
        F.concat(F.lit("p"), "order_id").alias("payment_id"),
        order.alias("order_id"),
        "amount",
        method.alias("method"),
        F.when(F.col("amount") < 0, "refunded").otherwise("paid").alias("status"),
        "event_timestamp",
        F.col("event_timestamp").alias("created_timestamp"),
    )


def inventory(ledger: DataFrame) -> DataFrame:
    """Rows of `raw/inventory`: the stock after each movement; of movements at one instant, after the last."""
    at = F.timestamp_micros("at")
    return (
        ledger.groupBy("item", "at")
        .agg(F.max_by(F.struct("on_hand", "on_order"), "step").alias("stock"))
        .select(
            item_id().alias("item_id"), F.lit(LOCATION).alias("location_id"), "stock.on_hand", "stock.on_order",
            at.alias("event_timestamp"), at.alias("created_timestamp"),
        )
    )  # fmt: skip


def reviews(sales: DataFrame, after: DataFrame) -> DataFrame:
    """Rows of `raw/reviews`, one per sale that was reviewed; `category` and `label` are null."""
    at = F.timestamp_micros("reviewed_at")
    return (
        sales.select("user", "number", "item")
        .join(after.where("reviewed_at is not null"), ["user", "number"])
        .select(
            review_id().alias("review_id"), user_id().alias("user_id"), item_id().alias("item_id"), "rating", "review_text",
            "language", F.lit(None).cast("string").alias("category"), F.lit(None).cast("long").alias("label"),
            at.alias("event_timestamp"), at.alias("created_timestamp"),
        )
    )  # fmt: skip


def tickets(sales: DataFrame, after: DataFrame) -> DataFrame:
    """Rows of `raw/tickets`, one per sale that was complained of, with the order it was part of."""
    at = F.timestamp_micros("ticket_at")
    channel = _one_of(TICKET_CHANNELS, F.pmod(F.xxhash64("user", "number"), F.lit(len(TICKET_CHANNELS))))
    return (
        sales.select("user", "number", "item", "session")
        .join(after.where("ticket_at is not null"), ["user", "number"])
        .select(
            _act_id("t").alias("ticket_id"), user_id().alias("user_id"), _session_id("o").alias("order_id"), item_id().alias("item_id"),
            channel.alias("channel"), "ticket_text", at.alias("event_timestamp"), at.alias("created_timestamp"),
        )
    )  # fmt: skip


def users(rows: DataFrame) -> DataFrame:
    """Rows of `raw/users`: accounts, known from the first instant of the day they were opened."""
    at = _first_instant("registered")
    return rows.select(
        user_id().alias("user_id"), "country", "language", at.alias("registered_at"), at.alias("event_timestamp"),
        at.alias("created_timestamp"),
    )  # fmt: skip


def exposures(rows: DataFrame) -> DataFrame:
    """Rows of `raw/exposures`: a user whom a campaign reached, its arm and the propensity of that arm, known when it starts."""
    at = _first_instant("start")
    return rows.select(
        _coupon_id().alias("campaign_id"), user_id().alias("user_id"), "variant", "propensity", at.alias("event_timestamp"),
        at.alias("created_timestamp"),
    )  # fmt: skip


def items(rows: DataFrame) -> DataFrame:
    """Rows of `raw/items`: one per item and list price; `withdrawn_at` is null for what is on sale to the end."""
    at = _first_instant()
    return rows.select(
        item_id().alias("item_id"), F.lit(None).cast("string").alias("parent_item_id"), "title", "category", "brand",
        _money().alias("price"), _money("cost_fen").alias("cost"), _first_instant("first_day").alias("created_at"),
        F.when(F.col("last_day") < NUM_DAYS, _first_instant("last_day")).alias("withdrawn_at"),
        F.lit(None).cast("string").alias("image"), at.alias("event_timestamp"), at.alias("created_timestamp"),
    )  # fmt: skip


def promotions(of_items: DataFrame, of_categories: DataFrame) -> DataFrame:
    """Promotions of items and of whole categories; each is announced a week ahead."""
    which = _padded("number", 2)
    both = of_items.select(
        F.concat(F.lit("m"), item_id(), F.lit("-"), which).alias("promotion_id"),
        item_id().alias("item_id"),
        F.lit(None).cast("string").alias("category"),
        "first",
        "after",
        "kind",
        "depth",
    ).unionByName(
        of_categories.select(
            F.concat(F.lit("m"), "category", F.lit("-"), which).alias("promotion_id"),
            F.lit(None).cast("string").alias("item_id"),
            "category",
            "first",
            "after",
            "kind",
            "depth",
        )
    )
    return both.select(
        "promotion_id", "item_id", "category", _first_instant("first").alias("starts_at"), _first_instant("after").alias("ends_at"),
        "kind", "depth", (_first_instant("first") - F.expr("interval 7 days")).alias("created_timestamp"),
    )  # fmt: skip


def campaigns(rows: DataFrame) -> DataFrame:
    """Rows of `raw/campaigns`; each is known when it starts."""
    return rows.select(
        _coupon_id().alias("campaign_id"), "channel", _money("cost_fen").alias("cost"), _first_instant("first").alias("starts_at"),
        _first_instant("after").alias("ends_at"), _first_instant("first").alias("created_timestamp"),
    )  # fmt: skip


def calendar(rows: DataFrame) -> DataFrame:
    """Rows of `raw/calendar`, known from the first instant of the history."""
    return _known_from_start(rows)


def suppliers(rows: DataFrame) -> DataFrame:
    """Rows of `raw/suppliers`: terms of supply, known from the first instant of the history."""
    return _known_from_start(
        rows.select(
            item_id().alias("item_id"), F.lit(LOCATION).alias("location_id"), "lead_time_days", "minimum_order", "pack_size"
        )
    )


def competitor_prices(rows: DataFrame) -> DataFrame:
    """Rows of `raw/competitor_prices`: what a competitor asks, known from the first instant of the day it was seen."""
    at = _first_instant()
    return rows.select(
        item_id().alias("item_id"),
        "competitor",
        _money().alias("price"),
        at.alias("event_timestamp"),
        at.alias("created_timestamp"),
    )


def _known_from_start(rows: DataFrame) -> DataFrame:
    return rows.withColumn("created_timestamp", F.timestamp_micros(F.lit(start_of_history())))


def demand(acts: DataFrame, ledger: DataFrame) -> DataFrame:
    """Rows of `truth/demand`: views, expected, wanted and sold units per item and local day with at least one view."""
    day = F.floor((F.col("at") - F.lit(start_of_history())) / F.lit(DAY_US))
    sold = ledger.where("user >= 0").groupBy("item", day.alias("day")).agg(F.sum("sold").alias("sold_units"))
    is_view, is_want = F.col("kind") == KIND["view"], F.col("kind") == KIND["purchase"]
    wanted = (
        acts.where(is_view | is_want)
        .groupBy("item", "day")
        .agg(
            F.sum(is_view.cast("long")).alias("views"),
            (F.sum("rate") / F.lit(RATE_SCALE)).alias("expected_units"),
            F.sum(F.when(is_want, F.col("quantity")).otherwise(0)).alias("wanted_units"),
        )
    )
    return wanted.join(sold, ["item", "day"], "left").select(
        item_id().alias("item_id"), F.date_add(F.lit(FIRST_DAY), F.col("day").cast("int")).alias("ds"), "views", "expected_units",
        "wanted_units", F.coalesce("sold_units", F.lit(0)).alias("sold_units"),
    )  # fmt: skip


def successors(rows: DataFrame) -> DataFrame:
    """Rows of `truth/successors`: the items that follow an item, with their probability."""
    return rows.select(item_id().alias("item_id"), item_id("next_item").alias("next_item_id"), "probability")


def review_truth(after: DataFrame) -> DataFrame:
    """Rows of `truth/reviews`: the score of each review (-1 to 1) and what it says of each aspect (-1, 1, null: nothing)."""
    return after.where("reviewed_at is not null").select(review_id().alias("review_id"), "score", *ASPECTS)
