"""Model node: units per series and day ahead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from zoneinfo import ZoneInfo

from serving.edges import Content, reasons_of
from serving.nodes.daily_demand import Context
from serving.nodes.node import Node, NodeSettings
from serving.parts import Parts
from serving.problems import Problem, invalid
from serving.schemas import ForecastRequest
from training.demand.model import Forecaster


class Demand(Node):
    """The demand model over what is known of the items."""

    reads = (Context,)
    gives = Content
    models = ("demand",)
    max_batch = 1  # each request has its own calendar ahead, and reading its days costs most

    def __init__(self, model: Forecaster, zone: ZoneInfo, most_days: int, most_series: int) -> None:
        self.model = model
        self.zone = zone
        self.most_days = min(most_days, model.max_horizon)
        self.most_series = most_series

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """The model, used once."""
        model = parts.forecaster
        model.forecast([{}], horizon=1, quantiles=(0.5,), start=parts.at.date())
        return cls(model, parts.shop.zone, parts.limits.horizon, parts.limits.series)

    def check(self, request: ForecastRequest) -> None:
        """Refuse more days ahead or more series than the graph takes (raises Problem)."""
        if request.horizon > self.most_days:
            raise invalid("/horizon", f"this graph looks at most {self.most_days} days ahead")
        if len(request.series) > self.most_series:
            raise invalid("/series", f"this graph takes at most {self.most_series} series in one request")

    def run(self, requests: Sequence[ForecastRequest], at: datetime, *read: Sequence[Any]) -> list[Content | Problem]:
        """Units per series and day, from the local day of `at` on.

        A request whose quantiles or plans the model refuses gets a Problem.
        """
        (contexts,) = read
        return [self._answer(request, context, at) for request, context in zip(requests, contexts, strict=True)]

    def _answer(self, request: ForecastRequest, context: Context, at: datetime) -> Content | Problem:
        ids = [series.item_id for series in request.series]
        start = at.astimezone(self.zone).date()
        planned = [request.future[item].model_dump(exclude_none=True) if item in request.future else {} for item in ids]
        try:
            forecasts = self.model.forecast(context.series, planned, request.horizon, request.quantiles, start)
        except ValueError as error:  # the model's own bounds, such as the outermost quantile it was trained on
            return Problem("invalid-request", f"{error}.")
        series = [
            {
                "item_id": item,
                "ds": list(forecast.days),
                "mean": forecast.mean.tolist(),
                "quantiles": {str(level): values.tolist() for level, values in forecast.quantiles.items()},
                "filled": list(forecast.filled),
                "degraded": [*degraded, "stale_history"] if forecast.is_stale else degraded,
            }
            for item, degraded, forecast in zip(ids, context.degraded, forecasts, strict=True)
        ]
        return {"series": series, "degraded": reasons_of(series)}
