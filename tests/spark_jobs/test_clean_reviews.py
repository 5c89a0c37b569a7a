"""clean_reviews: one row per normalised text, a label where one is given, the category of the moment."""

from __future__ import annotations

import pyarrow as pa

from features.tables import CLEAN_REVIEWS, ITEM_CATALOG, REVIEWS
from spark_jobs.clean_reviews import normalised, transform


def test_normalised():
    texts = ["\ufeffgood\u3000phone", "cafe\u0301", "a\r\n\t b \u00a0 c", "\ufeff \u3000", "好\ufeff评", ""]
    assert normalised(pa.array(texts)).to_pylist() == ["good phone", "caf\u00e9", "a b c", "", "好评", ""]


def test_the_whole_frame(raw, frame, written, expected):
    def review(review_id, day, text, **row):
        return {"review_id": review_id, "review_text": text, "event_timestamp": f"2024-05-{day:02}T10:00+00:00"} | row

    reviews = raw(
        REVIEWS,
        review("r1", 2, "cafe\u0301", rating=5, item_id="a", language="fr"),
        review("r2", 1, "\ufeff caf\u00e9 ", rating=1, item_id="a"),
        review("r3", 3, "so so", rating=3, category="phones", item_id="a"),
        review("r4", 4, "bad", rating=2),
        review("r5", 5, "source knows better", rating=5, label=0),
        review("r6", 6, " \u3000 "),
        review("r7", 7, "late", item_id="a"),
    )
    catalog = frame(
        ITEM_CATALOG,
        {
            "item_id": "a",
            "category": "food",
            "event_timestamp": "2024-05-01T00:00+00:00",
            "created_timestamp": "2024-05-02T00:00+00:00",
        },
        {"item_id": "a", "category": "drinks", "event_timestamp": "2024-05-06T00:00+00:00"},
    )
    assert written(transform(reviews, catalog), CLEAN_REVIEWS) == expected(
        CLEAN_REVIEWS,
        review("r2", 1, "caf\u00e9", rating=1, label=0, item_id="a", category="food", created_timestamp="2024-05-02T00:00+00:00"),
        review("r3", 3, "so so", rating=3, category="phones", item_id="a"),
        review("r4", 4, "bad", rating=2, label=0),
        review("r5", 5, "source knows better", rating=5, label=0),
        review("r7", 7, "late", item_id="a", category="drinks"),
    )


def test_no_reviews(raw, frame, written):
    assert written(transform(raw(REVIEWS), frame(ITEM_CATALOG)), CLEAN_REVIEWS) == []
