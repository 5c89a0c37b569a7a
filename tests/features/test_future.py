"""A frame with a feature from the future is refused, whoever made it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from features.offline import frames
from features.offline.future import refuse_future
from features.views import View
from infra.errors import FeatureError
from infra.lake import Lake

T = datetime(2024, 5, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
VIEW = View("prices", "features/prices", (("item_id", "string"),), (("price", "float"),))
TIME = pa.timestamp("us", "UTC")


def frame(label: list[datetime], event: list[datetime | None], created: list[datetime | None]) -> pa.Table:
    return pa.table({
        "event_timestamp": pa.array(label, TIME),
        "prices__event_timestamp": pa.array(event, TIME),
        "prices__created_timestamp": pa.array(created, TIME),
    })  # fmt: skip


def test_what_was_true_and_known_is_taken() -> None:
    refuse_future(frame([T, T, T], [T, None, T - MICROSECOND], [T, None, T]).to_batches(max_chunksize=2), [VIEW])


def test_a_microsecond_from_the_future_is_refused() -> None:
    late = frame([T, T, T], [T, T, T + MICROSECOND], [T, T, T + MICROSECOND])
    with pytest.raises(
        FeatureError, match=r"2 time.*label 2 is of 2024-05-01T12:00:00\.000000Z.*prices became true at .*00\.000001Z"
    ):
        refuse_future(late.to_batches(max_chunksize=2), [VIEW])
    with pytest.raises(FeatureError, match=r"1 time.*label 0 .* was known at .*00\.000001Z"):
        refuse_future(frame([T], [T], [T + MICROSECOND]).to_batches(), [VIEW])


def test_a_frame_that_does_not_tell_its_times_is_refused() -> None:
    with pytest.raises(FeatureError, match="expected also prices__created_timestamp"):
        refuse_future(frame([T], [T], [T]).drop_columns("prices__created_timestamp").to_batches(), [VIEW])


def test_a_join_that_looks_ahead_gives_no_frame(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded mistake: a search that answers with the newest row, whenever it was known."""
    rows = {"item_id": ["a", "a"], "price": [1.0, 2.0], "event_timestamp": pa.array([T, T], TIME)}
    lake.write(VIEW.path, pa.table({**rows, "created_timestamp": pa.array([T, T + MICROSECOND], TIME)}), "append", digest="rows")
    labels = pa.table({"item_id": ["a", "a"], "event_timestamp": pa.array([T, T + MICROSECOND], TIME)})
    names = {"prices": {"price": "price"}}
    assert frames.join(labels, [VIEW], names, lake)["price"].to_pylist() == [1.0, 2.0]
    monkeypatch.setattr(frames, "rows_at", lambda *_: np.array([1, 1]))
    with pytest.raises(FeatureError, match=r"1 time.*label 0 .* was known at"):
        frames.join(labels, [VIEW], names, lake)
