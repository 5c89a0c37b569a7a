"""The closed list of metric names; anything else is refused, so that any two runs can be compared by name.

A full name is `[val_|test_] + base + [_gain] + [_lo|_hi]`: `test_ndcg_at_10_lo`. MLflow refuses `@`, hence `_at_`.
"""

from __future__ import annotations

import re

RANKING = ("ndcg_at_10", "recall_at_10", "recall_at_20", "mrr_at_20", "coverage_at_10", "novelty_at_10")
FORECAST = ("wql", "wape", "mase", "bias", "interval_coverage_80")
CLASSIFICATION = ("accuracy", "macro_f1", "log_loss", "ece")
PROPENSITY = ("auc_7d", "auc_30d", "log_loss_7d", "log_loss_30d", "ece_7d", "ece_30d", "mae_days")
"""Whether a user buys within so many days, and how far the expected days are from those that passed."""
RANKER = ("revenue_at_10", *(f"{metric}_{task}" for metric in ("auc", "log_loss", "ece") for task in ("click", "cart", "purchase")))
"""Price of the bought items among the first ten, and the chances of each task."""
PROGRESS = ("train_loss", "val_loss", "learning_rate", "epoch_s")
"""What the training loop says of itself, once per epoch; these take no prefix and no interval."""

HIGHER_IS_BETTER = {
    **dict.fromkeys(RANKING, True),
    **dict.fromkeys(FORECAST, False),
    **dict.fromkeys(CLASSIFICATION, True),
    "log_loss": False,
    "ece": False,
    **{name: name.startswith("auc") for name in PROPENSITY},
    **{name: name.startswith(("revenue", "auc")) for name in RANKER},
}
"""Direction of each base metric. `bias` is best at 0 and `interval_coverage_80` at 0.8, and the best `novelty_at_10` is not the highest:
they are reported, never maximised."""

_NAME = re.compile(rf"(val_|test_)?({'|'.join(HIGHER_IS_BETTER)})(_gain)?(_lo|_hi)?")


def check(name: str) -> str:
    """`name`, if it is a metric name. `_gain` is the paired difference from the best floor, positive where the model is better.

    Raises:
        ValueError: it is not in the closed list.
    """
    if name in PROGRESS or _NAME.fullmatch(name):
        return name
    raise ValueError(
        f"metric {name!r} is not in the closed list of training/metrics/names.py: {', '.join((*HIGHER_IS_BETTER, *PROGRESS))}"
    )


def with_interval(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    """`(mean, lo, hi)` under the names `name`, `name_lo`, `name_hi`."""
    mean, lo, hi = interval
    return {check(name): mean, f"{name}_lo": lo, f"{name}_hi": hi}
