"""Hand-written rows as frames, and frames as rows that a test can read."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from features.tables import INTERACTIONS, Table
from features.windows import WindowedFeature
from spark_jobs.raw import current

Row = dict[str, Any]


def complete(table: Table, row: Row) -> Row:
    """A row with every declared column: times from ISO 8601 text, money exact, known when true unless it says otherwise."""
    unknown = row.keys() - set(table.names)
    assert not unknown, f"{table.name} has no column {unknown}"
    parse = {
        "timestamp": lambda value: datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else value,
        "date": lambda value: date.fromisoformat(value) if isinstance(value, str) else value,
        "money": lambda value: Decimal(str(value)).quantize(Decimal("0.0001")),
    }
    made = {
        c.name: parse[c.type](row[c.name]) if c.type in parse and row.get(c.name) is not None else row.get(c.name)
        for c in table.columns
    }
    if made["created_timestamp"] is None:
        made["created_timestamp"] = made.get("event_timestamp") or datetime(2020, 1, 1, tzinfo=UTC)
    return made


@pytest.fixture
def frame(spark: SparkSession) -> Callable[..., DataFrame]:
    """`frame(table, *rows)`: a frame of a declared table from partial rows."""

    def make(table: Table, *rows: Row) -> DataFrame:
        return spark.createDataFrame(pa.Table.from_pylist([complete(table, row) for row in rows], schema=table.schema))

    return make


@pytest.fixture
def raw(frame: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """`raw(table, *rows)`: the current rows of a raw table, as jobs are given them."""

    def make(table: Table, *rows: Row) -> DataFrame:
        return current(frame(table, *rows), table)

    return make


@pytest.fixture
def written() -> Callable[..., list[Row]]:
    """`written(frame, table)`: the rows of a frame as its table would hold them, sorted by their text."""

    def collect(frame: DataFrame, table: Table) -> list[Row]:
        fields = from_arrow_schema(table.schema).fields
        rows: list[Row] = frame.select([frame[field.name].cast(field.dataType) for field in fields]).toArrow().to_pylist()
        return in_order(rows)

    return collect


@pytest.fixture
def expected() -> Callable[..., list[Row]]:
    """`expected(table, *rows)`: partial rows completed, sorted as `written` sorts them."""

    def make(table: Table, *rows: Row) -> list[Row]:
        return in_order([complete(table, row) for row in rows])

    return make


def in_order(rows: list[Row]) -> list[Row]:
    """Rows in an order that does not depend on how they were computed."""
    return sorted(rows, key=lambda row: [str(row[name]) for name in sorted(row)])


@dataclass(frozen=True)
class Oracle:
    """Windowed features computed the long way: every key, every day, every act."""

    zone: str

    def day(self, instant: datetime) -> date:
        return instant.astimezone(ZoneInfo(self.zone)).date()

    def stamp(self, day: date) -> datetime:
        return datetime.combine(day + timedelta(1), time(), ZoneInfo(self.zone)).astimezone(UTC)

    def inside(self, acts: Sequence[Row], day: date, days: int) -> list[Row]:
        return [act for act in acts if 0 <= (day - self.day(act["event_timestamp"])).days < days]

    def value(self, feature: WindowedFeature, acts: Sequence[Row], day: date, days: int) -> Any:
        counted = [act for act in self.inside(acts, day, days) if act["event_type"] in feature.event_types]
        if feature.aggregate == "count":
            return sum(feature.weights.get(act["event_type"], 1) for act in counted)
        found = [act[feature.of] for act in counted if act[feature.of] is not None]
        return len(set(found)) if feature.aggregate == "distinct" else sum(found)

    def values(self, features: Sequence[WindowedFeature], acts: Sequence[Row], day: date) -> Row:
        return {f.column(days): self.value(f, acts, day, days) for f in features for days in f.windows}

    def known(self, acts: Sequence[Row], day: date, days: int = 90) -> datetime:
        """When a row that counts the acts of `days` days was known."""
        return max([self.stamp(day), *[act["created_timestamp"] for act in self.inside(acts, day, days)]])


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture
def random_acts() -> Callable[..., list[Row]]:
    """`random_acts(seed, num_acts)`: interactions of a few users and items over seven months, a tenth of them known late."""

    def make(seed: int, num_acts: int) -> list[Row]:
        chance = random.Random(seed)
        acts = []
        for number in range(num_acts):
            at = datetime(2024, 2, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(210 * 24 * 60))
            late = timedelta(hours=chance.randrange(150 * 24)) if chance.random() < 0.1 else timedelta()
            kind = chance.choice(["click", "view", "view", "cart", "favourite", "purchase", "purchase", "return"])
            is_sale = kind in ("purchase", "return")
            acts.append(
                complete(
                    INTERACTIONS,
                    {
                        "interaction_id": f"n{number}",
                        "user_id": f"u{int(chance.paretovariate(1)) % 5}",
                        "session_id": f"s{number}",
                        "item_id": f"i{int(chance.paretovariate(1)) % 4}",
                        "event_type": kind,
                        "quantity": chance.randint(1, 3) if is_sale else None,
                        "value": chance.randrange(0, 10**6) / 100 if is_sale else None,
                        "event_timestamp": at,
                        "created_timestamp": at + late,
                    },
                )
            )
        return acts

    return make
