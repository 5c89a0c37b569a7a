"""Named recipes of the ranker: each function returns the whole configuration, that of its first stage included."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from training.ranker.model import Config
from training.recommender import recipes as recommender
from training.trainer import FitConfig


class DataConfig(BaseModel):
    """What is learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tuning_share: PositiveFloat = Field(
        0.25, lt=1, description="Last part of the recommender's validation days on which the ranker is tuned and calibrated."
    )
    max_lists: PositiveInt = Field(10_000, description="Lists of a part, at most; of more an even sample. Each has up to 200 rows.")


class Recipe(BaseModel):
    """First stage, data, model and fit of one training run; frozen, and every field can be changed with `--set group.field=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    retrieval: recommender.Recipe
    data: DataConfig
    model: Config
    fit: FitConfig

    @model_validator(mode="after")
    def _retrieves_at_an_instant(self) -> Self:
        if self.retrieval.data.protocol != "time":
            raise ValueError(f"retrieval.data.protocol: expected time, got {self.retrieval.data.protocol}")
        return self


def demo() -> Recipe:
    """Behind the recommender's recipe `demo`; seconds beside it."""
    return Recipe(
        name="demo",
        retrieval=recommender.demo(),
        data=DataConfig(),
        model=Config(),
        fit=FitConfig(epochs=8, batch_size=16, learning_rate=2e-3, weight_decay=0.01, schedule="cosine", clip_norm=1.0, patience=3),
    )


def full() -> Recipe:
    """Behind the recommender's recipe `full`."""
    return Recipe(
        name="full",
        retrieval=recommender.full(),
        data=DataConfig(),
        model=Config(),
        fit=FitConfig(
            epochs=12, batch_size=16, learning_rate=2e-3, weight_decay=0.01, schedule="cosine", clip_norm=1.0, patience=4
        ),
    )
