"""What purchases say beside the network: what is bought together, and what is bought again. The second half of a model version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from infra.errors import ModelNotFoundError
from training.recommender import again
from training.recommender.again import Again
from training.recommender.bought import baskets_of, bought_of, purchases_of
from training.recommender.encoder import Encoder
from training.recommender.sources import Near

Ints = NDArray[np.int64]

NEIGHBOURS = 200
"""Of each item, what is bought with it that is kept."""
_Z = 1.96
"""Of the bound on a share: one in forty lies below it by chance."""


@dataclass(frozen=True)
class Purchases:
    """`together` tells for each item what is bought in one session with it, `again` what of the own purchases comes again."""

    together: Near
    again: Again

    @classmethod
    def learn(cls, rows: pa.Table, encoder: Encoder, zone: str) -> Purchases:
        """From the purchases among interactions in the order of `splits.in_order`; nothing where there are none.

        Args:
            zone: the shop's time zone, whose days are counted.
        """
        purchases = purchases_of(rows)
        together = count_together(*baskets_of(purchases, encoder), len(encoder.items))
        return cls(together, again.learn(bought_of(purchases, encoder, zone), len(encoder.items)))

    def resized(self, num_items: int) -> Purchases:
        """The same over a catalogue that has grown to so many items; nothing was bought of the new ones."""
        return Purchases(self.together.resized(num_items), self.again.resized(num_items))

    def save(self, folder: Path) -> None:
        """Write `together.safetensors` and `again.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.together.save(folder / "together.safetensors")
        self.again.save(folder / "again.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Purchases:
        """What `save` wrote.

        Raises:
            ModelNotFoundError: an earlier version of shopgraph wrote the model.
        """
        if not (folder / "again.safetensors").exists():
            raise ModelNotFoundError(
                f"the recommender in {folder} is of an earlier shopgraph; run `shopgraph train recommender` again."
            )
        return cls(Near.load(folder / "together.safetensors"), Again.load(folder / "again.safetensors"))


def count_together(baskets: Ints, items: Ints, num_items: int) -> Near:
    """(items, items) how surely a basket with the first item holds the second: the lower end of Wilson's interval (1927) around the share
    of the baskets that do, so that two of two weigh less than fifty of sixty, times lift / (1 + lift), so that what is in every basket
    weighs less than what belongs to the item.

    A basket counts 1 / log2(1 + its size): of a hundred things bought at once few belong together.

    Args:
        baskets, items: (n,) the pairs, each once; baskets are numbers that need not be dense.
    """
    held = held_by(baskets, items, num_items)
    weights = 1 / np.log2(1 + np.maximum(held.sum(axis=1), 1))
    common = (held.T @ sparse.diags_array(weights) @ held).tocoo()
    own, total = held.T @ weights, weights.sum()
    is_other = common.row != common.col
    row, column, found = common.row[is_other], common.col[is_other], common.data[is_other]
    lift = found * total / (own[row] * own[column])
    surely = (wilson_bound(found, own[row]) * lift / (1 + lift)).astype(np.float32)
    return Near(sparse.csr_array((surely, (row, column)), shape=(num_items, num_items)), 1.0).strongest(NEIGHBOURS)


def held_by(baskets: Ints, items: Ints, num_items: int) -> sparse.csr_array:
    """(baskets, items) 1 where a basket holds an item; arguments as of `count_together`."""
    _, rows = np.unique(baskets, return_inverse=True)
    return sparse.csr_array((np.ones(len(items)), (rows, items)), shape=(int(rows.max(initial=-1)) + 1, num_items))


def wilson_bound(successes: NDArray[np.float64], trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower end of the 95 % interval of a share of at least one trial's weight (Wilson 1927)."""
    share, spread = successes / trials, _Z**2 / trials
    bound: NDArray[np.float64] = share + spread / 2 - np.sqrt(np.maximum(share * (1 - share), 0) * spread + spread**2 / 4)
    return np.maximum(bound / (1 + spread), 0.0)
