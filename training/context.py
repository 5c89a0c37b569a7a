"""What a training run is given: settings, shop, lake, tracking, feature store, clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from features.shop import Shop
from infra import clock
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from training.tracking import Tracking

if TYPE_CHECKING:
    from features.store import FeatureStore


@dataclass(frozen=True)
class Context:
    """The doors a model's `train(recipe, context)` may use; opening one touches nothing until it is used."""

    settings: Settings
    shop: Shop
    lake: Lake
    tracking: Tracking

    @classmethod
    def open(cls, settings: Settings) -> Context:
        """The context of the shop that the settings name.

        Raises:
            SettingsError: there is no such shop.
        """
        home = Home(settings).create()
        shop = Shop.load(home)
        return cls(settings, shop, Lake.open(settings, shop.name), Tracking(settings, shop.name))

    @property
    def home(self) -> Home:
        return self.tracking.home

    @cached_property
    def store(self) -> FeatureStore:
        """The shop's feature store; Feast is imported here, not before."""
        from features.store import FeatureStore

        return FeatureStore(self.settings, self.shop, self.lake)

    @cached_property
    def now(self) -> datetime:
        """The shop's present instant."""
        return clock.now(self.settings.now or self.shop.now, self.lake)
