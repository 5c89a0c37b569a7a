"""What the first stage gives: the items of the largest shares, and by which source how much; training and serving ask for it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics.ranking import top_k
from training.recommender import names
from training.recommender.model import Recommender

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RETRIEVAL = "retrieval"
"""The blend of the sources, as the recommender orders by it."""
SOURCES = (*names.SOURCES, RETRIEVAL)
NUM_CANDIDATES = 200
_SPARE = 64
"""Items that are looked at beyond those that are wanted, for some of the best may not be shown."""


@dataclass(frozen=True)
class Retrieved:
    """The candidates of each history, best first: R rows, those of one history after those of another."""

    history: Ints
    """(R,) which history."""
    item: Ints
    """(R,) index into the recommender's catalogue."""
    rank: Ints
    """(R,) place from 0 among all of the catalogue, whatever is allowed, so that a filter changes no chance; the last one is also that
    of all that come after it, which no ranker has learned from."""
    shares: dict[str, Floats]
    """Source -> (R,) log of its share, NaN where it gives none."""


def retrieve(
    recommender: Recommender,
    items: Sequence[Ints],
    events: Sequence[Ints],
    allowed: NDArray[np.bool_] | None = None,
    most: int = NUM_CANDIDATES,
) -> Retrieved:
    """The `most` items of the largest shares for each history, or all where there are fewer.

    Args:
        items, events: per history, oldest first, what the recommender's encoder reads.
        allowed: (histories, items) of the catalogue, False: no candidate; None: all are.

    Raises:
        ValueError: what the recommender gives are no numbers.
    """
    shares = retrieval_shares(recommender, items, events)
    whole = shares[RETRIEVAL]
    first = top_k(whole, max(most, NUM_CANDIDATES) + (_SPARE if allowed is not None else 0))
    places = np.full(whole.shape[1], min(NUM_CANDIDATES, whole.shape[1]) - 1)
    best, ranks = [], []
    for row, of_row in enumerate(first):
        chosen = (of_row if allowed is None else of_row[allowed[row, of_row]])[:most]
        if allowed is not None and len(chosen) < most and len(of_row) < whole.shape[1]:
            open_ = np.where(allowed[row], whole[row], np.float32(-np.inf))[None]
            chosen = top_k(open_, most)[0]
            chosen = chosen[open_[0, chosen] > -np.inf]
        ranked = of_row[:NUM_CANDIDATES]
        places[ranked] = np.arange(len(ranked))
        best.append(chosen)
        ranks.append(places[chosen])
        places[ranked] = len(ranked) - 1
    history = np.repeat(np.arange(len(best)), [len(chosen) for chosen in best])
    item, rank = (np.concatenate([np.empty(0, dtype=np.int64), *parts]) for parts in (best, ranks))
    if np.isnan(whole[history, item]).any():
        raise ValueError("the recommender gives shares that are no numbers; train it again.")
    logs = {name: log_shares(share[history, item]) for name, share in shares.items()}
    return Retrieved(history, item, rank, {name: logs.get(name, np.full(len(item), np.nan)) for name in SOURCES})


def retrieval_shares(recommender: Recommender, items: Sequence[Ints], events: Sequence[Ints]) -> dict[str, NDArray[np.float32]]:
    """Share of every item of the catalogue, (histories, items), by each source of weight and by their blend.

    Args:
        items, events: as of `retrieve`; where one is empty, the sources say 0 and the blend is popularity.
    """
    sources, whole = recommender.shares_by_source(items, events)
    return {**sources, RETRIEVAL: whole}


def log_shares(shares: NDArray[np.float32]) -> Floats:
    """Logs of shares, NaN where there is none."""
    with np.errstate(divide="ignore"):
        logs = np.log(shares.astype(np.float64))
    return np.where(np.isfinite(logs), logs, np.nan)
