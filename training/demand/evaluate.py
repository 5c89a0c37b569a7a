"""What the demand model is worth on the untouched test part: metrics with intervals, plots, one row per series, a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.columns import ITEM_ID
from training.demand.backtest import Answer, Backtest
from training.metrics import forecast
from training.metrics.comparison import comparison
from training.metrics.forecast import WQL_LEVELS, Doubles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parts = dict[str, Doubles]
Interval = tuple[float, float, float]
JUDGED = ("wql", "wape")
"""Metrics in which the model must beat every floor."""


def metrics(parts: Parts, seed: int) -> dict[str, float]:
    """Test metrics with 95 % intervals."""
    return forecast.with_intervals(parts, seed, "test_")


def gains(others: Mapping[str, Parts], model: Parts, seed: int) -> dict[str, dict[str, Interval]]:
    """Paired gain of the model over each other method in WQL and WAPE, with its 95 % interval; above zero the model is better."""
    return {name: {metric: forecast.gain(parts, model, metric, seed) for metric in JUDGED} for name, parts in others.items()}


def hardest(gains: Mapping[str, Mapping[str, Interval]], metric: str) -> str:
    """The method over which the model gains least."""
    return min(gains, key=lambda name: gains[name][metric][0])


def per_series(test: Backtest, parts: Parts) -> pa.Table:
    """One row per series with the parts of every metric, so that any two runs can be paired later."""
    return pa.table({ITEM_ID: pa.array(test.panel.item_ids), **{name: pa.array(values) for name, values in parts.items()}})


def fan(test: Backtest, answer: Answer, num_series: int = 6, history_days: int = 56) -> Figure:
    """Forecast fans against what came, for series spread over the range of sales."""
    figure, axes = _figure(-(-num_series // 2), 2, (13, 2.6 * -(-num_series // 2)))
    order = np.argsort(-test.actual.sum(axis=1))
    spread = np.unique(np.linspace(0, len(order) - 1, num_series) ** 2 // max(1, len(order) - 1)).astype(int)
    begin = max(0, test.origin - history_days)
    horizon = test.actual.shape[1]
    past = [test.panel.day(day) for day in range(begin, test.origin)]
    ahead = [test.panel.day(test.origin + step) for step in range(horizon)]
    for axis, row in zip(axes.flat, order[spread], strict=False):
        quantiles = answer.quantiles[row]
        axis.plot(past, test.panel.units[row, begin : test.origin], color="0.55", linewidth=0.9)
        for lower, upper, shade in ((0, 8, 0.18), (1, 7, 0.18), (2, 6, 0.18)):
            axis.fill_between(ahead, quantiles[:, lower], quantiles[:, upper], color="tab:blue", alpha=shade, linewidth=0)
        axis.plot(ahead, quantiles[:, 4], color="tab:blue", label="median")
        axis.plot(ahead, answer.mean[row], color="tab:blue", linestyle=":", label="mean")
        axis.plot(ahead, test.actual[row], "k.-", linewidth=0.9, markersize=4, label="actual")
        axis.set_title(f"item {test.panel.item_ids[row]}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7, loc="upper left")
    figure.suptitle("Units per day: 80, 60 and 40 % intervals against what came")
    return figure


def calibration(test: Backtest, answer: Answer) -> Figure:
    """Share of days at or below each quantile (and strictly below: on counts the truth lies between), and pinball by level."""
    figure, axes = _figure(1, 2, (11, 4.2))
    actual, quantiles = test.actual[test.scored], answer.quantiles[test.scored]
    below, at_most = (actual[:, None] < quantiles).mean(axis=0), (actual[:, None] <= quantiles).mean(axis=0)
    axes[0, 0].plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    axes[0, 0].fill_between(WQL_LEVELS, below, at_most, alpha=0.3, label="share below .. at or below")
    axes[0, 0].set(xlabel="level", ylabel="share of days", title="Calibration")
    axes[0, 0].legend()
    loss = 2 * forecast.pinball(actual.astype(float), quantiles.astype(float), WQL_LEVELS).sum(axis=0) / actual.sum()
    axes[0, 1].bar([str(level) for level in WQL_LEVELS], loss)
    axes[0, 1].set(xlabel="level", ylabel="weighted quantile loss", title="Pinball by level")
    return figure


def error_by_horizon(test: Backtest, answers: Mapping[str, Answer]) -> Figure:
    """WAPE of each day ahead; days on which the shop is closed are left out."""
    figure, axes = _figure(1, 1, (9, 4))
    steps = np.arange(1, test.actual.shape[1] + 1)
    for name, answer in answers.items():
        units = (test.actual * test.scored).sum(axis=0)
        error = (np.abs(test.actual - answer.point) * test.scored).sum(axis=0)
        axes[0, 0].plot(steps, np.where(units > 0, error / np.maximum(units, 1e-9), np.nan), marker=".", label=name)
    axes[0, 0].set(xlabel="days ahead", ylabel="WAPE", title="Error by horizon")
    axes[0, 0].legend()
    return figure


def gains_over_floors(gains: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """How much less error than each other method, with the paired interval; left of zero the other one is better."""
    figure, axes = _figure(1, len(JUDGED), (11, 0.6 * len(gains) + 1.6))
    names = list(gains)
    for axis, metric in zip(axes.flat, JUDGED, strict=True):
        mean, lo, hi = np.array([gains[name][metric] for name in names]).T
        axis.errorbar(mean, range(len(names)), xerr=[mean - lo, hi - mean], fmt="o", capsize=3)
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.set(yticks=range(len(names)), yticklabels=names, title=f"{metric.upper()} gained (95 %)")
    return figure


def table(reports: Mapping[str, Mapping[str, float]]) -> str:
    """Model and baselines side by side, in Markdown."""
    return comparison(reports, ("wql", "wape", "mase", "bias", "interval_coverage_80"), decimals=3)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure outside pyplot: nothing global, nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
