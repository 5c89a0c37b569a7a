"""Floors: what counting reaches. A model that does not beat each of them, pairwise, is not worth serving.

Each is fitted on the same acts and asked the same questions as the network; `fit` takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from training.recommender.data import Sequences, near_counts
from training.recommender.sources import Near, recency_weights
from training.splits import DAY_US

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

NEIGHBOURS = 200
"""Of each item, those others it speaks for the most that a served model keeps."""
_ROWS = 4096
"""Systems of equations that are solved together."""


class Baseline(Protocol):
    """A floor: fitted on sequences, then a scorer (see `training.recommender.data.Scorer`)."""

    @property
    def settings(self) -> dict[str, float | None]:
        """What distinguishes it from others of its kind."""
        ...

    def memory(self, sequences: Sequences, num_items: int) -> int:
        """Bytes that `fit` takes at its peak, roughly."""
        ...

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Learn from acts on items 0 to `num_items` - 1; there must be no -1 among them."""
        ...

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        """Score of every item for some users of `history`, (users, items)."""
        ...


@runtime_checkable
class Paired(Protocol):
    """A floor that knows how strongly one item speaks for another, so that it can be a source beside the network."""

    def source(self) -> Near:
        """What it learned."""
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

    def memory(self, sequences: Sequences, num_items: int) -> int:  # noqa: ARG002 - one number per item
        """Bytes that `fit` takes at its peak, roughly."""
        return 16 * num_items

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count the acts on each item, all of them and, given `days`, those of the last days."""
        counts = sequences.item_counts(num_items) / (len(sequences.items) + 1)
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

    def memory(self, sequences: Sequences, num_items: int) -> int:
        """Bytes that `fit` takes at its peak, roughly."""
        return self.popularity.memory(sequences, num_items)

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count what is popular; what was taken before is read from the history asked about."""
        self.popularity.fit(sequences, num_items)

    def source(self) -> Near:
        """What was taken before speaks for itself."""
        return Near(sparse.eye_array(len(self.popularity.counts), dtype=np.float32, format="csr"), 0.5 ** (1 / self.half_life))

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        popular = self.popularity(history, users)
        scores: Floats = self.source().scores(_histories(history, users)) + popular / (popular.max() + 1) * np.float32(1e-3)
        return scores


