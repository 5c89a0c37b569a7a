"""user_history: the last acts, oldest first, per local day with an act."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np

from features.columns import HISTORY_STEPS
from features.tables import INTERACTIONS, USER_HISTORY
from spark_jobs.user_history import transform
from training.recommender.encoder import Encoder


def act(number, at, **row):
    return {"interaction_id": f"{number:04}", "user_id": "u", "session_id": "s", "item_id": f"i{number}", "event_type": "view",
            "event_timestamp": at} | row  # fmt: skip


def test_the_whole_frame(frame, written, expected):
    acts = frame(
        INTERACTIONS,
        act(2, "2024-05-01T23:30+02:00", event_type="cart"),
        act(1, "2024-05-01T10:00+02:00"),
        act(3, "2024-05-03T10:00+02:00", created_timestamp="2024-05-09T00:00+02:00"),
        act(4, "2024-05-03T10:00+02:00", user_id="v"),
        act(5, "2024-05-04T10:00+02:00", user_id="v"),
    )
    found = written(transform(acts, zone="Europe/Berlin", last_day=date(2024, 5, 3)), USER_HISTORY)
    late = {"created_timestamp": "2024-05-09T00:00+02:00"}
    assert found == expected(
        USER_HISTORY,
        {"user_id": "u", "item_ids": ["i1", "i2"], "event_types": ["view", "cart"], "event_timestamp": "2024-05-02T00:00+02:00"},
        {"user_id": "u", "item_ids": ["i1", "i2", "i3"], "event_types": ["view", "cart", "view"],
         "event_timestamp": "2024-05-04T00:00+02:00", **late},
        {"user_id": "v", "item_ids": ["i4"], "event_types": ["view"], "event_timestamp": "2024-05-04T00:00+02:00"},
    )  # fmt: skip


def test_of_acts_in_a_row_on_one_item_each_kind_counts_once_and_returns_say_nothing(frame, written):
    kinds = ["view", "view", "cart", "view", "return", "view", "return", "return"]
    items = ["a", "a", "a", "a", "b", "a", "b", "c"]
    start = datetime(2024, 5, 1, tzinfo=UTC)
    acts = [act(n, start + timedelta(hours=n), item_id=items[n], event_type=kinds[n]) for n in range(8)]
    nobody = act(9, start, user_id="only returns", event_type="return")
    rows = written(transform(frame(INTERACTIONS, *acts, nobody), zone="UTC", last_day=date(2024, 5, 31)), USER_HISTORY)
    assert [(row["user_id"], row["item_ids"], row["event_types"]) for row in rows] == [("u", ["a", "a"], ["cart", "view"])]


def test_a_model_reads_the_row_as_it_reads_all_acts(frame, written):
    """Whichever kinds it learned from, a step is a step; and there are as many steps as the longest recipe reads."""
    rng, start = np.random.default_rng(0), datetime(2024, 5, 1, tzinfo=UTC)
    kinds = ("view", "cart", "purchase", "return")
    acts = [
        act(n, start + timedelta(hours=n), item_id="abc"[rng.integers(3)], event_type=kinds[rng.integers(4)]) for n in range(500)
    ]
    rows = written(transform(frame(INTERACTIONS, *acts), zone="UTC", last_day=date(2024, 6, 30)), USER_HISTORY)
    for row in rows[::5]:
        until = [a for a in acts if a["event_timestamp"] < row["event_timestamp"]]
        for learned in (("view", "cart", "purchase"), ("purchase",), ("cart", "view")):
            encoder = Encoder(("a", "b", "c"), learned, (0.5, 0.3, 0.2))
            whole = encoder.read([a["item_id"] for a in until], [a["event_type"] for a in until])[0].tolist()
            kept = encoder.read(row["item_ids"], row["event_types"])[0].tolist()
            assert kept == whole[-len(kept) :]
            assert len(kept) >= (min(HISTORY_STEPS, len(whole)) if len(learned) == 3 or len(until) < HISTORY_STEPS else 1)


def test_only_the_last_ones_however_they_fall_on_days(frame, written):
    start = datetime(2024, 5, 1, tzinfo=UTC)
    acts = [act(n, start + timedelta(hours=n) if n < 120 else start + timedelta(days=5, seconds=n)) for n in range(200)]
    rows = written(transform(frame(INTERACTIONS, *acts), zone="UTC", last_day=date(2024, 5, 31)), USER_HISTORY)
    assert len(rows) == 6
    for row in rows:
        until = [a["item_id"] for a in acts if a["event_timestamp"] < row["event_timestamp"]]
        assert row["item_ids"] == until[-HISTORY_STEPS:]
