"""Which category an item was in at an instant: the catalogue's changes as intervals."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CATEGORY, CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID, USER_ID
from features.tables import INTERACTIONS, ITEM_CATALOG, Table
from spark_jobs.job import KNOWN, Inputs
from spark_jobs.states import changes


def with_category(rows: DataFrame, item_catalog: DataFrame, column: str = "category_then") -> DataFrame:
    """`rows` (item_id, event_timestamp, created_timestamp ...) with the category of the item at that instant, null if none.

    `created_timestamp` becomes the later of the row's and the catalogue row's: what used a late catalogue row is late.
    """
    in_order = Window.partitionBy(ITEM_ID).orderBy(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    spans = changes(item_catalog, [ITEM_ID], [CATEGORY]).select(
        F.col(ITEM_ID).alias("_item"),
        F.col(CATEGORY).alias(column),
        F.col(EVENT_TIMESTAMP).alias("_from"),
        F.lead(EVENT_TIMESTAMP).over(in_order).alias("_until"),
        F.col(CREATED_TIMESTAMP).alias("_known"),
    )
    then = F.col(EVENT_TIMESTAMP)
    covers = (F.col("_from") <= then) & (F.col("_until").isNull() | (then < F.col("_until")))
    return (
        rows.join(spans, (F.col(ITEM_ID) == F.col("_item")) & covers, "left")
        .withColumn(CREATED_TIMESTAMP, F.greatest(CREATED_TIMESTAMP, "_known"))
        .select(*rows.columns, column)
    )


def of_moved_items(table: Table, rows: DataFrame, inputs: Inputs) -> DataFrame | None:
    """Users of the items whose new catalogue rows say another category, or another time it was known; an `others` of `Scope`."""
    if table is not ITEM_CATALOG:
        return None
    said = (ITEM_ID, CATEGORY, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    new = rows.select(*said, KNOWN)
    standing = inputs[ITEM_CATALOG].join(new.select(ITEM_ID).distinct(), ITEM_ID).select(*said)
    told = new.unionByName(standing, allowMissingColumns=True)  # what is taken back stands no more, but is among the new rows
    items = told.groupBy(ITEM_ID).agg(
        F.count_distinct(F.struct(CATEGORY)).alias("_categories"),
        F.count_distinct(EVENT_TIMESTAMP, CREATED_TIMESTAMP).alias("_versions"),
        F.count_distinct(EVENT_TIMESTAMP).alias("_rows"),
        F.max(KNOWN).alias(KNOWN),
    )
    moved = items.where((F.col("_categories") > 1) | (F.col("_versions") > F.col("_rows"))).select(ITEM_ID, KNOWN)
    return inputs[INTERACTIONS].join(moved, ITEM_ID).groupBy(USER_ID).agg(F.max(KNOWN).alias(KNOWN))