@dataclass
class ItemKNN:
    """Sum over the history of cosine similarities between items' users (Deshpande & Karypis 2004), nearest neighbours only."""

    neighbours: int = NEIGHBOURS
    shrinkage: float = 10.0
    decay: float = 0.98
    """Weight of an act relative to the next newer one; 1: plain ItemKNN."""
    table: sparse.csr_array = field(default_factory=lambda: Near.of_nothing(0).table, repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"neighbours": self.neighbours, "shrinkage": self.shrinkage, "decay": self.decay}

    def memory(self, sequences: Sequences, num_items: int) -> int:
        """Bytes that `fit` takes at its peak, roughly: every two items of one user, at most all pairs of the catalogue."""
        return 48 * min(num_items**2, int((np.diff(sequences.offsets) ** 2).sum()))

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Shrunk cosine between the users of each two items, the greatest `neighbours` per item."""
        pairs = taken(sequences, num_items)
        common = (pairs.T @ pairs).tocoo()
        norms = np.sqrt(pairs.sum(axis=0))
        cosine = common.data / (norms[common.row] * norms[common.col] + self.shrinkage)
        whole = sparse.csr_array((cosine, (common.row, common.col)), shape=common.shape)
        self.table = Near(whole, self.decay).strongest(self.neighbours).table

    def source(self) -> Near:
        """Whom the same people took."""
        return Near(self.table, self.decay)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        return self.source().scores(_histories(history, users))


@dataclass
class CoOccurrence:
    """How often one item stands near another in a history, nearer and later ones counting more; no learning at all."""

    window: int = 50
    decay: float = 0.7
    """Weight of an act of the history relative to the next newer one."""
    damping: float = 0.2
    """Power of the other item's popularity that is divided out."""
    distance: float = 0.7
    """Power of the distance, in acts, that a pair's weight is divided by."""
    backward: float = 0.5
    """Weight of an item that stands before, relative to one that follows; 0: only followers count."""
    discount: float = 0.0
    """Taken off each count, none falls below 0: what was seen once or twice is mostly chance (absolute discounting, Ney et al. 1994)."""
    table: sparse.csr_array = field(default_factory=lambda: Near.of_nothing(0).table, repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        names = ("window", "decay", "damping", "distance", "backward", "discount")
        return {name: getattr(self, name) for name in names}

    def memory(self, sequences: Sequences, num_items: int) -> int:  # noqa: ARG002 - pairs are held before they are added up
        """Bytes that `fit` takes at its peak, roughly: every two acts of one user within the window."""
        return 2 * 60 * int((np.minimum(np.diff(sequences.offsets), self.window) * np.diff(sequences.offsets)).sum())

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Count the items up to `window` acts apart, divided by powers of both items' popularity."""
        after = near_counts(sequences, num_items, self.window, self.distance)
        after.data = np.maximum(after.data - np.float32(self.discount), 0)
        after.eliminate_zeros()
        both = (after + self.backward * after.T).tocoo() if self.backward else after.tocoo()
        popularity = sequences.item_counts(num_items).astype(np.float32) + 1
        weights = both.data / popularity[both.row] ** 0.5 / popularity[both.col] ** self.damping
        self.table = sparse.csr_array((weights, (both.row, both.col)), shape=both.shape, dtype=np.float32)

    def source(self) -> Near:
        """What stood near, or followed."""
        return Near(self.table, self.decay)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        return self.source().scores(_histories(history, users))


@dataclass
class Ease:
    """The linear autoencoder in closed form (Steck 2019): each item out of all others, ridge regression with a zero diagonal."""

    ridge: float = 100.0
    decay: float = 0.8
    """Weight of an act of the history relative to the next newer one; 1: plain EASE."""
    weights: Floats = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {"ridge": self.ridge, "decay": self.decay}

    def memory(self, sequences: Sequences, num_items: int) -> int:  # noqa: ARG002 - all pairs of the catalogue
        """Bytes that `fit` takes at its peak: the Gram matrix, its factor and the inverse."""
        return 3 * 4 * num_items**2

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Solve B = I - P / diag(P), P the inverse of X'X + ridge."""
        pairs = taken(sequences, num_items)
        gram = torch.from_numpy((pairs.T @ pairs).toarray())
        gram.diagonal().add_(self.ridge)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        inverse.div_(-inverse.diagonal().clone())
        inverse.diagonal().zero_()
        # row by row: SciPy would copy a matrix of columns as a whole each time it is asked
        self.weights = np.ascontiguousarray(inverse.numpy())

    def source(self) -> Near:
        """The greatest positive weights of each item; what an item speaks against is left out."""
        size = len(self.weights)
        values, places = torch.topk(torch.from_numpy(self.weights), min(NEIGHBOURS, size), dim=1)
        rows = np.repeat(np.arange(size), values.shape[1])
        table = sparse.csr_array((values.clamp(min=0).flatten().numpy(), (rows, places.flatten().numpy())), shape=(size, size))
        table.eliminate_zeros()
        return Near(table, self.decay)

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        return np.asarray(
            recency_weights(_histories(history, users), self.decay, len(self.weights)) @ self.weights, dtype=np.float32
        )


@dataclass
class Ials:
    """Implicit matrix factorisation by alternating least squares (Hu et al. 2008), with what makes it strong (Rendle et al. 2022):
    regularisation grows with how often an item or user occurs, and the weight of what was not taken is chosen."""

    dim: int = 64
    unobserved: float = 0.1
    """Weight of an item that was not taken, against 1 for one that was."""
    ridge: float = 0.003
    power: float = 1.0
    """Power of the frequency that regularisation grows with: 0 as in Hu et al., 1 as in Zhou et al. 2008."""
    decay: float = 0.8
    """Weight, when asked, of an act of the history relative to the next newer one."""
    sweeps: int = 8
    seed: int = 7
    items: Tensor = field(default_factory=lambda: torch.zeros(0, 0), repr=False)

    @property
    def settings(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("dim", "unobserved", "ridge", "power", "decay", "sweeps", "seed")}

    def memory(self, sequences: Sequences, num_items: int) -> int:
        """Bytes that `fit` takes at its peak, roughly: both sides' vectors and one lot of systems of equations."""
        return 4 * self.dim * (2 * len(sequences) + 2 * num_items) + 12 * _ROWS * self.dim**2 + 8 * 2**24

    def fit(self, sequences: Sequences, num_items: int) -> None:
        """Solve for users and items in turn, each side exactly."""
        by_user = taken(sequences, num_items)
        by_item = sparse.csr_array(by_user.T)
        generator = torch.Generator().manual_seed(self.seed)
        self.items = torch.randn(num_items, self.dim, generator=generator) * (0.1 * self.dim**-0.5)
        for _ in range(self.sweeps):
            self.items = self._solve(by_item, self.users_of(by_user))

    def __call__(self, history: Sequences, users: Ints) -> Floats:
        rows = recency_weights(_histories(history, users), self.decay, len(self.items))
        scores: Floats = (self.users_of(rows) @ self.items.T).numpy()
        return scores

    def users_of(self, rows: sparse.csr_array) -> Tensor:
        """(users, dim) vectors of users, also new ones, who took items with these weights (users, items)."""
        return self._solve(rows, self.items)

    def _solve(self, rows: sparse.csr_array, others: Tensor) -> Tensor:
        """(n, dim) the vectors of one side that are best for those of the other; `rows` (n, len(others)) weigh what was taken."""
        solved = torch.zeros(rows.shape[0], self.dim)
        everything = self.unobserved * others.T @ others
        lengths = np.diff(rows.indptr)
        ridges = self.ridge * (lengths + self.unobserved * len(others)) ** self.power
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        start = 0
        while start < len(order):
            longest = lengths[order[min(start + _ROWS, len(order)) - 1]]
            some = order[start : start + max(1, min(_ROWS, 2**24 // (longest * self.dim)))]
            start += len(some)
            filled = np.arange(lengths[some].max()) < lengths[some][:, None]
            picked = np.concatenate([np.arange(rows.indptr[row], rows.indptr[row + 1]) for row in some])
            places, weights = np.zeros(filled.shape, dtype=np.int64), np.zeros(filled.shape, dtype=np.float32)
            places[filled], weights[filled] = rows.indices[picked], rows.data[picked]
            vectors = others[torch.from_numpy(places)]
            weighted = vectors * torch.from_numpy(weights)[:, :, None]
            left = torch.baddbmm(everything, vectors.mT, weighted)
            left.diagonal(dim1=1, dim2=2).add_(torch.from_numpy(ridges[some].astype(np.float32))[:, None])
            right = weighted.sum(dim=1)
            solved[torch.from_numpy(some)] = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(left))[:, :, 0]
        return solved


def floors() -> dict[str, list[Baseline]]:
    """The floors that every recommender is measured against: name -> settings to choose from on the validation part."""
    return {
        "popularity": [Popularity()],
        "popularity_7d": [Popularity(7)],
        "popularity_28d": [Popularity(28)],
        "repetition": [Repetition(half_life) for half_life in (20, 50, 200)],
        "item_knn": [ItemKNN(decay=decay, shrinkage=shrinkage) for shrinkage in (0.0, 10.0) for decay in (1.0, 0.98, 0.8)],
        "co_occurrence": [
            CoOccurrence(decay=decay, damping=damping, backward=backward)
            for damping in (0.0, 0.25)
            for backward in (0.0, 0.5)
            for decay in (0.98, 0.85, 0.7)
        ],
        # what directly followed the newest act
        "markov_chain": [CoOccurrence(1, decay=0.0, damping=0.0, backward=0.0, discount=discount) for discount in (0.0, 0.5, 1.0)],
        "ease": [Ease(ridge, decay) for ridge in (100, 300) for decay in (1.0, 0.7)],
        "ials": [Ials(unobserved=unobserved) for unobserved in (0.03, 0.1)],
    }


def fitted(candidates: Iterable[Baseline], sequences: Sequences, num_items: int) -> Iterator[Baseline]:
    """Each candidate, fitted. Recency (`decay`) counts only when a floor is asked: one that differs from the one before in nothing else
    takes over what that one learned.
    """
    before: Any = None
    for candidate in candidates:
        if before is not None and _learns(candidate) == _learns(before):
            before = replace(before, decay=candidate.settings["decay"])
        else:
            candidate.fit(sequences, num_items)
            before = candidate
        yield before


def _learns(floor: Baseline) -> dict[str, float | None]:
    return {name: value for name, value in floor.settings.items() if name != "decay"}


def taken(sequences: Sequences, num_items: int) -> sparse.csr_array:
    """(users, items) 1 where a user took an item, however often."""
    ones = np.ones(len(sequences.items), dtype=np.float32)
    found = sparse.csr_array((ones, (sequences.owners, sequences.items)), shape=(len(sequences), num_items))
    found.sum_duplicates()
    found.data[:] = 1
    return found


def _histories(history: Sequences, users: Ints) -> list[Ints]:
    """The items of each of some users, as far back as serving knows them: floors are asked what the model is asked."""
    return history.served(users)[0]
