"""A small simulated shop: who views an item views one of the next two of a ring, and what is cheap is bought once it is viewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.shop import Shop
from features.store import FeatureStore
from features.tables import INTERACTIONS, ITEM_CATALOG, USER_PROFILE, Table
from infra.lake import Lake
from infra.settings import Settings
from training import splits
from training.ranker.data import Lists, make_lists
from training.ranker.retrieval import Sessions
from training.recommender.data import make_encoder
from training.recommender.model import Recommender
from training.recommender.network import Config, Network

START = datetime(2024, 1, 1, tzinfo=UTC)
NUM_ITEMS, NUM_DAYS = 30, 60
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin")


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def microseconds(number: float) -> int:
    return round(day(number).timestamp() * 1e6)


def rows_of(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a feature table from what is told of each; the rest is null."""
    return pa.Table.from_pylist([{name: row.get(name) for name in table.names} for row in rows], schema=table.schema)


def acts(rows: list[tuple[str, str, str, float, str]]) -> pa.Table:
    """Rows of `interactions` from (user, item, event type, day, session)."""
    return rows_of(
        INTERACTIONS,
        [
            {
                "interaction_id": f"{number:06}",
                "user_id": user,
                "item_id": item,
                "event_type": kind,
                "session_id": session,
                "event_timestamp": day(at),
                "created_timestamp": day(at),
            }
            for number, (user, item, kind, at, session) in enumerate(rows)
        ],
    )


def price(item: int) -> int:
    return 2 if item % 2 else 20


def simulate(num_users: int = 50) -> pa.Table:
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        item, at = int(rng.integers(NUM_ITEMS)), float(rng.uniform(0, 4))
        while at < NUM_DAYS:
            for act in range(3):
                item = (item + int(rng.integers(1, 3))) % NUM_ITEMS
                name, session = (f"u{user:02}", f"i{item:02}"), f"{user}-{at:.3f}"
                rows.append((*name, "view", at + act / 500, session))
                if rng.random() < (0.8 if price(item) < 10 else 0.02):
                    rows += [(*name, kind, at + act / 500 + later, session) for kind, later in (("cart", 3e-4), ("purchase", 6e-4))]
            at += float(rng.uniform(2, 5))
    return acts(rows)


def catalog() -> pa.Table:
    said = {"created_at": day(-10), "event_timestamp": day(-10), "created_timestamp": day(-10)}
    return rows_of(
        ITEM_CATALOG,
        [{"item_id": f"i{item:02}", "category": f"c{item % 3}", "price": price(item), **said} for item in range(NUM_ITEMS)],
    )


def profile(user: str, at: float, price_mean: float, known: float | None = None) -> dict[str, Any]:
    """A row of `user_profile` of the instant `at`, known then or later."""
    counts = dict.fromkeys(("active_days_count", "purchase_days_count", "purchase_days_count_365d"), 1)
    told = {"interests": [], "stage": "active", "tags": [], "net_value_sum_365d": 1, "main_category": "c1"}
    when = {"event_timestamp": day(at), "created_timestamp": day(at if known is None else known)}
    return {"user_id": user, "price_mean_365d": price_mean, **counts, **told, **when}


@pytest.fixture(scope="session")
def interactions() -> pa.Table:
    return simulate()


@pytest.fixture(scope="session")
def recommender(interactions: pa.Table) -> Recommender:
    """One that learned nothing: what it retrieves is chance, and all of it."""
    import torch

    torch.manual_seed(0)
    encoder = make_encoder(interactions, 28)
    config = Config(dim=8, num_blocks=1, max_length=8)
    return Recommender(config, encoder, Network(config, len(encoder.items), len(encoder.event_types)).eval())


@pytest.fixture
def store(settings: Settings, lake: Lake) -> FeatureStore:
    """A shop with its catalogue and the profiles of two users; its other tables were never built."""
    lake.write(ITEM_CATALOG.path, catalog(), "overwrite", digest="catalog")
    rows = [profile("u00", -1, 5.0), profile("u00", 40, 8.0), profile("u01", 30, 9.0, known=41)]
    lake.write(USER_PROFILE.path, rows_of(USER_PROFILE, rows), "overwrite", digest="profiles")
    return FeatureStore(settings, SHOP, lake)


@pytest.fixture
def lists(interactions: pa.Table, recommender: Recommender, store: FeatureStore) -> Lists:
    """What would have been retrieved in the sessions of days 40 to 50."""
    sessions = Sessions.of(splits.every_session(interactions, microseconds(40), microseconds(50)), recommender)
    return make_lists(sessions, recommender, store, np.arange(len(sessions)))
