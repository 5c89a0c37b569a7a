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
    """
    shares = retrieval_shares(recommender, items, events)
    whole = shares[RETRIEVAL]
    first = best = top_k(whole, NUM_CANDIDATES)
    is_open = np.ones(best.shape, dtype=np.bool_)
    if allowed is not None or most != NUM_CANDIDATES:
        scores = whole if allowed is None else np.where(allowed, whole, np.float32(-np.inf))
        best = top_k(scores, most)
        is_open = np.take_along_axis(scores, best, axis=1) > -np.inf
    places = np.full(whole.shape[1], first.shape[1] - 1)
    ranks = np.empty(best.shape, dtype=np.int64)
    for row, items_of_row in enumerate(first):
        places[items_of_row] = np.arange(len(items_of_row))
        ranks[row] = places[best[row]]
        places[items_of_row] = first.shape[1] - 1
    history, _ = np.nonzero(is_open)
    item, rank = best[is_open], ranks[is_open]
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
