"""What `shopgraph tune recommender` searches, per recipe."""

from __future__ import annotations

from training.space import Range, Space

SPACES: dict[str, Space] = {
    "demo": {
        "fit.learning_rate": Range(low=5e-4, high=1e-2, log=True),
        "model.dropout": Range(low=0.0, high=0.6),
        "model.dim": (32, 64),
        "data.objective": ("next_item", "next_session", "both"),
    },
    "full": {
        "fit.learning_rate": Range(low=3e-4, high=5e-3, log=True),
        "fit.weight_decay": Range(low=1e-4, high=0.3, log=True),
        "model.dropout": Range(low=0.1, high=0.7),
        "model.dim": (64, 128),
        "model.num_blocks": (1, 2),
        "data.objective": ("next_item", "next_session", "both"),
    },
    "sessions": {
        "fit.learning_rate": Range(low=3e-4, high=3e-3, log=True),
        "model.dropout": Range(low=0.1, high=0.6),
        "model.temperature": Range(low=0.04, high=0.15, log=True),
        "data.half_life_days": Range(low=7, high=200, log=True),
    },
    "sequences": {
        "fit.learning_rate": Range(low=3e-4, high=5e-3, log=True),
        "fit.weight_decay": Range(low=1e-4, high=0.3, log=True),
        "model.dropout": Range(low=0.2, high=0.7),
        "model.num_blocks": (1, 2),
    },
}
