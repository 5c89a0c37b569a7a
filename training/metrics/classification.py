"""Metrics of two-class probabilities, each with its bootstrap interval.

`labels` are 1 good and 0 bad, `probabilities` are those of being good, both (n,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.metrics.intervals import DRAWS, Floats, mean_interval
from training.metrics.names import with_interval

Labels = NDArray[np.int64]

NUM_BINS = 15
"""Equal-width confidence bins of the calibration error, as in Guo et al. 2017."""
NUM_QUANTILES = 10
"""Bins of `quantile_ece`."""
_LEVELS = (0.025, 0.975)
_EPSILON = 1e-7


def correct(labels: Labels, probabilities: Floats) -> Floats:
    """1.0 where the likelier class is the true one, else 0.0; (n,). A probability of one half counts as good."""
    return np.asarray((probabilities >= 0.5) == (labels == 1), dtype=np.float64)


def log_losses(labels: Labels, probabilities: Floats) -> Floats:
    """Minus log likelihood of each label in nats, (n,); probabilities are kept 1e-7 away from 0 and 1."""
    likelihood = np.where(labels == 1, probabilities, 1 - probabilities)
    return np.asarray(-np.log(likelihood.clip(_EPSILON, 1)), dtype=np.float64)


def confusion(labels: Labels, probabilities: Floats) -> NDArray[np.int64]:
    """Counts, (2, 2): rows are the true class bad, good; columns the answered one."""
    cells = 2 * (labels == 1).astype(np.int64) + (probabilities >= 0.5)
    return np.bincount(cells, minlength=4).reshape(2, 2)


def accuracy(labels: Labels, probabilities: Floats) -> float:
    """Share of right answers."""
    return float(correct(labels, probabilities).mean())


def log_loss(labels: Labels, probabilities: Floats) -> float:
    """Mean minus log likelihood, nats."""
    return float(log_losses(labels, probabilities).mean())


def macro_f1(labels: Labels, probabilities: Floats) -> float:
    """Mean of the two classes' F1; 0 for a class that is neither true nor answered."""
    return float(_macro_f1(confusion(labels, probabilities).reshape(1, 4).astype(np.float64))[0])


def ece(labels: Labels, probabilities: Floats) -> float:
    """Expected calibration error: how far confidence is from accuracy, averaged over bins of confidence (Guo et al. 2017)."""
    bins, gaps = _bins_and_gaps(labels, probabilities)
    return float(np.abs(np.bincount(bins, gaps, NUM_BINS)).sum() / len(labels))


def auc(labels: Labels, probabilities: Floats) -> float:
    """Probability that a good one is given more than a bad one, ties half (area under the ROC curve; Hanley & McNeil 1982).

    NaN where all are good or all bad.
    """
    return auc_and_ece(labels, probabilities)(np.ones(len(labels)))[0]


def quantile_ece(labels: Labels, probabilities: Floats) -> float:
    """How far probabilities are from shares, averaged over NUM_QUANTILES bins of equally many (Nixon et al. 2019), 0 to 1.

    Where hardly anybody is likelier good than bad, bins of equal width would put all into one or two. Equal probabilities share
    a bin.
    """
    return auc_and_ece(labels, probabilities)(np.ones(len(labels)))[1]


def auc_and_ece(labels: Labels, probabilities: Floats) -> Callable[[Floats], tuple[float, float]]:
    """`auc` and `quantile_ece` with each row counted so many times (n,), as resamples ask for; what they share is done once."""
    groups, bins, gaps = _tie_groups(probabilities), _quantile_bins(probabilities), probabilities - labels

    def metrics(times: Floats) -> tuple[float, float]:
        return _auc(labels, groups, times), float(np.abs(np.bincount(bins, gaps * times, NUM_QUANTILES)).sum() / times.sum())

    return metrics


def scores(labels: Labels, probabilities: Floats) -> dict[str, float]:
    """Every metric of this module by its name.

    Raises:
        ValueError: no row, different lengths, a label that is neither 0 nor 1, or a probability outside 0-1.
    """
    labels, probabilities = _checked(labels, probabilities)
    return {metric.__name__: metric(labels, probabilities) for metric in (accuracy, macro_f1, log_loss, ece)}


