"""What `shopgraph tune sentiment` searches, per recipe."""

from __future__ import annotations

from training.space import Range, Space

_SPACE: Space = {
    "fit.learning_rate": Range(low=5e-4, high=1e-2, log=True),
    "model.dropout": Range(low=0.1, high=0.6),
    "model.pooled_dropout": Range(low=0.2, high=0.7),
    "model.term_dropout": Range(low=0.0, high=0.4),
    "model.term_start": Range(low=0.0, high=1.0),
}
SPACES: dict[str, Space] = {"demo": _SPACE, "full": _SPACE}
