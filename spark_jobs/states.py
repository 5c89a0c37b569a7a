"""Rows that tell how something is at an instant, as changes: who tells the same again says nothing new."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP


def changes(states: DataFrame, keys: Sequence[str], content: Sequence[str]) -> DataFrame:
    """`states` (`keys`, `content`, times) without rows that repeat the state before them and were known no earlier than it.

    One that was known earlier stays: between the two it is all that a reader knows of the state.
    """
    in_order = Window.partitionBy(*keys).orderBy(EVENT_TIMESTAMP, CREATED_TIMESTAMP)
    said = F.struct(*content)
    before = F.lag(F.struct(said.alias("said"), F.col(CREATED_TIMESTAMP).alias("known"))).over(in_order)
    return (
        states.withColumn("_before", before)
        .where(~(F.col("_before.said").eqNullSafe(said) & (F.col("_before.known") <= F.col(CREATED_TIMESTAMP))))
        .drop("_before")
    )
