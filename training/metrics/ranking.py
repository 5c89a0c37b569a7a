"""Ranking metrics against the whole catalogue; a query has one or more relevant items (next item, or next basket).

Ties are counted against the model: an item that scores the same as a relevant one is taken to stand before it, so a constant
score earns nothing (Krichene & Rendle 2020 on sampled metrics; Ji et al. 2023 on protocols).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MISS = np.iinfo(np.int64).max
"""Rank of a relevant item that cannot be recommended: unknown to the catalogue or filtered out."""


def worst_ranks(scores: NDArray[np.floating], targets: Sequence[Ints]) -> list[Ints]:
    """Ranks, from 1, of each query's relevant items when ties are counted against them.

    Args:
        scores: (queries, items); `-inf` marks an item that may not be recommended.
        targets: per query, the relevant items as distinct indices into the second axis; -1: not in the catalogue.

    Returns:
        Per query, its ranks in ascending order; `MISS` where an item cannot be recommended.

    Raises:
        ValueError: a score is NaN, or `scores` and `targets` differ in length.
    """
    if len(scores) != len(targets):
        raise ValueError(f"{len(scores)} rows of scores for {len(targets)} queries")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: no order is defined")
    return [_worst_ranks(row, wanted) for row, wanted in zip(scores, targets, strict=True)]


def _worst_ranks(scores: NDArray[np.floating], wanted: Ints) -> Ints:
    found = wanted[wanted >= 0]
    own = scores[found]
    own = np.sort(own[np.isfinite(own)])[::-1]
    ranks = np.full(len(wanted), MISS)
    if len(own):
        # Every competitor at least as good stands before a relevant item; the relevant ones stand among themselves in order.
        at_least = np.array([np.count_nonzero(scores >= value) for value in own])
        own_at_least = np.searchsorted(-own, -own, side="right")
        ranks[: len(own)] = at_least - own_at_least + np.arange(1, len(own) + 1)
    return ranks


def ndcg_at(ranks: Ints, k: int) -> float:
    """Normalised discounted cumulative gain with binary relevance (Jarvelin & Kekalainen 2002), 0 to 1."""
    ideal = (1 / np.log2(np.arange(2, min(len(ranks), k) + 2))).sum()
    return float((1 / np.log2(ranks[ranks <= k] + 1.0)).sum() / ideal)


def recall_at(ranks: Ints, k: int) -> float:
    """Share of the relevant items among the first k; equals the hit rate where there is one relevant item."""
    return float((ranks <= k).mean())


def mrr_at(ranks: Ints, k: int) -> float:
    """Reciprocal rank of the first relevant item, 0 beyond k."""
    return float(1 / ranks[0]) if ranks[0] <= k else 0.0


def top_k(scores: NDArray[np.floating], k: int) -> Ints:
    """Indices of the k best items of each row, best first, equal scores by index -> (queries, min(k, items)).

    The order is stable: the same scores give the same list on every machine.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), dtype=np.int64)
    threshold = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    best = np.empty((len(scores), k), dtype=np.int64)
    for row, (values, least) in enumerate(zip(scores, threshold, strict=True)):
        candidates = np.flatnonzero(values >= least)  # ascending indices, so a stable sort breaks ties by index
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")][:k]
    return best


@dataclass(frozen=True)
class RankingReport:
    """Per-query metrics, in the order of the queries, and what the top-10 lists showed."""

    ndcg_at_10: Floats
    recall_at_10: Floats
    mrr_at_20: Floats
    lists: Ints
    """(queries, 10) items shown, best first; -1 where a list is shorter."""
    hits: Ints
    """(items,) in how many lists each item was and was wanted."""
    relevant: Ints
    """(items,) by how many queries each item was wanted."""

    @property
    def per_query(self) -> dict[str, Floats]:
        """Metric -> its value for each query, (queries,)."""
        return {"ndcg_at_10": self.ndcg_at_10, "recall_at_10": self.recall_at_10, "mrr_at_20": self.mrr_at_20}

    @property
    def means(self) -> dict[str, float]:
        """Metric -> its mean over the queries, and `coverage_at_10`: the share of the catalogue that some list shows."""
        means = {name: float(values.mean()) for name, values in self.per_query.items()}
        return {**means, "coverage_at_10": coverage_interval(self.lists, len(self.relevant))[0]}


def coverage_interval(lists: Ints, num_items: int) -> tuple[float, float, float]:
    """Share of the catalogue that at least one list shows, and its 95 % interval `(share, lo, hi)`.

    By the jackknife over queries (Efron & Stein 1981): a bootstrap would see only 63 % of the lists, and so a smaller share.
    """
    flat = lists[lists >= 0]
    times = np.bincount(flat, minlength=num_items)
    share = float((times > 0).mean())
    alone = ((lists >= 0) & (times[lists] == 1)).sum(axis=1) / num_items  # what the catalogue loses without this query
    n = len(lists)
    error = 1.96 * float(np.sqrt((n - 1) / n * ((alone - alone.mean()) ** 2).sum()))
    return share, max(0.0, share - error), min(1.0, share + error)


def report(batches: Iterable[tuple[NDArray[np.floating], Sequence[Ints]]], num_items: int) -> RankingReport:
    """Metrics of all queries, streamed: `batches` yields `(scores, targets)` as `worst_ranks` takes them.

    Raises:
        ValueError: there is no query, or a query without a relevant item.
    """
    ndcg: list[float] = []
    recall: list[float] = []
    mrr: list[float] = []
    lists: list[Ints] = []
    hits, relevant = np.zeros(num_items, dtype=np.int64), np.zeros(num_items, dtype=np.int64)
    for scores, targets in batches:
        if not all(len(wanted) for wanted in targets):
            raise ValueError("a query without a relevant item cannot be scored")
        for ranks in worst_ranks(scores, targets):
            ndcg.append(ndcg_at(ranks, 10))
            recall.append(recall_at(ranks, 10))
            mrr.append(mrr_at(ranks, 20))
        best = top_k(scores, 10)
        best[np.take_along_axis(scores, best, axis=1) == -np.inf] = -1
        lists.append(best)
        for row, wanted in zip(best, targets, strict=True):
            known = wanted[wanted >= 0]
            relevant[known] += 1
            hits[known[np.isin(known, row)]] += 1
    if not ndcg:
        raise ValueError("there is no query to score")
    return RankingReport(np.array(ndcg), np.array(recall), np.array(mrr), np.concatenate(lists), hits, relevant)
