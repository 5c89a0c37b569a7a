"""Metrics of two-class probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as peer

from training.metrics import classification
from training.metrics.names import check

LABELS = np.array([1, 1, 1, 0, 0, 1])
PROBABILITIES = np.array([0.9, 0.8, 0.3, 0.2, 0.6, 0.5])


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn with exactly the probabilities given."""
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0, 1, n)
    return (rng.uniform(0, 1, n) < probabilities).astype(np.int64), probabilities


def test_a_small_case_by_hand() -> None:
    scores = classification.scores(LABELS, PROBABILITIES)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    # good: 3 right, 1 missed, 1 false; bad: 1 right, 1 missed, 1 false
    assert scores["macro_f1"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.8, 0.4, 0.5]).mean())


def test_equals_scikit_learn() -> None:
    labels, probabilities = drawn(500)
    scores = classification.scores(labels, probabilities)
    assert scores["accuracy"] == pytest.approx(peer.accuracy_score(labels, probabilities >= 0.5))
    assert scores["macro_f1"] == pytest.approx(peer.f1_score(labels, probabilities >= 0.5, average="macro"))
    assert scores["log_loss"] == pytest.approx(peer.log_loss(labels, probabilities))


def test_ece_of_an_overconfident_answer_is_its_excess() -> None:
    labels = np.array([1] * 70 + [0] * 30)
    assert classification.ece(labels, np.full(100, 0.9)) == pytest.approx(0.2)


def test_ece_vanishes_where_probabilities_are_true() -> None:
    assert classification.ece(*drawn(200_000)) < 0.005


def test_confusion_counts_true_rows_and_answered_columns() -> None:
    assert classification.confusion(LABELS, PROBABILITIES).tolist() == [[1, 1], [1, 3]]


def test_reliability_speaks_of_bins_that_hold_texts_only() -> None:
    means, shares, counts = classification.reliability(np.array([1, 0, 1]), np.array([0.01, 0.02, 1.0]))
    assert means.tolist() == pytest.approx([0.015, 1.0])
    assert shares.tolist() == [0.5, 1.0]
    assert counts.tolist() == [2, 1]


def test_accuracy_when_sure_drops_the_least_sure() -> None:
    labels, probabilities = np.array([1, 0, 0, 1]), np.array([0.9, 0.1, 0.55, 0.99])
    assert classification.accuracy(labels, probabilities) == 0.75
    assert classification.accuracy_when_sure(labels, probabilities, 0.75) == 1.0


def test_intervals_hold_the_value_and_shrink_with_more_texts() -> None:
    widths = []
    for n in (200, 5000):
        report = classification.scores_with_intervals(*drawn(n), seed=1, prefix="test_", draws=400)
        for name in ("accuracy", "macro_f1", "log_loss"):
            assert report[f"test_{name}_lo"] < report[f"test_{name}"] < report[f"test_{name}_hi"]
        widths.append(report["test_macro_f1_hi"] - report["test_macro_f1_lo"])
    assert widths[1] < widths[0] / 3


def test_intervals_are_reproducible_and_named_from_the_closed_list() -> None:
    report = classification.scores_with_intervals(LABELS, PROBABILITIES, seed=1, prefix="test_", draws=50)
    assert report == classification.scores_with_intervals(LABELS, PROBABILITIES, seed=1, prefix="test_", draws=50)
    assert len(report) == 12
    assert all(check(name) for name in report)


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        ([], [], "at least one"),
        ([1, 0], [0.5], "as many labels"),
        ([1, 2], [0.5, 0.5], "0 or 1"),
        ([1, 0], [0.5, 1.5], "between 0 and 1"),
        ([1, 0], [0.5, float("nan")], "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(labels: list[int], probabilities: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        classification.scores(np.array(labels), np.array(probabilities))


def test_one_class_alone_is_scored() -> None:
    assert classification.scores(np.array([1, 1]), np.array([0.9, 0.9]))["macro_f1"] == 0.5


def test_auc_counts_pairs_and_ties_half() -> None:
    labels = np.array([1, 0, 1, 0, 0])
    given = np.array([0.9, 0.9, 0.4, 0.3, 0.4])
    pairs = [(p > n) + 0.5 * (p == n) for p in given[labels == 1] for n in given[labels == 0]]
    assert classification.auc(labels, given) == pytest.approx(np.mean(pairs))
    assert np.isnan(classification.auc(np.ones(3, dtype=np.int64), np.array([0.1, 0.2, 0.3])))


def test_quantile_ece_compares_shares_of_equally_many() -> None:
    rng = np.random.default_rng(0)
    given = rng.uniform(0, 0.05, 100_000)
    honest = (rng.random(100_000) < given).astype(np.int64)
    assert classification.quantile_ece(honest, given) < 0.002
    assert classification.quantile_ece(honest, given + 0.02) == pytest.approx(0.02, abs=0.001)
    assert classification.quantile_ece(honest, np.full(100_000, 0.3)) == pytest.approx(0.3 - honest.mean())


def test_a_row_counted_twice_is_a_row_more() -> None:
    rng = np.random.default_rng(1)
    labels, given = rng.integers(0, 2, 50), rng.uniform(0, 1, 50)
    times = rng.integers(0, 3, 50)
    auc, _ = classification.auc_and_ece(labels, given)(times.astype(float))
    assert auc == pytest.approx(classification.auc(np.repeat(labels, times), np.repeat(given, times)))
