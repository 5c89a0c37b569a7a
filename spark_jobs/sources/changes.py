"""What is new in rows that may have been seen: new keys, corrections of known ones, duplicates.

A row that says what its identity was known to be is a duplicate; with other content it is a correction, known from now on or
from when the source says. Rows without an identity are all kept. The instant belongs to the identity of a state (items, users,
stock): who tells the same of a later instant says something new, which a row that comes late for an instant between must not undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
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
        content: the columns the source speaks of; a row is equal to another where these are, `created_timestamp` apart.
        now: corrections become known after it, each version of a row a microsecond after the one before it; where
            `created_timestamp` is of `content`, when the source says, unless that is no other time than that of what is stored.
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
    """The versions of each identity in a row, each compared with the one before it.

    Stored ones come first, new ones follow as they are told; where the source itself says when a row could be known (`is_said`)
    that is their order (those of one millisecond as they are told), and a version that comes late does not become the current one.
    New versions that begin with what is stored are that history told again: all of it up to the newest stored one, or as the source
    dates it.
    """
    is_stored, created = F.col(_STORED), F.col(CREATED_TIMESTAMP)
    whole = Window.partitionBy(*identity)
    time = created if is_said else F.when(is_stored, created)
    order = whole.orderBy(_instant(time).asc_nulls_last(), is_stored.desc(), time, ORDER)
    earlier = order.rowsBetween(Window.unboundedPreceding, -1)
    version = F.struct(created.alias("created"), F.struct(*content).alias("row"))
    versions = _beside(new, of_same(stored, new, identity)).withColumn("__version", version)
    versions = versions.withColumns(
        {
            "__nth": F.count_if(~is_stored).over(order),
            "__before": F.lag("__version").over(order),
            "__latest": F.max(created).over(earlier),
            "__is_tie": _instant(F.max(F.when(is_stored, created)).over(earlier)) == _instant(created),
            "__known": F.collect_list(F.when(is_stored, F.col("__version"))).over(whole),
        }
    )
    nth, row, before, newest = F.col("__nth"), F.col("__version.row"), F.col("__before"), F.array_max("__known")
    same = F.exists("__known", lambda known: known["row"].eqNullSafe(row) & (F.lit(not is_said) | (known["created"] >= created)))
    retold = F.bool_and(is_stored | same).over(order) & (F.lit(is_said) | row.eqNullSafe(newest["row"]))
    versions = versions.withColumn("__retold", F.when(retold, nth))
    fate = (
        F.when((nth <= F.max("__retold").over(whole)) | before["row"].eqNullSafe(row), DUPLICATE)
        .when(before.isNull() & newest.isNull(), ACCEPTED)
        .otherwise(CORRECTION)
    )
    versions = versions.withColumn(FATE, fate)
    is_correction = F.col(FATE) == CORRECTION
    # Other content of a stored version's instant: what the source says of times does not order its versions from there on.
    is_unsaid = F.coalesce(F.bool_or(is_correction & F.col("__is_tie")).over(order), F.lit(False)) if is_said else F.lit(True)
    latest = F.when(is_unsaid, F.greatest(F.lit(now), newest["created"])).otherwise(F.col("__latest"))
    after = F.greatest(F.timestamp_micros(F.unix_micros(latest) + nth), created)
    moved = F.when(is_correction, after).otherwise(created)
    decided = versions.withColumn(CREATED_TIMESTAMP, moved).where(~is_stored)
    return decided.drop(_STORED, "__version", "__nth", "__before", "__latest", "__is_tie", "__known", "__retold")


def _instant(time: Column) -> Column:
    """The millisecond of a time: versions that one delivery tells of one instant are stored microseconds apart."""
    return F.date_trunc("millisecond", time)


def of_same(stored: DataFrame, new: DataFrame, columns: Sequence[str]) -> DataFrame:
    """The stored rows that share `columns` (null equals null) with a new row."""
    wanted = new.select([F.col(name).alias(f"__{name}") for name in columns]).distinct()
    condition = F.lit(True)
    for name in columns:
        condition = condition & F.col(name).eqNullSafe(F.col(f"__{name}"))
    return stored.join(wanted, condition, "left_semi")


def _beside(new: DataFrame, stored: DataFrame) -> DataFrame:
    return new.withColumn(_STORED, F.lit(False)).unionByName(stored.withColumn(_STORED, F.lit(True)), allowMissingColumns=True)
