"""95 % bootstrap intervals (percentile method; Efron & Tibshirani 1993), over users, series or texts.

A model is called better than a floor only where the paired interval of their difference excludes zero: pairing removes the
spread between users, which is as large as most gains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 2000
_LEVELS = (0.025, 0.975)


def mean_interval(values: Floats, seed: int, draws: int = DRAWS, owners: Ints | None = None) -> tuple[float, float, float]:
    """Mean of `values` (n,) and its 95 % interval `(mean, lo, hi)`.

    Args:
        owners: (n,) a number from 0 for whose each value is; those of one are drawn together, as they are alike (the cluster
            bootstrap, Field & Welsh 2007). None: each is of its own.

    Raises:
        ValueError: no value, one that is not finite, or not as many owners.
    """
    values = _checked(values)
    if owners is not None:
        if owners.shape != values.shape:
            raise ValueError(f"each value needs its owner: got {len(values)} and {len(owners)}")
        sums, counts = (np.bincount(owners, of).astype(np.float64) for of in (values, np.ones(len(values))))
        return ratio_interval(sums[counts > 0], counts[counts > 0], seed, draws)
    lo, hi = np.quantile(_resampled_sums(values[:, None], seed, draws)[:, 0] / len(values), _LEVELS)
    return float(values.mean()), float(lo), float(hi)


def paired_interval(a: Floats, b: Floats, seed: int, draws: int = DRAWS, owners: Ints | None = None) -> tuple[float, float, float]:
    """Mean of `a - b`, both (n,) in the same order of the same units, and its 95 % interval `(mean, lo, hi)`.

    Args:
        owners: as of `mean_interval`.

    Raises:
        ValueError: different lengths, no value, or one that is not finite.
    """
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise ValueError(f"paired values must speak of the same units: got {len(a)} and {len(b)}")
    return mean_interval(a - b, seed, draws, owners)


def ratio_interval(numerators: Floats, denominators: Floats, seed: int, draws: int = DRAWS) -> tuple[float, float, float]:
    """Pooled ratio `sum(numerators) / sum(denominators)`, both (n,), and its 95 % interval; resamples units, as WAPE needs.

    Raises:
        ValueError: different lengths, no value, one that is not finite, or a denominator sum of zero.
    """
    numerators, denominators = _checked(numerators), _checked(denominators)
    if numerators.shape != denominators.shape:
        raise ValueError(f"each numerator needs its denominator: got {len(numerators)} and {len(denominators)}")
    if denominators.sum() == 0:
        raise ValueError("the denominators sum to zero: the ratio is undefined")
    sums = _resampled_sums(np.stack([numerators, denominators], axis=1), seed, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[:, 0] / sums[:, 1]
    lo, hi = np.quantile(ratios[np.isfinite(ratios)], _LEVELS)
    return float(numerators.sum() / denominators.sum()), float(lo), float(hi)


def _checked(values: Floats) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected at least one value in one dimension, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
    return values


def _resampled_sums(values: Floats, seed: int, draws: int) -> Floats:
    """Sums over `draws` resamples of the rows of `values` (n, c), drawn with replacement -> (draws, c).

    Ranking metrics take few different values per user: drawing how often each occurs is the same distribution as drawing
    users, and many times faster.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    if len(distinct) * 8 <= n:
        return np.asarray(rng.multinomial(n, counts / n, size=draws) @ distinct)
    sums = np.empty((draws, values.shape[1]))
    step = max(1, 4_000_000 // n)
    for start in range(0, draws, step):
        picked = rng.integers(0, n, size=(min(step, draws - start), n), dtype=np.int32)
        for column in range(values.shape[1]):
            sums[start : start + step, column] = values[picked, column].sum(axis=1)
    return sums
