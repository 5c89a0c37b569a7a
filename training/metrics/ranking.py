"""Ranking metrics against the whole catalogue; a query has one or more relevant items (next item, or next basket).

Ties are counted against the model: an item that scores the same as a relevant one is taken to stand before it, so a constant
score earns nothing (Krichene & Rendle 2020 on sampled metrics; Ji et al. 2023 on protocols).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = NDArray[np.floating]
Ints = NDArray[np.int64]

_GROUP = 64
"""Neighbouring items whose best score is looked at before theirs, when the best of all are wanted."""
MISS = np.iinfo(np.int64).max
"""Rank of a relevant item that cannot be recommended: unknown to the catalogue or filtered out."""


def worst_ranks(scores: Scores, targets: Sequence[Ints]) -> Ints:
    """Ranks, from 1, of each query's relevant items when ties are counted against them.

    Args:
        scores: (queries, items); `-inf` marks an item that may not be recommended.
        targets: per query, the relevant items as distinct indices into the second axis; -1: not in the catalogue.

    Returns:
        (queries, most targets), each row ascending; `MISS` where an item cannot be recommended and where a query has fewer.

    Raises:
        ValueError: a score is NaN, or `scores` and `targets` differ in length.
    """
    if len(scores) != len(targets):
        raise ValueError(f"{len(scores)} rows of scores for {len(targets)} queries")
    if scores.size and torch.from_numpy(scores).amax().isnan():  # the largest of some is NaN where one of them is
        raise ValueError("scores hold NaN: no order is defined")
    counts = num_targets(targets)
    queries, items = _flat(targets)
    own = np.where(items >= 0, scores[queries, items], -np.inf).astype(scores.dtype)
    order = np.lexsort((-own, queries))  # a query's relevant items, the best first
    own = own[order]
    is_last = np.ones(len(own), dtype=np.bool_)  # of a query's relevant items with one score
    is_last[:-1] = (queries[1:] != queries[:-1]) | (own[1:] != own[:-1])
    last = np.flatnonzero(is_last)[np.cumsum(is_last) - is_last]
    is_wanted = np.arange(counts.max(initial=0)) < counts[:, None]
    found, wanted = np.zeros(is_wanted.shape, dtype=np.int64), np.zeros(is_wanted.shape, dtype=own.dtype)
    wanted[is_wanted] = own
    for place in range(is_wanted.shape[1]):
        rows = np.flatnonzero(is_wanted[:, place])
        found[rows, place] = _num_at_least(scores if len(rows) == len(scores) else scores[rows], wanted[rows, place])
    # Every competitor at least as good stands before a relevant item; the relevant ones stand among themselves in order.
    ranks = np.full(is_wanted.shape, MISS)
    ranks[is_wanted] = np.where(np.isneginf(own), MISS, found[is_wanted] - last + np.arange(len(own)))
    return ranks


def num_targets(targets: Sequence[Ints]) -> Ints:
    """(queries,) how many items each query wants."""
    return np.fromiter(map(len, targets), np.int64, len(targets))


def _flat(targets: Sequence[Ints]) -> tuple[Ints, Ints]:
    """All relevant items as one array, beside the query of each."""
    return np.repeat(np.arange(len(targets)), num_targets(targets)), np.concatenate([np.empty(0, dtype=np.int64), *targets])


def _num_at_least(scores: Scores, values: Scores) -> Ints:
    """(queries,) how many scores of each row are not below the value beside it."""
    matrix, bounds = torch.from_numpy(np.ascontiguousarray(scores)), torch.from_numpy(values)
    # Ones that are added up as floats are counted five times faster than truths, and exactly up to 2**24 of them
    ones = torch.ge(matrix, bounds[:, None], out=torch.empty(matrix.shape))
    found: Ints = ones.sum(dim=1).long().numpy()
    return found


def ndcg_at(ranks: Ints, counts: Ints, k: int) -> Floats:
    """Normalised discounted cumulative gain with binary relevance (Jarvelin & Kekalainen 2002) of each query, 0 to 1.

    Args:
        ranks: as `worst_ranks` gives them.
        counts: (queries,) relevant items of each query, at least one.
    """
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    gain: Floats = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0).sum(axis=1) / ideal[np.minimum(counts, k) - 1]
    return gain


def recall_at(ranks: Ints, counts: Ints, k: int) -> Floats:
    """Share of each query's relevant items among the first k; the hit rate where there is one. Arguments as of `ndcg_at`."""
    share: Floats = (ranks <= k).sum(axis=1) / counts
    return share


def mrr_at(ranks: Ints, k: int) -> Floats:
    """Reciprocal rank of each query's first relevant item, 0 beyond k."""
    reciprocal: Floats = np.where(ranks[:, 0] <= k, 1.0 / ranks[:, 0], 0.0)
    return reciprocal


