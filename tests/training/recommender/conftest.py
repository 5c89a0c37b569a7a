"""A shop with a planted order: whoever takes item n takes item n + 1 next, a few hours later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

NUM_ITEMS = 20
NUM_DAYS = 60


@pytest.fixture(scope="session")
def cycle() -> pa.Table:
    """60 users, one session of two or three acts every few days for two months; next to no popularity, all order."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        item, day = int(rng.integers(NUM_ITEMS)), float(rng.uniform(0, 4))
        while day < NUM_DAYS:
            for act in range(int(rng.integers(2, 4))):
                rows.append((f"u{user}", f"i{item:02}", ("view", "purchase")[act % 2], day + act / 1000, f"{user}-{day:.3f}"))
                item = (item + 1) % NUM_ITEMS
            day += float(rng.uniform(2, 5))
    users, items, kinds, days, sessions = zip(*rows, strict=True)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "interaction_id": [f"{index:06}" for index in range(len(rows))],
            "user_id": users,
            "session_id": sessions,
            "item_id": items,
            "event_type": kinds,
            "event_timestamp": pa.array([start + timedelta(days=day) for day in days], pa.timestamp("us", tz="UTC")),
        }
    )
