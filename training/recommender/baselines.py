"""Floors: what counting reaches. A model that does not beat each of them, pairwise, is not worth serving.

Each is fitted on the same acts and asked the same questions as the network; `fit` takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from training.recommender.data import Sequences
from training.splits import DAY_US

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Baseline(Protocol):
    """A floor: fitted on sequences, then a scorer (see `training.recommender.data.Scorer`)."""

    @property
    def settings(self) -> dict[str, float | None]:
        """What distinguishes it from others of its kind."""
        ...

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Learn from acts on items 0 to `num_items` - 1; there must be no -1 among them."""
        ...

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        """Score of every item for some users of `history`, (users, items)."""
        ...


@dataclass
class Popularity:
    """The most frequent items of the last days, for everybody; all-time counts order what is equal."""

    days: float | None = None
    """Window before the newest act; None: all time."""
    counts: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.float32), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"days": self.days}

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count the acts on each item, all of them and, given `days`, those of the last days."""
        counts = np.bincount(sequences.items, minlength=num_items) / (len(sequences.items) + 1)
        if self.days is not None:
            recent = sequences.time > sequences.time.max() - self.days * DAY_US
            counts = np.bincount(sequences.items[recent], minlength=num_items) + counts
        self.counts = counts.astype(np.float32)

    def __call__(self, history: Sequences, users: Ints) -> Floats:  # noqa: ARG002 - the same for everybody
        return np.tile(self.counts, (len(users), 1))


@dataclass
class Repetition:
    """What the user took before, most often and most lately first, then what is popular (Hu et al. 2020: a strong floor for baskets)."""

    half_life: float = 50.0
    """Acts after which an act counts half."""
    popularity: Popularity = field(default_factory=lambda: Popularity(28), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"half_life": self.half_life}

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count what is popular; what was taken before is read from the history asked about."""
        self.popularity.fit(sequences, num_items)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        weights = _recency_weights(history, users, 0.5 ** (1 / self.half_life), len(self.popularity.counts))
        popular = self.popularity(history, users)
        scores: Floats = weights.toarray() + popular / (popular.max() + 1) * np.float32(1e-3)
        return scores


@dataclass
class ItemKNN:
    """Sum over the history of cosine similarities between items' users (Deshpande & Karypis 2004), nearest neighbours only."""

    neighbours: int = 200
    shrinkage: float = 10.0
    decay: float = 0.98
    """Weight of an act relative to the next newer one; 1: plain ItemKNN."""
    similarity: sparse.csr_array = field(default_factory=lambda: sparse.csr_array((0, 0), dtype=np.float32), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"neighbours": self.neighbours, "shrinkage": self.shrinkage, "decay": self.decay}

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Shrunk cosine between the users of each two items, the greatest `neighbours` per item."""
        users = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
        taken = sparse.csr_array(
            (np.ones(len(users), dtype=np.float32), (users, sequences.items)), shape=(len(sequences), num_items)
        )
        taken.data[:] = 1  # a pair counts once, however often it occurred
        common = (taken.T @ taken).tocoo()
        norms = np.sqrt(taken.sum(axis=0))
        cosine = common.data / (norms[common.row] * norms[common.col] + self.shrinkage)
        self.similarity = _strongest(sparse.csr_array((cosine, (common.row, common.col)), shape=common.shape), self.neighbours)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        weights = _recency_weights(history, users, self.decay, self.similarity.shape[0])
        return np.asarray((weights @ self.similarity).toarray(), dtype=np.float32)


@dataclass
class CoOccurrence:
    """How often one item follows another within a few acts, nearer followers counting more; no learning at all."""

    window: int = 10
    decay: float = 0.8
    """Weight of an act of the history relative to the next newer one."""
    damping: float = 0.3
    """Power of the follower's popularity that is divided out."""
    follows: sparse.csr_array = field(default_factory=lambda: sparse.csr_array((0, 0), dtype=np.float32), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"window": self.window, "decay": self.decay, "damping": self.damping}

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count followers up to `window` acts later, as 1 / distance each.

        The counts are divided by the square root of the first item's popularity and by the `damping` power of the follower's.
        """
        users = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
        before, after, weights = [], [], []
        for gap in range(1, self.window + 1):
            same = users[:-gap] == users[gap:]
            before.append(sequences.items[:-gap][same])
            after.append(sequences.items[gap:][same])
            weights.append(np.full(int(same.sum()), 1 / gap, dtype=np.float32))
        popularity = np.bincount(sequences.items, minlength=num_items).astype(np.float32) + 1
        rows, columns = np.concatenate(before), np.concatenate(after)
        counts = np.concatenate(weights) / popularity[rows] ** 0.5 / popularity[columns] ** self.damping
        self.follows = sparse.csr_array((counts, (rows, columns)), shape=(num_items, num_items), dtype=np.float32)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        weights = _recency_weights(history, users, self.decay, self.follows.shape[0])
        return np.asarray((weights @ self.follows).toarray(), dtype=np.float32)


def floors() -> dict[str, list[Baseline]]:
    """The floors that every recommender is measured against: name -> settings to choose from on the validation part."""
    return {
        "popularity": [Popularity()],
        "popularity_7d": [Popularity(7)],
        "popularity_28d": [Popularity(28)],
        "repetition": [Repetition(half_life) for half_life in (20, 50, 200)],
        "item_knn": [ItemKNN(decay=decay, shrinkage=shrinkage) for decay in (1.0, 0.98, 0.8) for shrinkage in (0.0, 10.0)],
        "co_occurrence": [CoOccurrence(window, decay) for window in (10, 50) for decay in (1.0, 0.98, 0.8)],
    }


def _recency_weights(history: Sequences, users: Ints, decay: float, num_items: int) -> sparse.csr_array:
    """(users, items): each act weighs `decay` per act that came after it; acts on one item add up."""
    parts = [history.of(user) for user in users]
    lengths = np.array([part.stop - part.start for part in parts])
    rows = np.repeat(np.arange(len(users)), lengths)
    columns = np.concatenate([history.items[part] for part in parts]) if len(parts) else np.zeros(0, dtype=np.int64)
    ages = np.concatenate([np.arange(length)[::-1] for length in lengths]) if len(parts) else np.zeros(0)
    return sparse.csr_array((decay**ages, (rows, columns)), shape=(len(users), num_items), dtype=np.float32)


def _strongest(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """The k greatest values of each row; ties by column."""
    keep = np.zeros(matrix.nnz, dtype=bool)
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        keep[part.start + np.argsort(-matrix.data[part], kind="stable")[:k]] = True
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return sparse.csr_array((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape, dtype=np.float32)
