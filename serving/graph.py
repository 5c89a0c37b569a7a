"""A graph version: an immutable manifest whose digest is its name.

It holds, for one product, the nodes and their wiring, every model by version and digest, every feature service by the digest of its
definition, the table versions the models were trained on, what the shop says of lists, and the limits it keeps. Rows stay fresh under it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict

from features.definitions import OURS
from features.shop import ListRules, RankingRules
from infra.errors import ReleaseError
from serving.schemas import MAX_HORIZON, MAX_K, MAX_SERIES, MAX_TEXTS

Product = Literal["recommend", "forecast", "sentiment"]
PRODUCTS: tuple[Product, ...] = get_args(Product)

MODEL: dict[Product, str] = {"recommend": "recommender", "forecast": "demand", "sentiment": "sentiment"}
"""The registered model that each product cannot do without."""

REQUEST = "request"
"""What a node reads that reads no other node."""
STATIC = "static"
"""The last step of a ladder: a list that needs no model, no store and no table."""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "bought_together": {"purchases": 0.98, "co_occurrence": 0.0199, "similar": 0.0001},
    "trending": {"trending": 0.99, "popular": 0.01},
}
"""How much each source of a blended placement counts, where `source_weights` of shop.yaml says nothing else. The first one speaks, the
others fill what it leaves. Those of for_you are learned (`training.recommender.blend`)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelPin(_Frozen):
    """One registered model version. `digest`: SHA-256 over its files."""

    version: int
    digest: str
    run_id: str


class PinnedNode(_Frozen):
    """One node of a graph version."""

    name: str
    kind: str
    """One of `serving.kinds`."""
    reads: tuple[str, ...]
    """The nodes whose results it takes; `request`: none but the request itself."""
    models: tuple[str, ...] = ()
    """Of the manifest's, those that it is made of."""
    services: dict[str, str] = {}
    """Feature service -> digest of its definition."""
    share: float
    """The most of a request's time that it may take."""
    settings: dict[str, Any] = {}
    stand_in: str | None = None
    """What `degraded` says where the node is left out; None: there is no answer without it."""


class Limits(_Frozen):
    """The most a request may ask of the graph."""

    k: int = MAX_K
    horizon: int = MAX_HORIZON
    series: int = MAX_SERIES
    texts: int = MAX_TEXTS


class Registered(Protocol):
    """What is read of a registered model version; `training.tracking.Saved` is one.

    `digest`: SHA-256 over its files, which lie in `folder`; `inputs`: table path -> version it was trained on.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, int]: ...


class Manifest(_Frozen):
    """A whole graph of one shop and product; its nodes stand each after those that they read."""

    format: Literal[2] = 2
    shop: str
    product: Product
    nodes: tuple[PinnedNode, ...]
    models: dict[str, ModelPin]
    """By name."""
    answer: str
    """The node whose result is the answer."""
    ladder: tuple[str, ...]
    """What an answer may go without, the least first; `static` at its end: everything."""
    budget_ms: int
    """What a request may take that does not say another thing."""
    limits: Limits
    tables: dict[str, int]
    """Table path -> version the models were trained on, the oldest where it is not the same."""
    weights: dict[str, dict[str, float]]
    """Placement -> source -> weight, where the shop says another one than shopgraph."""
    ranking: RankingRules
    """What the ranker orders by, where the shop says another thing than the model."""
    rules: ListRules
    """What the shop wants of every list."""
    own_rules: dict[str, str]
    """The shop's own rules, in their order -> digest of the text of each."""
    static: tuple[str, ...]
    """The list at the end of the ladder, the best first."""

    def canonical(self) -> str:
        """The one text of this manifest: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def version(self) -> str:
        """The first 16 hex digits of the SHA-256 over the canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    def check_definitions(self) -> None:
        """Refuse to run where a feature service no longer means what it meant.

        Raises:
            ReleaseError: its definition has another digest than the pinned one.
        """
        for service, digest in {name: digest for node in self.nodes for name, digest in node.services.items()}.items():
            if OURS.service(service).digest != digest:
                raise ReleaseError(
                    f"graph {self.version}: feature service {service} is not the one it was made with; run `shopgraph "
                    "features apply`, `shopgraph features materialize`, train again and `shopgraph up --latest`."
                )
