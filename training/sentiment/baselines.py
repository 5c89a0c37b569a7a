"""What the model must beat: the commonest answer, and the peer that is hard to beat on short texts, TF-IDF with a linear model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]
Predictor = Callable[[Sequence[str]], Floats]
"""Texts to probabilities of good."""


def majority(_texts: Sequence[str], labels: NDArray[np.int64]) -> Predictor:
    """The share of good texts learned from, whatever the text says."""
    share = float(labels.mean())
    return lambda asked: np.full(len(asked), share)


def tfidf_regression(texts: Sequence[str], labels: NDArray[np.int64]) -> Predictor:
    """Logistic regression on TF-IDF of character 1- to 3-grams, as measured to be the best without pre-trained weights."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True, dtype=np.float32)
    model = LogisticRegression(C=4.0, max_iter=300).fit(vectorizer.fit_transform(texts), labels)
    return lambda asked: np.asarray(model.predict_proba(vectorizer.transform(asked))[:, 1], dtype=np.float64)


BASELINES: dict[str, Callable[[Sequence[str], NDArray[np.int64]], Predictor]] = {
    "majority": majority,
    "tfidf_regression": tfidf_regression,
}
