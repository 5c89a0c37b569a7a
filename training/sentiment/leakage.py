"""Near copies between parts: what makes a test look better than the model is.

Texts are sets of character 3-grams of their `core`; two are near copies from a Jaccard similarity of 0.8. Candidates come from
MinHash bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3), each is then checked exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.sentiment.encoder import Hashes, Ints, Spans

THRESHOLD = 0.8
_NUM_BANDS, _ROWS_PER_BAND = 12, 4
"""A pair at the threshold is missed with probability (1 - 0.8^4)^12 = 0.2 %."""
_MAX_CANDIDATES = 20
"""Compared per text and band: a text whose band is that common is near all of them or none."""
_CHUNK = 20_000


def near_copies(cores: Sequence[str], others: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `cores` have a near copy among `others`, and which of `others` are one: masks (cores,) and (others,).

    Args:
        cores: texts as `data.core` gives them, as are `others`.
    """
    sets, other_sets = _shingles(cores), _shingles(others)
    bands, other_bands = _bands(sets), _bands(other_sets)
    has_copy, is_copy = np.zeros(len(cores), dtype=bool), np.zeros(len(others), dtype=bool)
    checked: set[tuple[int, int]] = set()
    for band in range(_NUM_BANDS):
        order = np.argsort(other_bands[:, band], kind="stable")
        sorted_keys = other_bands[order, band]
        begins = np.searchsorted(sorted_keys, bands[:, band], side="left")
        stops = np.searchsorted(sorted_keys, bands[:, band], side="right")
        for place in np.flatnonzero(stops > begins).tolist():
            for other in order[begins[place] : min(stops[place], begins[place] + _MAX_CANDIDATES)].tolist():
                if (place, other) in checked:
                    continue
                checked.add((place, other))
                if _jaccard(sets[place], other_sets[other]) >= THRESHOLD:
                    has_copy[place] = is_copy[other] = True
    return has_copy, is_copy


def _shingles(cores: Sequence[str]) -> list[Hashes]:
    """Sorted distinct hashes of each text's 3-grams, its ends included; a text of nothing has none."""
    found: list[Hashes] = []
    for begin in range(0, len(cores), _CHUNK):
        chunk = cores[begin : begin + _CHUNK]
        hashes, owners = Spans(chunk).ngrams(3)
        parts = np.split(hashes, np.cumsum(np.bincount(owners, minlength=len(chunk)))[:-1])
        found += [np.unique(part) for part in parts]
    return found


def _bands(sets: Sequence[Hashes]) -> Hashes:
    """MinHash signatures folded into band keys, (texts, _NUM_BANDS); a text without a 3-gram has keys of its own."""
    rng = np.random.default_rng(0)
    lengths = np.array([len(one) for one in sets], dtype=np.int64)
    keys = np.arange(len(sets), dtype=np.uint64)[:, None] + np.zeros(_NUM_BANDS, np.uint64)
    held = lengths > 0
    if not held.any():
        return keys
    flat = np.concatenate([one for one in sets if len(one)])
    begins: Ints = np.cumsum(lengths[held]) - lengths[held]
    for band in range(_NUM_BANDS):
        key = np.zeros(int(held.sum()), np.uint64)
        for multiplier in rng.integers(1, 2**63, _ROWS_PER_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1):
            shuffled = flat * multiplier
            key = (key ^ np.minimum.reduceat(shuffled ^ (shuffled >> np.uint64(32)), begins)) * multiplier
        keys[held, band] = key
    return keys


def _jaccard(a: Hashes, b: Hashes) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)
