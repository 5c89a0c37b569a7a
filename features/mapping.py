"""How a shop's own data becomes raw tables: the `sources` of shop.yaml.

A source is a file, a folder, a Delta table or a PostgreSQL query; it feeds one or more raw tables. A mapping says per column of
the raw table where its value comes from. Conditions and `sql` are Spark SQL over the source's own column names.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.tables import RAW_TABLES, Table

FILE_FORMATS = ("csv", "jsonl", "parquet", "delta")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True)


def _check_zone(zone: str | None) -> str | None:
    if zone is not None:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no IANA time zone such as Europe/Berlin") from None
    return zone


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value  # YAML reads an unquoted 2025-01-31 as a date


class Value(_Model):
    """Where one column's value comes from: exactly one of `from`, `constant`, `sql`, `digest`."""

    column: str | None = Field(None, alias="from", description="A column of the source.")
    constant: Annotated[str | int | float | bool | None, BeforeValidator(_iso)] = Field(None, description="The same for all rows.")
    sql: str | None = Field(None, description="Spark SQL over the source's columns.")
    digest: tuple[str, ...] = Field((), description="Source columns whose digest is the id, where the source has none.")
    values: dict[str, str] = Field({}, description="The shop's own words to ours; words not listed stay as they are.")
    format: str | None = Field(None, description="Pattern of a time or date, e.g. dd.MM.yyyy HH:mm (Spark's letters).")
    unit: Literal["s", "ms", "us", "ns"] | None = Field(None, description="The time is a number since 1970 in this unit.")
    zone: str | None = Field(None, description="Zone of times that name none; default: the source's, then the shop's.")

    _zone = field_validator("zone")(_check_zone)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> Value:
        given = [self.column is not None, self.constant is not None, self.sql is not None, bool(self.digest)]
        if sum(given) != 1:
            raise ValueError("say exactly one of `from`, `constant`, `sql`, `digest`")
        if self.format and self.unit:
            raise ValueError("a time has a `format` or a `unit`, not both")
        return self

    @property
    def reads(self) -> set[str]:
        """Source columns named outright (those inside `sql` are found by Spark)."""
        return {self.column} if self.column is not None else set(self.digest)


class TableMapping(_Model):
    """How the rows of a source become rows of one raw table."""

    table: str = Field(description="A raw table of features/tables.py.")
    where: str | None = Field(None, description="Only rows for which this holds; the others are counted as dropped.")
    columns: dict[str, Value] = Field(description="Column of the raw table -> where its value comes from.")
    currency: Value | None = Field(None, description="Currency of the row's money; converted by the `rates` table.")
    delay: timedelta = Field(timedelta(0), ge=timedelta(0), description="From event to when the shop could know the row.")
    identical: Literal["keep", "drop"] = Field(
        "keep", description="Rows without an id that are wholly equal: two sales (keep) or one (drop)."
    )

    @field_validator("table")
    @classmethod
    def _known_table(cls, value: str) -> str:
        if value not in RAW_TABLES:
            raise ValueError(f"no raw table {value!r}; there are {', '.join(RAW_TABLES)}")
        return value

    @model_validator(mode="after")
    def _fits_table(self) -> TableMapping:
        unknown = [name for name in self.columns if name not in self.declared.names]
        if unknown:
            raise ValueError(f"table {self.table} has no column {', '.join(unknown)}; it has {', '.join(self.declared.names)}")
        derived = {CREATED_TIMESTAMP} if EVENT_TIMESTAMP in self.declared.names else set()
        missing = [name for name in self.declared.required if name not in self.columns and name not in derived]
        if missing:
            raise ValueError(f"table {self.table} needs {', '.join(missing)}; map a column or give a constant")
        return self

    @property
    def declared(self) -> Table:
        """Declaration of the raw table that is mapped to."""
        return RAW_TABLES[self.table]

    @property
    def is_bare(self) -> bool:
        """The rows have no ids and all stand: one that is read twice counts twice."""
        own = self.declared.row_id
        return own is not None and own not in self.columns and self.identical == "keep"


class TextFormat(_Model):
    """How text is written: CSV and JSON lines, and numbers in text of any source."""

    encoding: str = Field("utf-8", description="Encoding of a text file; a byte-order mark is skipped.")
    header: tuple[str, ...] = Field((), description="Column names of a CSV file whose first line is a record already.")
    keyed: bool = Field(
        False, description="A JSON file is one object; each of its entries is a record, its name in the column `key`."
    )
    delimiter: str = Field(",", min_length=1, description="Between the fields of a CSV line: one sign or several, such as `::`.")
    quote: str = Field('"', max_length=1, description="Around a CSV field that holds the delimiter; empty: around none.")
    decimal: Literal[".", ","] = Field(".", description="Decimal sign of numbers in text.")
    thousands: Literal["", ".", ",", " ", "'"] = Field("", description="Sign between thousands of numbers in text.")
    nulls: tuple[str, ...] = Field((), description="Words that mean no value, beside the empty field.")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError(f"unknown encoding {value!r}; for example utf-8, gb18030, cp1252, utf-16") from None
        return value

    @model_validator(mode="after")
    def _signs_differ(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError("`decimal` and `thousands` are the same sign")
        if len(self.delimiter) > 1 and self.quote:
            raise ValueError('between fields in quotes stands one sign; a `delimiter` of several needs `quote: ""`')
        return self


class Source(TextFormat):
    """One place rows come from."""

    name: str = Field(pattern=r"^\w[\w.-]{0,80}$", description="Name of the source in reports and in the quarantine.")
    format: str = Field(description="csv, jsonl, parquet, delta, postgres, or the name of a file in the shop's readers/ folder.")
    path: str | None = Field(None, description="File, folder or glob; relative paths start at the shop's folder.")
    url: str | None = Field(None, description="postgresql://user@host:port/database; the password belongs in ~/.pgpass.")
    query: str | None = Field(None, description="The SELECT to read.")
    cursor: str | None = Field(None, description="Column of the query that only grows; a later run reads from where it came to.")
    explode: str | None = Field(
        None, description="A column of lists: each element is a record, its place in the list (1, 2, ...) in the column `position`."
    )
    zone: str | None = Field(None, description="Zone of times that name none; default: the shop's.")
    drop: dict[str, str] = Field({}, description="Rule name -> condition; rows that meet it go nowhere and are counted by name.")
    retyped: tuple[str, ...] = Field((), description="Columns whose change of type has been looked at and is accepted.")
    tables: tuple[TableMapping, ...] = Field(min_length=1, description="The raw tables this source feeds.")

    _zone = field_validator("zone")(_check_zone)

    @property
    def bare(self) -> Table | None:
        """The first raw table whose rows have no ids here and all stand; None where every row can be told from those read before."""
        return next((mapping.declared for mapping in self.tables if mapping.is_bare), None)

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.format == "postgres":
            if not self.url or not self.query:
                raise ValueError("a postgres source needs `url` and `query`")
        elif not self.path:
            raise ValueError(f"a {self.format} source needs `path`")
        if self.explode and self.format in ("csv", "jsonl"):
            raise ValueError(f"`explode` needs a column of lists, and a {self.format} file gives text; convert it to Parquet")
        if self.format not in (*FILE_FORMATS, "postgres") and not re.fullmatch(r"[a-z]\w*", self.format):
            raise ValueError(f"format {self.format!r}: expected {', '.join(FILE_FORMATS)}, postgres or the name of a reader")
        return self
