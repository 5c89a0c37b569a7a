"""What the recommender is worth on the untouched test part: metrics with intervals, gains over the floors, plots, one row per user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import USER_ID
from training.metrics.comparison import cell, comparison
from training.metrics.intervals import mean_interval, paired_interval
from training.metrics.names import RANKING, with_interval
from training.metrics.ranking import RankingReport, coverage_interval, novelty_at_10
from training.recommender.data import Queries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float, float, float]
Ints = NDArray[np.int64]
Reports = Mapping[str, RankingReport]

MAX_USERS = 200_000
"""Rows of the per-user table, at most; beyond it an even sample."""
HISTORY_BUCKETS = (1, 4, 16, 64, 256)
"""Lower bounds of the segments by length of history."""
_FEW = 10
"""Questions below which a segment has no interval worth telling."""


def metrics(report: RankingReport, queries: Queries, counts: Ints, seed: int) -> dict[str, float]:
    """Test metrics with 95 % intervals over who asks; `counts` (items,) are the acts on each item in training."""
    found: dict[str, float] = {}
    for name, values in report.per_query.items():
        found |= with_interval(f"test_{name}", mean_interval(values, seed, owners=queries.owners))
    novelty = novelty_at_10(report.lists, counts)
    found |= with_interval("test_novelty_at_10", mean_interval(novelty, seed, owners=queries.owners))
    return found | with_interval("test_coverage_at_10", coverage_interval(report.lists, len(report.relevant), queries.owners))


def gains(model: RankingReport, floors: Reports, queries: Queries, seed: int) -> dict[str, Interval]:
    """Paired gain in ndcg_at_10 over each floor `(mean, lo, hi)`, the hardest floor first; above zero the model is better."""
    found = {
        name: paired_interval(model.per_query["ndcg_at_10"], floor.per_query["ndcg_at_10"], seed, owners=queries.owners)
        for name, floor in floors.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def segments(model: RankingReport, floor: RankingReport, queries: Queries, counts: Ints, seed: int) -> pa.Table:
    """ndcg_at_10 of parts of the questions, and the paired gain over a floor, each with its 95 % interval.

    Users: `cold` have fewer than five acts, `heavy` are the most active tenth. Wanted items: `tail` are the least popular ones that
    make up a fifth of all acts, `head` the others, `new` those that nobody took in training; a question belongs to what most of its
    wanted items are. `decile_1` to `decile_10` part the catalogue by popularity (10: the most popular tenth); a question belongs to
    its most popular wanted item.
    """
    lengths = np.diff(queries.history.offsets)
    order = np.argsort(counts, kind="stable")
    is_tail = np.zeros(len(counts) + 1, dtype=np.bool_)
    is_tail[order[np.cumsum(counts[order]) <= 0.2 * counts.sum()]] = True
    is_tail[-1] = True  # -1: an item nobody took
    decile = np.zeros(len(counts) + 1, dtype=np.int64)
    decile[order] = np.arange(len(order)) * 10 // len(order) + 1
    is_new = np.append(counts == 0, True)
    in_tail = np.array([is_tail[wanted].mean() >= 0.5 for wanted in queries.targets])
    best = np.array([decile[wanted].max() for wanted in queries.targets])
    masks = {
        "all": np.ones(len(queries), dtype=np.bool_),
        "cold": lengths < 5,
        "heavy": lengths >= np.quantile(lengths, 0.9),
        "tail": in_tail,
        "head": ~in_tail,
        "new": np.array([is_new[wanted].mean() >= 0.5 for wanted in queries.targets]),
        **{f"decile_{number}": best == number for number in range(1, 11)},
    }
    ours, theirs = (one.per_query["ndcg_at_10"] for one in (model, floor))
    rows = []
    for name, mask in masks.items():
        if mask.any():
            owners = queries.owners[mask]
            value = mean_interval(ours[mask], seed, owners=owners)
            gain = paired_interval(ours[mask], theirs[mask], seed, owners=owners)
            ends = (("", 0), ("_lo", 1), ("_hi", 2))
            found = {f"{what}{end}": of[place] for what, of in (("ndcg_at_10", value), ("gain", gain)) for end, place in ends}
            rows.append({"segment": name, "num_queries": int(mask.sum()), **found})
    return pa.Table.from_pylist(rows)


def segments_table(rows: pa.Table) -> str:
    """`segments` in Markdown, and what they are; an interval of a few questions says nothing, so those have no figures."""
    lines = ["| segment | questions | ndcg_at_10 | gain, paired |", "|---|---|---|---|"]
    for row in rows.to_pylist():
        few = row["num_queries"] < _FEW
        figures = ("too few", "too few") if few else (cell(row, "ndcg_at_10"), cell(row, "gain"))
        lines.append(f"| {row['segment']} | {row['num_queries']} | {' | '.join(figures)} |")
    told = (
        "cold: fewer than five acts before; heavy: the most active tenth; tail: mostly wants the least popular items, together a fifth "
        "of all acts; head: the others; new: mostly wants what nobody took in training; decile_10: wants one of the most popular tenth."
    )
    return "\n".join([*lines, "", told])


def per_user(report: RankingReport, queries: Queries, pseudonym: Callable[[str], str]) -> pa.Table:
    """One row per question, so that any two runs can be paired later; who asks as keyed hashes."""
    rows = np.arange(0, len(queries), -(-len(queries) // MAX_USERS))
    return pa.table(
        {
            "question": rows,
            USER_ID: pa.array([pseudonym(queries.askers[row]) for row in rows]),
            "num_history": np.diff(queries.history.offsets)[rows],
            "num_targets": np.array([len(queries.targets[row]) for row in rows]),
            **{name: values[rows] for name, values in report.per_query.items()},
        }
    )


def recall_by_popularity(reports: Reports, counts: Ints) -> Figure:
    """Recall at 10 per decile of the items by how often they occur in training (10: the most popular tenth)."""
    figure, axis = _figure((8, 4.5))
    deciles = np.array_split(np.argsort(counts, kind="stable"), 10)
    for name, report in reports.items():
        wanted = np.array([report.relevant[items].sum() for items in deciles])
        hits = np.array([report.hits[items].sum() for items in deciles])
        axis.plot(range(1, 11), hits / np.maximum(wanted, 1), marker="o", label=name)
    axis.set(
        xlabel="decile of items by popularity (10: most popular)", ylabel="share of wanted items in the top 10", xticks=range(1, 11)
    )
    axis.set_title("Recall at 10 by popularity of the wanted item")
    axis.legend(fontsize=8)
    return figure


def gains_over_floors(found: Mapping[str, Interval]) -> Figure:
    """The paired intervals: what lies right of zero is beaten."""
    figure, axis = _figure((8, 0.5 * len(found) + 1.8))
    for place, (mean, lo, hi) in enumerate(found.values()):
        axis.errorbar(mean, place, xerr=[[mean - lo], [hi - mean]], fmt="o", color="tab:blue" if lo > 0 else "tab:red", capsize=4)
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set(yticks=range(len(found)), yticklabels=list(found), xlabel="paired gain in ndcg_at_10, 95 % interval over users")
    axis.set_title("The recommender against each floor")
    return figure


def ndcg_by_history(reports: Reports, queries: Queries) -> Figure:
    """How much of the quality is owed to users who are well known."""
    figure, axis = _figure((8, 4.5))
    bucket = np.searchsorted(HISTORY_BUCKETS, np.diff(queries.history.offsets), side="right")
    present = np.unique(bucket)
    for name, report in reports.items():
        axis.plot(
            range(len(present)), [report.per_query["ndcg_at_10"][bucket == one].mean() for one in present], marker="o", label=name
        )
    lower = (0, *HISTORY_BUCKETS)
    axis.set(xlabel="acts in the history, at least (questions)", ylabel="ndcg_at_10", xticks=range(len(present)))
    axis.set_xticklabels([f"{lower[one]} ({np.count_nonzero(bucket == one)})" for one in present])
    axis.set_title("Quality by length of history")
    axis.legend(fontsize=8)
    return figure


def table(reports: Mapping[str, Mapping[str, float]]) -> str:
    """Model and baselines side by side, in Markdown."""
    return comparison(reports, RANKING)


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()
