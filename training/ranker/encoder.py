"""Features of user, item and their cross, and what was learned of them; training and serving compute both here.

Values come from the same Feast views on both sides: by the point-in-time join in training, from the online store and the item facts
in memory while serving. Counts and money become log1p (with their sign), times the days since, as log1p. Null stays NaN until
`encode`, which puts the mean there and says so beside it.

Shapes: L lists (one user at one instant), R candidates of all lists, U, I, C features of user, item and cross.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import CATEGORY
from features.services import SERVICES
from features.windows import AFFINITY_WINDOWS
from training.ranker.candidates import SOURCES, Floats, Ints

Columns = Mapping[str, Floats]
"""Column of the feature service -> values, NaN where there is none; times are microseconds UTC."""
Group = Literal["user", "item", "cross"]

DAY_US = 86_400_000_000
SERVICE = SERVICES["ranker"]
USER_VIEWS, ITEM_VIEWS, CROSS_VIEWS = (
    ("user_activity", "user_profile"),
    ("item_activity", "item_catalog"),
    ("user_category_affinity",),
)

_TIMES = ("timestamp",)
_TEXTS = ("string", "strings")
_PLAIN = ("recency_score", "frequency_score", "monetary_score", "main_category_share_90d")


def _columns(views: Sequence[str], *types: str, but: bool = False) -> tuple[str, ...]:
    """Names, in frames of the service, of the columns of some views that have one of these types (`but`: none of them)."""
    return tuple(
        SERVICE.output_names[view.name][name]
        for view in SERVICE.views
        if view.name in views
        for name, kind in view.columns
        if (kind in types) != but
    )


_USER_NUMBERS, _USER_TIMES = _columns(USER_VIEWS, *_TIMES, *_TEXTS, but=True), _columns(USER_VIEWS, *_TIMES)
_ITEM_NUMBERS, _ITEM_TIMES = _columns(ITEM_VIEWS, *_TIMES, *_TEXTS, but=True), ("created_at",)
MAIN_CATEGORY, USUAL_PRICE = "main_category", "price_mean_365d"
TEXTS = (CATEGORY, MAIN_CATEGORY)
"""Columns that are read as words."""
AFFINITY = (*(name for feature in AFFINITY_WINDOWS for name in feature.columns), "affinity_share_30d")
_RATES = {
    "carts_per_view": ("item_activity__item_carts_count_90d", "item_activity__item_views_count_90d"),
    "buyers_per_view": ("buyers_count_90d", "item_activity__item_views_count_90d"),
    "buyers_per_cart": ("buyers_count_90d", "item_activity__item_carts_count_90d"),
    "returns_per_unit": ("item_activity__returns_count_90d", "units_sold_sum_90d"),
    "views_rise": ("item_activity__item_views_count_7d", "item_activity__item_views_count_90d"),
    "buyers_rise": ("buyers_count_7d", "buyers_count_90d"),
}
"""Of an item, log of one count over another, each with one more: what shows nothing yet is neither good nor bad."""
_KINDS = {"carted_before": ("cart", "favourite"), "bought_before": ("purchase",)}

USER_FEATURES = (*_USER_NUMBERS, *_USER_TIMES)
ITEM_COLUMNS = (*_ITEM_NUMBERS, *_ITEM_TIMES)
ITEM_FEATURES = (*ITEM_COLUMNS, *_RATES)
"""Names of the features; of users and items they are also the columns of the service that they are computed from, but for the rates."""


def cross_features(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the cross features, where retrieval has these sources."""
    shares = tuple(f"share_{source}" for source in sources)
    return (*shares, "rank", "times_before", "steps_ago", *_KINDS, *AFFINITY, "is_main_category", "price_to_usual")


