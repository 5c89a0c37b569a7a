"""What the model must beat, asked about the same rows: BG/NBD, a random forest on the same features, and the base rate.

BG/NBD is our own fit with SciPy, as the package `lifetimes` is no longer maintained (P. S. Fader, B. G. S. Hardie, K. L. Lee:
"Counting Your Customers" the Easy Way: An Alternative to the Pareto/NBD Model, Marketing Science 24, 2005).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from training.metrics.classification import log_loss
from training.propensity.data import Parts, Rows
from training.propensity.encoder import NAMES, Encoder, Floats
from training.propensity.model import Answers, answers_of

_PURCHASES, _SINCE, _SINCE_FIRST = (
    NAMES.index(name) for name in ("purchase_days", "days_since_purchase", "days_since_first_purchase")
)
_STARTS = ((1.0, 1.0, 1.0, 1.0), (0.25, 1.0, 0.5, 2.0))
_BOUND = 12.0
"""Largest log of a parameter: beyond it the likelihood is flat."""
_LEAVES = (5, 20, 80)
"""Least rows of a leaf that are tried on the validation part."""
_TREES = 100
_TREE_ROWS = 50_000
"""Rows that each tree is grown from, at most: more made none better here, only slower."""


@dataclass(frozen=True)
class BgNbd:
    """Purchases at a rate that differs between users (gamma: `r`, `alpha`) until, after any of them, one stays away (beta: `a`, `b`).

    Time in one unit throughout; `x` repeat purchases, the last at `t_x`, watched until `T` after the first.
    """

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, x: Floats, t_x: Floats, T: Floats) -> BgNbd:
        """Parameters of the greatest likelihood for users (n,) each.

        Raises:
            ValueError: nobody to learn from, or times that are no history.
        """
        if not len(x):
            raise ValueError("BG/NBD needs at least one user who bought")
        if not ((x >= 0) & (t_x >= 0) & (t_x <= T)).all():
            raise ValueError("BG/NBD needs 0 <= t_x <= T and x >= 0 of each user")
        unit = max(float(T.mean()), 1e-9)  # so that the optimiser starts near, whatever the unit of time
        cells, weights = np.unique(np.stack([x, t_x, T], axis=1), axis=0, return_counts=True)

        def loss(logs: Floats) -> float:
            r, alpha, a, b = np.exp(logs)
            each = cls(r, alpha * unit, a, b).log_likelihoods(*cells.T)
            return -float(weights @ each) / len(x)

        bounds = [(-_BOUND, _BOUND)] * 4
        found = [minimize(loss, np.log(start), method="L-BFGS-B", bounds=bounds) for start in _STARTS]
        r, alpha, a, b = np.exp(min(found, key=lambda one: one.fun).x).tolist()
        return cls(r, alpha * unit, a, b)

    def log_likelihoods(self, x: Floats, t_x: Floats, T: Floats) -> Floats:
        """(n,) equation 6 of the paper, in logs."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        alive = betaln(a, b + x) - (r + x) * np.log(alpha + T)
        with np.errstate(divide="ignore"):
            gone = np.where(x > 0, betaln(a + 1, b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + t_x), -np.inf)
        return np.asarray(gammaln(r + x) - gammaln(r) + r * np.log(alpha) - betaln(a, b) + np.logaddexp(alive, gone))

    def alive(self, x: Floats, t_x: Floats, T: Floats) -> Floats:
        """(n,) probability that a user has not gone."""
        log_odds = (
            np.log(self.a) - np.log(self.b + np.maximum(x, 1) - 1) + (self.r + x) * np.log((self.alpha + T) / (self.alpha + t_x))
        )
        return np.where(x > 0, 1 / (1 + np.exp(np.minimum(log_odds, 700))), 1.0)

    def unbought(self, x: Floats, t_x: Floats, T: Floats, times: Floats) -> Floats:
        """(n, m) probability of no purchase in each of the coming `times` (m,): gone, or alive with none.

        The rate of one who is alive is gamma with r + x and alpha + T, so none in t has ((alpha + T) / (alpha + T + t)) ** (r + x).
        """
        alive = self.alive(x, t_x, T)[:, None]
        known = (self.alpha + T)[:, None]
        return np.asarray(1 - alive * (1 - (known / (known + times)) ** (self.r + x)[:, None]))


