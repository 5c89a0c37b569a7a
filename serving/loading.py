"""From a manifest to a loaded graph: the pinned model files, the feature store, the nodes."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from pathlib import Path

import torch

from features.definitions import OURS
from features.fresh.items import ToldItems
from features.fresh.spool import Spool
from features.shop import Shop
from features.store import FeatureStore
from infra.errors import ReleaseError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.execution import Graph
from serving.graph import Manifest, ModelPin
from serving.kinds import KINDS
from serving.metrics import Metrics
from serving.parts import Parts


class Loader:
    """Makes graphs of one shop answer in this process.

    Args:
        metrics: told of their nodes.
    """

    def __init__(self, settings: Settings, shop: Shop, lake: Lake, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.shop = shop
        self.lake = lake
        self.home = Home(settings)
        self.metrics = metrics or Metrics()

    @cached_property
    def store(self) -> FeatureStore:
        """The shop's feature store, made on first use; graphs eat features of shopgraph alone, so no own file of the shop is run."""
        return FeatureStore(self.settings, self.shop, self.lake, OURS)

    @cached_property
    def told(self) -> ToldItems:
        """What was told of items since the tables were built, as of the first use; who goes on answering polls it again."""
        told = ToldItems(Spool(self.home.spool / f"{self.shop.name}.db"))
        told.poll()  # from the first answer on, also in a process that answers but once
        return told

    def load(self, manifest: Manifest, at: datetime) -> Graph:
        """The graph, ready to answer; its models are used once, so that no request pays for the first use.

        Raises:
            ReleaseError: a feature service changed its meaning, or a model's files are not those that are pinned.
            ModelNotFoundError: a pinned version is in no registry any more.
            EngineError: MLflow is needed and does not answer.
        """
        torch.set_num_threads(1)  # replicas scale by number; two thread pools on one core only wait for each other
        manifest.check_definitions()
        folders = {name: self.folder(name, pin) for name, pin in manifest.models.items()}
        parts = Parts(manifest, self.home, self.shop, self.store, self.told, folders, at)
        nodes = {}
        for pinned in manifest.nodes:
            kind = KINDS[pinned.kind]
            nodes[pinned.name] = kind.open(kind.Settings.model_validate(pinned.settings), parts)
        return Graph(manifest, nodes, parts.catalogue if manifest.product == "recommend" else None, self.metrics)

    def folder(self, name: str, pin: ModelPin) -> Path:
        """The files of a pinned model version: those kept on this machine, else fetched from MLflow and checked.

        Raises:
            ReleaseError: the registry has other files under this version than those that are pinned.
            ModelNotFoundError: the version is in the registry no more.
            EngineError: MLflow does not answer, or what was downloaded is not what was registered.
        """
        kept = self.home.model_folder(f"{self.shop.name}.{name}", pin.version, pin.digest)
        if kept.exists():
            return kept
        from training.tracking import Tracking

        saved = Tracking(self.settings, self.shop.name).fetch(name, str(pin.version))
        if saved.digest != pin.digest:
            raise ReleaseError(
                f"model {name} version {pin.version}: the graph pins digest {pin.digest[:12]}, the registry has "
                f"{saved.digest[:12]}; run `shopgraph up --latest`."
            )
        return saved.folder
