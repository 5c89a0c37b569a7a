"""What `shopgraph tune ranker` searches, per recipe."""

from __future__ import annotations

from training.space import Range, Space

_SPACE: Space = {
    "fit.learning_rate": Range(low=5e-4, high=1e-2, log=True),
    "fit.weight_decay": Range(low=1e-4, high=0.3, log=True),
    "model.dropout": Range(low=0.0, high=0.4),
    "model.dim": (16, 32, 64),
    "model.given_click": (True, False),
}
SPACES: dict[str, Space] = {"demo": _SPACE, "full": _SPACE}
