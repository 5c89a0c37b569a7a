"""What a training run is given: settings, shop, lake, tracking, feature store, clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.shop import Shop
from infra import clock
from infra.home import Home
from infra.lake import Lake, digest_of
from infra.settings import Settings
from training.checkpoints import task_digest
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

    def checkpoint(self, task: str, *parts: Any) -> Path:
        """The folder where a fit of this shop keeps its epochs; another one for other code or other `parts`.

        Args:
            parts: all that the fit depends on, as JSON can hold it: recipe, table versions, digests of what is learned from.
        """
        return self.home.path / "checkpoints" / self.shop.name / task / digest_of(task_digest(task), *parts)[:16]

    @cached_property
    def store(self) -> FeatureStore:
        """The shop's feature store; Feast is imported here, not before."""
        from features.store import FeatureStore

        return FeatureStore(self.settings, self.shop, self.lake)

    @cached_property
    def now(self) -> datetime:
        """The shop's present instant, in UTC.

        Raises:
            SettingsError: the clock is neither `wall` nor `data` nor an ISO 8601 time.
        """
        return clock.now(self.settings.now or self.shop.now, self.lake)
