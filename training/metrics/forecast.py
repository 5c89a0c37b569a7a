"""Forecast metrics, pooled over series and days; each has the per-series parts that a bootstrap over series needs.

Only scored days count: the item is on sale, the shop is open and stock was there. On closed days every model answers zero, and
on stock-out days sales do not say what the demand was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.metrics.intervals import mean_interval, ratio_interval
from training.metrics.names import with_interval

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

WQL_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pinball(actual: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Pinball (quantile) loss (Koenker & Bassett 1978) of each value: (..., Q) for actual (...) and quantiles (..., Q)."""
    error = actual[..., None] - quantiles
    at = np.asarray(levels)
    loss: Floats = np.maximum(at * error, (at - 1) * error)
    return loss


def naive_scale(units: Floats, observed: Bools, season: int = 7) -> Doubles:
    """Denominator of MASE (Hyndman & Koehler 2006): (N,) mean absolute seasonal-naive error of (N, T) history; NaN without one."""
    both = observed[:, season:] & observed[:, :-season]
    errors = np.abs(units[:, season:] - units[:, :-season]) * both
    with np.errstate(invalid="ignore"):
        scale: Doubles = np.where(both.any(axis=1), errors.sum(axis=1) / both.sum(axis=1), np.nan)
    return scale


def series_parts(
    actual: Floats, scored: Bools, quantiles: Floats, point: Floats, mean: Floats, scale: Floats
) -> dict[str, Doubles]:
    """Per-series sums from which every pooled metric follows.

    Args:
        actual: (N, H) units.
        scored: (N, H) days that count.
        quantiles: (N, H, 9) at `WQL_LEVELS`.
        point: (N, H) what WAPE and MASE judge: the median, or a floor's own point forecast.
        mean: (N, H) expected units, what bias judges.
        scale: (N,) from `naive_scale`.

    Returns:
        Name -> (N,): days, units, pinball (mean over levels of twice the loss, as WQL counts it), absolute_error, mean_error,
        covered (days inside the 80 % interval), mase (NaN where the history has no error to compare with).
    """
    days = scored.sum(axis=1).astype(np.float64)
    absolute = (np.abs(actual - point) * scored).sum(axis=1)
    inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
    with np.errstate(invalid="ignore", divide="ignore"):
        mase = np.where((scale > 0) & (days > 0), absolute / np.maximum(days, 1) / scale, np.nan)
    return {
        "days": days,
        "units": (actual * scored).sum(axis=1),
        "pinball": (2 * pinball(actual, quantiles, WQL_LEVELS).mean(axis=-1) * scored).sum(axis=1),
        "absolute_error": absolute,
        "mean_error": ((mean - actual) * scored).sum(axis=1),
        "covered": (inside & scored).sum(axis=1).astype(np.float64),
        "mase": mase,
    }


_RATIOS = {
    "wql": ("pinball", "units"),
    "wape": ("absolute_error", "units"),
    "bias": ("mean_error", "units"),
    "interval_coverage_80": ("covered", "days"),
}


def pooled(parts: dict[str, Doubles], prefix: str = "") -> dict[str, float]:
    """wql, wape, bias, interval_coverage_80 as pooled ratios, mase as the mean over series that have one."""
    values = {f"{prefix}{name}": float(parts[top].sum() / parts[bottom].sum()) for name, (top, bottom) in _RATIOS.items()}
    return {**values, f"{prefix}mase": float(np.nanmean(parts["mase"]))}


def with_intervals(parts: dict[str, Doubles], seed: int, prefix: str = "") -> dict[str, float]:
    """The pooled metrics with 95 % bootstrap intervals over series, under `name`, `name_lo`, `name_hi`."""
    found: dict[str, float] = {}
    for name, (top, bottom) in _RATIOS.items():
        found |= with_interval(f"{prefix}{name}", ratio_interval(parts[top], parts[bottom], seed))
    return found | with_interval(f"{prefix}mase", mean_interval(parts["mase"][np.isfinite(parts["mase"])], seed))


def gain(floor: dict[str, Doubles], model: dict[str, Doubles], metric: str, seed: int) -> tuple[float, float, float]:
    """Paired difference floor - model of a pooled error metric and its 95 % interval; above zero the model is better."""
    top, bottom = _RATIOS[metric]
    return ratio_interval(floor[top] - model[top], model[bottom], seed)
