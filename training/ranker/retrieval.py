"""The first stage as the ranker learns from it: the recommender of two past instants, and the items it would have retrieved.

The ranker fits the recommender by the recommender's own recipe instead of taking the registered one. That one was fitted on all that
precedes the test part, so on what the ranker is to learn from: its shares of those items would be those of memory, not of foresight,
and the ranker would learn to trust them more than they deserve. A registered one that is old enough seldom exists. It costs little:
where `shopgraph train recommender` ran with the same recipe on the same rows, its networks are found in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import EVENT_TYPE
from training import splits
from training.metrics.ranking import top_k
from training.ranker.encoder import Floats, Ints
from training.recommender.data import Sequences, make_queries, make_sequences
from training.recommender.model import Recommender
from training.recommender.sources import COUNTED, NETWORK, blended

RETRIEVAL = "retrieval"
"""The blend of the sources, as the recommender orders by it."""
SOURCES = (NETWORK, *COUNTED, RETRIEVAL)
NUM_CANDIDATES = 200
_SHARES = 8_000_000
"""Shares that are held at a time."""


@dataclass(frozen=True)
class Sessions:
    """Sessions that are asked about, one entry each: who came when, with what history, and what they then did."""

    users: tuple[str, ...]
    at: Ints
    """Microseconds UTC: the instant before the session's first act."""
    history: Sequences
    """What was known of each by then; one `user` of it per session."""
    targets: tuple[Ints, ...]
    """Distinct items of each session, by their index in the catalogue; -1 for each that is not in it."""
    acts: pa.Table
    """`session` (number), `item` (index, -1: none), `event_type` of all acts in the sessions."""

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of(cls, holdout: splits.Holdout, recommender: Recommender, names: tuple[str, ...] | None = None) -> Sessions:
        """The questions of a holdout part, one session each.

        Args:
            names: the users, where those of the part are numbered; see `splits.every_session`.
        """
        queries = make_queries(holdout, recommender.encoder)
        done = make_sequences(holdout.targets, recommender.encoder, collapse=False)
        starts = np.minimum.reduceat(splits.microseconds(holdout.targets), done.offsets[:-1])
        acts = pa.table(
            {"session": done.owners, "item": done.items, EVENT_TYPE: holdout.targets[EVENT_TYPE]}  # rows in the same order
        )
        return cls(names or queries.history.users, starts - 1, queries.history, queries.targets, acts)


@dataclass(frozen=True)
class Retrieved:
    """The candidates of each session, best first: R rows, those of one session after those of another."""

    session: Ints
    item: Ints
    """(R,) index into the recommender's catalogue."""
    rank: Ints
    """(R,) from 0."""
    shares: dict[str, Floats]
    """Source -> (R,) log of its share, NaN where it gives none."""

    @classmethod
    def of(cls, recommender: Recommender, sessions: Sessions, chosen: Ints) -> Retrieved:
        """The NUM_CANDIDATES items of the largest shares for each of some sessions, or all where there are fewer."""
        parts = list(cls._parts(recommender, sessions, chosen))
        session, item, rank = (np.concatenate([getattr(part, name) for part in parts]) for name in ("session", "item", "rank"))
        return cls(session, item, rank, {name: np.concatenate([part.shares[name] for part in parts]) for name in SOURCES})

    @classmethod
    def _parts(cls, recommender: Recommender, sessions: Sessions, chosen: Ints) -> Iterator[Retrieved]:
        step = max(1, _SHARES // len(recommender.encoder.items))
        for start in range(0, len(chosen), step):
            some = chosen[start : start + step]
            shares = retrieval_shares(recommender, *sessions.history.served(some))
            best = top_k(shares[RETRIEVAL], NUM_CANDIDATES)
            rows = np.repeat(np.arange(len(some)), best.shape[1])
            item = best.ravel()
            yield cls(
                some[rows],
                item,
                np.tile(np.arange(best.shape[1]), len(some)),
                {name: log_shares(share[rows, item]) for name, share in shares.items()},
            )


def retrieval_shares(recommender: Recommender, items: list[Ints], events: list[Ints]) -> dict[str, NDArray[np.float32]]:
    """Share of every item of the catalogue, (histories, items), by each source and by their blend; a silent source says 0.

    Args:
        items, events: per history, oldest first, what the recommender's encoder reads; where one is empty, the blend is popularity.
    """
    known = [row for row, history in enumerate(items) if len(history)]
    shape = len(items), len(recommender.encoder.items)
    found = {name: np.zeros(shape, dtype=np.float32) for name in (NETWORK, *COUNTED)}
    found[RETRIEVAL] = np.tile(np.asarray(recommender.encoder.popularity, dtype=np.float32), (len(items), 1))
    if known:
        shares = recommender.sources([items[row] for row in known], [events[row] for row in known])
        for name, share in shares.items():
            found[name][known] = share
        found[RETRIEVAL][known] = blended(shares, recommender.weights)
    return found


def log_shares(shares: NDArray[np.float32]) -> Floats:
    """Logs of shares, NaN where there is none."""
    with np.errstate(divide="ignore"):
        logs = np.log(shares.astype(np.float64))
    return np.where(np.isfinite(logs), logs, np.nan)
