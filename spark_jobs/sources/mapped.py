"""The rows of a source as rows of one raw table: each with its values, or dropped by a named rule, or with a reason against it."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.mapping import Source, TableMapping
from features.shop import Shop
from features.tables import Column
from spark_jobs.sources.arrow_files import PROBLEM, ROW, TEXT
from spark_jobs.sources.changes import ORDER
from spark_jobs.sources.rules import broken
from spark_jobs.sources.staging import OURS, PART
from spark_jobs.sources.values import convert, origin, quoted, types_of

DROPPED, REASON, SOURCE_ROW = "__dropped", "__reason", "__source_row"
NOT_SELECTED = "not selected"
"""Name of the rule by which rows go that a table's `where` leaves out."""
_CURRENCY, _PROBLEMS = "__currency", "__problems"
_ROWS_PER_PART = 1 << 40


def mapped(
    frame: DataFrame, source: Source, mapping: TableMapping, extras: dict[str, str], shop: Shop, rates: DataFrame, now: datetime
) -> DataFrame:
    """`frame`, the staged rows of `source`, as rows of `mapping.table`.

    Args:
        extras: source column -> column of the raw table that keeps it as text.
        rates: rows of `raw/rates`.
        now: the present, for the check on times in the future.

    Returns:
        All rows, none left out: the declared columns, the extras, `__part`, `__row`, `__order` (place in the source), `__dropped`
        (name of the rule that drops it), `__reason` (what is against it) and `__source_row` (JSON, where there is a reason).
    """
    table = mapping.declared
    types = dict(zip(table.names, from_arrow_schema(table.schema), strict=True))
    frame = _with_absent(frame, mapping)
    values = dict(mapping.columns) | ({_CURRENCY: mapping.currency} if mapping.currency else {})
    found = types_of(frame, {name: origin(value) for name, value in values.items()})
    converted = {
        name: convert(
            value,
            Column(_CURRENCY, "string", "") if name == _CURRENCY else table.column(name),
            found[name],
            source,
            value.zone or source.zone or shop.time_zone,
        )
        for name, value in values.items()
    }
    problems = [F.col(PROBLEM), *(c.problem for c in converted.values())]
    own = [name for name in frame.columns if name not in OURS]
    source_row = F.to_json(F.struct(*[F.col(quoted(name)).alias(name) for name in own]), {"ignoreNullFields": "false"})
    rows = frame.select(
        *[converted[name].value.alias(name) if name in converted else F.lit(None).alias(name) for name in table.names],
        *[F.col(quoted(name)).cast("string").alias(target) for name, target in extras.items()],
        *([converted[_CURRENCY].value.alias(_CURRENCY)] if mapping.currency else []),
        PART,
        ROW,
        (F.col(PART) * _ROWS_PER_PART + F.col(ROW)).alias(ORDER),
        _dropped(source, mapping).alias(DROPPED),
        F.concat_ws("; ", *problems).alias(_PROBLEMS),
        F.when(F.col(PROBLEM).isNotNull(), F.to_json(F.struct(F.col(TEXT).alias("text")))).otherwise(source_row).alias(SOURCE_ROW),
    )
    rows = rows.withColumns({name: F.col(name).cast(field.dataType) for name, field in types.items()})
    if mapping.currency:
        rows = _in_shop_currency(rows, mapping, shop, rates)
    if EVENT_TIMESTAMP in table.names:
        known = F.coalesce(CREATED_TIMESTAMP, F.col(EVENT_TIMESTAMP) + F.lit(mapping.delay))
        rows = rows.withColumn(CREATED_TIMESTAMP, known)
    rules = F.concat_ws("; ", *broken(table, now))
    reason = F.coalesce(F.nullif(F.col(_PROBLEMS), F.lit("")), F.nullif(rules, F.lit("")))
    is_wanted = F.col(DROPPED).isNull()
    return (
        rows.withColumn(REASON, F.when(is_wanted, reason))
        .withColumn(SOURCE_ROW, F.when(F.col(REASON).isNotNull(), F.col(SOURCE_ROW)))
        .drop(_PROBLEMS)
    )


def _with_absent(frame: DataFrame, mapping: TableMapping) -> DataFrame:
    """Columns that a JSON lines source leaves out today, as nulls."""
    absent = sorted({name for value in mapping.columns.values() for name in value.reads} - set(frame.columns))
    return frame.withColumns({name: F.lit(None).cast("string") for name in absent}) if absent else frame


def _dropped(source: Source, mapping: TableMapping) -> SparkColumn:
    rules = [F.when(F.expr(condition), name) for name, condition in source.drop.items()]
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
