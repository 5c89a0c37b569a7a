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

from features.shop import Shop
from features.tables import EVENTS, INTERACTIONS, INVENTORY, ITEMS, ORDERS, PROMOTIONS, REVIEWS, Table
from features.windows import WindowedFeature
from infra import clock
from infra.lake import Lake
from spark_jobs.build import Built, Horizon, Range, Snapshot, build_table
from spark_jobs.jobs import JOBS
from spark_jobs.jobs import in_order as tables_in_order
from spark_jobs.raw import current

Row = dict[str, Any]
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", calendars=("DE",), now="data")


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


def facts(seed: int, since: date, days: int) -> dict[Table, list[Row]]:
    """Raw rows of a small shop, all stamped on the local days from `since` on."""
    chance = random.Random(seed)
    start = datetime.combine(since, datetime.min.time(), SHOP.zone)

    def at() -> datetime:
        return (start + timedelta(minutes=chance.randrange(days * 24 * 60))).astimezone(UTC)

    def user() -> str:
        return f"u{chance.randrange(4)}"

    def item() -> str:
        return f"i{chance.randrange(5)}"

    kinds = ["view", "click", "cart", "favourite", "impression", "login"]
    events = [
        {"event_id": f"{seed}-{n}", "user_id": user() if chance.random() < 0.7 else None, "visitor_id": f"x{chance.randrange(3)}",
         "item_id": item(), "event_type": chance.choice(kinds), "event_timestamp": at()}
        for n in range(days * 4)
    ]  # fmt: skip
    orders = [
        {"order_id": f"{seed}-{n}", "order_line_id": "1", "user_id": user() if n % 4 else None, "item_id": item(),
         "quantity": chance.choice([1, 2, -1]), "unit_price": chance.randint(1, 9), "event_timestamp": at()}
        for n in range(days * 2)
    ]  # fmt: skip
    last = start + timedelta(days) - timedelta(minutes=1)
    orders.append({**orders[0], "order_id": f"{seed}-end", "quantity": 1, "event_timestamp": last.astimezone(UTC)})
    items = [
        {
            "item_id": f"i{n}",
            "category": chance.choice("xy"),
            "price": chance.randint(1, 9) if n % 2 else None,
            "event_timestamp": at(),
        }
        for n in range(4)
    ]
    reviews = [
        {
            "review_id": f"{seed}-{n}",
            "item_id": item(),
            "review_text": f"text {n % 5}",
            "rating": n % 5 + 1,
            "event_timestamp": at(),
        }
        for n in range(8)
    ]
    inventory = [{"item_id": item(), "on_hand": chance.randrange(3), "event_timestamp": at()} for _ in range(days)]
    begins = at()
    promotions = [
        {"promotion_id": f"{seed}", "item_id": item(), "starts_at": begins, "ends_at": begins + timedelta(3), "depth": 0.2,
         "created_timestamp": begins}
    ]  # fmt: skip
    return {EVENTS: events, ORDERS: orders, ITEMS: items, REVIEWS: reviews, INVENTORY: inventory, PROMOTIONS: promotions}


@pytest.fixture
def build(spark: SparkSession, lake: Lake) -> Callable[..., dict[str, Built]]:
    """Build tables of `SHOP` in the shared Spark; a fresh snapshot each time, as a command has."""

    def run(
        *names: str, now: str | None = None, between: Range | None = None, lake: Lake = lake, shop: Shop = SHOP
    ) -> dict[str, Built]:
        horizon = Horizon.of(clock.now(now or shop.now, lake), shop, lake)
        snapshot = Snapshot(spark, lake, horizon)
        try:
            return {
                name: build_table(snapshot, shop, JOBS[name], between if name in names else None)
                for name in tables_in_order(names, JOBS)
            }
        finally:
            snapshot.release()

    return run


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
