"""What is against a row beyond its types."""

from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import functions as F

from features.quality.expectations import expectation
from features.tables import EVENTS, ORDERS, RAW_TABLES, REVIEWS, SUPPLIERS
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


def test_what_would_keep_a_build_from_reading_the_table_is_refused_row_by_row(frame):
    """A bound of the quality gate that no rule kept would let one row stop every build."""
    at = {"event_timestamp": "2024-05-01T00:00+00:00"}
    event = {"user_id": "u", "item_id": "i", "event_type": "view"}
    order = {"order_id": "o", "order_line_id": "1", "user_id": "u", "item_id": "i", "quantity": 1, "unit_price": 1}
    supplier = {"item_id": "i", "lead_time_days": 1.0}
    cases = [
        (EVENTS, event | at, {"quantity": -1}, "quantity: negative"),
        (EVENTS, event | at, {"quantity": 10**9}, "quantity: too large"),
        (EVENTS, event | at, {"quantity": 10**9 - 1, "price": 99_999}, ""),
        (EVENTS, event | at, {"quantity": 10**9 - 1, "price": 100_001}, "quantity, price: their product is too large"),
        (ORDERS, order | at, {"quantity": -3, "discount": -1}, ""),
        (ORDERS, order | at, {"quantity": -(1 << 63)}, "quantity: too large; quantity, unit_price: their product is too large"),
        (ORDERS, order | at, {"unit_price": -1}, "unit_price: negative"),
        (SUPPLIERS, supplier, {"pack_size": -1}, "pack_size: negative"),
        (SUPPLIERS, supplier, {"lead_time_days": -1.0}, "lead_time_days: negative"),
    ]
    for table, row, change, expected in cases:
        rows = frame(table, row | change)
        (found,) = rows.select(F.concat_ws("; ", *broken(table, datetime(2025, 1, 1, tzinfo=UTC)))).collect()
        assert found[0] == expected, (table.name, change)
    bounded = {
        (table.name, name)
        for table in RAW_TABLES.values()
        for name, of in expectation(table, {}).columns.items()
        if of.max is not None
    }
    ruled = {("reviews", "rating"), ("reviews", "label"), ("promotions", "depth"), ("exposures", "propensity")}
    assert bounded == ruled, "bounds on both sides have a rule of their own"
