"""Feature node: the last days of each asked item, and its category, from the online store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Self

from features.columns import CATEGORY, DS, ITEM_ID
from features.store import FeatureStore
from features.tables import DAILY_DEMAND
from serving.nodes.node import Node, NodeSettings
from serving.parts import Parts
from serving.schemas import ForecastReason, ForecastRequest

_COLUMNS = tuple(column.name for column in DAILY_DEMAND.features)


@dataclass(frozen=True)
class Context:
    """Per series the columns of `daily_demand`, oldest first, plus `item_id`, `category` and `known_until`; and what could not be
    read of it."""

    series: list[dict[str, Any]]
    degraded: list[list[ForecastReason]]


class DailyDemand(Node):
    """Reads `daily_demand` of the `demand` service and the category in `item_catalog`."""

    gives = Context
    services = ("demand", "recommender")
    stand_in = "history_unavailable"

    def __init__(self, store: FeatureStore, num_days: int) -> None:
        self.store = store
        self.num_days = num_days

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """It reads as many days as the model looks back on."""
        return cls(parts.store, parts.forecaster.history_days)

    def run(self, requests: Sequence[ForecastRequest], at: datetime, *_: Sequence[Any]) -> list[Context]:
        """The `num_days` days before the local day of `at` of each item, without the days of which nothing is known.

        Raises:
            EngineError: the online store cannot be read.
        """
        start = at.astimezone(self.store.shop.zone).date()
        return [self._read([series.item_id for series in request.series], start, at) for request in requests]

    def without(self, requests: Sequence[ForecastRequest], at: datetime, *_: Sequence[Any]) -> list[Context]:  # noqa: ARG002
        """Empty series, each `history_unavailable`."""
        ids = [[series.item_id for series in request.series] for request in requests]
        return [Context([{ITEM_ID: item, DS: []} for item in items], [["history_unavailable"] for _ in items]) for items in ids]

    def _read(self, item_ids: Sequence[str], start: date, at: datetime) -> Context:
        days = [start - timedelta(days=back) for back in range(self.num_days, 0, -1)]
        keys: dict[str, list[Any]] = {ITEM_ID: [item for item in item_ids for _ in days], DS: days * len(item_ids)}
        rows = self.store.online_rows("demand", keys, at)
        items = self.store.online_rows("recommender", {ITEM_ID: list(item_ids)}, at)
        context = Context([], [])
        for number, item in enumerate(item_ids):
            first = number * len(days)
            known = [i for i in range(first, first + len(days)) if rows["units_sum"][i] is not None]
            columns = {name: [rows[name][i] for i in known] for name in _COLUMNS}
            series = {ITEM_ID: item, CATEGORY: items[CATEGORY][number], DS: [keys[DS][i] for i in known], **columns}
            series["known_until"] = self._known_until(series[DS], items["withdrawn_at"][number], start)
            context.series.append(series)
            is_listed = items["item_catalog__event_timestamp"][number] is not None
            context.degraded.append([] if known else ["no_recent_demand" if is_listed else "unknown_item"])
        return context

    def _known_until(self, days: Sequence[date], withdrawn_at: datetime | None, start: date) -> date | None:
        """The last day of which is known what the item sold; None where it has no row.

        An item has a row for each day on sale, also for one without a sale, so its newest row is the last day that was built and
        materialised. Once withdrawn it sells nothing, and rows end.
        """
        if not days:
            return None
        is_over = withdrawn_at is not None and withdrawn_at.astimezone(self.store.shop.zone).date() <= days[-1]
        return start - timedelta(days=1) if is_over else days[-1]