def floats(column: pa.ChunkedArray | pa.Array) -> Floats:
    """A column of numbers, truths or times as floats, null as NaN."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    return np.asarray(
        column.cast(pa.float64()).to_numpy(**({} if isinstance(column, pa.ChunkedArray) else {"zero_copy_only": False}))
    )


def user_values(columns: Columns, at: Floats) -> Floats:
    """(n, U) of n users, each at its instant; a column that is not there is null throughout."""
    return _stacked(columns, at, _USER_NUMBERS, _USER_TIMES)


def item_values(columns: Columns, at: Floats) -> Floats:
    """(n, I) of n items, each at its instant; a column that is not there is null throughout."""
    nothing = np.full(len(at), np.nan)
    rates = [
        np.log1p(np.nan_to_num(columns.get(upper, nothing))) - np.log1p(np.nan_to_num(columns.get(lower, nothing)))
        for upper, lower in _RATES.values()
    ]
    return np.concatenate([_stacked(columns, at, _ITEM_NUMBERS, _ITEM_TIMES), np.stack(rates, axis=1)], axis=1)


@dataclass(frozen=True)
class Crossed:
    """What is known of user and item together, one entry per candidate."""

    shares: Mapping[str, Floats]
    """Source of the retrieval -> log of the share it gives the item, NaN where it says nothing."""
    rank: Floats
    """Place among the candidates by the blended share, from 0."""
    before: Mapping[str, Floats]
    """What `in_histories` gives."""
    affinity: Columns
    """The user's affinity to the item's category."""
    category: NDArray[np.object_]
    main_category: NDArray[np.object_]
    """The item's and the user's, None where it is not known."""
    price: Floats
    usual_price: Floats
    """What the user paid per unit on average."""

    def values(self) -> Floats:
        """(R, C), in the order of `cross_features`."""
        nothing = np.full(len(self.rank), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.log(self.price / self.usual_price)
        is_known = np.array([one is not None for one in self.category], dtype=bool)
        found = [
            *self.shares.values(),
            np.log1p(self.rank),
            *self.before.values(),
            *(np.log1p(self.affinity.get(name, nothing)) for name in AFFINITY),
            np.where(is_known, (self.category == self.main_category).astype(np.float64), np.nan),
            np.where(np.isfinite(relative), relative, np.nan),
        ]
        return np.stack(found, axis=1)


def in_history(items: Ints, kinds: Sequence[str], candidates: Ints) -> dict[str, Floats]:
    """What the history of one user says of each candidate, (candidates,) each.

    Args:
        items, kinds: acts, oldest first; items and candidates by their index in the catalogue.

    Returns:
        log1p of how many acts were on it and of how many acts ago the last one was (NaN: none), and whether it was carted or bought.
    """
    order = np.argsort(candidates, kind="stable")
    place = np.minimum(np.searchsorted(candidates, items, sorter=order), len(candidates) - 1)
    is_hit = candidates[order[place]] == items if len(candidates) else np.zeros(len(items), dtype=bool)
    hit, acts = order[place[is_hit]], np.flatnonzero(is_hit)
    last = np.full(len(candidates), -1)
    np.maximum.at(last, hit, acts)
    found = {
        "times_before": np.log1p(np.bincount(hit, minlength=len(candidates)).astype(np.float64)),
        "steps_ago": np.where(last >= 0, np.log1p(len(items) - 1.0 - last), np.nan),
    }
    words = np.asarray(kinds, dtype=object)[acts]
    for name, wanted in _KINDS.items():
        found[name] = (np.bincount(hit[np.isin(words, wanted)], minlength=len(candidates)) > 0).astype(np.float64)
    return found


def in_histories(histories: Sequence[tuple[Ints, Sequence[str]]], own: Ints, candidates: Ints) -> dict[str, Floats]:
    """What `in_history` says of each candidate by the history it belongs to, (candidates,) each.

    Args:
        histories: items and kinds of the acts of each.
        own: number of each candidate's history, ascending.
    """
    ends = np.searchsorted(own, np.arange(len(histories) + 1))
    parts = [in_history(items, kinds, candidates[ends[row] : ends[row + 1]]) for row, (items, kinds) in enumerate(histories)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Candidates:
    """Lists of candidates with their features as they are computed; null is NaN."""

    user: Floats
    """(L, U)."""
    item: Floats
    """(R, I)."""
    cross: Floats
    """(R, C)."""
    category: NDArray[np.object_]
    """(R,) the item's category, None where it is not known."""
    list: Ints
    """(R,) which list each belongs to, ascending."""


