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
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import interactions, user_history
from spark_jobs.raw import current
from spark_jobs.session import read_table

ZONE = "America/New_York"
FIRST_DAY = date(2024, 11, 1)
"""The clocks go back on 3 November: that day has 25 hours."""
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


def built(spark: SparkSession, lake: Lake, last_day: date) -> Any:
    """The newest row of `user_history` of everybody, as a build on the tables makes it."""
    events, orders = (current(read_table(spark, lake, table), table) for table in (EVENTS, ORDERS))
    rows = user_history.transform(interactions.transform(events, orders, zone=ZONE), zone=ZONE, last_day=last_day)
    newest = rows.groupBy("user_id").agg(F.max_by(F.struct(*rows.columns), EVENT_TIMESTAMP).alias("row")).select("row.*")
    return newest.toArrow().select(HISTORY.schema.names).cast(HISTORY.schema)


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

    def fresh() -> list[tuple[Any, Any]]:
        _, values = read_columns(rows, {HISTORY: key_texts([people])}, to_microseconds(now[0]) + 1000)[HISTORY]
        return list(zip(values["item_ids"], values["event_types"], strict=True))

    def of(table: Any) -> list[tuple[Any, Any]]:
        found = {row["user_id"]: (row["item_ids"], row["event_types"]) for row in table.to_pylist()}
        return [found.get(name, (None, None)) for name in people]

    tell(intake, rng, early)
    intake.drain()
    table = built(spark, lake, date(2024, 11, 2))
    assert fresh() == of(table)  # nothing built yet: all of it from what was told
    with rows.rebuild([HISTORY], now[0]) as put:
        put(HISTORY, pack_rows(HISTORY, table))
    assert fresh() == of(table)
    now[0] = datetime(2024, 11, 6, 12, tzinfo=UTC)
    tell(intake, rng, late, again=rng.sample(early, 50))
    intake.drain()
    final = built(spark, lake, date(2024, 11, 5))
    assert fresh() == of(final)
    assert sum(items is not None for items, _ in fresh()) > NUM_CASES
    with rows.rebuild([HISTORY], now[0]) as put:
        put(HISTORY, pack_rows(HISTORY, final))
    assert fresh() == of(final)
