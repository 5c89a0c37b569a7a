"""Raw rows as the jobs see them: the newest version of each, with an id for every row."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.tables import CALENDAR, EVENTS, INVENTORY, ITEMS, ORDERS, PROMOTIONS, REVIEWS, USERS, Table

ROW_ID = "row_id"
"""Identifies a current row: its identity where it has one, else a digest of its content and its number among equal rows."""

_CANCELLED = "CASE status WHEN 'cancelled' THEN status END AS status"
"""Paid, shipped, delivered: a sale all along."""

READ: dict[str, tuple[str, ...]] = {
    EVENTS.name: ("event_id", "user_id", "visitor_id", "session_id", "item_id", "event_type", "price", "quantity"),
    ITEMS.name: ("item_id", "title", "category", "brand", "price", "created_at", "withdrawn_at"),
    USERS.name: ("user_id", "country", "language", "registered_at"),
    ORDERS.name: ("order_id", "order_line_id", "user_id", "item_id", "quantity", "unit_price", "discount", _CANCELLED),
    REVIEWS.name: ("review_id", "item_id", "rating", "review_text", "language", "category", "label"),
    PROMOTIONS.name: ("promotion_id", "item_id", "category", "starts_at", "ends_at", "depth"),
    INVENTORY.name: ("item_id", "location_id", "on_hand"),
    CALENDAR.name: ("date", "name", "kind"),
}
"""What feature jobs read of each raw table, columns or expressions, beside its times; a correction of anything else changes none."""


def current(rows: DataFrame, table: Table, is_revised: bool = True) -> DataFrame:
    """The newest version of each raw row: what jobs read of it (`READ`), its times, and `row_id`.

    A correction is a later row with the same identity and a later `created_timestamp`. What it left as it was is known since
    before: an order that was shipped meanwhile is known since it was paid. A row without the column that its identity needs
    (`Table.row_id`) stands, equal rows too (two scans of one article are two sales); any other null in an identity is a value
    like others.

    Args:
        is_revised: whether there may be corrections. Where there are none, rows with an identity stand as they are, and the table is
            neither shuffled nor sorted.
    """
    rows = rows.selectExpr(*READ[table.name], *(name for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP) if name in table.names))
    identity = F.col(table.identity[0]) if len(table.identity) == 1 else _digest(rows, table.identity)
    if is_revised or not table.identity:
        return _newest(rows, table, identity)
    has_id = F.col(table.row_id).isNotNull() if table.row_id else F.lit(True)
    stand = rows.where(has_id).withColumn(ROW_ID, identity).withColumn(CREATED_TIMESTAMP, _known(table))
    return stand.unionByName(_newest(rows.where(~has_id), table, identity)) if table.row_id else stand


def _newest(rows: DataFrame, table: Table, identity: Column) -> DataFrame:
    content = F.when(F.col(table.row_id).isNull(), _digest(rows)) if table.row_id else F.lit(None).cast("string")
    # Corrections count backwards, the newest is 1; equal rows count forwards, so that a later one renames none before it.
    created = F.unix_micros(CREATED_TIMESTAMP)
    order = Window.partitionBy(*table.identity, "_content").orderBy(
        F.when(F.col("_content").isNull(), -created).otherwise(created), F.xxhash64(*rows.columns)
    )
    said = F.struct(*(name for name in rows.columns if name != CREATED_TIMESTAMP))
    repeats = F.col("_content").isNull() & said.eqNullSafe(F.lead(said).over(order))
    return (
        rows.withColumn("_content", content)
        .withColumn("_repeats", repeats)
        .where(~F.col("_repeats"))
        .withColumn("_number", F.row_number().over(order))
        .where((F.col("_number") == 1) | F.col("_content").isNotNull())
        .withColumn(ROW_ID, F.coalesce(F.concat("_content", F.lit("-"), "_number"), identity))
        .withColumn(CREATED_TIMESTAMP, _known(table))
        .select(*rows.columns, ROW_ID)
    )


def _known(table: Table) -> Column:
    """When the row was known: never before it was true, whatever the source says."""
    return F.greatest(CREATED_TIMESTAMP, EVENT_TIMESTAMP) if EVENT_TIMESTAMP in table.names else F.col(CREATED_TIMESTAMP)


def _digest(rows: DataFrame, names: tuple[str, ...] | None = None) -> Column:
    """128 bits of what a row says; when it became known is not part of it."""
    said = names or tuple(name for name in rows.columns if name != CREATED_TIMESTAMP)
    return F.md5(F.to_json(F.struct(*[F.col(name) for name in said])).cast("binary"))
