"""What the online path says of a day, told in any order and twice, is what the table jobs say of it once it is over."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from features.columns import EVENT_TIMESTAMP, EVENT_TYPES, VISITOR_PREFIX
from features.fresh.applied import HISTORY
from features.fresh.facts import EVENT_CONTRACT
from features.fresh.intake import Intake
from features.online.packing import key_texts, pack_rows, to_microseconds
from features.online.read import read_columns
from features.online.rows import open_rows
from features.shop import Shop
from features.tables import EVENTS, ORDERS
from features.views import VIEWS, View
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import interactions, user_history, user_purchases
from spark_jobs.raw import current
from spark_jobs.session import read_table

ZONE = "America/New_York"
FIRST_DAY = date(2024, 11, 1)
"""The clocks go back on 3 November: that day has 25 hours."""
PURCHASES = VIEWS["user_purchases"]
NUM_CASES = 120
"""Users and visitors, each with acts of its own, in one frame."""


def events_of(rng: random.Random, case: int) -> list[dict[str, Any]]:
    """Acts of one user and one visitor, who may log in as that user, with ties in time and repeated items."""
    begin = datetime.combine(FIRST_DAY, datetime.min.time(), ZoneInfo(ZONE)).astimezone(UTC)
    events = []
    for number in range(rng.randint(1, 40)):
        hours = rng.choice([rng.randint(0, 100), rng.choice([24, 48, 73, 97])])  # often a local midnight
        at = begin + timedelta(hours=hours, seconds=rng.choice([-1, 0, 0, 1]) if hours else 0)
        who = rng.choice([{"user_id": f"u{case}"}, {"visitor_id": f"v{case}"}, {"user_id": f"u{case}", "visitor_id": f"v{case}"}])
        kind = rng.choice(["view", "view", "view", "cart", "click", "purchase", "login", rng.choice(EVENT_TYPES)])
        events.append(
            {
                "event_id": f"{case}-{rng.randint(0, 99):02}-{number}",
                "event_type": kind,
                "item_id": f"i{rng.randint(0, 2)}",
                "event_timestamp": at.isoformat(),
                **who,
            }
        )
    return events


def tell(intake: Intake, rng: random.Random, events: list[dict[str, Any]], again: Sequence[dict[str, Any]] = ()) -> None:
    """All events in any order, in lots of any size, some twice, some first told otherwise and corrected; others once more."""
    wrong = [event | {"item_id": "wrong"} for event in rng.sample(events, len(events) // 10)]
    turns = [*wrong, *events, *rng.sample(events, len(events) // 5), *again]
    rng.shuffle(turns)
    for event in wrong:  # the wrong one first: a later content is a correction
        before, after = turns.index(event), next(i for i, one in enumerate(turns) if one["event_id"] == event["event_id"])
        turns[before], turns[after] = turns[after], turns[before]
    while turns:
        lot, turns = turns[: (size := rng.randint(1, 400))], turns[size:]
        (receipt,) = intake.take([EVENT_CONTRACT.read(lot, "http", "r", intake.present)])
        assert receipt.quarantined == ()


def built(spark: SparkSession, lake: Lake, last_day: date) -> dict[View, Any]:
    """The newest rows of everybody in each table, as a build on the tables makes them."""
    events, orders = (current(read_table(spark, lake, table), table) for table in (EVENTS, ORDERS))
    acts = interactions.transform(events, orders, zone=ZONE).cache()
    found = {}
    for view, job in ((HISTORY, user_history), (PURCHASES, user_purchases)):
        rows = job.transform(acts, zone=ZONE, last_day=last_day)
        newest = rows.groupBy("user_id").agg(F.max_by(F.struct(*rows.columns), EVENT_TIMESTAMP).alias("row")).select("row.*")
        found[view] = newest.toArrow().select(view.schema.names).cast(view.schema)
    return found


@pytest.mark.parametrize("seed", [1])
def test_fresh_and_built_agree(spark: SparkSession, settings: Settings, lake: Lake, seed: int) -> None:
    rng = random.Random(seed)
    shop = Shop(name="sample", currency="EUR", time_zone=ZONE)
    rows = open_rows(settings, "sample")
    now = [datetime(2024, 11, 3, 4, 30, tzinfo=UTC)]  # half past midnight in New York: 2 November is over
    intake = Intake(settings, shop, lake, rows, "wall", lambda: now[0])
    cases = [events_of(rng, case) for case in range(NUM_CASES)]
    cut = datetime(2024, 11, 3, 4, tzinfo=UTC)
    early = [event for events in cases for event in events if datetime.fromisoformat(event["event_timestamp"]) < cut]
    late = [event for events in cases for event in events if datetime.fromisoformat(event["event_timestamp"]) >= cut]
    people = [name for case in range(NUM_CASES) for name in (f"u{case}", f"{VISITOR_PREFIX}v{case}")]

    def fresh() -> dict[View, list[tuple[Any, ...]]]:
        keys = key_texts([people])
        found = read_columns(rows, {HISTORY: keys, PURCHASES: keys}, to_microseconds(now[0]) + 1000)
        return {view: list(zip(*values.values(), strict=True)) for view, (_, values) in found.items()}

    def of(tables: dict[View, Any]) -> dict[View, list[tuple[Any, ...]]]:
        found = {}
        for view, table in tables.items():
            said = {row["user_id"]: tuple(row[name] for name in view.column_names) for row in table.to_pylist()}
            found[view] = [said.get(name, (None, None)) for name in people]
        return found

    def materialise(tables: dict[View, Any]) -> None:
        with rows.rebuild(list(tables), now[0]) as put:
            for view, table in tables.items():
                put(view, pack_rows(view, table))

    tell(intake, rng, early)
    intake.drain()
    tables = built(spark, lake, date(2024, 11, 2))
    assert fresh() == of(tables)  # nothing built yet: all of it from what was told
    materialise(tables)
    assert fresh() == of(tables)
    now[0] = datetime(2024, 11, 6, 12, tzinfo=UTC)
    tell(intake, rng, late, again=rng.sample(early, 50))
    intake.drain()
    final = built(spark, lake, date(2024, 11, 5))
    assert fresh() == of(final)
    assert sum(items is not None for items, _ in fresh()[HISTORY]) > NUM_CASES
    assert sum(items is not None for items, _ in fresh()[PURCHASES]) > NUM_CASES / 2
    materialise(final)
    assert fresh() == of(final)
