"""Tables, gains and plots."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.names import check
from training.sentiment import evaluate
from training.sentiment.data import Reviews


@pytest.fixture
def probabilities(reviews: Reviews) -> np.ndarray:
    """Right for all but the first ten, one of these much surer than the others."""
    sure = np.where(reviews.labels == 1, 0.9, 0.1)
    sure[:10] = 1 - sure[:10]
    sure[3] = 0.001
    return sure


def test_gains_are_over_the_best_floor(reviews: Reviews, probabilities: np.ndarray) -> None:
    floors = {"coin": np.full(len(reviews), 0.5), "nearly": np.where(np.arange(len(reviews)) < 40, 0.5, probabilities)}
    gains, best = evaluate.gains(reviews, probabilities, floors, seed=1)
    assert best == "nearly"
    assert all(check(name) for name in gains)
    assert gains["test_accuracy_gain"] == pytest.approx(-10 / len(reviews))  # the floor is right on the ten, by luck


def test_categories_are_ordered_and_small_ones_left_out(reviews: Reviews, probabilities: np.ndarray) -> None:
    found = evaluate.by_category(reviews, probabilities, seed=1)
    assert set(found) == {"shirts", "phones"}
    accuracies = [accuracy for accuracy, *_ in found.values()]
    assert accuracies == sorted(accuracies, reverse=True)
    assert not evaluate.by_category(reviews.where(np.arange(len(reviews)) < 20), probabilities[:20], seed=1)


def test_per_review_rows_hold_no_text_and_no_id(reviews: Reviews, probabilities: np.ndarray) -> None:
    rows = evaluate.per_review(reviews, probabilities, [f"h{place}" for place in range(len(reviews))])
    said = str(rows.to_pylist())
    assert not any(text in said for text in reviews.texts)
    assert reviews.ids[0] not in said


def test_mistakes_are_wrong_and_the_surest_come_first(reviews: Reviews, probabilities: np.ndarray) -> None:
    rows = evaluate.per_review(reviews, probabilities, [str(place) for place in range(len(reviews))])
    found = evaluate.mistakes(rows)
    assert found.num_rows == 10
    assert found["review"][0].as_py() == "3"


def test_plots_are_drawn(reviews: Reviews, probabilities: np.ndarray) -> None:
    categories = {"衣服": (0.9, 0.8, 1.0, 40), "shirts": (0.7, 0.6, 0.8, 40)}
    figures = [
        evaluate.confusion_plot(reviews, probabilities),
        evaluate.calibration_plot(reviews, {"model": probabilities}),
        evaluate.category_plot(categories, "by category"),
    ]
    for figure in figures:
        figure.canvas.draw()
    labels = [label.get_text() for label in figures[2].axes[0].get_yticklabels()]
    assert labels == ["category 1 (40)", "shirts (40)"]
