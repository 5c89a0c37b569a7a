"""Which category an item was in at an instant: the catalogue's changes as intervals."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CATEGORY, CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID
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
