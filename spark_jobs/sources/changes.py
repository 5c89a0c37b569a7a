"""What is new in rows that may have been seen: new keys, corrections of known ones, duplicates.

A row whose identity was seen with equal content is a duplicate; with other content it is a correction, known from now on. Rows
without an identity are all kept. The instant belongs to the identity of a state (items, users, stock): who tells the same of a
later instant says something new, which a row that comes late for an instant between must not undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP
from features.tables import Table

FATE, ORDER = "__fate", "__order"
ACCEPTED, CORRECTION, DUPLICATE = "accepted", "correction", "duplicate"
_STORED = "__stored"


def decide(new: DataFrame, stored: DataFrame, table: Table, content: Sequence[str], now: datetime, identical: str) -> DataFrame:
    """`new` with its fate, and corrections stamped with when they are known.

    Args:
        new: rows of `table` that keep its rules, with `__order`, their place in the sources.
        stored: rows of `table` that are there already.
        content: the columns the source speaks of; a row is equal to another where these are.
        now: corrections become known after it (those of one row by a microsecond after each other).
        identical: `keep` or `drop` rows without identity that are wholly equal.
    """
    whole = [name for name in content if name != CREATED_TIMESTAMP]
    is_said = CREATED_TIMESTAMP in content
    own = table.row_id
    if own is None:
        decided = _by_identity(new, stored, list(table.identity), whole, now, is_said)
    else:
        known, unknown = F.col(own).isNotNull(), F.col(own).isNull()
        bare = new.where(unknown)
        if identical == "drop":
            decided = _by_identity(bare, stored.where(unknown), whole, whole, now, is_said)
        else:
            decided = bare.withColumn(FATE, F.lit(ACCEPTED))
        if own in content:
            rest = _by_identity(new.where(known), stored.where(known), list(table.identity), whole, now, is_said)
            decided = decided.unionByName(rest, allowMissingColumns=True)
    return decided


def _by_identity(
    new: DataFrame, stored: DataFrame, identity: list[str], content: list[str], now: datetime, is_said: bool
) -> DataFrame:
    """`is_said`: the source itself says when a row could be known; believed where that is later than the row it corrects."""
    both = _beside(new, _of_same(stored, new, identity))
    order = Window.partitionBy(*identity).orderBy(F.col(_STORED).desc(), F.when(F.col(_STORED), F.col(CREATED_TIMESTAMP)), ORDER)
    equal = F.struct(*content)
    before = F.lag(F.struct(equal.alias("row"), F.col(CREATED_TIMESTAMP).alias("created"))).over(order)
    nth = F.count_if(~F.col(_STORED)).over(order)
    latest = F.max(F.when(F.col(_STORED), F.col(CREATED_TIMESTAMP))).over(Window.partitionBy(*identity))
    fate = F.when(before.isNull(), ACCEPTED).when(before["row"].eqNullSafe(equal), DUPLICATE).otherwise(CORRECTION)
    compared = both.select("*", fate.alias(FATE), nth.alias("__nth"), latest.alias("__latest"), before["created"].alias("__before"))
    floor = F.greatest(F.lit(now), F.col("__latest"))
    later = F.timestamp_micros(F.unix_micros(floor) + F.col("__nth"))
    unsaid = F.lit(not is_said) | (F.col(CREATED_TIMESTAMP) <= F.col("__before"))
    created = F.when((F.col(FATE) == CORRECTION) & unsaid, F.greatest(later, F.col(CREATED_TIMESTAMP)))
    created = F.coalesce(created, F.col(CREATED_TIMESTAMP))
    return compared.where(~F.col(_STORED)).withColumn(CREATED_TIMESTAMP, created).drop(_STORED, "__nth", "__latest", "__before")


def _of_same(stored: DataFrame, new: DataFrame, columns: list[str]) -> DataFrame:
    """The stored rows that share `columns` (null equals null) with a new row."""
    wanted = new.select([F.col(name).alias(f"__{name}") for name in columns]).distinct()
    condition = F.lit(True)
    for name in columns:
        condition = condition & F.col(name).eqNullSafe(F.col(f"__{name}"))
    return stored.join(wanted, condition, "left_semi")


def _beside(new: DataFrame, stored: DataFrame) -> DataFrame:
    return new.withColumn(_STORED, F.lit(False)).unionByName(stored.withColumn(_STORED, F.lit(True)), allowMissingColumns=True)
