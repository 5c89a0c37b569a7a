"""What flows along the edges of a graph, beside what feature nodes read: one value per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.schemas import RecommendReason, Source

Content = dict[str, Any]
"""The product's own part of an answer, as `serving.schemas` has it."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Shortlist:
    """What may fill one list, the best first (n items)."""

    items: NDArray[np.object_]
    """(n,) ids: nodes of one graph may run in several processes, whose catalogues are not read at the same instant."""
    scores: Floats
    """(n,) what they are ordered by."""
    sources: tuple[Source, ...]
    """(n,) what speaks most for each."""
    is_personal: bool = False
    degraded: tuple[RecommendReason, ...] = ()
    steepness: float = 1.0
    """By how much a score grows where its item counts e times as much: 1 of the log of a share; 0: the score itself grows e-fold."""
    ranks: Ints | None = None
    """(n,) place in the whole catalogue; None: nothing that a ranker could order."""
    shares: Mapping[str, Floats] = field(default_factory=dict)
    """Source -> (n,) log of its share, NaN where it gives none; what a ranker reads."""
    chances: Mapping[str, Floats] = field(default_factory=dict)
    """Task of the ranker -> (n,) chance, once it is ranked."""

    def lifted(self, scores: Floats, factors: Floats) -> Floats:
        """(n,) these scores where each item counts that many times as much; -inf where that is nothing."""
        with np.errstate(divide="ignore"):
            grown = scores + self.steepness * np.log(factors) if self.steepness else scores * factors
        return np.where(factors > 0, grown, -np.inf)


@dataclass(frozen=True)
class Shortlists:
    """One shortlist per list that a request asks for, in its order."""

    lists: tuple[Shortlist, ...]


def reasons_of(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What could not be used for at least one part of an answer."""
    return sorted({reason for part in parts for reason in part["degraded"]})
