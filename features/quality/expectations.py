"""What is expected of each table: derived from its declaration, written by hand here, and changed by a shop in its shop.yaml.

A broken expectation of severity `fail` keeps a version from being committed; one of severity `warn` is told. Bounds, closed
lists, unique keys, finite numbers and required values fail, because no honest row breaks them; how new, how many and how alike
the rows of a week are warn, because a shop may have had such a week.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.columns import EVENT_TYPES
from features.tables import Table
from infra.errors import SettingsError

Severity = Literal["warn", "fail"]

_COUNTED = ("units", "views", "adds", "lines", "users", "acts", "days", "seconds", "units per pack")
"""Units of what is counted or measured from zero up."""
_NUMBERS = ("int", "float")
_SCALE = re.compile(r"(\d+)-(\d+)")
"""Unit of a share (0-1) or a score (1-5): its bounds."""
_WEEKLY = (0.5, 2.0)


class _Expectation(BaseModel):
    """Frozen; unknown keys are refused. What is set in one that is laid over another wins, `null` there switches off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def with_set(self, over: Self) -> Self:
        """This expectation with the fields that `over` sets."""
        return self.model_copy(update={name: getattr(over, name) for name in over.model_fields_set})


class ColumnExpectation(_Expectation):
    """What is expected of one column."""

    min: float | None = Field(None, description="Least value; of a list, its least length.")
    max: float | None = Field(None, description="Greatest value; of a list, its greatest length.")
    values: tuple[str, ...] | None = Field(None, description="The only values a text column may have.")
    max_null_share: float | None = Field(None, ge=0, le=1, description="Greatest share of rows without a value.")
    stable: bool = Field(False, description="The last week's values are spread as those of the weeks before.")
    severity: Severity | None = Field(
        None, description="Of all these; default: `fail` for bounds, values and a null share of 0, `warn` for the others."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}")
        return self


class TableExpectation(_Expectation):
    """What is expected of one table."""

    fresh_days: float | None = Field(None, gt=0, description="Greatest age of the newest row, by event, at the shop's clock.")
    volume: tuple[float, float] | None = Field(
        None, description="Least and greatest ratio of the rows of the last 7 event days to those of the 7 before."
    )
    unique: bool = Field(True, description="A row is written once: one row per key and event.")
    kept_share: float | None = Field(0.5, ge=0, le=1, description="Least share of the rows of the version before.")
    window_days: int | None = Field(
        28, ge=14, description="Event days whose rows make the statistics kept for drift; null: all rows."
    )
    severity: Severity = Field("warn", description="Of fresh_days, volume and kept_share.")
    columns: Mapping[str, ColumnExpectation] = Field({}, description="By column.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.volume and not 0 <= self.volume[0] <= self.volume[1]:
            raise ValueError(f"volume {list(self.volume)}: expected the least ratio, then the greatest, such as [0.5, 2]")
        return self

    def with_set(self, over: Self) -> Self:
        """This expectation with the fields that `over` sets, column by column."""
        columns = {
            name: self.columns.get(name, ColumnExpectation()).with_set(over.columns.get(name, ColumnExpectation()))
            for name in dict.fromkeys((*self.columns, *over.columns))
        }
        return super().with_set(over).model_copy(update={"columns": columns})


_DAILY = TableExpectation(fresh_days=3, volume=_WEEKLY)
_STATES = TableExpectation(window_days=None)
"""Of tables that hold the states of things: the statistics are of all rows, for a state holds until the next."""
_STABLE = ColumnExpectation(stable=True)
_SIGNED = ColumnExpectation(min=None)
_LABELLED = {"rating": ColumnExpectation(min=1, max=5), "label": ColumnExpectation(min=0, max=1)}
_ACT = {"event_type": ColumnExpectation(values=EVENT_TYPES)}


def _with(base: TableExpectation, **columns: ColumnExpectation) -> TableExpectation:
    return base.with_set(TableExpectation(columns=columns))


BY_HAND: Mapping[str, TableExpectation] = {
    "events": _with(_DAILY, **_ACT, price=_STABLE),
    "orders": _with(_DAILY, unit_price=_STABLE, user_id=ColumnExpectation(max_null_share=0.5), quantity=_SIGNED, discount=_SIGNED),
    "payments": _with(_DAILY, amount=_SIGNED),
    "reviews": _with(TableExpectation(fresh_days=30), **_LABELLED),
    "items": _STATES,
    "users": _STATES,
    "inventory": _with(TableExpectation(), on_hand=_SIGNED, on_order=_SIGNED),
    "item_catalog": _STATES,
    "interactions": _with(_DAILY, **_ACT, value=_STABLE),
    "sessions": _with(_DAILY, num_interactions=ColumnExpectation(min=1), num_items=ColumnExpectation(min=1)),
    "user_history": _with(_DAILY, item_ids=ColumnExpectation(min=1), event_types=ColumnExpectation(min=1)),
    "user_purchases": _with(_DAILY, purchase_item_ids=ColumnExpectation(min=1), purchase_dates=ColumnExpectation(min=1)),
    "user_activity": _DAILY,
    "item_activity": _with(_DAILY, price_last=_STABLE),
    "user_category_affinity": _DAILY,
    "user_profile": _with(_DAILY, net_value_sum_365d=_SIGNED),
    "daily_demand": _with(_DAILY, price_mean=ColumnExpectation(min=0, stable=True)),
    "clean_reviews": _with(TableExpectation(), **_LABELLED),
}
"""What the declaration of a table does not say."""


def derived(table: Table) -> TableExpectation:
    """What the declaration of a table says: required, a share or a score, an amount of money, a count."""
    columns = {}
    for column in table.columns:
        said: dict[str, float] = {"max_null_share": 0.0} if column.required else {}
        if scale := _SCALE.fullmatch(column.unit):
            said |= {"min": float(scale[1]), "max": float(scale[2])}
        elif column.type == "money" or column.name.startswith("num_") or (column.unit in _COUNTED and column.type in _NUMBERS):
            said |= {"min": 0.0}
        if said:
            columns[column.name] = ColumnExpectation(**said)
    return TableExpectation(columns=columns)


def expectation(table: Table, of_shop: Mapping[str, TableExpectation]) -> TableExpectation:
    """What is expected of a table: its declaration, then what is written by hand, then the shop's own word.

    Raises:
        SettingsError: the shop speaks of a column that the table does not have.
    """
    own = of_shop.get(table.name, TableExpectation())
    if unknown := [name for name in own.columns if name not in table.names]:
        raise SettingsError(
            f"quality of shop.yaml: table {table.name} has no column {unknown[0]!r}; it has {', '.join(table.names)}."
        )
    return derived(table).with_set(BY_HAND.get(table.name, TableExpectation())).with_set(own)
