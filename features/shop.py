"""A shop: the namespace that owns tables, features, experiments, models and graphs, declared in its `shop.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from features.definitions import OURS, Definitions
from features.mapping import Source
from features.profiles import ProfileRules
from features.quality.expectations import TableExpectation
from infra.errors import SettingsError
from infra.home import Home

ListPlacement = Literal["for_you", "similar", "bought_together", "buy_again", "trending"]
"""What a list is for."""


class RankingRules(BaseModel):
    """What a shop says of the value by which the ranker orders; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Mapping[Literal["click", "cart", "purchase"], NonNegativeFloat] = Field(
        {},
        description="How much the chance of each counts, beside or instead of what the model learned.",
    )
    times_price: bool = Field(False, description="Multiply by the item's price: what a list brings in, rather than what is taken.")


class Blocked(BaseModel):
    """Items that are shown to nobody; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: tuple[str, ...] = Field((), description="By id.")
    category: tuple[str, ...] = Field((), description="All of these categories.")
    brand: tuple[str, ...] = Field((), description="All of these brands.")


class Boost(BaseModel):
    """Items that count more, or less, than what is known of people says; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="What a trace calls it.")
    factor: float = Field(gt=0, le=1000, description="How many times as much they count; below 1: less.")
    items: tuple[str, ...] = Field((), description="By id.")
    category: tuple[str, ...] = Field((), description="All of these categories.")
    brand: tuple[str, ...] = Field((), description="All of these brands.")
    new_days: int | None = Field(None, ge=1, description="All that are on sale for no more than so many days.")


class ListRules(BaseModel):
    """What a shop wants of every list, whatever the models say; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocked: Blocked = Field(Blocked(), description="Items that are shown to nobody, on no step of the ladder.")
    hide_bought: tuple[ListPlacement, ...] = Field((), description="Placements that leave out what the person bought.")
    boosts: tuple[Boost, ...] = Field((), description="Applied one after the other.")
    most_of_one: Mapping[Literal["category", "brand"], PositiveInt] = Field(
        {}, description="How many items of one category or brand a list takes before all others had their turn."
    )
    explore: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Chance that a place below the first is filled by a draw among all candidates instead of the best.",
    )
    own: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")], ...] = Field(
        (), description="Own rules: rules/<name>.py of the shop's folder, applied in this order."
    )


class Shop(BaseModel):
    """What `shop.yaml` says, and the features that its folder adds. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="The namespace.")
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="The one ISO 4217 currency all money is kept in.")
    time_zone: str = Field(description="IANA time zone: a day is the local day here.")
    calendars: tuple[str, ...] = Field((), description="ISO 3166 codes of the public holidays that matter, e.g. CN, GB, DE.")
    languages: tuple[str, ...] = Field((), description="BCP 47 tags of the languages users write, e.g. zh, en.")
    now: str = Field("wall", description="The clock: `wall`, `data` or an ISO 8601 time.")
    sources: tuple[Source, ...] = Field(
        (), description="Where the shop's own data comes from and how it maps; see features/mapping.py."
    )
    quality: Mapping[str, TableExpectation] = Field(
        {},
        description="What is expected of a table beside or instead of what shopgraph expects; see features/quality/expectations.py.",
    )
    quarantine_share: float = Field(
        0.05, ge=0, le=1, description="Share of bad rows of one source and table above which ingest stops."
    )

    source_weights: Mapping[str, Mapping[str, NonNegativeFloat]] = Field(
        {},
        description="Placement -> source -> how much it counts, beside or instead of what shopgraph takes; see serving/graph.py.",
    )
    ranking: RankingRules = Field(RankingRules(), description="What the ranker orders by.")
    rules: ListRules = Field(ListRules(), description="What the shop wants of every list.")
    profile: ProfileRules = Field(ProfileRules(), description="Constants of profiles; see features/profiles.py.")

    _folder: Path | None = PrivateAttr(None)

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is no IANA time zone such as Europe/Berlin") from None
        return value

    @field_validator("now", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads a time that is written without quotes as a time."""
        return value.isoformat() if isinstance(value, date) else value

    @field_validator("sources")
    @classmethod
    def _named_apart(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        twice = sorted({source.name for source in value if [s.name for s in value].count(source.name) > 1})
        if twice:
            raise ValueError(f"two sources are called {', '.join(twice)}")
        return value

    @property
    def folder(self) -> Path | None:
        """The project folder; None: the shop was made in code."""
        return self._folder

    @property
    def zone(self) -> ZoneInfo:
        """The zone whose local days count."""
        return ZoneInfo(self.time_zone)

    @cached_property
    def definitions(self) -> Definitions:
        """Feature tables, views and services: shopgraph's, and those of the shop's own files, which are run on first use.

        Raises:
            FeatureError: an own file cannot be run, or what it declares is no feature table beside the others.
        """
        return OURS if self._folder is None else Definitions.of(self._folder)

    @classmethod
    def load(cls, home: Home, name: str | None = None) -> Shop:
        """Read a shop's `shop.yaml` from the home.

        Raises:
            SettingsError: there is no such shop, or the file does not say what a shop needs.
        """
        return cls.read(home.shop(name) / "shop.yaml")

    @classmethod
    def read(cls, path: Path) -> Shop:
        """Read one `shop.yaml`.

        Raises:
            SettingsError: there is no such file, it is not YAML in UTF-8, or it does not say what a shop needs.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(
                f"no shop at {path}; make one with `shopgraph init <name> --from <files>` or `shopgraph sample`."
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not YAML in UTF-8: {error}") from None
        try:
            shop = cls(**(content or {}))
        except (ValidationError, TypeError) as error:
            told = (
                "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                if isinstance(error, ValidationError)
                else error
            )
            raise SettingsError(f"{path}: {told}") from None
        shop._folder = path.parent
        return shop
