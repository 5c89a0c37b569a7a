"""What is against a row beyond its types."""

from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import functions as F

from features.tables import REVIEWS
from spark_jobs.sources.rules import broken


def test_stars_are_one_to_five_and_thumbs_are_labels(frame):
    review = {"review_text": "x", "event_timestamp": "2024-05-01T00:00+00:00"}
    said = [{"rating": 1}, {"rating": 5}, {"label": 0}, {"label": 1}, {}, {"rating": 0}, {"rating": 6}, {"label": 2}]
    rows = frame(REVIEWS, *[review | row | {"review_id": f"{number}"} for number, row in enumerate(said)])
    reasons = rows.select("review_id", F.concat_ws("; ", *broken(REVIEWS, datetime(2025, 1, 1, tzinfo=UTC))).alias("reasons"))
    assert {row.review_id: row.reasons for row in reasons.collect() if row.reasons} == {
        "5": "rating: not from 1 to 5",
        "6": "rating: not from 1 to 5",
        "7": "label: neither 0 nor 1",
    }
