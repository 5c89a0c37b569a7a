"""The floors."""

from __future__ import annotations

import numpy as np

from training.sentiment.baselines import majority, tfidf_regression
from training.sentiment.data import Reviews, split


def test_majority_answers_the_share_of_good(reviews: Reviews) -> None:
    assert majority(["a", "b", "c"], np.array([1, 1, 0]))(["x", "y"]).tolist() == [2 / 3, 2 / 3]


def test_the_peer_learns(reviews: Reviews) -> None:
    parts = split(reviews)
    probabilities = tfidf_regression(parts.train.texts, parts.train.labels)(parts.test.texts)
    assert ((probabilities >= 0.5) == (parts.test.labels == 1)).mean() > 0.95
    assert ((probabilities > 0) & (probabilities < 1)).all()
