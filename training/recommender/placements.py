"""What the rules behind the placements are worth on the validation part, beside floors that only count: how high what was bought stands.

`buy_again`: of what somebody bought before, what is bought again within the horizon. `bought_together`: of one session's purchases, the
others, given one of them or three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from features.columns import EVENT_TIMESTAMP
from training.metrics.comparison import cell
from training.metrics.intervals import mean_interval, paired_interval
from training.metrics.ranking import ndcg_at, num_targets, worst_ranks
from training.recommender.again import HORIZON_DAYS
from training.recommender.bought import Pairs, baskets_of, bought_of, purchases_of
from training.recommender.encoder import Encoder
from training.recommender.purchases import Purchases, held_by
from training.splits import Split

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_QUESTIONS = 5_000
_CELLS = 4_000_000
"""Scores held at once."""
RULE = "rule"
"""The name of our own rule beside those of the floors."""


@dataclass(frozen=True)
class Judged:
    """ndcg_at_10 of each question, by rule; ours is `RULE`, the others are floors."""

    placement: str
    per_question: Mapping[str, Floats]

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """One row per rule: mean with its 95 % interval, and for floors our paired gain over them."""
        ours = self.per_question[RULE]
        for rule, values in self.per_question.items():
            row: dict[str, Any] = {"placement": self.placement, "rule": rule, "num_questions": len(values)}
            row |= dict(zip(("ndcg_at_10", "ndcg_at_10_lo", "ndcg_at_10_hi"), mean_interval(values, seed), strict=True))
            if rule != RULE:
                row |= dict(zip(("gain", "gain_lo", "gain_hi"), paired_interval(ours, values, seed), strict=True))
            yield row


def judge(parts: Split, encoder: Encoder, zone: str, seed: int) -> list[Judged]:
    """Both rules, learned from the training part; a placement of which the validation part asks nothing is left out.

    Args:
        encoder: of the training part.
        zone: the shop's time zone.
    """
    before, after = purchases_of(parts.train), purchases_of(parts.refit)
    if not before.num_rows:
        return []
    after = after.filter(pc.greater(after[EVENT_TIMESTAMP], pc.max(before[EVENT_TIMESTAMP]))).combine_chunks()
    learned = Purchases.learn(parts.train, encoder, zone)
    held = held_by(*baskets_of(before, encoder), len(encoder.items))
    common, baskets = (held.T @ held).tocsr(), baskets_of(after, encoder)
    found = [
        _again(learned, before, after, encoder, zone),
        *(_together(learned, size, common, baskets, seed) for size in (1, 3)),
    ]
    return [judged for judged in found if len(judged.per_question[RULE])]


def section(judged: list[Judged], seed: int) -> str:
    """Of a model card: all of it in Markdown."""
    if not judged:
        return "\n\nPlacements: nothing was learned of what is bought together and again, or nothing could be asked of it."
    return f"\n\nPlacements that answer from purchases, on the validation part:\n\n{table(judged, seed)}"


def table(judged: list[Judged], seed: int) -> str:
    """One line per placement and rule."""
    lines = ["| placement | questions | rule | ndcg_at_10 | gain over it, paired |", "|---|---|---|---|---|"]
    for row in (row for one in judged for row in one.rows(seed)):
        cells = [cell(row, name) if name in row else "" for name in ("ndcg_at_10", "gain")]
        lines.append(f"| {row['placement']} | {row['num_questions']} | {row['rule']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _again(learned: Purchases, before: pa.Table, after: pa.Table, encoder: Encoder, zone: str) -> Judged:
    """Floors: the latest first, the most often bought first; what is equal by the other, then by the item's buyers."""
    joined = bought_of(pa.concat_tables([before, after]), encoder, zone)  # one numbering of the users
    day = int(bought_of(before, encoder, zone).days.max(initial=-1)) + 1
    pairs = joined.before(day).pairs
    is_bought = pairs.in_(joined.within(day, day + HORIZON_DAYS))
    asked = np.unique(pairs.users[is_bought])
    asked = asked[:: max(1, -(-len(asked) // MOST_QUESTIONS))]
    kept = np.isin(pairs.users, asked)
    pairs, is_bought = Pairs(*(values[kept] for values in vars(pairs).values())), is_bought[kept]
    buyers = learned.again.habits.buyers[pairs.items]
    offers = learned.again.chances(pairs, day)
    rules = {
        RULE: np.where(offers > 0, offers, -np.inf),
        "recency": _ordered(pairs.last, pairs.counts, buyers),
        "frequency": _ordered(pairs.counts, pairs.last, buyers),
    }
    rows = np.searchsorted(asked, pairs.users)
    targets = np.split(pairs.items[is_bought], np.searchsorted(rows[is_bought], np.arange(1, len(asked))))  # rows ascend
    targets = targets[: len(asked)]  # of nothing `split` makes one part

    def scores(values: Floats) -> Callable[[Ints], Floats]:
        def of(some: Ints) -> Floats:
            found = np.full((len(some), len(encoder.items)), -np.inf)
            mine = (rows >= some[0]) & (rows <= some[-1])
            found[rows[mine] - some[0], pairs.items[mine]] = values[mine]
            return found

        return of

    return Judged("buy_again", {name: _ndcg(scores(values), targets, len(encoder.items)) for name, values in rules.items()})


def _together(learned: Purchases, size: int, common: sparse.csr_array, after: tuple[Ints, Ints], seed: int) -> Judged:
    """Floors: what is bought most, and what was in most baskets with the items.

    Args:
        common: (items, items) baskets that hold both, learned from.
        after: (basket, item) of those that are asked about.
    """
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(np.diff(after[0], prepend=-1))
    baskets = [part for part in np.split(after[1], starts[1:]) if len(part) > size]
    baskets = [rng.permutation(part) for part in baskets[:: max(1, -(-len(baskets) // MOST_QUESTIONS))]]
    given, targets = [part[:size] for part in baskets], [part[size:] for part in baskets]
    popular, num_items = common.diagonal(), common.shape[0]

    def scores(rule: str) -> Callable[[Ints], Floats]:
        def of(some: Ints) -> Floats:
            asked = [given[row] for row in some]
            if rule == RULE:
                found = learned.together.scores(asked).astype(np.float64)
            elif rule == "popularity":
                found = np.tile(popular, (len(some), 1))
            else:
                found = np.stack([np.asarray(common[items].sum(axis=0)).ravel() for items in asked])
            for row, items in enumerate(asked):
                found[row, items] = -np.inf
            return found

        return of

    name = "bought_together" if size == 1 else f"bought_together, basket of {size}"
    return Judged(name, {rule: _ndcg(scores(rule), targets, num_items) for rule in (RULE, "popularity", "common baskets")})


def _ordered(*keys: NDArray[np.generic]) -> Floats:
    """(n,) a score that orders by the first key, then by the next."""
    order = np.lexsort(keys[::-1])
    same = np.ones(len(order), dtype=np.bool_)
    same[:1] = False
    for key in keys:
        same[1:] &= key[order][1:] == key[order][:-1]
    scores = np.empty(len(order))
    scores[order] = np.cumsum(~same)
    return scores


def _ndcg(scores: Callable[[Ints], Floats], targets: list[Ints], num_items: int) -> Floats:
    step = max(1, _CELLS // num_items)
    parts = [np.zeros(0)]
    for start in range(0, len(targets), step):
        some = np.arange(start, min(start + step, len(targets)))
        wanted = [targets[row] for row in some]
        parts.append(ndcg_at(worst_ranks(scores(some), wanted), num_targets(wanted), 10))
    return np.concatenate(parts)