def scores_with_intervals(labels: Labels, probabilities: Floats, seed: int, prefix: str, draws: int = DRAWS) -> dict[str, float]:
    """`scores`, each with `_lo` and `_hi` over resampled texts, under `prefix` (`test_`).

    The interval of `ece` is the spread of an estimate that noise pushes up; it may lie above the value itself.
    """
    labels, probabilities = _checked(labels, probabilities)
    rng = np.random.default_rng(seed)
    n = len(labels)
    cells = confusion(labels, probabilities).ravel()
    f1_draws = _macro_f1(rng.multinomial(n, cells / n, size=draws).astype(np.float64))
    bins, gaps = _bins_and_gaps(labels, probabilities)
    ece_draws = np.empty(draws)
    for draw in range(draws):
        rows = rng.integers(0, n, n, dtype=np.int32)
        ece_draws[draw] = np.abs(np.bincount(bins[rows], gaps[rows], NUM_BINS)).sum() / n
    return {
        **with_interval(f"{prefix}accuracy", mean_interval(correct(labels, probabilities), seed, draws)),
        **with_interval(f"{prefix}macro_f1", _around(macro_f1(labels, probabilities), f1_draws)),
        **with_interval(f"{prefix}log_loss", mean_interval(log_losses(labels, probabilities), seed, draws)),
        **with_interval(f"{prefix}ece", _around(ece(labels, probabilities), ece_draws)),
    }


def reliability(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats, Labels]:
    """Mean probability of good, share of good and number of texts per bin of probability that holds any, for a plot."""
    bins = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    held = counts > 0
    means = np.bincount(bins, probabilities, NUM_BINS)[held] / counts[held]
    shares = np.bincount(bins, labels.astype(np.float64), NUM_BINS)[held] / counts[held]
    return means, shares, counts[held]


def accuracy_when_sure(labels: Labels, probabilities: Floats, share: float) -> float:
    """Accuracy over the `share` of texts with the surest answers: what is left when the rest goes to a person."""
    surest = np.argsort(-np.abs(probabilities - 0.5), kind="stable")[: max(1, round(share * len(labels)))]
    return accuracy(labels[surest], probabilities[surest])


def _macro_f1(cells: Floats) -> Floats:
    """Confusion cells (draws, 4) in the order of `confusion` -> (draws,)."""
    true_bad, false_good, false_bad, true_good = cells.T
    wrong = false_good + false_bad
    f1 = [2 * right / np.maximum(2 * right + wrong, 1) for right in (true_bad, true_good)]
    return np.asarray((f1[0] + f1[1]) / 2)


def _bins_and_gaps(labels: Labels, probabilities: Floats) -> tuple[Labels, Floats]:
    """Each text's bin of confidence, and its confidence less its being right."""
    confidence = np.maximum(probabilities, 1 - probabilities)
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return bins, confidence - correct(labels, probabilities)


def _tie_groups(probabilities: Floats) -> Labels:
    """(n,) place of each probability among the different ones, the least first."""
    return np.asarray(np.unique(probabilities, return_inverse=True)[1], dtype=np.int64)


def _auc(labels: Labels, groups: Labels, times: Floats) -> float:
    """AUC with each row counted so many `times` (n,)."""
    good, bad = np.bincount(groups, times * labels), np.bincount(groups, times * (1 - labels))
    pairs = good.sum() * bad.sum()
    return float((good * (np.cumsum(bad) - bad / 2)).sum() / pairs) if pairs else float("nan")


def _quantile_bins(probabilities: Floats) -> Labels:
    """(n,) bin of each, by the middle rank of its equals."""
    groups = _tie_groups(probabilities)
    counts = np.bincount(groups)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * NUM_QUANTILES / len(probabilities)).astype(np.int64), NUM_QUANTILES - 1)[groups]


def _around(value: float, draws: Floats) -> tuple[float, float, float]:
    lo, hi = np.quantile(draws, _LEVELS)
    return value, float(lo), float(hi)


def _checked(labels: Labels, probabilities: Floats) -> tuple[Labels, Floats]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.shape != probabilities.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"expected as many labels as probabilities, at least one; got {labels.shape} and {probabilities.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1; got {sorted(set(labels.tolist()) - {0, 1})[:3]}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    return labels.astype(np.int64), probabilities
