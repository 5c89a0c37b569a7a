"""What a training run is given: settings, shop, lake, tracking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.shop import Shop
from infra.home import Home
from infra.lake import Lake, digest_of
from infra.settings import Settings
from training.checkpoints import task_digest
from training.tracking import Tracking


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
