"""Named recipes of the propensity model: each function returns the whole configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from training.propensity.model import Config
from training.trainer import FitConfig


class DataConfig(BaseModel):
    """Which moments of the past are learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_cutoffs: PositiveInt = Field(12, description="Cut-off days on which every user known by then gives a row to learn from.")
    max_rows: PositiveInt = Field(1_000_000, description="Rows of a part, at most; of more so many are drawn.")


class Recipe(BaseModel):
    """Data, model and fit of one training run; frozen, and every field can be changed with `--set group.field=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    data: DataConfig
    model: Config
    fit: FitConfig


def demo() -> Recipe:
    """A few hundred users in seconds."""
    return Recipe(
        name="demo",
        data=DataConfig(),
        model=Config(dim=32),
        fit=FitConfig(
            epochs=20, batch_size=256, learning_rate=2e-3, weight_decay=0.01, schedule="cosine", clip_norm=1.0, patience=5
        ),
    )


def full() -> Recipe:
    """Thousands of users or more, in some minutes on two cores."""
    return Recipe(
        name="full",
        data=DataConfig(),
        model=Config(),
        fit=FitConfig(
            epochs=30, batch_size=1024, learning_rate=1e-3, weight_decay=0.01, schedule="cosine", clip_norm=1.0, patience=6
        ),
    )
