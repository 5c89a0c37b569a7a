"""One Ray and one MLflow server for all tests that train, for each start costs seconds of every core; a shop with a planted order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from infra.home import Home
from infra.processes import free_ports, stop
from infra.settings import Settings
from training.tracking.server import NAME, ensure_server
from training.trainer import ray_session

NUM_ITEMS = 20
NUM_DAYS = 60


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this test process; fits join it."""
    with ray_session(Settings.load(home=tmp_path_factory.mktemp("ray") / "home")):
        yield


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with a home of its own."""
    home = Home(Settings.load(home=tmp_path_factory.mktemp("mlflow") / "home", mlflow_port=free_ports(1)[0])).create()
    yield ensure_server(home)
    stop(home, NAME)


@pytest.fixture(scope="session")
def cycle() -> pa.Table:
    """Whoever takes item n takes item n + 1 next, a few hours later; next to no popularity, all order.

    60 users, one session of two or three acts every few days for two months.
    """
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
