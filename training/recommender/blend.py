"""How much each source counts: the blend that ranks best on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.metrics.ranking import ndcg_at, num_targets, top_k, worst_ranks
from training.recommender.data import Queries
from training.recommender.model import Recommender
from training.recommender.names import NETWORK, POPULAR
from training.recommender.sources import Floats, Ints

STEPS = 20
"""Sources are drawn that often at most: weights are parts of a whole of up to twenty."""
_KEPT = 100
"""Items of each source that are weighed against each other: what is beyond them all is hardly among the first ten of a blend."""
_SHARES = 16_000_000
"""Shares of one source that are held at a time."""


@dataclass(frozen=True)
class _Field:
    """Of each query, the items that any source has among its best, and those that were wanted."""

    shares: dict[str, Floats]
    """Source -> (queries, places) its share of each, -1 at places that stand for nothing."""
    targets: list[Ints]
    """Per query, the places of the wanted items; -1: not in the catalogue."""

    def ndcg(self, shares: Floats) -> float:
        """Mean ndcg_at_10 of a blend."""
        return float(ndcg_at(worst_ranks(shares, self.targets), num_targets(self.targets), 10).mean())


def fit_weights(recommender: Recommender, queries: Queries, users: Ints) -> dict[str, float]:
    """Weight of each source, together 1, that rank best by mean ndcg_at_10 over these users of `queries`.

    Ensemble selection (Caruana et al. 2004): from nothing, again and again the source is added, with replacement, with which the blend
    ranks best; of all blends on the way the best one stands, the shortest of equal ones. So it ranks there no worse than any source alone,
    and the number of sources hardly matters, as it would to a grid. Users whose history is empty are not asked.
    """
    every = (NETWORK, *recommender.counted, POPULAR)
    asked = users[np.diff(queries.history.offsets)[users] > 0]
    if not len(asked):
        return dict.fromkeys(every, 0.0) | {NETWORK: 1.0}
    field = _field(replace(recommender, weights=dict.fromkeys(every, 1.0)), queries, asked)
    # Drawing one that says nothing would leave the blend as it is, and be best wherever every other makes it worse.
    names = [name for name in every if (field.shares[name] > 0).any()]
    drawn: list[str] = []
    blends: list[float] = []
    total = np.zeros_like(field.shares[NETWORK])
    for _ in range(STEPS):
        found = {name: field.ndcg(total + field.shares[name]) for name in names}
        drawn.append(max(found, key=lambda name: found[name]))
        blends.append(found[drawn[-1]])
        total += field.shares[drawn[-1]]
    best = drawn[: int(np.argmax(blends)) + 1]
    return {name: round(best.count(name) / len(best), 4) for name in every}


def _field(recommender: Recommender, queries: Queries, users: Ints) -> _Field:
    parts = []
    most = max(len(queries.targets[user]) for user in users)
    step = max(1, _SHARES // len(recommender.encoder.items))
    for start in range(0, len(users), step):
        some = users[start : start + step]
        parts.append(_kept(recommender.sources(*queries.history.served(some)), [queries.targets[user] for user in some], most))
    shares = {name: np.concatenate([part.shares[name] for part in parts]) for name in parts[0].shares}
    return _Field(shares, [wanted for part in parts for wanted in part.targets])


def _kept(shares: dict[str, Floats], targets: Sequence[Ints], most: int) -> _Field:
    wanted = np.stack([np.pad(items, (0, most - len(items)), constant_values=-1) for items in targets])
    columns = np.concatenate([wanted, *(top_k(share, _KEPT) for share in shares.values())], axis=1)
    order = np.argsort(columns, axis=1, kind="stable")  # a wanted item is the first of its like
    ascending = np.take_along_axis(columns, order, axis=1)
    is_again = np.zeros(columns.shape, dtype=np.bool_)
    np.put_along_axis(is_again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], axis=1)
    is_void: NDArray[np.bool_] = is_again | (columns < 0)
    kept = {
        name: np.where(is_void, np.float32(-1), np.take_along_axis(share, np.maximum(columns, 0), axis=1))
        for name, share in shares.items()
    }
    return _Field(kept, [np.where(items >= 0, np.arange(len(items)), -1) for items in targets])