@dataclass(frozen=True)
class Scale:
    """Where the values of a group of features lie, (F,) each."""

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    is_missing: tuple[bool, ...]
    """Whether some training row lacked it, so that the network is told."""

    @classmethod
    def fit(cls, names: tuple[str, ...], values: Floats) -> Scale:
        """Learn from (n, F)."""
        missing = np.isnan(values)
        counts = np.maximum((~missing).sum(axis=0), 1)
        center = np.where(missing, 0.0, values).sum(axis=0) / counts
        spread = np.sqrt((np.where(missing, 0.0, values - center) ** 2).sum(axis=0) / counts)
        spread = np.where(spread > 1e-6, spread, 1.0)
        return cls(names, tuple(center.tolist()), tuple(spread.tolist()), tuple(np.atleast_1d(missing.any(axis=0)).tolist()))

    @property
    def num_inputs(self) -> int:
        return len(self.names) + sum(self.is_missing)

    def encode(self, values: Floats) -> NDArray[np.float32]:
        """(n, F) -> (n, inputs): standardised and within five deviations, 0 where missing, and whether each is missing."""
        with np.errstate(invalid="ignore"):
            scaled = np.clip((values - np.array(self.center)) / np.array(self.scale), -5, 5)
        missing = np.isnan(values)
        return np.concatenate([np.where(missing, 0.0, scaled), missing[:, list(self.is_missing)]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Encoder:
    """What was learned of the features of a shop; part of every model version."""

    user: Scale
    item: Scale
    cross: Scale
    categories: tuple[str, ...]
    """Known categories; each other one is number 0."""

    @classmethod
    def fit(cls, candidates: Candidates, sources: Sequence[str]) -> Encoder:
        """Learn from the lists of the training part."""
        categories = sorted({one for one in candidates.category if one is not None})
        return cls(
            Scale.fit(USER_FEATURES, candidates.user),
            Scale.fit(ITEM_FEATURES, candidates.item),
            Scale.fit(cross_features(sources), candidates.cross),
            tuple(categories),
        )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {category: number for number, category in enumerate(self.categories, 1)}

    def category_numbers(self, categories: Sequence[str | None]) -> Ints:
        """(n,) number of each category, 0 for what is not known."""
        return np.fromiter((self._numbers.get(one, 0) if one else 0 for one in categories), np.int64, len(categories))

    def save(self, path: Path) -> None:
        """Write it as one JSON file."""
        path.write_text(json.dumps(self.content))

    @property
    def content(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        scales = {
            group: {name: list(getattr(one, name)) for name in ("names", "center", "scale", "is_missing")}
            for group, one in (("user", self.user), ("item", self.item), ("cross", self.cross))
        }
        return {**scales, "categories": list(self.categories)}

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """The encoder that `save` wrote.

        Raises:
            ValueError: it reads other features than this version computes.
        """
        content = json.loads(path.read_text())
        user, item, cross = (
            Scale(**{name: tuple(values) for name, values in content[group].items()}) for group in ("user", "item", "cross")
        )
        ours = {*USER_FEATURES, *ITEM_FEATURES, *cross_features(SOURCES)}
        if strange := {*user.names, *item.names, *cross.names} ^ ours:
            raise ValueError(
                f"the model reads other features than this version computes ({', '.join(sorted(strange))}); train it again."
            )
        return cls(user, item, cross, tuple(content["categories"]))


def _stacked(columns: Columns, at: Floats, numbers: Sequence[str], times: Sequence[str]) -> Floats:
    nothing = np.full(len(at), np.nan)
    found = [columns.get(name, nothing) if name in _PLAIN else _signed_log(columns.get(name, nothing)) for name in numbers]
    found += [_signed_log((at - columns.get(name, nothing)) / DAY_US) for name in times]
    return np.stack(found, axis=1)


def _signed_log(values: Floats) -> Floats:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))
