"""One column of a raw table out of a source row, on Spark: the value, or the reason why there is none.

Every conversion is total: what does not fit becomes null with a problem, never an exception. The session's zone is UTC.
"""

from __future__ import annotations

from typing import NamedTuple

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from features.mapping import Source, Value
from features.tables import Column

_SIGNS = r"[€£$¥￥₹\s\u00a0\u202f]"
_OFFSET = r"(?i)(Z|UTC|[+-]\d{2}:?(\d{2})?)$"
_ISO = r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|UTC|[+-]\d{2}:?(\d{2})?)?)?$"
_WHOLE_ID = r"^(-?\d+)\.0+$"
_MONEY = T.DecimalType(18, 4)
_WIDE = T.DecimalType(38, 10)


class Converted(NamedTuple):
    """A value of the declared type, and why it is null although the source says something (null where all is well)."""

    value: SparkColumn
    problem: SparkColumn


def quoted(name: str) -> str:
    """A column name as Spark SQL takes it literally."""
    return "`" + name.replace("`", "``") + "`"


def origin(value: Value) -> SparkColumn:
    """Where the value comes from, in the source's own type."""
    if value.column is not None:
        return F.col(quoted(value.column))
    if value.sql is not None:
        return F.expr(value.sql)
    if value.digest:
        parts = F.to_json(F.struct(*[F.col(quoted(name)).cast("string").alias(f"c{i}") for i, name in enumerate(value.digest)]))
        return F.substring(F.sha2(parts, 256), 1, 32)
    constant = value.constant
    return F.lit(str(constant) if not isinstance(constant, bool) else constant)


def convert(value: Value, column: Column, type: T.DataType, source: Source, zone: str) -> Converted:
    """`value` as the declared type of `column`; `type` is the type its origin has, `zone` that of times that name none."""
    raw = origin(value)
    if value.values:
        words = F.create_map(*[F.lit(word) for pair in value.values.items() for word in pair])
        text = _text(raw, type, source)
        return _convert(value, F.coalesce(F.element_at(words, text), text), column, T.StringType(), source, zone)
    return _convert(value, raw, column, type, source, zone)


def _convert(value: Value, raw: SparkColumn, column: Column, type: T.DataType, source: Source, zone: str) -> Converted:
    if column.type == "string":
        text = _text(raw, type, source)
        return Converted(F.regexp_replace(text, _WHOLE_ID, "$1") if column.name.endswith("_id") else text, _none())
    if column.type in ("int", "float", "money"):
        return _number(raw, column, type, source)
    if column.type == "bool":
        text = F.lower(_text(raw, type, source))
        flag = F.when(text.isin("true", "t", "yes", "y", "1"), True).when(text.isin("false", "f", "no", "n", "0"), False)
        return Converted(flag, F.when(text.isNotNull() & flag.isNull(), f"{column.name}: not true or false"))
    return _time(value, raw, column, type, source, zone)


def types_of(frame: DataFrame, columns: dict[str, SparkColumn]) -> dict[str, T.DataType]:
    """The types that expressions over `frame` have; Spark only analyses, nothing runs."""
    schema = frame.select([column.alias(name) for name, column in columns.items()]).schema
    return {field.name: field.dataType for field in schema.fields}


def _none() -> SparkColumn:
    return F.lit(None).cast("string")


def _text(raw: SparkColumn, type: T.DataType, source: Source) -> SparkColumn:
    """Text without byte-order marks and outer blanks; empty is null, and 17850.0 is 17850."""
    if isinstance(type, (T.FloatType, T.DoubleType)):
        whole = (raw == F.floor(raw)) & (F.abs(raw) < 1e18)
        return F.when(F.isnan(raw), None).when(whole, raw.try_cast("bigint").cast("string")).otherwise(raw.cast("string"))
    text = F.regexp_replace(raw.cast("string"), r"^[\s\u00a0\ufeff]+|[\s\u00a0\ufeff]+$", "")
    return F.when(text.isin("", *source.nulls), None).otherwise(text)


