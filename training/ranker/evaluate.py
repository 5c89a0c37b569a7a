"""How good an order is on a part: metrics with intervals over users, paired gains, plots, one row per list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.columns import USER_ID
from training.metrics import classification
from training.metrics.comparison import cell, comparison
from training.metrics.intervals import mean_interval, paired_interval
from training.metrics.names import HIGHER_IS_BETTER, with_interval
from training.metrics.ranking import top_k
from training.ranker.baselines import Answer
from training.ranker.candidates import Floats
from training.ranker.data import Lists, labels_of
from training.ranker.model import PURCHASE, TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float, float]
PER_LIST = ("ndcg_at_10", "revenue_at_10")
JUDGED = "ndcg_at_10"
"""The metric in which the model must beat the order it is given."""
_OF_CHANCES = ("auc", "log_loss", "ece")
_DRAWS = 200
_LEVELS = (0.025, 0.975)


def revenue_at_10(lists: Lists, values: Floats) -> Floats:
    """(L,) price of the items bought in the session that followed, of those among the first ten by `values` (R,), in shop currency."""
    best = top_k(lists.padded(values), 10)
    bought = np.maximum(lists.padded(lists.price * lists.labels[:, TASKS.index(PURCHASE)]), 0.0)
    return np.asarray(np.take_along_axis(bought, best, axis=1).sum(axis=1), dtype=np.float64)


def per_list(lists: Lists, answer: Answer) -> dict[str, Floats]:
    """Each metric of PER_LIST, (L,)."""
    return {"ndcg_at_10": lists.ndcg(answer.values), "revenue_at_10": revenue_at_10(lists, answer.values)}


def resampled(lists: Lists, answer: Answer, tasks: Sequence[str], seed: int) -> dict[str, Floats]:
    """Metrics of the chances: the value, then those of resampled lists (1 + draws,); a test part has one list per user.

    The same seed draws the same users, so that methods are paired. A metric that is undefined is left out.
    """
    if answer.chances is None:
        return {}
    found: dict[str, Floats] = {}
    num_lists, own = len(lists), lists.candidates.list
    for task, wanted, given in zip(tasks, labels_of(lists, tasks).T, answer.chances.T, strict=True):
        rng = np.random.default_rng(seed)
        both, losses = classification.auc_and_ece(wanted, given), classification.log_losses(wanted, given)
        rows = []
        for draw in range(1 + _DRAWS):
            picked = np.bincount(rng.integers(0, num_lists, num_lists), minlength=num_lists) if draw else np.ones(num_lists)
            times = picked.astype(np.float64)[own]
            auc, ece = both(times)
            rows.append((auc, float(losses @ times / times.sum()), ece))
        drawn = dict(zip(_OF_CHANCES, np.array(rows).T, strict=True))
        found |= {f"{metric}_{task}": values for metric, values in drawn.items() if np.isfinite(values[0])}
    return found


def metrics(values: Mapping[str, Floats], draws: Mapping[str, Floats], seed: int) -> dict[str, float]:
    """Test metrics with 95 % intervals, from `per_list` and `resampled`."""
    found: dict[str, float] = {}
    for name, each in values.items():
        found |= with_interval(f"test_{name}", mean_interval(each, seed))
    for name, drawn in draws.items():
        found |= with_interval(f"test_{name}", _interval(drawn))
    return found


def gains(
    ours: tuple[Mapping[str, Floats], Mapping[str, Floats]], theirs: tuple[Mapping[str, Floats], Mapping[str, Floats]], seed: int
) -> dict[str, Interval]:
    """Paired gain over another method in every metric that both have, with its 95 % interval; above zero ours is better."""
    found = {name: paired_interval(ours[0][name], theirs[0][name], seed) for name in PER_LIST}
    for name in ours[1].keys() & theirs[1].keys():
        found[name] = _interval((1 if HIGHER_IS_BETTER[name] else -1) * (ours[1][name] - theirs[1][name]))
    return found


def per_user(lists: Lists, values: Mapping[str, Floats], pseudonym: Callable[[str], str]) -> pa.Table:
    """One row per list, so that any two runs can be paired later; users as keyed hashes."""
    counts = {f"num_{task}": np.add.reduceat(lists.labels[:, place], lists.offsets[:-1]) for place, task in enumerate(TASKS)}
    users = pa.array([pseudonym(user) for user in lists.users])
    return pa.table({USER_ID: users, "num_wanted": lists.num_wanted, **counts, **values})


def reliability(lists: Lists, answers: Mapping[str, Answer], tasks: Sequence[str]) -> Figure:
    """Mean chance against the share that came, in tenths of the candidates, both on a log scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(tasks), 4.4), layout="constrained")
    for place, axes in enumerate(figure.subplots(1, len(tasks), squeeze=False)[0]):
        wanted, ends = labels_of(lists, tasks)[:, place], [1e-4, 1e-2]
        for name, answer in answers.items():
            if answer.chances is None:
                continue
            given = answer.chances[:, place]
            tenths = np.array_split(np.argsort(given, kind="stable"), classification.NUM_QUANTILES)
            means, shares = (np.array([of[part].mean() for part in tenths if len(part)]) for of in (given, wanted))
            axes.plot(
                means, shares, marker="o", markersize=4, label=f"{name}, ECE {classification.quantile_ece(wanted, given):.4f}"
            )
            ends = [min(ends[0], float(means.min())), max(ends[1], float(means.max()))]
        axes.plot(ends, ends, color="grey", linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel=f"chance of a {tasks[place]}, mean of a tenth", ylabel="share that came")
        axes.legend(fontsize=8)
    figure.suptitle("Reliability, test part")
    return figure


def gains_over(found: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Paired gain over each other method in what a list is worth; what lies right of zero is beaten."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(PER_LIST), 0.5 * len(found) + 1.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(PER_LIST)), PER_LIST, strict=True):
        means, los, his = (np.array(values) for values in zip(*(gains[metric] for gains in found.values()), strict=True))
        places = np.arange(len(found))
        axes.errorbar(means, places, xerr=(np.maximum(means - los, 0), np.maximum(his - means, 0)), fmt="o", capsize=3)
        axes.axvline(0, color="grey", linestyle=":")
        axes.set(yticks=places, yticklabels=list(found), title=f"gain in {metric}")
    return figure


def table(reports: Mapping[str, Mapping[str, float]]) -> str:
    """Methods side by side, in Markdown."""
    return comparison(reports, PER_LIST)


def chances_table(reports: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> str:
    """Of the methods that give chances, how good those of each task are, in Markdown."""
    lines = ["| task | method | AUC | log loss | ECE |", "|---|---|---|---|---|"]
    for task in tasks:
        for name, report in reports.items():
            if f"test_log_loss_{task}" in report:
                cells = " | ".join(cell(report, f"test_{metric}_{task}") for metric in _OF_CHANCES)
                lines.append(f"| {task} | {name} | {cells} |")
    return "\n".join(lines)


def _interval(values: Floats) -> Interval:
    """The value, and the quantiles of its draws; draws in which it is undefined are left out."""
    lo, hi = np.nanquantile(values[1:], _LEVELS)
    return float(values[0]), float(lo), float(hi)
