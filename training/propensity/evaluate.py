"""How good the answers on a part are: metrics with intervals over users, gains over the baselines, plots, one row per user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.columns import USER_ID
from training.metrics import classification
from training.metrics.comparison import comparison
from training.metrics.names import HIGHER_IS_BETTER, PROPENSITY, with_interval
from training.propensity.data import Rows
from training.propensity.encoder import Floats
from training.propensity.model import Answers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float, float]
WITHIN = (7, 30)
JUDGED = "log_loss_30d"
"""The metric in which the model must beat every baseline: it sees rank and calibration alike."""
_DRAWS = 1000
_LEVELS = (0.025, 0.975)


def probabilities(answers: Answers, days: int) -> Floats:
    """(R,) of a purchase within so many days, 7 or 30."""
    return answers.p_buy_7d if days == 7 else answers.p_buy_30d


def resampled(rows: Rows, answers: Answers, seed: int) -> dict[str, Floats]:
    """Every metric of one row per user, watched for the whole horizon: its value, then those of resampled users (1 + draws,).

    The same seed draws the same users, so that methods are paired. A metric that is undefined (all bought, or nobody) is left out.
    """
    n = len(rows)
    rng = np.random.default_rng(seed)
    errors = np.abs(answers.expected_days - rows.days)
    given = {days: (rows.bought_within(days), probabilities(answers, days)) for days in WITHIN}
    losses = {days: classification.log_losses(*pair) for days, pair in given.items()}
    ordered = {days: classification.auc_and_ece(*pair) for days, pair in given.items()}
    found: dict[str, list[float]] = {name: [] for name in PROPENSITY}
    for draw in range(1 + _DRAWS):
        times = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n).astype(np.float64) if draw else np.ones(n)
        found["mae_days"].append(float(errors @ times) / n)
        for days in WITHIN:
            auc, ece = ordered[days](times)
            found[f"auc_{days}d"].append(auc)
            found[f"ece_{days}d"].append(ece)
            found[f"log_loss_{days}d"].append(float(losses[days] @ times) / n)
    return {name: np.array(draws) for name, draws in found.items() if np.isfinite(draws[0])}


def metrics(draws: Mapping[str, Floats]) -> dict[str, float]:
    """Test metrics with 95 % intervals, from what `resampled` gives."""
    found: dict[str, float] = {}
    for name, values in draws.items():
        found |= with_interval(f"test_{name}", _interval(values))
    return found


def gains(model: Mapping[str, Floats], others: Mapping[str, Mapping[str, Floats]]) -> dict[str, dict[str, Interval]]:
    """Paired gain of the model over each other method in every metric, with its 95 % interval; above zero the model is better."""
    return {
        other: {name: _interval((1 if HIGHER_IS_BETTER[name] else -1) * (model[name] - draws[name])) for name in model}
        for other, draws in others.items()
    }


def hardest(found: Mapping[str, Mapping[str, Interval]]) -> str:
    """The method over which the model gains least in the judged metric."""
    return min(found, key=lambda name: found[name][JUDGED][0])


def per_user(rows: Rows, answers: Answers, pseudonyms: list[str]) -> pa.Table:
    """One row per test user: the hashed id, what was said, what came."""
    return pa.table(
        {
            USER_ID: pseudonyms,
            **{name: getattr(answers, name) for name in ("p_buy_7d", "p_buy_30d", "expected_days")},
            **{f"bought_{days}d": rows.bought_within(days) for days in WITHIN},
            "days": rows.days,
        }
    )


def reliability(rows: Rows, answers: Mapping[str, Answers]) -> Figure:
    """Mean probability against the share that bought, in tenths of the users."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, days in zip(figure.subplots(1, len(WITHIN)), WITHIN, strict=True):
        labels, top = rows.bought_within(days), 0.01
        for name, one in answers.items():
            given = probabilities(one, days)
            tenths = np.array_split(np.argsort(given, kind="stable"), classification.NUM_QUANTILES)
            means, shares = (np.array([values[part].mean() for part in tenths if len(part)]) for values in (given, labels))
            ece = classification.quantile_ece(labels, given)
            axes.plot(means, shares, marker="o", markersize=4, label=f"{name}, ECE {ece:.4f}")
            top = max(top, float(means.max()), float(shares.max()))
        axes.plot((0, top), (0, top), color="grey", linestyle=":")
        axes.set(xlabel=f"p_buy_{days}d, mean of a tenth of the users", ylabel="share that bought")
        axes.legend(fontsize=8)
    figure.suptitle("Reliability, test part")
    return figure


def waiting(rows: Rows, curve: Floats) -> Figure:
    """Share of the users expected to have bought by the end of each coming day, (H,), against the share that had."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    days = np.arange(1, len(curve) + 1)
    actual = np.cumsum(np.bincount(rows.days[rows.bought], minlength=len(days) + 1)[1:]) / len(rows)
    axes.plot(days, actual, "k", label="actual")
    axes.plot(days, curve, label="expected")
    axes.set(xlabel="days after the cut-off", ylabel="share of users that bought", title="Purchases to come, test part")
    axes.legend()
    return figure


def gains_over(found: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Paired gain over each baseline in the log losses and the AUCs, with its interval."""
    from matplotlib.figure import Figure

    shown = [name for name in PROPENSITY if name.startswith(("log_loss", "auc")) and all(name in gains for gains in found.values())]
    figure = Figure(figsize=(2.8 * max(1, len(shown)), 2.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        means, los, his = (np.array(values) for values in zip(*(gains[metric] for gains in found.values()), strict=True))
        places = np.arange(len(found))
        axes.errorbar(means, places, xerr=(np.maximum(means - los, 0), np.maximum(his - means, 0)), fmt="o", capsize=3)
        axes.axvline(0, color="grey", linestyle=":")
        axes.set(yticks=places, yticklabels=list(found), title=f"gain in {metric}")
    return figure


def judged(found: Mapping[str, Interval]) -> dict[str, float]:
    """The gain over one method in the judged metric, under the names a run logs."""
    return with_interval(f"test_{JUDGED}_gain", found[JUDGED])


def table(reports: Mapping[str, Mapping[str, float]]) -> str:
    """Model and baselines side by side, in Markdown."""
    return comparison(reports, PROPENSITY)


def _interval(values: Floats) -> Interval:
    """The value, and the quantiles of its draws; draws in which it is undefined are left out."""
    lo, hi = np.nanquantile(values[1:], _LEVELS)
    return float(values[0]), float(lo), float(hi)
