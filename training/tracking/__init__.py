"""The door to MLflow: runs, registered models, and the server of this home."""

from training.tracking.registry import Saved
from training.tracking.runs import Run
from training.tracking.tracking import Tracking

__all__ = ["Run", "Saved", "Tracking"]
