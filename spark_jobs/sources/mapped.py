"""The rows of a source as rows of one raw table: each with its values, or dropped by a named rule, or with a reason against it."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import DataType

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.mapping import Source, TableMapping
from features.shop import Shop
from features.tables import Column
from spark_jobs.sources.arrow_files import OURS, PART, PROBLEM, ROW, TEXT
from spark_jobs.sources.changes import ORDER
from spark_jobs.sources.explode import EMPTY, POSITION
from spark_jobs.sources.rules import broken
from spark_jobs.sources.values import Conversion, apply, origin, quoted

DROPPED, REASON, SOURCE_ROW = "__dropped", "__reason", "__source_row"
NOT_SELECTED = "not selected"
"""Name of the rule by which rows go that a table's `where` leaves out."""
_CURRENCY, _PROBLEMS, _RULES, _OWN = "__currency", "__problems", "__rules", "__own"
_SOURCE_BITS, _PART_BITS = 53, 33


def mapped(
    frame: DataFrame,
    source: Source,
    place: int,
    mapping: TableMapping,
    extras: dict[str, str],
    shop: Shop,
    rates: DataFrame,
    now: datetime,
) -> DataFrame:
    """`frame`, the staged rows of `source`, as rows of `mapping.table`.

    Args:
        place: of the source among those of this run.
        extras: source column -> column of the raw table that keeps it as text.
        rates: rows of `raw/rates`.
        now: the present, for the check on times in the future.

    Returns:
        All rows, none left out: the declared columns, the extras, `__part`, `__row`, `__order` (place of the row in the run), `__dropped`
        (name of the rule that drops it), `__reason` (what is against it) and `__source_row` (JSON, where there is a reason).
    """
    table = mapping.declared
    frame = _with_absent(frame, source, mapping)
    values = dict(mapping.columns) | ({_CURRENCY: mapping.currency} if mapping.currency else {})
    conversions = {
        name: Conversion(
            value,
            Column(_CURRENCY, "string", "") if name == _CURRENCY else table.column(name),
            source,
            value.zone or source.zone or shop.time_zone,
        )
        for name, value in values.items()
    }
    own = [F.col(quoted(name)).alias(name) for name in frame.columns if name not in OURS]
    rows = frame.select(
        *[origin(conversion.says).alias(conversion.raw) for conversion in conversions.values()],
        *[F.col(quoted(name)).cast("string").alias(target) for name, target in extras.items()],
        PART,
        ROW,
        PROBLEM,
        TEXT,
        (F.lit(place << _SOURCE_BITS) + F.shiftleft(PART, _PART_BITS) + F.col(ROW)).alias(ORDER),
        _dropped(source, mapping).alias(DROPPED),
        F.struct(*own).alias(_OWN),
    )
    rows = apply(rows, list(conversions.values()))
    types = dict(zip(table.names, from_arrow_schema(table.schema), strict=True))
    rows = rows.select(
        *[_declared(name, field.dataType, conversions) for name, field in types.items()],
        *extras.values(),
        *([F.col(conversions[_CURRENCY].value).alias(_CURRENCY)] if mapping.currency else []),
        PART,
        ROW,
        ORDER,
        DROPPED,
        _OWN,
        TEXT,
        PROBLEM,
        F.concat_ws("; ", PROBLEM, *[c.problem for c in conversions.values() if c.problem]).alias(_PROBLEMS),
    )
    if mapping.currency:
        rows = _in_shop_currency(rows, mapping, shop, rates)
    if EVENT_TIMESTAMP in table.names:
        known = F.coalesce(CREATED_TIMESTAMP, F.col(EVENT_TIMESTAMP) + F.lit(mapping.delay))
        rows = rows.withColumn(CREATED_TIMESTAMP, known)
    rows = rows.withColumn(_RULES, F.concat_ws("; ", *broken(table, now)))
    reason = F.when(F.col(_PROBLEMS) != "", F.col(_PROBLEMS)).when(F.col(_RULES) != "", F.col(_RULES))
    rows = rows.withColumn(REASON, F.when(F.col(DROPPED).isNull(), reason))
    text = F.to_json(F.struct(F.col(TEXT).alias("text")))
    json = F.when(F.col(PROBLEM).isNotNull(), text).otherwise(F.to_json(_OWN, {"ignoreNullFields": "false"}))
    return rows.withColumn(SOURCE_ROW, F.when(F.col(REASON).isNotNull(), json)).drop(_OWN, TEXT, PROBLEM, _PROBLEMS, _RULES)


def _declared(name: str, type: DataType, conversions: dict[str, Conversion]) -> SparkColumn:
    made = F.col(conversions[name].value) if name in conversions else F.lit(None)
    return made.cast(type).alias(name)


def _with_absent(frame: DataFrame, source: Source, mapping: TableMapping) -> DataFrame:
    """Columns that a JSON lines source, or a reader of the shop's own, leaves out today, as nulls."""
    needed = {name for value in mapping.columns.values() for name in value.reads} | ({POSITION} if source.explode else set())
    absent = sorted(needed - set(frame.columns))
    return frame.withColumns({name: F.lit(None).cast("string") for name in absent}) if absent else frame


def _dropped(source: Source, mapping: TableMapping) -> SparkColumn:
    rules = [F.when(F.col(POSITION) == 0, EMPTY)] if source.explode else []
    rules += [F.when(F.expr(condition), name) for name, condition in source.drop.items()]
    if mapping.where:
        rules.append(F.when(~F.coalesce(F.expr(mapping.where), F.lit(False)), NOT_SELECTED))
    return F.when(F.col(PROBLEM).isNull(), F.coalesce(*rules)) if rules else F.lit(None).cast("string")


def _in_shop_currency(rows: DataFrame, mapping: TableMapping, shop: Shop, rates: DataFrame) -> DataFrame:
    """Money of other currencies at the newest rate of the local day or before; a row without a rate has a problem."""
    money = [column.name for column in mapping.declared.columns if column.type == "money"]
    newest = Window.partitionBy("currency", "date").orderBy(F.col(CREATED_TIMESTAMP).desc())
    following = F.lead("date").over(Window.partitionBy("currency").orderBy("date"))
    periods = (
        rates.withColumn("__n", F.row_number().over(newest))
        .where("__n = 1")
        .select(F.col("currency").alias("__of"), F.col("date").alias("__since"), following.alias("__until"), "rate")
    )
    time = EVENT_TIMESTAMP if EVENT_TIMESTAMP in mapping.declared.names else CREATED_TIMESTAMP
    day = F.from_utc_timestamp(F.col(time), shop.time_zone).cast("date")
    is_valid = (F.col("__since") <= day) & (F.col("__until").isNull() | (day < F.col("__until")))
    joined = rows.join(F.broadcast(periods), (F.upper(F.col(_CURRENCY)) == F.col("__of")) & is_valid, "left")
    is_own = F.coalesce(F.upper(F.col(_CURRENCY)) == shop.currency, F.lit(True))
    rate = F.col("rate").cast("decimal(18,8)")
    amounts = {
        name: F.when(is_own, F.col(name)).otherwise((F.col(name) * rate).try_cast("decimal(18,4)")).alias(name) for name in money
    }
    missing = F.when(~is_own & F.col("rate").isNull(), F.concat(F.lit("currency: no rate for "), F.col(_CURRENCY)))
    problems = F.concat_ws("; ", F.nullif(F.col(_PROBLEMS), F.lit("")), missing)
    return joined.withColumns({**amounts, _PROBLEMS: problems}).drop("__of", "__since", "__until", "rate", _CURRENCY)