def _number(raw: SparkColumn, column: Column, type: T.DataType, source: Source) -> Converted:
    if isinstance(type, (T.FloatType, T.DoubleType)):
        given = raw.isNotNull()
        infinite = F.isnan(raw) | (F.abs(raw) == float("inf"))
        exact = F.when(~infinite, raw).try_cast(_WIDE)
        approximate = F.when(~infinite, raw)
    elif isinstance(type, T.NumericType):
        given, infinite = raw.isNotNull(), F.lit(False)
        exact, approximate = raw.try_cast(_WIDE), raw.try_cast("double")
    else:
        text = _text(raw, type, source)
        given = text.isNotNull()
        infinite = F.coalesce(F.lower(text).rlike(r"^[+-]?(nan|inf|infinity)$"), F.lit(False))
        plain = _plain_digits(F.regexp_replace(text, _SIGNS, "") if source.thousands != " " else text, source)
        exact, approximate = plain.try_cast(_WIDE), plain.try_cast("double")
    wrong = F.when(given & infinite, f"{column.name}: NaN or infinite").when(
        given & (exact.isNull() if column.type != "float" else approximate.isNull()), f"{column.name}: not a number"
    )
    if column.type == "float":
        return Converted(approximate, wrong)
    if column.type == "int":
        whole = F.when(exact == F.floor(exact), exact).try_cast("bigint")
        return Converted(whole, F.coalesce(wrong, F.when(exact.isNotNull() & whole.isNull(), f"{column.name}: not a whole number")))
    money = exact.try_cast(_MONEY)
    return Converted(money, F.coalesce(wrong, F.when(exact.isNotNull() & money.isNull(), f"{column.name}: too large")))


def _plain_digits(text: SparkColumn, source: Source) -> SparkColumn:
    """Text in the source's way of writing numbers -> digits with a point; null where it is written otherwise."""
    decimal, thousands = f"\\{source.decimal}", {"": "", " ": r"[ \u00a0\u202f]"}.get(source.thousands, f"\\{source.thousands}")
    whole = rf"(\d+|\d{{1,3}}({thousands}\d{{3}})+)" if thousands else r"\d+"
    pattern = rf"^[+-]?({whole}({decimal}\d*)?|{decimal}\d+)([eE][+-]?\d+)?$"
    bare = F.regexp_replace(text, thousands, "") if thousands else text
    return F.when(text.rlike(pattern), F.regexp_replace(bare, decimal, "."))


def _time(value: Value, raw: SparkColumn, column: Column, type: T.DataType, source: Source, zone: str) -> Converted:
    """A time as an instant, or a date. A local time that a clock change skipped is a problem; of two, it is the first."""
    local, instant, has_hour = _read_time(value, raw, type, source)
    text = _text(raw, type, source)
    if column.type == "date":
        day = F.coalesce(local, F.from_utc_timestamp(instant, zone)).cast("date")
        return Converted(day, F.when(text.isNotNull() & day.isNull(), f"{column.name}: not a date"))
    resolved = F.to_utc_timestamp(local, zone)
    skipped = has_hour & (F.from_utc_timestamp(resolved, zone) != local)
    result = F.coalesce(instant, F.when(~F.coalesce(skipped, F.lit(False)), resolved))
    problem = F.when(skipped & instant.isNull(), f"{column.name}: local time that a clock change skipped").when(
        text.isNotNull() & result.isNull(), f"{column.name}: not a time"
    )
    return Converted(result, problem)


def _read_time(value: Value, raw: SparkColumn, type: T.DataType, source: Source) -> tuple[SparkColumn, SparkColumn, SparkColumn]:
    """(wall clock time, instant, whether the source says the hour); one of the first two is null."""
    null = F.lit(None).cast("timestamp")
    if value.unit:
        micros = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}[value.unit]
        number = _number(raw, Column("epoch", "float", ""), type, source)
        exact = (raw if isinstance(type, T.NumericType) else _text(raw, type, source)).try_cast(_WIDE)
        fits = F.abs(number.value * micros) < 2.5e17
        return null, F.when(fits, F.timestamp_micros((exact * F.lit(micros).cast(_WIDE)).try_cast("bigint"))), F.lit(True)
    if isinstance(type, T.TimestampType):
        return null, raw, F.lit(True)
    if isinstance(type, T.TimestampNTZType):
        return raw.cast("timestamp"), null, F.lit(True)
    if isinstance(type, T.DateType):
        return raw.cast("timestamp"), null, F.lit(False)
    text = _text(raw, type, source)
    if value.format:
        parsed = F.try_to_timestamp(text, F.lit(value.format))
        letters = _letters(value.format)
        if letters & set("XxZzVO"):
            return null, parsed, F.lit(True)
        return parsed, null, F.lit(bool(letters & set("HhkKa")))
    parsed = F.when(text.rlike(_ISO), text).try_cast("timestamp")
    has_hour = text.rlike(r"\d[T ]\d")
    offset = has_hour & text.rlike(_OFFSET)
    return F.when(~offset, parsed), F.when(offset, parsed), has_hour


def _letters(pattern: str) -> set[str]:
    """The pattern letters of a time format, without its quoted text."""
    return set("".join(part for index, part in enumerate(pattern.split("'")) if index % 2 == 0))
