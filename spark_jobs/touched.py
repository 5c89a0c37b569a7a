"""Which keys of a table new facts touch, from which local day on, and when it became known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.revisions import has_revisions
from features.tables import Table
from infra.lake import Lake
from spark_jobs.days import local_day, stamp
from spark_jobs.job import FIRST, KNOWN, Inputs, Scope, of_keys
from spark_jobs.revisions import SINCE, TAKEN, TAKEN_TYPE
from spark_jobs.session import read_table

_TAKEN_AT = "_taken_at"
"""Of a touch that takes a row from its key: when that became known."""
_ANY_DAY = "0001-01-01"


@dataclass(frozen=True)
class Change:
    """What came to an input: the files of its rows between two of its versions, and what time made of its rows.

    Rows of raw tables from after `now` are not read yet (None: there are none); those from after `before` were not read then. What is
    known but true only after `now` is not read either, yet it may stand for a row that was. `version` is the one that is read now: what
    an earlier one held is in it, and its own files may be gone.
    """

    table: Table
    since: int | None
    version: int
    files: Sequence[str]
    before: datetime | None = None
    now: datetime | None = None

    def rows(self, spark: SparkSession, lake: Lake) -> DataFrame:
        """The rows that say something now and did not then; with KNOWN."""
        rows = read_table(spark, lake, self.table, self.version, self.files)
        known = F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP) if EVENT_TIMESTAMP in self.table.names else F.col(CREATED_TIMESTAMP)
        if self.before:
            rows = rows.unionByName(read_table(spark, lake, self.table, self.version).where(known >= F.lit(self.before)))
        if self.now:
            rows, known = rows.where(F.col(CREATED_TIMESTAMP) <= F.lit(self.now)), F.least(known, F.lit(self.now))
        return rows.withColumn(KNOWN, known)

    def has_corrections(self, lake: Lake) -> bool:
        """Whether some of them may stand for a row that was read then."""
        since = None if self.before else self.since
        return self.since is not None and has_revisions(lake, self.table.path, self.version, since)


def touched_keys(
    spark: SparkSession, lake: Lake, scope: Scope, changes: Sequence[Change], whole: Inputs, stored: DataFrame, built: date
) -> DataFrame:
    """The keys whose rows may differ since a table was built, each with FIRST, SINCE, TAKEN and KNOWN.

    Args:
        changes: the inputs that changed since.
        whole: all inputs as they are now.
        stored: the table's rows with all their revisions.
        built: the last local day the table was built for; what later days bring about is touched too.
    """
    zone = whole.time_zone
    found = [touch for change in changes for touch in _touches(spark, lake, scope, change, whole)]
    if scope.reach_days and whole.last_day > built:
        day = local_day(F.col(EVENT_TIMESTAMP), zone)
        due = reduce(
            Column.__or__,
            (F.date_add(day, n).between(built + timedelta(1), whole.last_day) for n in scope.reach_days),
        )
        found += [
            rows.where(due).select(scope.key, F.greatest(day, F.lit(built + timedelta(1))).alias(FIRST))
            for rows in whole.frames.values()
            if {scope.key, EVENT_TIMESTAMP} <= set(rows.columns)
        ]
    if scope.due:
        found.append(scope.due(whole, stored, built).select(scope.key, FIRST))
    touch = f"{FIRST} date, {KNOWN} timestamp, {_TAKEN_AT} timestamp"
    nothing = spark.createDataFrame([], f"`{scope.key}` string, {touch}")
    keys = (
        reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), found, nothing)
        .where(F.col(scope.key).isNotNull())
        .groupBy(scope.key)
        .agg(
            F.min(F.coalesce(FIRST, F.lit(_ANY_DAY).cast("date"))).alias(FIRST),
            F.max(KNOWN).alias(KNOWN),
            F.collect_set(F.when(F.col(_TAKEN_AT).isNotNull(), F.struct(FIRST, _TAKEN_AT))).alias(TAKEN),
        )
    )

    def since(day: Column) -> Column:
        return stamp(day, zone) if scope.is_daily else F.lit(None).cast("timestamp")

    taken = F.transform(TAKEN, lambda taken: F.struct(since(taken[FIRST]), taken[_TAKEN_AT]))
    return keys.withColumns({SINCE: since(F.col(FIRST)), TAKEN: taken.cast(TAKEN_TYPE)})


def _touches(spark: SparkSession, lake: Lake, scope: Scope, change: Change, whole: Inputs) -> list[DataFrame]:
    """The keys that the new rows of one input speak of, and those that the rows spoke of which they correct."""
    table = change.table
    is_dated = EVENT_TIMESTAMP in table.names
    day = local_day(F.col(EVENT_TIMESTAMP), whole.time_zone) if is_dated else F.lit(None).cast("date")
    rows = change.rows(spark, lake)
    if scope.key in table.grouping:  # rows that are grouped anew do not say since when; what joins or parts them came with them
        rows = rows.withColumn(KNOWN, F.lit(rows.agg(F.max(KNOWN)).collect()[0][0]).cast("timestamp"))
    pairs = None
    if change.has_corrections(lake):
        identity = table.identity if table.kind == "raw" else (*table.keys, EVENT_TIMESTAMP)
        anew = rows.select(*[F.col(name).alias(f"__{name}") for name in rows.columns if name != KNOWN], KNOWN)
        if table.kind == "raw" and table.row_id:  # rows without an id correct nothing, and would all meet each other
            anew = anew.where(F.col(f"__{table.row_id}").isNotNull())
        pairs = read_table(spark, lake, table, change.version).join(anew, _same(identity))
    found = []
    if scope.key in table.names:
        found.append(rows.select(scope.key, day.alias(FIRST), KNOWN))
        if pairs is not None:
            takes = ~_tells(table, scope.key).eqNullSafe(_tells(table, scope.key, "__"))
            if RETRACTED in rows.columns:
                takes |= F.col(f"__{RETRACTED}").isNotNull()
            found.append(pairs.select(scope.key, day.alias(FIRST), KNOWN, F.when(takes, F.col(KNOWN)).alias(_TAKEN_AT)))
    if scope.others:
        told = rows if pairs is None else rows.unionByName(pairs.select(*rows.columns))
        more = scope.others(table, told, whole)
        found += [] if more is None else [more]
    return found


def _tells(table: Table, key: str, prefix: str = "") -> Column:
    """What of a row, once it is corrected, may take the row out of what held it: whose it is and of what kind; of a number its sign and
    whether it is there. Another number leaves it where it is: what holds it is known no earlier than the correction.

    Of raw rows only whose they are counts: acts are made of one each, and would all be known later than they were. The price: a day of
    demand that loses a promotion by its correction is known when what it gains in the same build was.
    """
    said = () if table.kind == "raw" else tuple(n for n in table.names if n not in (*table.grouping, CREATED_TIMESTAMP))
    numbers = {column.name for column in table.columns if column.type in ("int", "float", "money")}
    names = dict.fromkeys([key, *said])
    return F.struct(*[F.signum(prefix + name) if name in numbers else F.col(prefix + name) for name in names])


def _same(identity: Sequence[str]) -> Column:
    return reduce(Column.__and__, (F.col(name).eqNullSafe(F.col(f"__{name}")) for name in identity))


def cut(whole: Inputs, scope: Scope, keys: DataFrame) -> Mapping[str, DataFrame]:
    """What the rows of the touched keys depend on: the facts that hold one of them, and inputs without the key whole."""
    if scope.cut:
        return scope.cut(whole, keys)
    return {path: of_keys(rows, scope.key, keys) if scope.key in rows.columns else rows for path, rows in whole.frames.items()}
