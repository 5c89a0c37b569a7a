"""What `shopgraph tune demand` searches, per recipe."""

from __future__ import annotations

from training.space import Range, Space

_SPACE: Space = {
    "fit.learning_rate": Range(low=5e-4, high=1e-2, log=True),
    "model.hidden_size": (32, 64, 128),
    "model.dropout": Range(low=0.0, high=0.4),
    "loss.hide_year": Range(low=0.0, high=0.8),
    "loss.scale_power": Range(low=0.2, high=1.0),
}
SPACES: dict[str, Space] = {"demo": _SPACE, "full": _SPACE}
