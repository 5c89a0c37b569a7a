"""The judge of a canary: whether a candidate is worse than its release lets it be, by a test that may be looked at as often as one likes.

Each measure is a share: of requests that failed, of seen lists that were clicked. The two sides are compared by the mixture sequential
probability ratio test (Robbins 1970; Johari, Pekelis & Walsh 2017, Always Valid Inference), whose chance of ever being wrong is bounded
however long it runs. Acts of the same people belong together, so that variances are taken over parts of the people, not over requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from serving.observations import Counted, Ints, Phase, Side
from serving.releases import Bounds


@dataclass(frozen=True)
class Share:
    """A share, how sure it is, and of how many."""

    value: float
    variance: float
    """Of the value as an estimate."""
    total: int


@dataclass(frozen=True)
class Measure:
    """How one measure of a candidate stands."""

    name: str
    stable: Share
    candidate: Share
    bound: float
    """The worst that the candidate may be."""
    evidence: float
    """Log of the likelihood ratio against "within its bound"; -inf where it is within."""
    needed: float
    """What the evidence must reach."""
    is_enough: bool
    """Whether as much was seen as is asked for."""

    @property
    def is_out(self) -> bool:
        """Whether the candidate is out of its bound."""
        return self.is_enough and self.evidence >= self.needed

    @property
    def why(self) -> str:
        """In words, with the figures."""
        new, old = self.candidate, self.stable
        return (
            f"{self.name}: {new.value:.2%} of {new.total:,} against {old.value:.2%} of {old.total:,}; the bound is {self.bound:.2%}"
        )


def share(hits: Ints, totals: Ints) -> Share:
    """The share of hits, both by part of the people (B,): a ratio of sums, its variance by the spread over parts (Cochran 1977, 6.3)."""
    total = int(totals.sum())
    if not total:
        return Share(0.0, 1.0, 0)
    value = float(hits.sum()) / total
    parts = int(np.count_nonzero(totals))
    spread = float(((hits - value * totals) ** 2).sum()) / total**2 * (parts / max(parts - 1, 1))
    # Where nothing, or everything, was a hit, the spread says that we are sure; as if one more of each had been seen.
    smooth = (int(hits.sum()) + 1) / (total + 2)
    return Share(value, max(spread, smooth * (1 - smooth) / total), total)


def evidence(worse_by: float, variance: float, size: float, least: float) -> float:
    """Log of the mixture likelihood ratio that something is worse, rather than not, one-sided.

    Args:
        worse_by: by how much it seems to be, beyond what it may be.
        variance: of that.
        size: how much was seen.
        least: how much must be seen; the mixture expects an effect that so much shows.
    """
    if worse_by <= 0:
        return -math.inf
    weight = size / (size + least)
    return 0.5 * math.log(1 - weight) + 0.5 * worse_by**2 / variance * weight


def judge(sides: Mapping[str, Side], phase: Phase) -> list[Measure]:
    """How the candidate of a phase stands in each measure, by what was counted of each version."""
    before, after = (sides.get(version, Side()).counts for version in (phase.stable, phase.candidate))
    bounds = phase.bounds
    measures = list(_measures(bounds))
    needed = math.log(len(measures) / bounds.error_rate)
    found = []
    for name, hit, total, allowed, is_good in measures:
        old, new = share(before[hit], before[total]), share(after[hit], after[total])
        kept = 1 - allowed if is_good else 1.0
        bound = old.value * kept if is_good else min(old.value + allowed, 1.0)
        worse_by = bound - new.value if is_good else new.value - bound
        variance = new.variance + kept**2 * old.variance
        size = 1 / (1 / max(old.total, 1) + 1 / max(new.total, 1))
        is_enough = min(old.total, new.total) >= bounds.minimum
        found.append(Measure(name, old, new, bound, evidence(worse_by, variance, size, bounds.minimum), needed, is_enough))
    return found


def _measures(bounds: Bounds) -> Iterator[tuple[str, Counted, Counted, float, bool]]:
    """(name, what is a hit, of what, how much worse it may be, whether hits are good)."""
    yield "errors", "errors", "requests", bounds.errors, False
    yield "degraded", "degraded", "requests", bounds.degraded, False
    yield "slow", "slow", "requests", bounds.slow, False
    yield "clicks", "clicked", "seen", bounds.clicks, True
    yield "carts", "carted", "seen", bounds.carts, True
