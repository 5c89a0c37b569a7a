"""sessions: visits summed up, stamped with their last act."""

from __future__ import annotations

from features.tables import INTERACTIONS, SESSIONS
from spark_jobs.sessions import transform


def test_the_whole_frame(frame, written, expected):
    acts = frame(
        INTERACTIONS,
        {"interaction_id": "1", "user_id": "visitor:x", "session_id": "s", "item_id": "a", "event_type": "view",
         "event_timestamp": "2024-05-01T10:00+00:00", "created_timestamp": "2024-05-04T00:00+00:00"},
        {"interaction_id": "2", "user_id": "u", "session_id": "s", "item_id": "a", "event_type": "purchase", "quantity": 2, "value": 9.5,
         "event_timestamp": "2024-05-01T10:05+00:00"},
        {"interaction_id": "3", "user_id": "u", "session_id": "s", "item_id": "b", "event_type": "return", "quantity": 1, "value": 3,
         "event_timestamp": "2024-05-01T10:10:00.5+00:00"},
        {"interaction_id": "4", "user_id": "u", "session_id": "t", "item_id": "b", "event_type": "view",
         "event_timestamp": "2024-05-02T10:00+00:00"},
    )  # fmt: skip
    assert written(transform(acts), SESSIONS) == expected(
        SESSIONS,
        {"session_id": "s", "user_id": "u", "started_at": "2024-05-01T10:00+00:00", "duration_s": 600.5, "num_interactions": 3,
         "num_items": 2, "num_purchases": 1, "value_sum": 9.5, "event_timestamp": "2024-05-01T10:10:00.5+00:00",
         "created_timestamp": "2024-05-04T00:00+00:00"},
        {"session_id": "t", "user_id": "u", "started_at": "2024-05-02T10:00+00:00", "duration_s": 0.0, "num_interactions": 1,
         "num_items": 1, "num_purchases": 0, "value_sum": 0, "event_timestamp": "2024-05-02T10:00+00:00"},
    )  # fmt: skip
