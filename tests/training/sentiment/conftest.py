"""A handful of reviews in two scripts, and a lake that holds many."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from features.tables import CLEAN_REVIEWS
from infra.lake import Lake
from training.sentiment.data import Reviews

GOOD = ("质量很好", "非常喜欢", "物流很快", "great quality", "love it", "fits very well")
BAD = ("质量太差", "非常失望", "物流太慢", "poor quality", "hate it", "fits very badly")
OPENERS = ("收到了,", "第二次买,", "the shirt: ", "for my mother, ", "")
CLOSERS = ("。", "!", " 就这样", ", that is all", "，推荐给大家看看")


def written() -> Reviews:
    """300 reviews: an opener, a verdict and another verdict of the same kind, a closer."""
    texts, labels = [], []
    for label, verdicts in ((1, GOOD), (0, BAD)):
        for opener, (place, verdict), closer in product(OPENERS, enumerate(verdicts), CLOSERS):
            texts.append(f"{opener}{verdict}, {verdicts[place - 1]}{closer}")
            labels.append(label)
    ids = np.array([f"r{place:03}" for place in range(len(texts))])
    categories = np.array(["shirts" if place % 3 else "phones" for place in range(len(texts))])
    return Reviews(ids, tuple(texts), np.array(labels), categories)


@pytest.fixture
def reviews() -> Reviews:
    return written()


@pytest.fixture
def full_lake(lake: Lake, reviews: Reviews) -> Lake:
    """A lake whose `clean_reviews` holds the reviews and one without a label."""
    when = datetime(2024, 1, 1, tzinfo=UTC)
    rows = len(reviews) + 1
    columns = {
        "review_id": [*reviews.ids.tolist(), "unlabelled"],
        "category": [*reviews.categories.tolist(), None],
        "label": [*reviews.labels.tolist(), None],
        "review_text": [*reviews.texts, "?"],
        "event_timestamp": [when] * rows,
        "created_timestamp": [when] * rows,
    }
    table = pa.table(
        {field.name: pa.array(columns.get(field.name, [None] * rows), field.type) for field in CLEAN_REVIEWS.schema},
        schema=CLEAN_REVIEWS.schema,
    )
    lake.write(CLEAN_REVIEWS.path, table, "overwrite", digest="reviews")
    return lake
