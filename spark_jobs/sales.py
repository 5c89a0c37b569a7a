"""What a sale is: the one reading of order lines and purchase events that catalogue, interactions and demand share.

Decision: orders win over events. From the first local day with an order line on, order lines are the shop's purchases and
purchase events of those days are dropped, so nothing is counted twice; the days before, which only the event log knows, keep
their events. Returns the same, by the first day with a returned line. The rule looks only backwards: a later order never
changes what an earlier day held.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, QUANTITY, SESSION_ID, USER_ID
from features.tables import ARROW_TYPES
from spark_jobs.days import local_day
from spark_jobs.job import of_keys
from spark_jobs.raw import ROW_ID

SALE_TYPES = ("purchase", "return")
MONEY = f"decimal({ARROW_TYPES['money'].precision},{ARROW_TYPES['money'].scale})"
_COLUMNS = (ROW_ID, USER_ID, SESSION_ID, ITEM_ID, EVENT_TYPE, QUANTITY, "value", EVENT_TIMESTAMP, CREATED_TIMESTAMP)


def sales(events: DataFrame, orders: DataFrame, zone: str) -> DataFrame:
    """Purchases and returns of the shop, one row per line.

    Args:
        events: current rows of raw/events.
        orders: current rows of raw/orders.

    Returns:
        row_id, user_id (null where nobody is known), session_id, item_id, event_type `purchase` or `return`, quantity
        (units, never negative), value (quantity x unit price less discount, never negative; null without a price), times.
    """
    lines = order_lines(orders)
    told = _since(lines, zone)
    acts = (
        item_acts(events, SALE_TYPES)
        .join(F.broadcast(told), EVENT_TYPE, "left")
        .where(F.col("_since").isNull() | (local_day(F.col(EVENT_TIMESTAMP), zone) < F.col("_since")))
    )
    return acts.select(*_COLUMNS).unionByName(lines)


def begins(orders: DataFrame, zone: str) -> dict[str, str]:
    """From which local day on order lines tell the sales, and the returns: all that one line can change of others."""
    return {row[EVENT_TYPE]: str(row["_since"]) for row in _since(order_lines(orders), zone).collect()}


def cut_to(orders: DataFrame, key: str, keys: DataFrame) -> DataFrame:
    """The lines that hold one of the keys, and the first sold and the first returned line of all: `sales` begins where it did."""
    first = F.min_by(F.struct(*orders.columns), EVENT_TIMESTAMP).alias("line")
    firsts = _that_count(orders).groupBy(F.col(QUANTITY) > 0).agg(first).select("line.*")
    return of_keys(orders, key, keys).unionByName(firsts.join(keys.select(key), key, "left_anti"))


def _that_count(orders: DataFrame) -> DataFrame:
    return orders.where((F.col(QUANTITY) != 0) & ~F.coalesce(F.col("status") == "cancelled", F.lit(False)))


def _since(lines: DataFrame, zone: str) -> DataFrame:
    return lines.groupBy(EVENT_TYPE).agg(F.min(local_day(F.col(EVENT_TIMESTAMP), zone)).alias("_since"))


def order_lines(orders: DataFrame) -> DataFrame:
    """Order lines as purchases and returns; cancelled lines and lines of nothing are none."""
    units = F.abs(QUANTITY)
    paid = units * F.col("unit_price") - F.abs(F.coalesce("discount", F.lit(0)))
    return _that_count(orders).select(
        ROW_ID,
        USER_ID,
        F.lit(None).cast("string").alias(SESSION_ID),
        ITEM_ID,
        F.when(F.col(QUANTITY) > 0, "purchase").otherwise("return").alias(EVENT_TYPE),
        units.alias(QUANTITY),
        F.greatest(paid, F.lit(0)).cast(MONEY).alias("value"),
        EVENT_TIMESTAMP,
        CREATED_TIMESTAMP,
    )


def item_acts(events: DataFrame, event_types: tuple[str, ...]) -> DataFrame:
    """Events of these types that speak of an item; a purchase without a quantity is one unit."""
    quantity = F.when(F.col(EVENT_TYPE).isin(*SALE_TYPES), F.abs(F.coalesce(QUANTITY, F.lit(1)))).otherwise(F.col(QUANTITY))
    value = F.when(F.col(EVENT_TYPE).isin(*SALE_TYPES), quantity * F.col("price"))
    return events.where(F.col(EVENT_TYPE).isin(*event_types) & F.col(ITEM_ID).isNotNull()).select(
        ROW_ID,
        USER_ID,
        SESSION_ID,
        ITEM_ID,
        EVENT_TYPE,
        quantity.cast("long").alias(QUANTITY),
        value.cast(MONEY).alias("value"),
        EVENT_TIMESTAMP,
        CREATED_TIMESTAMP,
    )
