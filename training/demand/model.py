"""The demand network and its inference half.

An LSTM reads the last days of a series, a second one walks over the planned covariates of the days ahead and a head answers
all quantiles of every day at once (direct multi-horizon quantiles: Wen et al. 2017, arXiv:1711.11053). Quantiles are the item's
own empirical ones in learned shares plus running sums of positive steps: they never cross, and an untrained network is a moving
average. The mean is a head of its own, because medians of sparse demand add up to far less than the demand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from features.columns import DS, ITEM_ID
from features.tables import ARROW_TYPES, DAILY_DEMAND
from training.demand.encoder import EMPIRICAL_DAYS, Encoder, EncoderConfig, Future
from training.demand.panel import COLUMNS, Floats, Ints, Panel
from training.dropout import Dropout

MAX_LOG_MEAN = 15.0
"""Bound of the mean's logarithm in units of the scale, far beyond any demand, so that no weight can overflow it."""


class Config(BaseModel):
    """Shape of the demand network; the defaults are those of the recipe `full`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    encoder: EncoderConfig = Field(EncoderConfig(), description="How far a window reaches.")
    hidden_size: PositiveInt = Field(64, description="Width of both LSTMs.")
    num_layers: PositiveInt = Field(1, description="Layers of each LSTM.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head.")
    holiday_size: PositiveInt = Field(4, description="Width of a holiday's embedding.")
    category_size: PositiveInt = Field(4, description="Width of a category's embedding.")

    @property
    def levels(self) -> tuple[float, ...]:
        """Quantile levels the network is trained on, ascending."""
        return self.encoder.levels


class Network(nn.Module):
    """Arrays of `Encoder.encode` in; quantiles and mean of each day ahead out, in units of the window's scale."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.input_spec = encoder.input_spec
        num_context, num_future, num_static = (self.input_spec[name][0][-1] for name in ("context", "future", "static"))
        hidden, layers = config.hidden_size, config.num_layers
        self.holiday = nn.Embedding(len(encoder.holiday_names) + 2, config.holiday_size)
        self.category = nn.Embedding(len(encoder.category_names) + 1, config.category_size)
        num_known = num_static + config.category_size + len(EMPIRICAL_DAYS) * len(config.levels)
        self.static = nn.Sequential(nn.Linear(num_known, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.context_lstm = nn.LSTM(num_context + config.holiday_size, hidden, layers, batch_first=True)
        self.join = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.GELU())
        self.future_lstm = nn.LSTM(num_future + config.holiday_size + hidden, hidden, layers, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden + num_future + config.holiday_size, hidden),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(hidden, len(config.levels) + len(EMPIRICAL_DAYS) + 1),
        )
        with torch.no_grad():  # begin at the mean of the empirical quantiles
            last_layer = self.head[-1]
            assert isinstance(last_layer, nn.Linear)
            last_layer.weight.mul_(0.1)
            last_layer.bias.zero_()
            last_layer.bias[1 : len(config.levels)] = _inverse_softplus(0.01)
            last_layer.bias[len(config.levels) : -1] = _inverse_softplus(1 / len(EMPIRICAL_DAYS))

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Quantiles (B, H, Q), ascending, and the logarithm of the mean (B, H); both relative to `scale`."""
        empirical = inputs["empirical"]
        known = [inputs["static"], self.category(inputs["category"]), empirical.flatten(1).log1p()]
        static = self.static(torch.cat(known, dim=-1))
        _, (last, cell) = self.context_lstm(torch.cat([inputs["context"], self.holiday(inputs["context_holiday"])], dim=-1))
        summary = self.join(torch.cat([last[-1], static], dim=-1))
        future = torch.cat([inputs["future"], self.holiday(inputs["future_holiday"])], dim=-1)
        ahead = summary[:, None].expand(-1, future.shape[1], -1)
        walked, _ = self.future_lstm(torch.cat([future, ahead], dim=-1), (last, cell))
        out = self.head(torch.cat([walked, ahead, future], dim=-1))
        num_levels = len(self.config.levels)
        steps = torch.cat([out[..., :1], nn.functional.softplus(out[..., 1:num_levels])], dim=-1)
        shares = nn.functional.softplus(out[..., num_levels:-1])
        return shares @ empirical + steps.cumsum(dim=-1), out[..., -1].clamp(-MAX_LOG_MEAN, MAX_LOG_MEAN)


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))


@dataclass(frozen=True)
class Forecast:
    """The answer for one series.

    Attributes:
        quantiles: level -> (H,) units, ascending in the level, never negative.
        mean: (H,) expected units.
        days: the H days.
        filled: covariates that were not given and were filled by rule.
        is_cold: nothing was known of the item: the answer is the profile of its category or of all items.
        is_stale: days on which the shop was open, the last before the first day ahead among them, are not known yet; the forecast
            was made on the morning of the first of them.
    """

    quantiles: dict[float, NDArray[np.float64]]
    mean: NDArray[np.float64]
    days: tuple[date, ...]
    filled: tuple[str, ...]
    is_cold: bool
    is_stale: bool


class Forecaster:
    """The inference half: network and encoder of one model version."""

    def __init__(self, config: Config, encoder: Encoder, network: Network) -> None:
        self.config = config
        self.encoder = encoder
        self.network = network.eval()

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What the network eats; see `Encoder.input_spec`."""
        return self.encoder.input_spec

    @property
    def max_horizon(self) -> int:
        """Days ahead that can be asked for."""
        return self.config.encoder.max_horizon

    @property
    def history_days(self) -> int:
        """Days of history that an answer looks at: older rows change nothing."""
        return self.encoder.history_days

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors`, `config.json` and `encoder.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        (folder / "encoder.json").write_text(json.dumps(self.encoder.to_json(), ensure_ascii=False, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Forecaster:
        """Read what `save` wrote."""
        config = Config.model_validate_json((folder / "config.json").read_text())
        encoder = Encoder.from_json(json.loads((folder / "encoder.json").read_text()))
        network = Network(config, encoder)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        return cls(config, encoder, network)

    def forecast(
        self,
        context: Sequence[Mapping[str, Any]],
        future: Sequence[Mapping[str, Any]] | None = None,
        horizon: int = 28,
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        start: date | None = None,
    ) -> list[Forecast]:
        """Forecast each series.

        Args:
            context: per series the columns of `daily_demand` as lists of equal length (`ds`, `units_sum`, ...), oldest first,
                plus `item_id` (one string) and optionally `category`; empty lists for an item nothing is known of. `known_until`
                is the last day of which it is known what was sold, unsaid: the day before `start`. A day without a row that lies
                between others, or after `known_until`, is unknown; one after the last row and up to it is a day without a sale.
            future: per series the planned `price_mean`, `promotion_depth`, `holiday`, `is_open` as lists of `horizon` values;
                what is missing is filled by the rules of `Encoder.extend`, as is None among prices and promotions.
            horizon: days ahead, at most `max_horizon`.
            quantiles: levels between the outermost trained ones; between trained levels the answer is interpolated.
            start: the first day ahead; default: the day after the newest row of the call.

        Raises:
            ValueError: the horizon or a quantile is out of reach, the lists disagree in length, or `start` cannot be told.
        """
        self._check(horizon, quantiles)
        if not context:
            return []
        plans = list(future) if future is not None else [{}] * len(context)
        if len(plans) != len(context):
            raise ValueError(f"each series needs its future: got {len(context)} series and {len(plans)} futures")
        planned = _plan(plans, horizon)
        unknown = {"price": _has_gap(planned.price), "promotion_depth": _has_gap(planned.promotion_depth)}
        panel = self._panel(context, start)
        longer, filled = self.encoder.extend(panel, horizon, planned)
        cutoffs = _cutoffs(panel, context)
        values = np.empty((panel.num_items, horizon, len(self.config.levels)), np.float32)
        mean = np.empty((panel.num_items, horizon), np.float32)
        for cutoff in np.unique(cutoffs):
            rows, gap = np.flatnonzero(cutoffs == cutoff), panel.num_days - int(cutoff)
            found = self.predict_at(longer.select(rows), cutoffs[rows], gap + horizon)
            values[rows], mean[rows] = found[0][:, gap:], found[1][:, gap:]
        wanted = interpolate(values, self.config.levels, quantiles)
        is_cold = [not row.any() for row in panel.is_on_sale]
        days = tuple(panel.day(panel.num_days + step) for step in range(horizon))
        return [
            Forecast(
                {level: wanted[row, :, index] for index, level in enumerate(quantiles)},
                mean[row].astype(np.float64),
                days,
                tuple(name for name in filled if name not in unknown or unknown[name][row]),
                is_cold[row],
                bool(cutoffs[row] < panel.num_days),
            )
            for row in range(panel.num_items)
        ]

    def predict(self, panel: Panel, horizon: int, future: Future | None = None, batch_size: int = 2048) -> tuple[Floats, Floats]:
        """Quantiles (N, H, Q) at the trained levels and the mean (N, H), in units, of the days after the panel.

        Days on which the shop will be closed are zero.
        """
        longer, _ = self.encoder.extend(panel, horizon, future)
        return self.predict_at(longer, np.full(panel.num_items, panel.num_days), horizon, batch_size)

    def predict_at(self, panel: Panel, cutoffs: NDArray[np.int64], horizon: int, batch_size: int = 2048) -> tuple[Floats, Floats]:
        """As `predict`, on a panel that holds the covariates of the days ahead of each item's cutoff.

        An item that is not on sale before its cutoff looks as training showed it: as one whose history is hidden.
        """
        prepared = self.encoder.prepare(panel)
        device = next(self.network.parameters()).device
        parts: list[tuple[Floats, Floats]] = []
        for begin in range(0, panel.num_items, batch_size):
            rows = np.arange(begin, min(begin + batch_size, panel.num_items))
            is_cold = prepared.first_day[rows] >= cutoffs[rows]
            arrays = self.encoder.encode(prepared, rows, cutoffs[rows], horizon, is_history_hidden=is_cold)
            with torch.inference_mode():
                levels, log_mean = self.network({name: torch.from_numpy(values).to(device) for name, values in arrays.items()})
            scale = arrays["scale"][:, None]
            is_open = panel.is_open[cutoffs[rows][:, None] + np.arange(horizon)]
            parts.append(
                (
                    np.maximum(levels.cpu().numpy(), 0) * scale[..., None] * is_open[..., None],
                    np.exp(log_mean.cpu().numpy()) * scale * is_open,
                )
            )
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _check(self, horizon: int, quantiles: Sequence[float]) -> None:
        if not 1 <= horizon <= self.max_horizon:
            raise ValueError(f"horizon must be 1..{self.max_horizon} days, got {horizon}")
        low, high = self.config.levels[0], self.config.levels[-1]
        outside = [level for level in quantiles if not low <= level <= high]
        if outside or not quantiles:
            raise ValueError(f"quantiles must lie in {low}..{high}, got {list(quantiles)}")

    def _panel(self, context: Sequence[Mapping[str, Any]], start: date | None) -> Panel:
        """The rows of one call; what they do not say of the calendar is told by the encoder's rules."""
        panel = _rows(context, start, self.history_days)
        told = {day for series in context for day in series.get(DS, ())}
        days = [panel.day(position) for position in range(panel.num_days)]
        holidays = tuple(
            name if day in told else self.encoder.calendar.get(day) for day, name in zip(days, panel.holidays, strict=True)
        )
        is_open = [
            bool(opened) if day in told else self.encoder.will_open(day, name)
            for day, name, opened in zip(days, holidays, panel.is_open, strict=True)
        ]
        return replace(panel, holidays=holidays, is_open=np.array(is_open))


def interpolate(values: Floats, levels: Sequence[float], wanted: Sequence[float]) -> NDArray[np.float64]:
    """(..., Q) values at ascending `levels` -> (..., W) at `wanted`, linear between neighbours, hence never crossing."""
    at = np.asarray(levels)
    right = np.clip(np.searchsorted(at, wanted), 1, len(at) - 1) if len(at) > 1 else np.zeros(len(wanted), int)
    left = np.maximum(right - 1, 0)
    span = np.where(right > left, at[right] - at[left], 1.0)
    share = np.clip((np.asarray(wanted) - at[left]) / span, 0.0, 1.0)
    low, high = values[..., left].astype(np.float64), values[..., right].astype(np.float64)
    result: NDArray[np.float64] = low + share * (high - low)  # in double, so that rounding crosses nothing
    return result


def _rows(context: Sequence[Mapping[str, Any]], start: date | None, history_days: int) -> Panel:
    """The series of one call as a panel that ends the day before `start`; rows from there on are not looked at.

    It reaches `history_days` back from every cutoff, also where an item is younger: the days before it are days of the shop, and
    an answer must not depend on how old the other items of the call are.
    """
    newest = max((max(series[DS]) for series in context if len(series.get(DS, ()))), default=None)
    if start is None and newest is None:
        raise ValueError("no series has a history: say with `start` which day the forecast begins")
    last = newest if start is None else start - timedelta(days=1)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for number, series in enumerate(context):
        days = list(series.get(DS, ()))
        kept = [position for position, day in enumerate(days) if day <= last]
        columns[ITEM_ID] += [str(number)] * len(kept)
        for name in COLUMNS[1:]:
            values = series.get(name, [None] * len(days))
            if len(values) != len(days):
                raise ValueError(f"series {number}: {name} has {len(values)} values for {len(days)} days")
            columns[name] += [values[position] for position in kept]
    schema = pa.schema([(name, ARROW_TYPES[DAILY_DEMAND.column(name).type]) for name in COLUMNS])
    numbers = [str(number) for number in range(len(context))]
    categories = {number: series.get("category") for number, series in zip(numbers, context, strict=True)}
    oldest = min([last, *(series["known_until"] for series in context if series.get("known_until") is not None)])
    min_days = history_days + (last - oldest).days
    return Panel.from_table(pa.table(columns, schema=schema), categories, item_ids=numbers, last=last, min_days=min_days)


def _cutoffs(panel: Panel, context: Sequence[Mapping[str, Any]]) -> Ints:
    """(N,) the first day of each series on which the shop was open and of which nothing is known, else the day after the panel."""
    known = [series.get("known_until") for series in context]
    firsts = np.array([panel.num_days if day is None else panel.index(day) + 1 for day in known], dtype=np.int64)
    next_open = np.append(np.where(panel.is_open, np.arange(panel.num_days), panel.num_days), panel.num_days)
    next_open = np.minimum.accumulate(next_open[::-1])[::-1]
    return next_open[np.minimum(firsts, panel.num_days)]


def _plan(plans: Sequence[Mapping[str, Any]], horizon: int) -> Future:
    """The planned covariates of one call; the calendar is the shop's, so the series that give one must agree."""
    for number, plan in enumerate(plans):
        for name, values in plan.items():
            if values is not None and len(values) != horizon:
                raise ValueError(f"series {number}: future {name} has {len(values)} values for a horizon of {horizon}")

    def numbers(name: str) -> Floats:
        rows = [[np.nan if value is None else value for value in plan.get(name) or [None] * horizon] for plan in plans]
        return np.array(rows, np.float32).reshape(len(plans), horizon)

    def shared(name: str) -> list[Any] | None:
        given = [list(plan[name]) for plan in plans if plan.get(name) is not None]
        if any(values != given[0] for values in given):
            raise ValueError(f"future {name} differs between series, but it is one for the whole shop")
        return given[0] if given else None

    holidays, is_open = shared("holiday"), shared("is_open")
    return Future(
        numbers("price_mean"),
        numbers("promotion_depth"),
        None if holidays is None else tuple(holidays),
        None if is_open is None else np.array(is_open, np.bool_),
    )


def _has_gap(values: Floats | None) -> list[bool]:
    """Per series: a planned value is missing."""
    return [] if values is None else [bool(np.isnan(row).any()) for row in values]