Ask = Callable[[Rows], Answers]


def base_rate(parts: Parts, _encoder: Encoder, _seed: int) -> Ask:
    """The same curve for everybody: of those who had not bought yet, the share that bought on each day (Kaplan & Meier 1958)."""
    curve = _kaplan_meier(parts.refit, parts.plan.horizon)
    return lambda asked: answers_of(np.tile(curve, (len(asked), 1)))


def bg_nbd(parts: Parts, _encoder: Encoder, _seed: int) -> Ask:
    """BG/NBD fitted on the histories of the users who are asked; who never bought gets the curve of others who had not."""
    asked = parts.test
    bought = asked.values[:, _PURCHASES] > 0
    model = BgNbd.fit(*histories(asked.values[bought]))
    never = _kaplan_meier(parts.refit.take(parts.refit.values[:, _PURCHASES] == 0), parts.plan.horizon)
    days = np.arange(1.0, parts.plan.horizon + 1)

    def ask(rows: Rows) -> Answers:
        curves = np.tile(never, (len(rows), 1))
        buyers = rows.values[:, _PURCHASES] > 0
        curves[buyers] = model.unbought(*histories(rows.values[buyers]), days)
        return answers_of(curves)

    return ask


def histories(values: Floats) -> tuple[Floats, Floats, Floats]:
    """`x`, `t_x`, `T` of users who bought, in days, from their features (n, F)."""
    first, since = values[:, _SINCE_FIRST], values[:, _SINCE]
    return values[:, _PURCHASES] - 1, first - since, first


def random_forest(parts: Parts, encoder: Encoder, seed: int) -> Ask:
    """A forest per question on the same encoded features; the size of its leaves is chosen on the validation part."""

    def loss(leaf: int) -> float:
        grown = _classifier(parts.train, encoder, 30, leaf, seed)
        return log_loss(parts.val.bought_within(30), _share(grown, encoder.encode(parts.val.values)))

    leaf = min(_LEAVES, key=loss)
    within = {days: _classifier(parts.refit, encoder, days, leaf, seed) for days in (7, 30)}
    whole = parts.refit.take(parts.refit.watched == parts.plan.horizon)
    wait = RandomForestRegressor(**_grown(len(whole), leaf, seed)).fit(encoder.encode(whole.values), whole.days)

    def ask(rows: Rows) -> Answers:
        inputs = encoder.encode(rows.values)
        return Answers(_share(within[7], inputs), _share(within[30], inputs), np.asarray(wait.predict(inputs), dtype=np.float64))

    return ask


BASELINES: dict[str, Callable[[Parts, Encoder, int], Ask]] = {
    "base_rate": base_rate,
    "bg_nbd": bg_nbd,
    "random_forest": random_forest,
}


def _classifier(rows: Rows, encoder: Encoder, days: int, leaf: int, seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(**_grown(len(rows), leaf, seed)).fit(encoder.encode(rows.values), rows.bought_within(days))


def _grown(num_rows: int, leaf: int, seed: int) -> dict[str, Any]:
    return {
        "n_estimators": _TREES,
        "min_samples_leaf": leaf,
        "max_features": "sqrt",
        "max_samples": min(1.0, _TREE_ROWS / num_rows),
        "random_state": seed,
        "n_jobs": -1,
    }


def _share(forest: RandomForestClassifier, inputs: NDArray[np.float32]) -> Floats:
    """Probability of a purchase; a forest that has seen only one answer gives it."""
    probabilities = forest.predict_proba(inputs)
    classes = forest.classes_.tolist()
    return np.asarray(probabilities[:, classes.index(1)], dtype=np.float64) if 1 in classes else np.zeros(len(inputs))


def _kaplan_meier(rows: Rows, horizon: int) -> Floats:
    """(H,) probability of no purchase by the end of each coming day; 1 throughout where there is nobody to learn from."""
    bought = np.bincount(rows.days[rows.bought], minlength=horizon + 1)[1:]
    ended = np.bincount(rows.days, minlength=horizon + 1)[1:]
    at_risk = len(rows) - np.concatenate([[0], np.cumsum(ended)[:-1]])
    return np.asarray(np.cumprod(1 - bought / np.maximum(at_risk, 1)), dtype=np.float64)
