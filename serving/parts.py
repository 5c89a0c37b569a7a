"""What the nodes of one graph version are made of, each made once, on first use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from features.fresh.items import ToldItems
from features.shop import ListRules, Shop
from features.store import FeatureStore
from infra.errors import ReleaseError
from infra.home import Home
from serving.catalogue import Catalogue
from serving.graph import Limits, Manifest
from training.demand.model import Forecaster
from training.ranker.model import Ranker
from training.recommender.model import Recommender
from training.recommender.purchases import Purchases
from training.sentiment.model import SentimentClassifier

if TYPE_CHECKING:
    from serving.own_rules import OwnRule


class Parts:
    """Models, features and facts of one graph version.

    Args:
        folders: model name -> its files.
        at: the present instant.
    """

    def __init__(
        self,
        manifest: Manifest,
        home: Home,
        shop: Shop,
        store: FeatureStore,
        told: ToldItems,
        folders: Mapping[str, Path],
        at: datetime,
    ) -> None:
        self.manifest = manifest
        self.home = home
        self.shop = shop
        self.store = store
        self.told = told
        self.folders = folders
        self.at = at

    @property
    def limits(self) -> Limits:
        return self.manifest.limits

    @property
    def rules(self) -> ListRules:
        return self.manifest.rules

    @cached_property
    def own_rules(self) -> list[OwnRule]:
        """The shop's own rules, in their order.

        Raises:
            ReleaseError: a file is not kept here, or is not the one that is pinned.
        """
        from serving.own_rules import load

        return [load(self.home, name, digest) for name, digest in self.manifest.own_rules.items()]

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items of the recommender, used once."""
        folder = self.folders["recommender"]
        model = Recommender.load(folder)
        model.recommend([list(model.encoder.items[:2])], 1)
        return Catalogue(self.store, self.told, model, Purchases.load(folder), self.rules.blocked, self.at)

    @cached_property
    def ranker(self) -> Ranker:
        """The ranker.

        Raises:
            ReleaseError: it learned from other features than there are.
        """
        try:
            return Ranker.load(self.folders["ranker"])
        except ValueError as error:
            raise ReleaseError(f"ranker: {error}") from None

    @cached_property
    def forecaster(self) -> Forecaster:
        """The demand model."""
        return Forecaster.load(self.folders["demand"])

    @cached_property
    def classifier(self) -> SentimentClassifier:
        """The sentiment model."""
        return SentimentClassifier.load(self.folders["sentiment"])
