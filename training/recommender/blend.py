"""How much each source counts: the blend that ranks best on the validation part."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from training.metrics.ranking import ndcg_at, num_targets, worst_ranks
from training.recommender.data import Queries
from training.recommender.model import Recommender
from training.recommender.sources import NETWORK, blended

Ints = NDArray[np.int64]

STEPS = 10
"""Weights are chosen in tenths."""


def fit_weights(recommender: Recommender, queries: Queries, users: Ints) -> dict[str, float]:
    """Weight of each source: those tenths that add up to 1 with the best mean ndcg_at_10 over these users of `queries`.

    Of equal ones those with most for the network win. Memory is bounded by a few times 16 M shares. Users whose history is empty are not
    asked.
    """
    names = (NETWORK, *recommender.counted)
    equal = replace(recommender, weights=dict.fromkeys(names, 1.0))
    grid = [dict(zip(names, tenths, strict=True)) for tenths in _splits(len(names))]
    gains = np.zeros(len(grid))
    asked = users[np.diff(queries.history.offsets)[users] > 0]
    step = max(1, 16_000_000 // len(recommender.encoder.items))
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        shares = equal.sources(*queries.history.served(some))
        targets = [queries.targets[user] for user in some]
        counts = num_targets(targets)
        for place, tenths in enumerate(grid):
            gains[place] += ndcg_at(worst_ranks(blended(shares, tenths), targets), counts, 10).sum()
    return {name: tenth / STEPS for name, tenth in grid[int(np.argmax(gains))].items()}


def _splits(parts: int) -> list[tuple[int, ...]]:
    """Every way to split STEPS among so many, those that give most to the first ones first."""
    bars = combinations(range(STEPS + parts - 1), parts - 1)  # stars and bars
    found = [np.diff((-1, *places, STEPS + parts - 1)) - 1 for places in bars]
    return sorted((tuple(map(int, split)) for split in found), reverse=True)
