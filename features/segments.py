"""Segments: how many users stand in each stage, tier and RFM cell, and cut points that fit a shop's own customers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from features.profiles import STAGES, TIERS, VALUE_DAYS
from infra.errors import FeatureError

_RFM = ("recency_score", "frequency_score", "monetary_score")
_MONEY = "net_value_sum_365d"


@dataclass(frozen=True)
class Segment:
    """Users with the same value of a column, and what they spent in `VALUE_DAYS`, in the shop's currency."""

    users: int
    net_value: float


@dataclass(frozen=True)
class Segments:
    """The users of a shop at an instant. Every stage and tier is there, also the empty ones."""

    as_of: datetime
    users: int
    stages: dict[str, Segment]
    tiers: dict[str, Segment]
    rfm: dict[str, Segment]
    """Scores such as `543` (recency, frequency, monetary) -> their users; users who never bought have none."""


def segments(profiles: pa.Table, as_of: datetime) -> Segments:
    """Count the rows of view user_profile that a reader sees at `as_of`, one per user."""
    bought = profiles.filter(pc.is_valid(profiles["recency_score"]))
    cells = pa.chunked_array(pc.binary_join_element_wise(*(bought[name].cast(pa.string()) for name in _RFM), ""))
    return Segments(
        as_of,
        profiles.num_rows,
        dict.fromkeys(STAGES.values, Segment(0, 0.0)) | _count(profiles["stage"], profiles[_MONEY]),
        dict.fromkeys(TIERS.values, Segment(0, 0.0)) | _count(bought["value_tier"], bought[_MONEY]),
        _count(cells, bought[_MONEY]),
    )


def _count(names: pa.ChunkedArray, money: pa.ChunkedArray) -> dict[str, Segment]:
    grouped = pa.table({"name": names, "money": money}).group_by("name").aggregate([("money", "count"), ("money", "sum")])
    return {row["name"]: Segment(row["money_count"], round(row["money_sum"], 2)) for row in grouped.sort_by("name").to_pylist()}


def fitting_rules(profiles: pa.Table) -> dict[str, list[float]]:
    """Cut points of money that part these customers evenly, rounded: a proposal for `profile:` in shop.yaml.

    Raises:
        FeatureError: too few customers, or too alike, to be parted.
    """
    bought = profiles.filter(pc.is_valid(profiles["price_mean_365d"]))
    return {
        "monetary_value": _cuts(bought[_MONEY], (0.2, 0.4, 0.6, 0.8)),
        "price": _cuts(bought["price_mean_365d"], (1 / 3, 2 / 3)),
    }


def _cuts(values: pa.ChunkedArray, shares: Sequence[float]) -> list[float]:
    found = pc.quantile(values, q=list(shares)).to_pylist()
    for digits in (2, 3, 4, 6, 9):
        cuts = [float(f"{cut:.{digits}g}") for cut in found if cut is not None]
        if len(set(cuts)) == len(shares):
            return cuts
    raise FeatureError(
        f"{len(values)} customers of the last {VALUE_DAYS} days cannot be parted evenly; "
        "write cut points of your own under `profile:` in shop.yaml."
    )
