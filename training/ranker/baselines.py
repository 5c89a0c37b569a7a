"""What the ranker must beat, asked about the same candidates: the order it is given, popularity, and others that learn.

Gradient boosting on the same features is the strong peer: on tables of numbers it seldom loses to a network (Grinsztajn et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from training.ranker.calibration import Calibration, best_weights
from training.ranker.candidates import Floats, Ints
from training.ranker.data import Lists, labels_of
from training.ranker.encoder import ITEM_FEATURES, Encoder
from training.ranker.model import encode, value_of

_POPULARITY = ("item_activity__item_views_count_30d", "buyers_count_30d")
_TREES = 100
_TREE_ROWS = 60_000
"""Rows that they are grown from, about."""


@dataclass(frozen=True)
class Answer:
    """What a method says of the candidates of a part."""

    values: Floats
    """(R,) by which it orders."""
    chances: Floats | None = None
    """(R, T) calibrated; None: it only orders."""


Method = Callable[[Lists], Answer]


def retrieval(_train: Lists, _tuning: Lists, _encoder: Encoder, _tasks: Sequence[str], _seed: int) -> Method:
    """The order of the first stage."""
    return lambda asked: Answer(asked.share)


def popularity(_train: Lists, tuning: Lists, _encoder: Encoder, _tasks: Sequence[str], _seed: int) -> Method:
    """The most viewed or the most bought of the last 30 days first, whichever is better on the tuning part."""
    columns = [ITEM_FEATURES.index(name) for name in _POPULARITY]
    best = max(columns, key=lambda column: tuning.ndcg(np.nan_to_num(tuning.candidates.item[:, column])).mean())
    return lambda asked: Answer(np.nan_to_num(asked.candidates.item[:, best]))


def logistic(train: Lists, tuning: Lists, encoder: Encoder, tasks: Sequence[str], _seed: int) -> Method:
    """A logistic regression per task on the encoded features, categories as one column each."""

    def inputs(lists: Lists) -> NDArray[np.float32]:
        batch = {name: tensor.numpy() for name, tensor in encode(encoder, lists.candidates).items()}
        categories = np.eye(len(encoder.categories) + 1, dtype=np.float32)[batch["category"]]
        return np.concatenate([batch["user"][batch["list"]], batch["item"], batch["cross"], categories], axis=1)

    given = inputs(train)
    fitted = [LogisticRegression(C=1e-2, solver="newton-cholesky").fit(given, wanted) for wanted in labels_of(train, tasks).T]
    return _method([one.predict_proba for one in fitted], inputs, tuning, tasks)


def gradient_boosting(train: Lists, tuning: Lists, encoder: Encoder, tasks: Sequence[str], seed: int) -> Method:
    """Boosted trees per task on the same features, null as it is (the algorithm of LightGBM, Ke et al. 2017)."""

    def inputs(lists: Lists) -> NDArray[np.float32]:
        known = lists.candidates
        category = encoder.category_numbers(known.category.tolist())
        return np.concatenate([known.user[known.list], known.item, known.cross, category[:, None]], axis=1).astype(np.float32)

    kept, weights = sample(train, _TREE_ROWS, seed)
    given = inputs(train)[kept]
    has_values = ~np.isnan(given).all(axis=0)  # scikit-learn cannot bin a column without any
    fitted = [
        HistGradientBoostingClassifier(
            learning_rate=0.06, max_iter=_TREES, max_leaf_nodes=15, min_samples_leaf=100, early_stopping=False, random_state=seed
        ).fit(given[:, has_values], wanted[kept], sample_weight=weights)
        for wanted in labels_of(train, tasks).T
    ]
    return _method([one.predict_proba for one in fitted], lambda lists: inputs(lists)[:, has_values], tuning, tasks)


def sample(lists: Lists, size: int, seed: int) -> tuple[Ints, Floats]:
    """About `size` rows and how much each weighs: all that were taken, and some of the others by chance, which stand for the rest.

    By chance, as every n-th would be the same ranks in each list, and only what was taken would have the ranks between.
    """
    share = min(1.0, size / len(lists.item))
    was_taken = np.asarray(lists.labels[:, 0] == 1)
    kept = np.flatnonzero(was_taken | (np.random.default_rng(seed).random(len(was_taken)) < share))
    return kept, np.where(was_taken[kept], 1.0, 1 / share)


BASELINES: dict[str, Callable[[Lists, Lists, Encoder, Sequence[str], int], Method]] = {
    "retrieval": retrieval,
    "popularity": popularity,
    "logistic_regression": logistic,
    "gradient_boosting": gradient_boosting,
}


def _method(
    predict: Sequence[Callable[[NDArray[np.float32]], Floats]],
    inputs: Callable[[Lists], NDArray[np.float32]],
    tuning: Lists,
    tasks: Sequence[str],
) -> Method:
    """Calibrated and weighed on the tuning part, as the ranker is."""

    def logits(lists: Lists) -> Floats:
        read = inputs(lists)
        found = np.stack([one(read)[:, 1] for one in predict], axis=1).clip(1e-7, 1 - 1e-7)
        return np.asarray(np.log(found) - np.log1p(-found))

    calibration = Calibration.fit(logits(tuning), labels_of(tuning, tasks))
    weights = best_weights(tuning, calibration.chances(logits(tuning)), tuple(tasks))

    def ask(lists: Lists) -> Answer:
        chances = calibration.chances(logits(lists))
        return Answer(value_of(chances, tuple(tasks), weights), chances)

    return ask
