"""How far the values of a column moved between two sets of rows: the population stability index.

With shares p and q of the rows in each of a few groups, PSI = sum of (q - p) ln(q / p): the symmetric form of Kullback and
Leibler's divergence (Jeffreys, 1946), in credit scoring since Siddiqi, "Credit Risk Scorecards" (2006). By its convention below
0.1 is no change worth a look, 0.1 to 0.25 a change to look at, above 0.25 another population. Groups are the deciles of the
reference and what lies beyond it, zero on its own, rows without a value on their own; of words each of the most frequent ones,
and the others.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from features.quality.profile import Statistics

MODERATE, LARGE = 0.1, 0.25
ENOUGH_ROWS = 300
"""Rows on either side below which nothing is said: with n and m rows of one population PSI is about (groups - 1)(1/n + 1/m) by
chance alone (Yurdakul, "Statistical Properties of Population Stability Index", 2018), 0.06 for 300 and 10 groups."""
_GROUPS, _WORDS = 10, 20
_WITHOUT, _OTHERS = "without", "others"
_HALF = 0.5
"""Rows added to each group, so that an empty one gives no infinite index."""

Verdict = Literal["alike", "moved", "another population", "too few rows", "no statistics"]


@dataclass(frozen=True)
class Drift:
    """One column of one table between two versions; `psi` is None where nothing can be said."""

    table: str
    column: str
    psi: float | None
    verdict: Verdict
    rows_then: int
    rows_now: int
    mean_then: float | None
    mean_now: float | None
    null_share_then: float
    null_share_now: float


def drift(table: str, column: str, then: Statistics, now: Statistics) -> Drift:
    """How far `column` moved from the rows of `then` to those of `now`."""
    index = stability_index(then, now) if min(then.rows, now.rows) >= ENOUGH_ROWS else None
    return Drift(
        table,
        column,
        None if index is None else round(index, 4),
        _verdict(then, now, index),
        then.rows,
        now.rows,
        then.mean,
        now.mean,
        then.null_share,
        now.null_share,
    )


def stability_index(then: Statistics, now: Statistics) -> float | None:
    """The population stability index from `then` to `now`; None where neither holds a histogram or words."""
    if then.bins or now.bins:
        edges = _edges(then.bins or now.bins)
        p, q = (_grouped(s.bins, edges) for s in (then, now))
    elif then.values or now.values:
        words = [word for word, _ in (then.values or now.values).most_common(_WORDS)]
        p, q = ([s.values[word] for word in words] for s in (then, now))
    else:
        return None
    p, q = ([*found, s.nulls, max(0, s.rows - s.nulls - sum(found))] for found, s in ((p, then), (q, now)))
    used = [(a + _HALF, b + _HALF) for a, b in zip(p, q, strict=True) if a or b]
    total_p, total_q = sum(a for a, _ in used), sum(b for _, b in used)
    return sum((b / total_q - a / total_p) * math.log((b / total_q) / (a / total_p)) for a, b in used)


def _edges(bins: Counter[int]) -> list[int]:
    """The bins at which groups begin that hold about a tenth of the rows each.

    Zero is a group of its own, and so is what lies beyond the reference on either side: within the last decile a price times 100
    would not count as another.
    """
    target = sum(bins.values()) / _GROUPS
    edges, filled = {0, 1, min(bins), max(bins) + 1}, 0
    for code in sorted(bins):
        if filled >= target:
            edges.add(code)
            filled = 0
        filled += bins[code]
    return sorted(edges)


def _grouped(bins: Counter[int], edges: list[int]) -> list[int]:
    """Rows of each group."""
    rows = [0] * (len(edges) + 1)
    for code, count in bins.items():
        rows[bisect_right(edges, code)] += count
    return rows


def _verdict(then: Statistics, now: Statistics, index: float | None) -> Verdict:
    if index is not None:
        return "alike" if index < MODERATE else "moved" if index < LARGE else "another population"
    return "too few rows" if min(then.rows, now.rows) < ENOUGH_ROWS else "no statistics"


def worst(found: Sequence[Drift]) -> list[Drift]:
    """Largest index first; those of which nothing can be said last."""
    return sorted(found, key=lambda one: (one.psi is None, -(one.psi or 0), one.table, one.column))
