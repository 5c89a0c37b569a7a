"""Named recipes of the recommender: each function returns the whole configuration."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from features.columns import HISTORY_STEPS
from training.recommender.data import DataConfig
from training.recommender.network import Config
from training.trainer import FitConfig


class Recipe(BaseModel):
    """Data, model and fit of one training run; frozen, and every field can be changed with `--set group.field=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    data: DataConfig
    model: Config
    fit: FitConfig

    @model_validator(mode="after")
    def _reads_what_is_kept(self) -> Self:
        if self.model.max_length > HISTORY_STEPS:
            raise ValueError(
                f"serving keeps the newest {HISTORY_STEPS} acts of a history, so no more may be learned from: expected "
                f"model.max_length at most {HISTORY_STEPS}, got {self.model.max_length}"
            )
        return self


def demo() -> Recipe:
    """The sample shop in about a minute on two cores."""
    return Recipe(
        name="demo",
        data=DataConfig(max_val_queries=2_000),
        model=Config(dim=32, num_blocks=1, max_length=128, dropout=0.1),
        fit=FitConfig(epochs=2, batch_size=64, learning_rate=2e-3, warmup_steps=50, clip_norm=1.0),
    )


def full() -> Recipe:
    """A shop of some thousand items; minutes on two cores. Tuned on the validation part of `online_retail`."""
    return Recipe(
        name="full",
        data=DataConfig(objective="next_session"),
        model=Config(num_blocks=1, max_length=150, dropout=0.5),
        fit=FitConfig(epochs=20, batch_size=128, learning_rate=1e-3, warmup_steps=50, clip_norm=1.0, patience=5),
    )


def sequences() -> Recipe:
    """Histories without time or baskets, leave-one-out: the protocol of published tables (Amazon Beauty, Toys).

    Tuned on the validation part of Amazon Beauty. Some hundred thousand items want `model.num_negatives`.
    """
    return Recipe(
        name="sequences",
        data=DataConfig(protocol="leave_one_out", objective="next_item", start="near", event_types=None),
        model=Config(dim=128, dropout=0.5, repeats=False),
        fit=FitConfig(epochs=12, batch_size=128, learning_rate=1e-3, warmup_steps=100, schedule="cosine", clip_norm=1.0),
    )


def sessions() -> Recipe:
    """Sessions of strangers: each act asked for given those before it, however often an item comes again (Diginetica).

    Tuned on the validation part of Diginetica.
    """
    return Recipe(
        name="sessions",
        data=DataConfig(target="act", objective="next_item", start="near", event_types=None, collapse=False, half_life_days=40),
        model=Config(dim=128, num_blocks=1, max_length=20, dropout=0.3, temperature=0.07, num_negatives=8192),
        fit=FitConfig(epochs=6, batch_size=256, learning_rate=1e-3, warmup_steps=200, schedule="cosine", clip_norm=1.0),
    )