def top_k(scores: Scores, k: int) -> Ints:
    """Indices of the k best items of each row, best first, equal scores by index -> (queries, min(k, items)).

    The order is stable: the same scores give the same list on every machine.

    Raises:
        ValueError: k is negative.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    k = min(k, scores.shape[1])
    if k == 0 or not len(scores):
        return np.empty((len(scores), k), dtype=np.int64)
    matrix = torch.from_numpy(np.ascontiguousarray(scores))
    # The k best lie in the k groups of the best maxima, which one pass finds, or in what is left over at the end.
    groups = scores.shape[1] // _GROUP
    maxima = matrix[:, : groups * _GROUP].reshape(len(scores), groups, _GROUP).amax(dim=2)
    inside = torch.topk(maxima, min(k, groups), dim=1).indices[:, :, None] * _GROUP + torch.arange(_GROUP)
    over = torch.arange(groups * _GROUP, scores.shape[1]).expand(len(scores), -1)
    columns = torch.cat([inside.flatten(1), over], dim=1)
    among = matrix.gather(1, columns)
    values, places = torch.topk(among, k, dim=1)
    last, found = values[:, -1:], columns.gather(1, places).numpy()
    best = np.take_along_axis(found, np.lexsort((found, -values.numpy()), axis=1), axis=1)
    # Of items with the score of the last place, others may be meant than those that were found.
    is_tied = ((maxima >= last).sum(dim=1) > k) | ((among >= last).sum(dim=1) > k)
    above = (values > last).sum(dim=1).tolist()
    for row in is_tied.nonzero().flatten().tolist():
        best[row, above[row] :] = np.flatnonzero(scores[row] == last[row].numpy())[: k - above[row]]
    return best


PER_QUERY: Mapping[str, Callable[[Ints, Ints], Floats]] = {
    "ndcg_at_10": lambda ranks, counts: ndcg_at(ranks, counts, 10),
    "recall_at_10": lambda ranks, counts: recall_at(ranks, counts, 10),
    "recall_at_20": lambda ranks, counts: recall_at(ranks, counts, 20),
    "mrr_at_20": lambda ranks, counts: mrr_at(ranks, 20),  # noqa: ARG005 - the first relevant item counts, however many there are
}
"""Metrics that each query has a value of: name -> function of ranks and counts as `ndcg_at` takes them."""


@dataclass(frozen=True)
class RankingReport:
    """Per-query metrics, in the order of the queries, and what the top-10 lists showed."""

    per_query: Mapping[str, Floats]
    """Metric -> its value for each query, (queries,)."""
    lists: Ints
    """(queries, 10) items shown, best first; -1 where a list is shorter."""
    hits: Ints
    """(items,) in how many lists each item was and was wanted."""
    relevant: Ints
    """(items,) by how many queries each item was wanted."""

    @property
    def means(self) -> dict[str, float]:
        """Metric -> its mean over the queries, and `coverage_at_10`: the share of the catalogue that some list shows."""
        means = {name: float(values.mean()) for name, values in self.per_query.items()}
        return {**means, "coverage_at_10": coverage_interval(self.lists, len(self.relevant))[0]}

    def reordered(self, order: Ints) -> RankingReport:
        """The same with queries `order` of this one in that order."""
        return replace(self, per_query={name: values[order] for name, values in self.per_query.items()}, lists=self.lists[order])


def coverage_interval(lists: Ints, num_items: int, owners: Ints | None = None) -> tuple[float, float, float]:
    """Share of the catalogue that at least one list shows, and its 95 % interval `(share, lo, hi)`.

    By the jackknife over those who ask (Efron & Stein 1981): a bootstrap would see only 63 % of the lists, and so a smaller share.

    Args:
        owners: (queries,) a number from 0 for who asks; None: each query is of its own.
    """
    owners = np.arange(len(lists)) if owners is None else owners
    is_shown = lists >= 0
    pairs = np.unique((owners[:, None] * num_items + lists)[is_shown])
    items = pairs % num_items
    times = np.bincount(items, minlength=num_items)  # by how many it is seen
    share = float((times > 0).mean())
    present = np.unique(owners)
    lost = np.bincount(pairs[times[items] == 1] // num_items, minlength=int(present[-1]) + 1)
    alone = lost[present] / num_items  # what the catalogue loses without this one
    n = len(present)
    error = 1.96 * float(np.sqrt((n - 1) / n * ((alone - alone.mean()) ** 2).sum()))
    return share, max(0.0, share - error), min(1.0, share + error)


def novelty_at_10(lists: Ints, counts: Ints) -> Floats:
    """Bits of surprise of each list: the mean of -log2 of its items' shares of all acts (Zhou et al. 2010), (queries,).

    Args:
        lists: (queries, 10) as a `RankingReport` has them; an empty list is no surprise.
        counts: (items,) acts on each item in training; an item without one counts as half an act.
    """
    bits = -np.log2(np.maximum(counts, 0.5) / max(1, counts.sum()))
    shown = lists >= 0
    novelty: Floats = np.where(shown, bits[lists], 0.0).sum(axis=1) / np.maximum(1, shown.sum(axis=1))
    return novelty


def report(batches: Iterable[tuple[Scores, Sequence[Ints]]], num_items: int) -> RankingReport:
    """Metrics of all queries, streamed: `batches` yields `(scores, targets)` as `worst_ranks` takes them.

    Raises:
        ValueError: there is no query, or a query without a relevant item.
    """
    kept: dict[str, list[Floats]] = {name: [] for name in PER_QUERY}
    lists: list[Ints] = []
    hits, relevant = np.zeros(num_items, dtype=np.int64), np.zeros(num_items, dtype=np.int64)
    for scores, targets in batches:
        counts = num_targets(targets)
        if not counts.all():
            raise ValueError("a query without a relevant item cannot be scored")
        ranks = worst_ranks(scores, targets)
        for name, metric in PER_QUERY.items():
            kept[name].append(metric(ranks, counts))
        best = top_k(scores, 10)
        best[np.take_along_axis(scores, best, axis=1) == -np.inf] = -1
        lists.append(best)
        queries, wanted = _flat(targets)
        is_shown = (best[queries] == wanted[:, None]).any(axis=1)
        for count, items in ((relevant, wanted), (hits, wanted[is_shown])):
            count += np.bincount(items[items >= 0], minlength=num_items)
    if not sum(map(len, lists)):
        raise ValueError("there is no query to score")
    return RankingReport({name: np.concatenate(parts) for name, parts in kept.items()}, np.concatenate(lists), hits, relevant)
