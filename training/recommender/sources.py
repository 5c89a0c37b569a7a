"""What speaks for an item beside the network: sources give every item a share of what comes next, and a blend is their weighted mean.

Counting knows pairs that a network of some dozen numbers per item cannot keep; the network knows what counting never saw. A mean of
shares (a linear pool, Stone 1961) keeps what either is sure of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_TINY = np.finfo(np.float32).tiny
_RECENT = 0.98
"""Weight of an act of the history, where words are read, relative to the next newer one: taste lasts longer than a train of thought."""
_PRIOR = 1.0
"""Acts that an item which nobody took yet is given beside the others of its word."""


class Source(Protocol):
    """What counting knows, as it stands beside a network and is kept with it."""

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """What speaks for each item, (histories, items), 0 where nothing does; a history is its items, oldest first."""
        ...

    def told(self, offsets: Ints, words: Ints) -> Source:
        """The same with more items, which nobody took: of item i of them is said `words[offsets[i]:offsets[i + 1]]`."""
        ...

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        ...


@dataclass(frozen=True)
class Near:
    """What stands near the acts of a history in the histories of others, or right behind its newest act where `decay` is 0."""

    table: sparse.csr_array
    """(items, items) how strongly an act on the first item speaks for the second."""
    decay: float
    """Weight of an act of the history relative to the next newer one."""

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """What speaks for each item, (histories, items), 0 where nothing does; a history is its items, oldest first."""
        return np.asarray((recency_weights(histories, self.decay, self.table.shape[0]) @ self.table).toarray(), dtype=np.float32)

    def strongest(self, k: int) -> Near:
        """Only the k strongest of each row, ties by item: what a served model keeps."""
        table = self.table
        lengths = np.diff(table.indptr)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((table.indices, -table.data, rows))
        order = np.sort(order[np.arange(len(order)) - np.repeat(table.indptr[:-1], lengths) < k])
        kept = sparse.csr_array((table.data[order], (rows[order], table.indices[order])), shape=table.shape, dtype=np.float32)
        return Near(kept, self.decay)

    def resized(self, num_items: int) -> Near:
        """The same for so many items, of which the last stand near nothing."""
        offsets = np.pad(self.table.indptr, (0, num_items - self.table.shape[0]), mode="edge")
        table = sparse.csr_array((self.table.data, self.table.indices, offsets), shape=(num_items, num_items), copy=False)
        return Near(table, self.decay)

    def told(self, offsets: Ints, words: Ints) -> Near:  # noqa: ARG002 - what is said of an item brings nobody near it
        """As of `Source`."""
        return self.resized(self.table.shape[0] + len(offsets) - 1)

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        parts = {name: torch.from_numpy(getattr(self.table, name)) for name in ("indptr", "indices", "data")}
        save_file({**parts, "decay": torch.tensor(self.decay, dtype=torch.float64)}, path)

    @classmethod
    def load(cls, path: Path) -> Near:
        """What `save` wrote."""
        parts = load_file(path)
        indptr, indices, data = (parts[name].numpy() for name in ("indptr", "indices", "data"))
        size = len(indptr) - 1
        return cls(sparse.csr_array((data, indices, indptr), shape=(size, size)), float(parts["decay"]))

    @classmethod
    def of_nothing(cls, num_items: int) -> Near:
        """Nothing was counted."""
        return cls(sparse.csr_array((num_items, num_items), dtype=np.float32), 1.0)


@dataclass(frozen=True)
class Content:
    """Whose words the items of a history share: the share of each word in it, times that of each item among those of the word.

    A word that few items have says more by itself. What nobody took yet counts as one that was taken once.
    """

    said: sparse.csr_array
    """(items, words) 1 where a word is said of an item."""
    taken: Floats
    """(items,) acts on each."""

    def __post_init__(self) -> None:
        """Made ready at once: a request should not wait for it."""
        _ = self._of_item, self._of_word

    @classmethod
    def of(cls, offsets: Ints, words: Ints, num_words: int, taken: Ints) -> Content:
        """Words of item i are `words[offsets[i]:offsets[i + 1]]`, distinct numbers below `num_words`."""
        said = sparse.csr_array((np.ones(len(words), dtype=np.float32), words, offsets), shape=(len(taken), num_words))
        return cls(said, taken.astype(np.float32))

    @cached_property
    def _of_item(self) -> sparse.csr_array:
        """(items, words) share of each word in what is said of an item."""
        return row_shares(self.said)

    @cached_property
    def _of_word(self) -> sparse.csr_array:
        """(words, items) share of each item in the acts on those of a word."""
        return row_shares(sparse.csr_array((self.said.multiply((self.taken + _PRIOR)[:, None])).T))

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """As of `Source`."""
        taste = recency_weights(histories, _RECENT, self.said.shape[0]) @ self._of_item
        return np.asarray((taste @ self._of_word).toarray(), dtype=np.float32)

    def told(self, offsets: Ints, words: Ints) -> Content:
        """As of `Source`."""
        new = Content.of(offsets, words, self.said.shape[1], np.zeros(len(offsets) - 1, dtype=np.int64))
        said = sparse.csr_array(sparse.vstack([self.said, new.said]))
        return Content(said, np.concatenate([self.taken, new.taken]))

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        parts = {"indptr": self.said.indptr, "indices": self.said.indices, "taken": self.taken}
        size = torch.tensor(self.said.shape[1], dtype=torch.int64)
        save_file({**{name: torch.from_numpy(part) for name, part in parts.items()}, "num_words": size}, path)

    @classmethod
    def load(cls, path: Path) -> Content:
        """What `save` wrote."""
        parts = load_file(path)
        offsets, words = (parts[name].numpy().astype(np.int64) for name in ("indptr", "indices"))
        return cls.of(offsets, words, int(parts["num_words"]), parts["taken"].numpy())


def recency_weights(histories: Sequence[Ints], decay: float, num_items: int) -> sparse.csr_array:
    """(histories, items): each act weighs `decay` per act that came after it; acts on one item add up."""
    lengths = np.fromiter(map(len, histories), np.int64, len(histories))
    rows = np.repeat(np.arange(len(histories)), lengths)
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    ages = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(rows))
    # With indices of 64 bits a product would first copy those of the table it is multiplied with: milliseconds for one history.
    places = rows.astype(np.int32), columns.astype(np.int32)
    return sparse.csr_array((decay**ages, places), shape=(len(histories), num_items), dtype=np.float32)


def blended(shares: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted mean of shares, (rows, items) each; in a row where a source says nothing (all 0), the others speak alone.

    Rows of the result sum to 1, or are all 0 where no source of weight says anything.
    """
    heard = [(np.float32(weights[name]), share) for name, share in shares.items() if weights.get(name)]
    if len(heard) == 1:
        return heard[0][1]
    total = np.zeros_like(next(iter(shares.values())))
    for weight, share in heard:
        total += weight * share
    return shares_of(total)


def row_shares(table: sparse.csr_array) -> sparse.csr_array:
    """As `shares_of`, of a table that is mostly empty."""
    sums = np.asarray(table.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array((1 / np.maximum(sums, _TINY)).astype(np.float32)) @ table)


def shares_of(scores: Floats) -> Floats:
    """Scores of at least 0 as shares: each row divided by its sum; all 0 where it is."""
    sums = scores.sum(axis=1, keepdims=True)
    return np.asarray(scores / np.maximum(sums, _TINY))


def softmax(scores: Floats) -> Floats:
    """Scores of a network as shares, in place; `-inf` has none, and where all are `-inf` nothing has any."""
    matrix = torch.from_numpy(scores)
    torch.softmax(matrix, dim=1, out=matrix)  # another such array is what takes longest of ranking a catalogue
    scores[np.isnan(scores[:, :1]).any(axis=1)] = 0.0  # of nothing but `-inf` comes nothing but NaN
    return scores
