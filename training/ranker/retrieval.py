"""The first stage as the ranker learns from it: the recommender of two past instants, and the items it would have retrieved.

The ranker fits the recommender by the recommender's own recipe instead of taking the registered one. That one was fitted on all that
precedes the test part, so on what the ranker is to learn from: its shares of those items would be those of memory, not of foresight,
and the ranker would learn to trust them more than they deserve. A registered one that is old enough seldom exists. It costs little:
where `shopgraph train recommender` ran with the same recipe on the same rows, its networks are found in the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from features.columns import EVENT_TYPE
from training import splits
from training.ranker.candidates import SOURCES, Ints, Retrieved, retrieve
from training.recommender.data import Sequences, make_queries, make_sequences
from training.recommender.model import Recommender

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
    def of(cls, holdout: splits.Holdout, recommender: Recommender) -> Sessions:
        """The questions of a holdout part, one session each."""
        queries = make_queries(holdout, recommender.encoder)
        done = make_sequences(holdout.targets, recommender.encoder, collapse=False)
        starts = np.minimum.reduceat(splits.microseconds(holdout.targets), done.offsets[:-1])
        acts = pa.table(
            {"session": done.owners, "item": done.items, EVENT_TYPE: holdout.targets[EVENT_TYPE]}  # rows in the same order
        )
        return cls(queries.askers, starts - 1, queries.history, queries.targets, acts)


def retrieved(recommender: Recommender, sessions: Sessions, chosen: Ints) -> Retrieved:
    """The candidates of some sessions; `history` is the session's place among the chosen ones."""
    parts = []
    step = max(1, _SHARES // len(recommender.encoder.items))
    for start in range(0, len(chosen), step):
        part = retrieve(recommender, *sessions.history.served(chosen[start : start + step]))
        parts.append(replace(part, history=part.history + start))
    history, item, rank = (np.concatenate([getattr(part, name) for part in parts]) for name in ("history", "item", "rank"))
    return Retrieved(history, item, rank, {name: np.concatenate([part.shares[name] for part in parts]) for name in SOURCES})
