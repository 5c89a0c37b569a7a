"""Rolling-origin backtest: what a method would have said on the morning of an origin, against what came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from training.demand.encoder import Encoder, Future
from training.demand.panel import Bools, Floats, Ints, Panel
from training.metrics.forecast import Doubles, naive_scale, series_parts


class BacktestConfig(BaseModel):
    """Which series and days are scored; part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    horizon: PositiveInt = Field(28, description="Days ahead that are scored; the last ones of the table are the test part.")
    num_origins: PositiveInt = Field(3, description="Rolling origins of the validation part, one horizon apart.")
    min_sold_days: PositiveInt = Field(10, description="Score series sold on at least so many days before the origin.")
    recent_days: PositiveInt = Field(56, description="... and at least once in so many days before the origin.")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method says of N series and H days, in units.

    Attributes:
        quantiles: (N, H, 9) at `WQL_LEVELS`.
        point: (N, H) its point forecast, judged by WAPE and MASE.
        mean: (N, H) its expected units, judged by bias.
    """

    quantiles: NDArray[np.floating]
    point: NDArray[np.floating]
    mean: NDArray[np.floating]


Method = Callable[[Panel, int], Answer]
"""(panel with the covariates of the days ahead, first day ahead) -> answer for the days from there to the panel's end."""


@dataclass(frozen=True, eq=False)
class Backtest:
    """One origin: the series that are scored, what came, and which days count.

    A day counts where the item is on sale with stock and the shop opens, or was expected to: an unforeseen closure is an error.
    """

    panel: Panel
    origin: int
    actual: Floats
    scored: Bools
    scale: Doubles

    @classmethod
    def at(cls, panel: Panel, origin: int, encoder: Encoder, config: BacktestConfig) -> Backtest:
        """Cut the panel at `origin`. Promotions and the calendar of the days ahead are known, prices and closures are not.

        Raises:
            ValueError: no item can be scored.
        """
        history = panel.until(origin)
        chosen = select_series(history, config)
        end = origin + config.horizon
        days = slice(origin, end)
        truth = panel.until(end).select(chosen)
        future = Future(promotion_depth=truth.promotion_depth[:, days], holidays=panel.holidays[days])
        longer, _ = encoder.extend(history.select(chosen), config.horizon, future)
        return cls(
            longer,
            origin,
            truth.units[:, days],
            ~truth.is_stock_out[:, days] & (truth.is_open[days] | longer.is_open[days]),
            naive_scale(truth.units[:, :origin], truth.is_observed[:, :origin]),
        )

    def score(self, answer: Answer) -> dict[str, Doubles]:
        """Per-series parts of every metric."""
        return series_parts(self.actual, self.scored, answer.quantiles, answer.point, answer.mean, self.scale)


def select_series(history: Panel, config: BacktestConfig) -> Ints:
    """Positions of the items to score on the morning after `history`: sold often enough, and lately.

    Raises:
        ValueError: there is none.
    """
    sold = (history.units > 0) & history.is_observed
    chosen = np.flatnonzero((sold.sum(axis=1) >= config.min_sold_days) & sold[:, -config.recent_days :].any(axis=1))
    if not len(chosen):
        raise ValueError(
            f"no item sold on {config.min_sold_days} days before {history.day(history.num_days)} and once in the last "
            f"{config.recent_days}, so nothing can be scored: expected a longer history or a lower min_sold_days"
        )
    return chosen
