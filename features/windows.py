"""Windowed features: what is counted over trailing local days, defined once for the columns and for the jobs that fill them.

A feature of window w on local day D speaks of the acts on the w local days D-w+1 .. D; its row is stamped with the first
instant of D+1. Imports only the standard library, so Spark executors carry nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WINDOWS_DAYS = (1, 7, 30, 90)
"""Trailing windows, in whole local days, of every windowed feature."""


@dataclass(frozen=True)
class WindowedFeature:
    """One measure of a key's acts, over each of `windows`.

    `count` counts acts (each with its weight, 1 unless `weights` says otherwise), `sum` adds up `of` over the acts,
    `distinct` counts different values of `of`. Only acts of `event_types` take part.
    """

    name: str
    aggregate: Literal["count", "sum", "distinct"]
    event_types: tuple[str, ...]
    meaning: str
    unit: str
    of: str = ""
    money: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    windows: tuple[int, ...] = WINDOWS_DAYS

    def column(self, days: int) -> str:
        """Name of the column of one window, e.g. `item_views_count_7d`."""
        return f"{self.name}_{'sum' if self.aggregate == 'sum' else 'count'}_{days}d"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of all windows, shortest window first."""
        return tuple(self.column(days) for days in self.windows)


_VIEWS = WindowedFeature("item_views", "count", ("view", "click"), "views and clicks", "views")
_CARTS = WindowedFeature("item_carts", "count", ("cart", "favourite"), "adds to cart and favourites", "adds")
_RETURNS = WindowedFeature("returns", "count", ("return",), "return lines", "lines")

USER_WINDOWS = (
    _VIEWS,
    _CARTS,
    WindowedFeature("purchases", "count", ("purchase",), "purchase lines", "lines"),
    _RETURNS,
    WindowedFeature("order_value", "sum", ("purchase",), "value bought", "shop currency", of="value", money=True),
)
ITEM_WINDOWS = (
    _VIEWS,
    _CARTS,
    WindowedFeature("units_sold", "sum", ("purchase",), "units bought", "units", of="quantity"),
    _RETURNS,
    WindowedFeature("order_value", "sum", ("purchase",), "value sold", "shop currency", of="value", money=True),
    WindowedFeature("buyers", "distinct", ("purchase",), "different users who bought", "users", of="user_id"),
)
AFFINITY_WINDOWS = (
    WindowedFeature(
        "interactions",
        "count",
        ("click", "view", "favourite", "cart", "purchase"),
        "acts other than returns, purchases counted three times",
        "acts",
        weights={"purchase": 3},
    ),
)
AFFINITY_SHARE_DAYS = 30
"""Window of `affinity_share_30d`, the share a category has of the user's weighted acts."""
