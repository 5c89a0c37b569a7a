"""From the demand panel to a training task: random windows in, rolling origins for validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from training.demand.backtest import Answer, Backtest, BacktestConfig, Method
from training.demand.encoder import Encoder, Prepared
from training.demand.model import Config, Forecaster, Network, interpolate
from training.demand.panel import Floats, Ints, Panel, carry_forward
from training.metrics.forecast import WQL_LEVELS, Doubles, pooled


class WindowConfig(BaseModel):
    """Which windows are learned from; part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    windows_per_epoch: PositiveInt = Field(40_000, description="Random windows that make an epoch.")
    scale_power: float = Field(
        0.5, ge=0, le=1, description="Windows are drawn in proportion to scale ** power: 1 is WQL's own weight, 0 is equal items."
    )
    min_sold_days: PositiveInt = Field(3, description="Learn from items sold on at least so many days.")
    min_history: NonNegativeInt = Field(1, description="Days on sale that a training window needs before its cutoff.")


class LossConfig(BaseModel):
    """What the loss is made of and what is hidden from the network while it learns; part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale_power: float = Field(
        0.5, ge=0, le=1, description="A window counts scale ** power: 1 is WQL's own weight, 0 is equal series."
    )
    mean_weight: float = Field(0.1, ge=0, description="Weight of the mean head's Poisson deviance.")
    hide_price: float = Field(0.5, ge=0, le=1, description="Share of windows that do not know the price ahead.")
    hide_year: float = Field(0.4, ge=0, le=1, description="Share of windows that do not know last year.")
    hide_history: float = Field(0.02, ge=0, le=1, description="Share of windows that know nothing of the item.")


def posted_price(panel: Panel, days: int = 28) -> Floats:
    """(N, T) median price paid per block of days, carried over blocks without a sale.

    The mean price of a single day tells whether the item sold on it (unsold days repeat the last price; wholesale orders pay
    less), so as a planned covariate it would leak the answer.
    """
    padded = -(-panel.num_days // days) * days
    price = np.full((panel.num_items, padded), np.nan, np.float32)
    price[:, : panel.num_days] = np.where(panel.units > 0, panel.price, np.nan)
    blocks = price.reshape(panel.num_items, -1, days)
    has_price = ~np.isnan(blocks).all(axis=2)
    median = np.full(blocks.shape[:2], np.nan, np.float32)
    median[has_price] = np.nanmedian(blocks[has_price], axis=1)
    posted: Floats = np.repeat(carry_forward(median), days, axis=1)[:, : panel.num_days]
    return posted


@dataclass
class DemandTask:
    """Learn from windows whose targets lie before `end`; validate at rolling origins from `end` on, if there are any.

    Attributes:
        panel: everything up to the end of the validation part.
        end: first day whose units are not learned from.
        origins: first days ahead of the validation windows.
    """

    panel: Panel
    encoder: Encoder
    model: Config
    windows: WindowConfig
    backtest: BacktestConfig
    loss_config: LossConfig
    batch_size: int
    seed: int
    end: int
    origins: tuple[int, ...]
    mode: Literal["max", "min"] = "min"
    monitor: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = "val_wql" if self.origins else None
        horizon = self.model.encoder.max_horizon
        if self.end <= horizon:
            raise ValueError(
                f"no training window: {self.end} days before the validation part are too few for a horizon of {horizon}"
            )

    # computed where the task runs, so that only the panel travels there

    @cached_property
    def prepared(self) -> Prepared:
        """The series and days that are learned from."""
        known = self.panel.until(self.end)
        sold_days = ((known.units > 0) & known.is_observed).sum(axis=1)
        return self.encoder.prepare(known.select(np.flatnonzero(sold_days >= self.windows.min_sold_days)))

    @cached_property
    def posted(self) -> Floats:
        """Prices of the days ahead of a training window."""
        return posted_price(self.prepared.panel)

    @cached_property
    def cutoffs(self) -> Ints:
        """(W, 2) item and first day ahead of every training window.

        Raises:
            ValueError: no item sold on enough days, or early enough before `end`.
        """
        num_cutoffs = self.end - self.model.encoder.max_horizon + 1
        first = self.prepared.first_day + self.windows.min_history
        chosen: Ints = np.argwhere(np.arange(num_cutoffs)[None, :] >= first[:, None])
        if not len(chosen):
            raise ValueError(
                f"no training window before {self.panel.day(self.end)}: expected an item with sales on {self.windows.min_sold_days} days "
                f"(windows.min_sold_days) and {self.windows.min_history} days on sale (windows.min_history) before the days ahead"
            )
        return chosen

    @cached_property
    def chances(self) -> Doubles:
        """(W,) running sum of each window's chance to be drawn, which grows with its scale.

        Drawing large windows more often has the gradient of weighing them more, with less noise.
        """
        rows, ends = self.cutoffs.T
        scale = self.encoder.scale(self.prepared, rows, ends).astype(np.float64)
        running = np.cumsum(scale**self.windows.scale_power)
        chances: Doubles = running / running[-1]
        return chances

    @cached_property
    def tests(self) -> list[Backtest]:
        """One backtest per validation origin."""
        return [Backtest.at(self.panel, origin, self.encoder, self.backtest) for origin in self.origins]

    def build(self) -> Network:
        """A fresh network."""
        return Network(self.model, self.encoder)

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002  # every epoch has as many
        """Batches that hold `windows_per_epoch` windows, the same for every epoch."""
        return -(-self.windows.windows_per_epoch // self.batch_size)

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
        """Windows drawn by chance, with replacement, and parts of what they know hidden as `loss_config` says.

        Beside what `Encoder.encode` gives, each batch has `target` (B, H), units over the scale of the window, `weight` (B, H), 1 where
        the demand was observed, else 0, and `num_observed`, what a rank's share of the weights of the global batch would be.
        """
        rng = np.random.default_rng((self.seed, epoch))
        horizon = self.model.encoder.max_horizon
        steps = np.arange(horizon)
        panel, config = self.prepared.panel, self.loss_config
        for _ in range(self.num_steps(epoch)):
            chosen = self.cutoffs[np.searchsorted(self.chances, rng.random(self.batch_size), side="right")]
            hidden = rng.random((3, self.batch_size)) < np.array([[config.hide_price], [config.hide_year], [config.hide_history]])
            num_observed = self.prepared.observed[chosen[:, :1], chosen[:, 1:] + steps].sum() / world_size
            chosen, hidden = chosen[rank::world_size], hidden[:, rank::world_size]
            rows, cutoffs = chosen[:, 0], chosen[:, 1]
            arrays = self.encoder.encode(
                self.prepared,
                rows,
                cutoffs,
                horizon,
                price_ahead=self.posted,
                is_price_known=~hidden[0],
                is_year_hidden=hidden[1],
                is_history_hidden=hidden[2],
            )
            ahead = cutoffs[:, None] + steps
            arrays["target"] = panel.units[rows[:, None], ahead] / arrays["scale"][:, None]
            arrays["weight"] = self.prepared.observed[rows[:, None], ahead].astype(np.float32)
            batch = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
            batch["num_observed"] = torch.tensor(float(num_observed))
            if world_size > 1:
                batch["num_rows"] = torch.tensor(self.batch_size)
            yield batch

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Pinball over all levels plus the Poisson deviance of the mean, over days whose demand was observed."""
        quantiles, log_mean = module(batch)
        target = batch["target"]
        levels = torch.tensor(self.model.levels, device=target.device)
        error = target[..., None] - quantiles
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
        deviance = log_mean.exp() - target * log_mean
        weighted: Tensor = (pinball + self.loss_config.mean_weight * deviance) * batch["weight"]
        return weighted.sum() / batch["num_observed"].clamp(min=1)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Pooled metrics over all validation origins, names with prefix `val_`; empty where there is no origin."""
        if not self.origins:
            return {}
        assert isinstance(module, Network)
        forecaster = Forecaster(self.model, self.encoder, module)
        parts = [test.score(network_method(forecaster)(test.panel, test.origin)) for test in self.tests]
        return pooled({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, "val_")


def network_method(forecaster: Forecaster) -> Method:
    """The network as a backtest method: its median is the point forecast."""

    def answer(panel: Panel, origin: int) -> Answer:
        cutoffs = np.full(panel.num_items, origin)
        values, mean = forecaster.predict_at(panel, cutoffs, panel.num_days - origin)
        quantiles = interpolate(values, forecaster.config.levels, WQL_LEVELS)
        return Answer(quantiles, quantiles[..., WQL_LEVELS.index(0.5)], mean)

    return answer
