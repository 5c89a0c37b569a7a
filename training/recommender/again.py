"""How likely somebody buys again what they bought: a logistic regression on how often and how lately, against the item's own habit.

What makes an item come again is the item (milk, not a sofa), how often this person took it, and whether it is due. Counting alone says
much of it (Bhagat et al. 2018, Buy It Again, KDD, with a Poisson-Gamma rate per item); the regression takes their quantities and learns
what each is worth in this shop, so that its answers are chances, if rough ones: of buying it within `HORIZON_DAYS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from training.recommender.bought import Bought, Pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HORIZON_DAYS = 28
"""Within how many days `again` counts."""
_CUTOFFS = 4
"""Days, one horizon apart, at which what was known is held against what came: the latest ones of what is learned from."""
_LEAST_KNOWN = 0.2
"""Share of the purchases that must lie before such a day; before it too little is known to learn from."""
_MOST_PAIRS = 500_000
"""Examples that are learned from at each such day, at most."""
_PRIOR_BUYERS, _PRIOR_GAPS = 10.0, 5.0
"""How many buyers and gaps of an average item stand behind each item: shrinkage to the shop."""
_LEAST_BUYERS = 20
"""Buyers whose first purchase is a horizon ago and none of whom came again, until an item counts as one that nobody buys twice."""
_PRIOR = np.array([1.5, 1.1, -0.5, 0.2, -0.12, 0.2, 0.5, 0.1])
"""Weights before anything is learned, in the order of `_features`, between those of `online_retail` and of the sample shop: a shop with
few examples of what came again stays near them."""
_TRUST = 20.0
"""How many examples' worth of information the weights before stand for."""


@dataclass(frozen=True)
class Habits:
    """How the items of the catalogue are bought again, (I + 1,) each: the last one stands for an item that nobody bought yet."""

    gap: Floats
    """Log of the typical days between two purchases of one person."""
    rate: Floats
    """Log of how often a buyer buys it again, per day since the first time."""
    repeats: Floats
    """Log odds that a buyer ever buys it again."""
    buyers: Floats
    """Log of 1 + the number of its buyers."""
    offered: Bools
    """Whether it is offered to who bought it once: somebody bought it again, or too few had the time to."""

    @classmethod
    def of(cls, bought: Bought, day: int, num_items: int) -> Habits:
        """As counted on a day, where all of `bought` came before it."""
        pairs = bought.pairs
        num_items += 1
        buyers = np.bincount(pairs.items, minlength=num_items)
        repeaters = np.bincount(pairs.items[pairs.counts > 1], minlength=num_items)
        is_gap = (np.diff(bought.users) == 0) & (np.diff(bought.items) == 0)
        of, gaps = bought.items[1:][is_gap], np.log(np.diff(bought.days)[is_gap])
        num_gaps = np.bincount(of, minlength=num_items)
        days = np.bincount(pairs.items, weights=day - pairs.first, minlength=num_items)
        total = max(1, int(buyers.sum()))
        mean = gaps.mean() if len(gaps) else np.log(HORIZON_DAYS)
        share = (repeaters + _PRIOR_BUYERS * (repeaters.sum() + 1) / (total + 2)) / (buyers + _PRIOR_BUYERS)
        return cls(
            gap=(np.bincount(of, weights=gaps, minlength=num_items) + _PRIOR_GAPS * mean) / (num_gaps + _PRIOR_GAPS),
            rate=np.log(
                (num_gaps + _PRIOR_BUYERS * (num_gaps.sum() + 1) / total) / (days + _PRIOR_BUYERS * (days.sum() + 1) / total)
            ),
            repeats=np.log(share / (1 - share)),
            buyers=np.log1p(buyers),
            offered=(repeaters > 0)
            | (np.bincount(pairs.items[day - pairs.first >= HORIZON_DAYS], minlength=num_items) < _LEAST_BUYERS),
        )


@dataclass(frozen=True)
class Again:
    """A trained rule; made by `learn`."""

    habits: Habits
    weights: Floats

    def chances(self, pairs: Pairs, day: int) -> Floats:
        """(n,) chance that each person buys each of their items within `HORIZON_DAYS` of a day; 0: it is not offered again, for this
        person bought it once, and of many who had the time nobody bought it twice."""
        chances = 1 / (1 + np.exp(-_features(pairs, self.habits, day) @ self.weights))
        return np.where((pairs.counts > 1) | self.habits.offered[pairs.items], chances, 0.0)

    def resized(self, num_items: int) -> Again:
        """The same over a catalogue that has grown to so many items, the new ones bought by nobody yet."""
        habits = {
            name: np.append(values[:-1], np.repeat(values[-1:], num_items + 2 - len(values)))
            for name, values in vars(self.habits).items()
        }
        return Again(Habits(**habits), self.weights)

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        parts = {name: torch.from_numpy(values) for name, values in vars(self.habits).items()}
        save_file({**parts, "weights": torch.from_numpy(self.weights)}, path)

    @classmethod
    def load(cls, path: Path) -> Again:
        """What `save` wrote."""
        parts = {name: values.numpy() for name, values in load_file(path).items()}
        weights = parts.pop("weights")
        return cls(Habits(**parts), weights)


def learn(bought: Bought, num_items: int) -> Again:
    """From purchases alone: on some days, was what had been bought bought again within the horizon?"""
    end = int(bought.days.max(initial=-1)) + 1
    features, labels = [], []
    for back in range(1, _CUTOFFS + 1):
        day = end - back * HORIZON_DAYS
        known = bought.before(day)
        if len(known.days) <= _LEAST_KNOWN * len(bought.days):
            break
        pairs = known.pairs.some(_MOST_PAIRS)
        features.append(_features(pairs, Habits.of(known, day, num_items), day))
        labels.append(pairs.in_(bought.within(day, day + HORIZON_DAYS)))
    weights = _fit(np.concatenate(features), np.concatenate(labels)) if features else _PRIOR
    return Again(Habits.of(bought, end, num_items), weights)


def _features(pairs: Pairs, habits: Habits, day: int) -> Floats:
    """(n, 8) what speaks for it, in the order of `_PRIOR`."""
    counts, since = np.log(pairs.counts), np.log(np.maximum(day - pairs.last, 1))
    gaps = np.maximum(pairs.counts - 1, 1)
    own = np.log(np.maximum(pairs.last - pairs.first, 1) / gaps)
    trust = (pairs.counts - 1) / (pairs.counts + 1)
    due = since - (trust * own + (1 - trust) * habits.gap[pairs.items])  # 0: the usual time has just passed
    once = np.where(pairs.counts == 1, habits.repeats[pairs.items], 0.0)
    return np.stack(
        [np.ones(len(pairs)), counts, since, due, due**2, once, habits.rate[pairs.items], habits.buyers[pairs.items]], 1
    )


def _fit(features: Floats, labels: Bools) -> Floats:
    """Weights of greatest posterior density around `_PRIOR`, by Newton's method; features count by their spread."""
    weights = _PRIOR.copy()
    pull = _TRUST * np.diag(np.append(1e-6, features[:, 1:].var(axis=0) + 1e-3))  # how much there is of it, the examples say
    for _ in range(50):
        chances = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (chances - labels) + pull @ (weights - _PRIOR)
        curvature = (features * (chances * (1 - chances))[:, None]).T @ features + pull
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 5 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    return weights
