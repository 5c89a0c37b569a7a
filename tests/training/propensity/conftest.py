"""A small simulated shop: users of different rates and tastes who look before they buy, never on Sundays, and leave one day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from features.tables import ARROW_TYPES, INTERACTIONS
from training.propensity.encoder import Facts

START = datetime(2024, 1, 1, tzinfo=UTC)
NUM_DAYS = 240


def acts(rows: list[tuple[str, str, float, float]], known_after: float = 0.0) -> pa.Table:
    """Rows of `interactions` from (user, event type, value, days after START), known so many days later."""
    users, kinds, values, days = zip(*rows, strict=True) if rows else ((), (), (), ())
    at = [START + timedelta(days=day) for day in days]
    columns = {
        "interaction_id": [str(number) for number in range(len(rows))],
        "user_id": users,
        "session_id": users,
        "item_id": ["i"] * len(rows),
        "event_type": kinds,
        "quantity": [1] * len(rows),
        "value": pa.array(values, pa.float64()).cast(ARROW_TYPES["money"]),
        "event_timestamp": at,
        "created_timestamp": [time + timedelta(days=known_after) for time in at],
    }
    return pa.table({name: columns[name] for name in INTERACTIONS.names}, schema=INTERACTIONS.schema)


def simulate(num_users: int = 160, num_days: int = NUM_DAYS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, float, float]] = []
    for number in range(num_users):
        user, day, rate = f"u{number:04d}", float(rng.uniform(0, num_days / 2)), rng.gamma(1.0, 0.06)
        while day < num_days:
            if (START + timedelta(days=day)).weekday() != 6:
                rows += [(user, "view", 0.0, day - 0.02), (user, "purchase", float(rng.lognormal(3, 1)), day)]
            if rng.random() < 0.08:
                break
            day += float(rng.exponential(1 / rate)) + 0.1
    rows.append(("visitor:x", "purchase", 5.0, num_days / 2))
    return acts([row for row in rows if row[3] >= 0])


@pytest.fixture(scope="session")
def interactions() -> pa.Table:
    return simulate()


@pytest.fixture(scope="session")
def facts(interactions: pa.Table) -> Facts:
    return Facts.of(interactions, "UTC")
