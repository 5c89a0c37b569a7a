"""One column of a raw table out of a source row, on Spark: the value, or the reason why there is none.

Every conversion is total: what does not fit becomes null with a problem, never an exception. It is a chain of small steps, each
a column that the next ones refer to, so that Spark evaluates each once. The session's zone is UTC.
"""

from __future__ import annotations

from itertools import zip_longest

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from features.mapping import Source, Value
from features.tables import Column

_SIGNS = r"[€£$¥￥₹\s\u00a0\u202f]"
_BLANKS = r"^[\s\u00a0\ufeff]+|[\s\u00a0\ufeff]+$"
_OFFSET = r"(?i)(Z|UTC|[+-]\d{2}:?(\d{2})?)$"
_ISO = r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|UTC|[+-]\d{2}:?(\d{2})?)?)?$"
_WHOLE_ID = r"^(-?\d+)\.0+$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_MONEY = T.DecimalType(18, 4)
_WIDE = T.DecimalType(38, 10)
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the first and the last instant of the years 1 to 9999, UTC: Python and the lake's statistics end there."""
_MICROS = {"s": "1000000", "ms": "1000", "us": "1", "ns": "0.001"}


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


class Conversion:
    """How one target column is made of its origin: `raw` holds the origin, `value` and `problem` the result.

    Args:
        column: the declared target.
        zone: zone of times that name none.
    """

    def __init__(self, value: Value, column: Column, source: Source, zone: str) -> None:
        self.says, self.column, self.source, self.zone = value, column, source, zone
        self.raw = f"__raw_{column.name}"
        self.value, self.problem = self.raw, ""
        self.steps: list[tuple[str, SparkColumn]] = []

    def build(self, type: T.DataType) -> None:
        """Make the steps for an origin of this type."""
        raw = F.col(self.raw)
        if self.says.values:
            words = F.create_map(*[F.lit(word) for pair in self.says.values.items() for word in pair])
            text = self._text(raw, type)
            self._convert(self._step("word", F.coalesce(F.element_at(words, text), text)), T.StringType())
        else:
            self._convert(raw, type)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _convert(self, raw: SparkColumn, type: T.DataType) -> None:
        if self.column.type == "string":
            text = self._text(raw, type)
            self._result(F.regexp_replace(text, _WHOLE_ID, "$1") if self.column.name.endswith("_id") else text)
        elif self.column.type in ("int", "float", "money"):
            self._number(raw, type)
        elif self.column.type == "bool":
            text = F.lower(self._text(raw, type))
            yes = F.when(text.isin("true", "t", "yes", "y", "1"), True).when(text.isin("false", "f", "no", "n", "0"), False)
            flag = self._step("flag", yes)
            self._result(flag, F.when(text.isNotNull() & flag.isNull(), "not true or false"))
        else:
            self._time(raw, type)

    def _step(self, name: str, expression: SparkColumn) -> SparkColumn:
        """Compute `expression` once, under a name; returns the reference to it."""
        full = f"__{name}_{self.column.name}"
        self.steps.append((full, expression))
        return F.col(full)

    def _result(self, value: SparkColumn, problem: SparkColumn | None = None) -> None:
        self._step("value", value)
        self.value = self.steps[-1][0]
        if problem is not None:
            self._step("problem", F.when(problem.isNotNull(), F.concat(F.lit(f"{self.column.name}: "), problem)))
            self.problem = self.steps[-1][0]

    def _text(self, raw: SparkColumn, type: T.DataType) -> SparkColumn:
        """Text without byte-order marks and outer blanks; empty is null, and 17850.0 is 17850."""
        if isinstance(type, (T.FloatType, T.DoubleType)):
            whole = (F.abs(raw) < 1e18) & (raw == F.floor(raw))
            digits = F.when(whole, raw.try_cast("bigint").cast("string")).otherwise(raw.cast("string"))
            return self._step("text", F.when(~F.isnan(raw), digits))
        text = self._step("trimmed", F.regexp_replace(raw.cast("string"), _BLANKS, ""))
        return self._step("text", F.when(~text.isin("", *self.source.nulls), text))

    def _number(self, raw: SparkColumn, type: T.DataType) -> None:
        """NaN and infinity, what is no number, what is no whole number where one is asked for, and what is too large."""
        if isinstance(type, (T.FloatType, T.DoubleType)):
            given, infinite, digits = raw, F.isnan(raw) | (F.abs(raw) == float("inf")), raw
        elif isinstance(type, T.NumericType):
            given, infinite, digits = raw, F.lit(False), raw
        else:
            given = self._text(raw, type)
            infinite = given.rlike(_NOT_FINITE)
            digits = self._step("digits", self._plain_digits(given))
        infinite = self._step("infinite", F.coalesce(infinite, F.lit(False)))
        digits = F.when(~infinite, digits)
        if self.column.type == "float":
            exact = value = self._step("exact", digits.try_cast("double"))
            misfit = None
        else:
            exact = self._step("exact", digits.try_cast(_WIDE))
            is_int = self.column.type == "int"
            value = self._step(
                "fit", F.when(exact == F.floor(exact), exact).try_cast("bigint") if is_int else exact.try_cast(_MONEY)
            )
            misfit = "not a whole number" if is_int else "too large"
        problem = F.when(infinite, "NaN or infinite").when(given.isNotNull() & exact.isNull(), "not a number")
        self._result(value, problem if misfit is None else problem.when(exact.isNotNull() & value.isNull(), misfit))

    def _plain_digits(self, text: SparkColumn) -> SparkColumn:
        """Text in the source's way of writing numbers -> digits with a point; null where it is written otherwise."""
        decimal, thousands = f"\\{self.source.decimal}", f"\\{self.source.thousands}" if self.source.thousands.strip() else ""
        bare = self._step("bare", F.regexp_replace(text, _SIGNS, ""))
        whole = rf"(\d+|\d{{1,3}}({thousands}\d{{3}})+)" if thousands else r"\d+"
        pattern = rf"^[+-]?({whole}({decimal}\d*)?|{decimal}\d+)([eE][+-]?\d+)?$"
        digits = F.regexp_replace(bare, thousands, "") if thousands else bare
        return F.when(bare.rlike(pattern), F.regexp_replace(digits, decimal, ".") if decimal != r"\." else digits)

    def _time(self, raw: SparkColumn, type: T.DataType) -> None:
        """A time as an instant, or a date. A local time that a clock change skipped is a problem; of two, it is the first."""
        given, local, instant, has_hour = self._read_time(raw, type)
        local, instant = self._bounded("local", local), self._bounded("instant", instant)
        if self.column.type == "date":
            # the zone can lead out of the bounds once more, here and below
            day = self._bounded("at", F.coalesce(local, F.from_utc_timestamp(instant, self.zone)))
            day = self._step("day", day.cast("date"))
            self._result(day, F.when(given.isNotNull() & day.isNull(), "not a date"))
            return
        resolved = self._step("resolved", F.to_utc_timestamp(local, self.zone))
        skipped = F.coalesce(has_hour & (F.from_utc_timestamp(resolved, self.zone) != local), F.lit(False))
        skipped = self._step("skipped", skipped)
        value = self._bounded("time", F.coalesce(instant, F.when(~skipped, resolved)))
        told = F.when(skipped, "local time that a clock change skipped").when(given.isNotNull() & value.isNull(), "not a time")
        self._result(value, told)

    def _bounded(self, name: str, time: SparkColumn) -> SparkColumn:
        """The time, null outside the years 1 to 9999."""
        time = self._step(f"any_{name}", time)
        return self._step(name, F.when(F.unix_micros(time).between(_FIRST, _LAST), time))

    def _read_time(self, raw: SparkColumn, type: T.DataType) -> tuple[SparkColumn, SparkColumn, SparkColumn, SparkColumn]:
        """(what is given, wall clock time, instant, whether the source says the hour); one of the two times is null."""
        null, always = F.lit(None).cast("timestamp"), F.lit(True)
        if self.says.unit:
            given = raw if isinstance(type, T.NumericType) else self._text(raw, type)
            micros = self._step(
                "micros", F.try_multiply(given.try_cast(_WIDE), F.lit(_MICROS[self.says.unit]).cast("decimal(10,3)"))
            )
            return given, null, F.timestamp_micros(micros.try_cast("bigint")), always
        if isinstance(type, T.TimestampType):
            return raw, null, raw, always
        if isinstance(type, (T.TimestampNTZType, T.DateType)):
            return raw, raw.cast("timestamp"), null, F.lit(isinstance(type, T.TimestampNTZType))
        text = self._text(raw, type)
        if self.says.format:
            parsed = F.try_to_timestamp(text, F.lit(self.says.format))
            letters = _letters(self.says.format)
            if letters & set("XxZzVO"):
                return text, null, parsed, always
            return text, parsed, null, F.lit(bool(letters & set("HhkKa")))
        parsed = self._step("parsed", F.when(text.rlike(_ISO), text).try_cast("timestamp"))
        has_hour = self._step("hour", text.rlike(r"\d[T ]\d"))
        offset = self._step("offset", has_hour & text.rlike(_OFFSET))
        return text, F.when(~offset, parsed), F.when(offset, parsed), has_hour


def apply(frame: DataFrame, conversions: list[Conversion]) -> DataFrame:
    """`frame`, which holds the `raw` columns, with the steps of all conversions; those of a rank are computed side by side."""
    types = {field.name: field.dataType for field in frame.schema.fields}
    for conversion in conversions:
        conversion.build(types[conversion.raw])
    for rank in zip_longest(*(conversion.steps for conversion in conversions)):
        frame = frame.withColumns(dict(step for step in rank if step is not None))
    return frame


def _letters(pattern: str) -> set[str]:
    """The pattern letters of a time format, without its quoted text."""
    return set("".join(part for index, part in enumerate(pattern.split("'")) if index % 2 == 0))
