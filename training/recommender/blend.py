"""How much each source counts: the blend that ranks best on the validation part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.metrics.ranking import ndcg_at, num_targets, worst_ranks
from training.recommender.data import Queries
from training.recommender.model import Recommender
from training.recommender.sources import NEAR, NETWORK, blended

Ints = NDArray[np.int64]

STEPS = 10
"""Weights are chosen in tenths."""


def fit_weights(
    recommender: Recommender, queries: Queries, users: Ints, names: tuple[str, ...] = (NETWORK, NEAR)
) -> dict[str, float]:
    """Weight of each source: of all in tenths that add up to 1 those with the best mean ndcg_at_10 over these users of `queries`.

    Memory is bounded by a few times 16 M shares. Users whose history is empty are not asked.
    """
    equal = replace(recommender, weights=dict.fromkeys(names, 1.0))
    grid = list(_tenths(len(names)))
    gains = np.zeros(len(grid))
    asked = np.array([user for user in users if queries.history.of(user).stop > queries.history.of(user).start], dtype=np.int64)
    step = max(1, 16_000_000 // len(recommender.encoder.items))
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        shares = equal.sources(*queries.history.served(some))
        targets = [queries.targets[user] for user in some]
        counts = num_targets(targets)
        for place, tenths in enumerate(grid):
            mixed = blended(shares, dict(zip(names, tenths, strict=True)))
            gains[place] += ndcg_at(worst_ranks(mixed, targets), counts, 10).sum()
    best = grid[int(np.argmax(gains))]
    return {name: tenth / STEPS for name, tenth in zip(names, best, strict=True)}


def _tenths(sources: int, left: int = STEPS) -> Iterator[tuple[int, ...]]:
    """All ways to give out so many tenths; those with most for the first source come first, so it wins what is equal."""
    if sources == 1:
        yield (left,)
        return
    for first in range(left, -1, -1):
        yield from ((first, *others) for others in _tenths(sources - 1, left - first))
