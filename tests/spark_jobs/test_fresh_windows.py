"""What the online path says of windows once a day is over is what the table jobs, in incremental builds, say of it afterwards."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import SparkSession

from features.columns import VISITOR_PREFIX
from features.definitions import OURS, Definitions
from features.fresh.facts import EVENT_CONTRACT
from features.fresh.intake import Intake
from features.parity import verify
from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from features.views import VIEWS
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.build import Horizon, Snapshot, build_table
from spark_jobs.jobs import JOBS, in_order

ZONE = ZoneInfo("America/New_York")
FIRST_DAY = date(2024, 11, 1)
"""The clocks go back on 3 November: that day has 25 hours."""
CHECKS = (2, 4, 9, 10, 33, 91, 101)
"""Days after the first on which all is read, built, materialised and read again."""
NUM_CASES = 60
"""Users and visitors, each with acts of its own."""
ACTIVITY = VIEWS["user_activity"]


def events_of(rng: random.Random, case: int, since: float, until: float) -> list[dict[str, Any]]:
    """Acts of one user and one visitor, who may log in as that user, between two times, in days after the first."""
    begin = datetime.combine(FIRST_DAY, time(), ZONE).astimezone(UTC)
    events = []
    for number in range(rng.randint(0, 8)):
        at = begin + timedelta(seconds=rng.choice([rng.uniform(since, until) * 86_400, until * 86_400 - rng.randint(0, 7_200)]))
        kind = rng.choice(["view", "click", "cart", "favourite", "purchase", "purchase", "return", "impression", "login"])
        who = rng.choice([{"user_id": f"u{case}"}, {"visitor_id": f"v{case}"}, {"user_id": f"u{case}", "visitor_id": f"v{case}"}])
        price = (
            {
                "price": rng.choice([0.1, 19.99, 7, 1234.5678]),
                "quantity": rng.choice([1, 2, 3]),
            }
            if rng.random() < 0.8
            else {}
        )
        row = {"event_id": f"{case}-{until}-{number}", "event_type": kind, "item_id": "i", "event_timestamp": at.isoformat()}
        events.append({**row, **who, **price})
    return events


@pytest.mark.parametrize("seed", [1])
def test_fresh_and_built_windows_agree(spark: SparkSession, settings: Settings, lake: Lake, seed: int) -> None:
    rng = random.Random(seed)
    shop = Shop(name="sample", currency="EUR", time_zone=ZONE.key)
    services = {"activity": Service("activity", (ACTIVITY,))}
    store = FeatureStore(settings, shop, lake, Definitions(OURS.tables, {ACTIVITY.name: ACTIVITY}, services))
    Home(settings).create()
    now = datetime.combine(FIRST_DAY, time(1), ZONE).astimezone(UTC)
    intake = Intake(settings, shop, lake, store.rows, "wall", lambda: now)
    people = [name for case in range(NUM_CASES) for name in (f"u{case}", f"{VISITOR_PREFIX}v{case}")]

    def tell(events: list[dict[str, Any]]) -> None:
        rng.shuffle(events)
        while events:
            lot, events = events[: (size := rng.randint(1, 100))], events[size:]
            (receipt,) = intake.take([EVENT_CONTRACT.read(lot, "http", "r", now)])
            assert receipt.quarantined == ()

    def build() -> None:
        intake.drain()
        snapshot = Snapshot(spark, lake, Horizon.of(now, shop, lake))
        for name in in_order([ACTIVITY.name], JOBS):
            build_table(snapshot, shop, JOBS[name])
        snapshot.release()

    def read() -> dict[str, tuple[Any, ...]]:
        return dict(zip(people, zip(*store.online_rows("activity", {"user_id": people}, now).values(), strict=True), strict=True))

    before, late = 0, list[dict[str, Any]]()
    for number, days in enumerate(CHECKS):
        events = [event for case in range(NUM_CASES) for event in events_of(rng, case, before, days)]
        now = datetime.combine(FIRST_DAY + timedelta(days), time(0, 0, 1), ZONE).astimezone(UTC)
        held_back, events = events[: len(events) // 8], events[len(events) // 8 :]
        corrected = [event | {"event_type": "view", "quantity": number + 2} for event in rng.sample(events, len(events) // 10)]
        rng.shuffle(events)
        last = now
        for part in range(4):  # as the time between goes on: what is told at its time, and what comes after its day
            now = last - (3 - part) * timedelta(days - before) / 4
            over = [event for event in events if datetime.fromisoformat(event["event_timestamp"]) <= now]
            events = [event for event in events if event not in over]
            tell([*over, *late, *rng.sample(over, len(over) // 5)])
            late = []
        tell(corrected)
        assert not events
        now += timedelta(hours=rng.choice([0, 5]), seconds=1)  # a correction is known a moment after what it corrects
        told = read()
        build()
        if number:
            assert told == read(), "a build alone changes nothing online"
        store.materialize(now)
        built = read()
        assert verify(ACTIVITY, lake, store.rows, now, 1_000, seed).holds
        if number:
            assert {name: (told[name], built[name]) for name in people if told[name] != built[name]} == {}
        assert sum(row[0] is not None for row in built.values()) > NUM_CASES
        before, late = days, held_back
