"""Named recipes of the demand model: each function returns the whole configuration."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from training.demand.backtest import BacktestConfig
from training.demand.data import LossConfig, WindowConfig
from training.demand.model import Config
from training.trainer import FitConfig


class Recipe(BaseModel):
    """Data, model and fit of one training run; frozen, and every field can be changed with `--set group.field=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    backtest: BacktestConfig
    windows: WindowConfig
    model: Config
    loss: LossConfig
    fit: FitConfig
    peers: bool
    """Also fit gradient boosting, the strong peer; minutes, not seconds."""

    @model_validator(mode="after")
    def _scores_what_is_answered(self) -> Self:
        if self.backtest.horizon != self.model.encoder.max_horizon:
            raise ValueError(
                "the days that are scored must be those that are answered: expected backtest.horizon equal to "
                f"model.encoder.max_horizon, got {self.backtest.horizon} and {self.model.encoder.max_horizon}; set both"
            )
        return self


def demo() -> Recipe:
    """A shop of some hundred items in about a minute on two cores."""
    return Recipe(
        name="demo",
        backtest=BacktestConfig(),
        windows=WindowConfig(windows_per_epoch=6_000),
        model=Config(hidden_size=32),
        loss=LossConfig(),
        fit=FitConfig(epochs=6, batch_size=256, learning_rate=3e-3, warmup_steps=10, schedule="cosine", clip_norm=1.0),
        peers=False,
    )


def full() -> Recipe:
    """Thousands of items; some minutes on two cores."""
    return Recipe(
        name="full",
        backtest=BacktestConfig(),
        windows=WindowConfig(),
        model=Config(),
        loss=LossConfig(),
        fit=FitConfig(epochs=10, batch_size=256, learning_rate=2e-3, warmup_steps=50, schedule="cosine", clip_norm=1.0),
        peers=True,
    )
