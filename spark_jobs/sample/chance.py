"""Counter-based chance: a draw is a pure function of (seed, name of the draw, counters).

No generator state exists, so a row does not depend on which task drew it, in which order, or in how many partitions. The
function is the SplitMix64 finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014) chained
over the counters, vectorised over NumPy arrays.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Chance:
    """All draws of one seed. Counters are integers or integer arrays and broadcast against each other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def uniform(self, name: str, *counters: Any) -> Floats:
        """Draws from the open interval (0, 1)."""
        with np.errstate(over="ignore"):  # wrapping around is how the mixing works
            state = _key(self.seed, name)
            for counter in counters:
                state = _mix(state + _GOLDEN * (np.asarray(counter).astype(np.uint64) + np.uint64(1)))
        return np.asarray(((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53, dtype=np.float64)

    def normal(self, name: str, *counters: Any) -> Floats:
        """Draws from the standard normal distribution."""
        return np.asarray(ndtri(self.uniform(name, *counters)))

    def below(self, name: str, bound: Any, *counters: Any) -> Ints:
        """Whole numbers from 0 to `bound` - 1, all equally likely."""
        return np.asarray(self.uniform(name, *counters) * bound).astype(np.int64)

    def poisson(self, name: str, rate: Any, *counters: Any) -> Ints:
        """Poisson counts by inversion; meant for rates up to some hundreds."""
        draw = self.uniform(name, *counters)
        rates = np.broadcast_to(np.asarray(rate, dtype=np.float64), draw.shape)
        counts = np.zeros(draw.shape, dtype=np.int64)
        density = np.exp(-rates)
        total = density.copy()
        number = 0
        open_ = draw > total
        while open_.any():
            number += 1
            counts[open_] = number
            density = density * rates / number
            total = total + density
            open_ &= (draw > total) & (density > 0)
        return counts


@lru_cache(maxsize=1024)
def _key(seed: int, name: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mix(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
