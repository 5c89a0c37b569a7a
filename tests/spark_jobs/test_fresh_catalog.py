"""What the online path says of items, whatever was told of them and when, is what the table job says of them once it is built."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.fresh.catalog import CATALOG
from features.fresh.facts import EVENT_CONTRACT, ITEM_CONTRACT
from features.fresh.intake import Intake
from features.money import column_served
from features.online.packing import key_texts, pack_rows, to_microseconds
from features.online.read import read_columns
from features.online.rows import open_rows
from features.shop import Shop
from features.tables import EVENTS, ITEM_CATALOG, ITEMS, ORDERS, REVIEWS
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import item_catalog
from spark_jobs.raw import current
from spark_jobs.session import read_table

ZONE = "Europe/Berlin"
BEGIN = datetime(2024, 5, 1, 12, tzinfo=UTC)
NUM_ITEMS = 150
HOUR = timedelta(hours=1)


def patch(rng: random.Random, item: str, now: datetime) -> dict[str, Any]:
    """Some fields of one item, from now on or since up to three days."""
    said: dict[str, Any] = {"item_id": item}
    for name, values in {
        "title": ["A", "鞋", None],
        "category": ["x", "y", None],
        "brand": ["b"],
        "withdrawn_at": [now.isoformat(), None],
    }.items():
        if rng.random() < 0.4:
            said[name] = rng.choice(values)
    if int(item[1:]) % 3:  # the others have no list price: what was paid last stands in
        said["price"] = rng.choice([19.9, 0.1, 5, rng.randrange(10**6) / 10_000])
    if rng.random() < 0.2:
        said["on_hand"] = 3
    if rng.random() < 0.3:
        said["event_timestamp"] = (now - timedelta(minutes=rng.randrange(3 * 24 * 60))).isoformat()
    return said if len(said) > 1 else said | {"title": "A"}


def events(rng: random.Random) -> list[dict[str, Any]]:
    """Views and purchases of some items in the two days before."""
    return [
        {
            "event_id": f"e{number}",
            "user_id": "u",
            "item_id": f"i{rng.randrange(NUM_ITEMS * 2 // 3)}",
            "event_type": rng.choice(["view", "purchase"]),
            "price": rng.choice([3, 19.9, 7.77]),
            "event_timestamp": (BEGIN - timedelta(minutes=rng.randrange(2 * 24 * 60))).isoformat(),
        }
        for number in range(NUM_ITEMS)
    ]


def built(spark: SparkSession, lake: Lake) -> Any:
    """The newest row of `item_catalog` of each item, as a build on the tables makes it, in the view's schema."""
    frames = (current(read_table(spark, lake, table), table) for table in (ITEMS, EVENTS, ORDERS, REVIEWS))
    rows = item_catalog.transform(*frames, zone=ZONE, last_day=date(2024, 4, 30))
    newest = rows.groupBy("item_id").agg(F.max_by(F.struct(*rows.columns), EVENT_TIMESTAMP).alias("row")).select("row.*")
    table = newest.toArrow().select(ITEM_CATALOG.names).cast(ITEM_CATALOG.schema)
    price = table.schema.get_field_index("price")
    return table.set_column(price, "price", column_served(table["price"])).select(CATALOG.schema.names).cast(CATALOG.schema)


def test_fresh_and_built_agree(spark: SparkSession, settings: Settings, lake: Lake) -> None:
    rng = random.Random(3)
    shop = Shop(name="sample", currency="EUR", time_zone=ZONE)
    rows = open_rows(settings, "sample")
    now = [BEGIN]
    intake = Intake(settings, shop, lake, rows, "wall", lambda: now[0])
    items = [f"i{number}" for number in range(NUM_ITEMS)]

    def tell(count: int) -> None:
        """Some bad: what lies before what was told already is refused."""
        for _ in range(count):
            now[0] += timedelta(minutes=rng.randrange(3))
            lot = [patch(rng, item, now[0]) for item in rng.sample(items, rng.randint(1, 60))]
            intake.take([ITEM_CONTRACT.read(lot, "http", "r", now[0])])

    def fresh() -> list[dict[str, Any] | None]:
        events, values = read_columns(rows, {CATALOG: key_texts([items])}, to_microseconds(now[0]) + 1000)[CATALOG]
        columns = zip(*values.values(), strict=True)
        return [
            None if event is None else dict(zip(values, row, strict=True)) | {EVENT_TIMESTAMP: event}
            for event, row in zip(events, columns, strict=True)
        ]

    def of(table: Any) -> list[dict[str, Any] | None]:
        found = {row.pop("item_id"): row for row in table.drop_columns([CREATED_TIMESTAMP]).to_pylist()}
        for row in found.values():
            row[EVENT_TIMESTAMP] = to_microseconds(row[EVENT_TIMESTAMP])
        return [found.get(item) for item in items]

    def materialise(table: Any) -> None:
        with rows.rebuild([CATALOG], now[0]) as put:
            put(CATALOG, pack_rows(CATALOG, table))

    intake.take([EVENT_CONTRACT.read(events(rng), "http", "r", now[0])])
    intake.drain()
    materialise(built(spark, lake))  # what is known by sight and by what was paid
    tell(8)
    told_early = fresh()
    intake.drain()
    early = built(spark, lake)
    assert told_early == of(early)
    tell(6)  # between the build and its materialisation
    between = fresh()
    materialise(early)
    assert fresh() == between
    tell(4)
    told = fresh()
    intake.drain()
    final = built(spark, lake)
    assert told == of(final)
    materialise(final)
    assert fresh() == told
    assert sum(row is not None for row in told) > NUM_ITEMS * 2 // 3
    assert len({str(row) for row in told}) > NUM_ITEMS // 2
