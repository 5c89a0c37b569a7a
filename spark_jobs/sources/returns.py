"""Which purchase a return takes back, where the source does not say.

The latest earlier purchase of the same customer and item that has enough units left; no unit is returned twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP
from features.tables import ORDERS
from spark_jobs.sources.changes import ORDER, of_same

_PAIR = ["user_id", "item_id"]
_LINES = [*_PAIR, "event_timestamp", "order_id", "order_line_id", "quantity", "returned_order_id", CREATED_TIMESTAMP]
_STORED = -1


def link(new: DataFrame, stored: DataFrame) -> DataFrame:
    """`new` order lines (with `__order`) with `returned_order_id` filled for the returns that have a purchase.

    Of a line the newest version counts: one that was corrected neither bought nor returned its units twice, and a return that was
    linked keeps its purchase while it stays the same return (user, item, quantity).

    Args:
        stored: order lines that are there already; their returns have used up some of their units.
    """
    is_open = (F.col("quantity") < 0) & F.col("returned_order_id").isNull() & F.col("user_id").isNotNull()
    newest = Window.partitionBy(*ORDERS.identity).orderBy(F.col(CREATED_TIMESTAMP).desc())
    before = of_same(stored, new.where(is_open), ORDERS.identity).withColumn("__version", F.row_number().over(newest))
    same = [*ORDERS.identity, *_PAIR, "quantity"]
    linked = before.where(F.col("__version") == 1).select(*same, F.col("returned_order_id").alias("__before"))
    new = new.join(linked, same, "left")
    new = new.withColumn("returned_order_id", F.coalesce("returned_order_id", "__before")).drop("__before")
    pairs = new.where(is_open).select(*_PAIR).distinct()
    told = new.select(*_LINES, ORDER).unionByName(stored.select(*_LINES, F.lit(_STORED).cast("long").alias(ORDER)))
    # Versions of a line share its order; a correction may name another customer or item.
    orders = told.join(pairs, _PAIR, "left_semi").select("order_id").distinct()
    lines = (
        told.join(orders, "order_id", "left_semi")
        .withColumn("__version", F.row_number().over(newest.orderBy(F.col(CREATED_TIMESTAMP).desc(), F.col(ORDER).desc())))
        .where((F.col("__version") == 1) | F.col(str(ORDERS.row_id)).isNull())
        .join(pairs, _PAIR, "left_semi")
    )
    grouped = lines.repartition(*_PAIR).sortWithinPartitions(*_PAIR, "event_timestamp", ORDER)
    links = grouped.mapInArrow(_link_all, f"{ORDER} long, __purchase string")
    found = F.coalesce("returned_order_id", "__purchase")
    return new.join(links, ORDER, "left").withColumn("returned_order_id", found).drop("__purchase")


def _link_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Links of one partition, which holds all lines of a customer and item together, in order of time."""
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    links = [found for _, lines in groupby(rows, itemgetter("user_id", "item_id")) for found in _links(lines)]
    yield pa.RecordBatch.from_arrays(
        [pa.array([place for place, _ in links], pa.int64()), pa.array([order for _, order in links], pa.string())],
        [ORDER, "__purchase"],
    )


def _links(lines: Iterator[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """(place of a new return, order it takes back) of one customer and item; what is linked already is taken off first."""
    purchases: list[tuple[datetime, str]] = []
    units_left: list[int] = []
    for line in sorted(lines, key=lambda line: (line["quantity"] < 0, line["returned_order_id"] is None)):
        if line["quantity"] >= 0:
            purchases.append((line["event_timestamp"], line["order_id"]))
            units_left.append(line["quantity"])
            continue
        said = line["returned_order_id"]
        for index in reversed(range(len(purchases))):
            bought_at, bought = purchases[index]
            if bought_at < line["event_timestamp"] and units_left[index] >= -line["quantity"] and said in (None, bought):
                units_left[index] += line["quantity"]
                if said is None and line[ORDER] != _STORED:
                    yield line[ORDER], bought
                break
