"""A graph version: an immutable manifest whose digest is its name.

It pins, for one product, every model by version and digest, every feature service by the digest of its definition, the table
versions the models were trained on, and the limits it keeps. Rows stay fresh under it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Literal, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

from features.definitions import OURS
from features.shop import RankingRules
from infra.errors import ModelNotFoundError, ReleaseError
from serving.schemas import MAX_HORIZON, MAX_K, MAX_SERIES, MAX_TEXTS
from training.recommender.names import SOURCES

M = TypeVar("M")
Product = Literal["recommend", "forecast", "sentiment"]
PRODUCTS: tuple[Product, ...] = get_args(Product)

MODELS: dict[Product, tuple[str, ...]] = {"recommend": ("recommender",), "forecast": ("demand",), "sentiment": ("sentiment",)}
"""The registered models each product's graph pins."""

OPTIONAL: dict[Product, tuple[str, ...]] = {"recommend": ("ranker",), "forecast": (), "sentiment": ()}
"""Those that it pins where they are registered, and does without where they are not."""


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

    name: str
    version: int
    digest: str
    run_id: str


class Node(_Frozen):
    """One step of the graph. `reads` names the nodes whose results it takes; `request` is the request itself."""

    name: str
    kind: Literal["features", "model", "rules"]
    reads: tuple[str, ...]
    model: ModelPin | None = None
    service: str | None = None
    definition: str | None = None
    """Digest of the feature service's definition, for a node that reads features; a model that ranks reads its own."""


class Limits(_Frozen):
    """The most a request may ask of the graph."""

    k: int = MAX_K
    horizon: int = MAX_HORIZON
    series: int = MAX_SERIES
    texts: int = MAX_TEXTS


class Registered(Protocol):
    """What is read of a registered model version; `training.tracking.Saved` is one.

    `digest`: SHA-256 over its files; `inputs`: table path -> version it was trained on.
    """

    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, int]: ...


class Manifest(_Frozen):
    """A whole graph of one shop and product."""

    format: Literal[1] = 1
    shop: str
    product: Product
    nodes: tuple[Node, ...]
    tables: dict[str, int]
    """Table path -> version the models were trained on, the oldest where it is not the same."""
    limits: Limits = Limits()
    weights: dict[str, dict[str, float]] = {}
    """Placement -> source -> weight, where the shop says another one than shopgraph."""
    ranking: RankingRules = RankingRules()
    """What the ranker orders by, where the shop says another thing than the model."""

    def canonical(self) -> str:
        """The one text of this manifest: sorted keys, no spaces; without what the shop says nothing of, as before it could."""
        silent = {name for name in ("weights", "ranking") if getattr(self, name) == Manifest.model_fields[name].default}
        content = self.model_dump(mode="json", exclude=silent)
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def version(self) -> str:
        """The first 16 hex digits of the SHA-256 over the canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @property
    def pins(self) -> dict[str, ModelPin]:
        """Model name -> pinned version."""
        return {node.model.name: node.model for node in self.nodes if node.model}

    def check_definitions(self) -> None:
        """Refuse to run where a feature service no longer means what it meant.

        Raises:
            ReleaseError: its definition has another digest than the pinned one.
        """
        for node in self.nodes:
            if node.service and OURS.service(node.service).digest != node.definition:
                raise ReleaseError(
                    f"graph {self.version}: feature service {node.service} is not the one it was made with; run `shopgraph "
                    "features apply`, `shopgraph features materialize`, train again and `shopgraph up --latest`."
                )


def newest(product: Product, fetch: Callable[[str], M]) -> dict[str, M]:
    """The models of a product's graph, by name.

    Args:
        fetch: model name -> its version.

    Raises:
        ModelNotFoundError: one of MODELS is not there; what is OPTIONAL may lack.
    """
    models = {name: fetch(name) for name in MODELS[product]}
    for name in OPTIONAL[product]:
        with suppress(ModelNotFoundError):
            models[name] = fetch(name)
    return models


def compose(
    shop: str,
    product: Product,
    models: Mapping[str, Registered],
    weights: Mapping[str, Mapping[str, float]] | None = None,
    ranking: RankingRules | None = None,
) -> Manifest:
    """The standard graph of a product over the given model versions (by the names in MODELS and OPTIONAL).

    Args:
        weights: `source_weights` of shop.yaml.
        ranking: `ranking` of shop.yaml; it says nothing where there is no ranker.

    Raises:
        KeyError: a model that the product needs is not among them.
        ReleaseError: `weights` name a placement or source that there is not, or leave a placement without any.
    """
    pins = {
        name: ModelPin(name=name, version=model.version, digest=model.digest, run_id=model.run_id) for name, model in models.items()
    }
    tables: dict[str, int] = {}
    for model in models.values():
        tables.update({path: min(version, tables.get(path, version)) for path, version in model.inputs.items()})
    nodes: tuple[Node, ...]
    if product == "recommend":
        nodes = (
            _features("user_history", "recommender", "request"),
            Node(name="recommender", kind="model", reads=("user_history",), model=pins["recommender"]),
            _features("user_purchases", "buy_again", "request"),
            _features("item_rules", "recommender", "recommender", kind="rules"),
        )
        if "ranker" in pins:
            features = OURS.service("ranker")
            nodes += (
                Node(
                    name="ranker",
                    kind="model",
                    reads=("user_history", "recommender", "item_rules"),
                    model=pins["ranker"],
                    service=features.name,
                    definition=features.digest,
                ),
            )
    elif product == "forecast":
        nodes = (
            _features("daily_demand", "demand", "request"),
            _features("item_catalog", "recommender", "request"),
            Node(name="demand", kind="model", reads=("daily_demand", "item_catalog"), model=pins["demand"]),
        )
    else:
        nodes = (Node(name="sentiment", kind="model", reads=("request",), model=pins["sentiment"]),)
    said = _weights(weights or {}) if product == "recommend" else {}
    rules = ranking if ranking and "ranker" in pins else RankingRules()
    return Manifest(shop=shop, product=product, nodes=nodes, tables=tables, weights=said, ranking=rules)


def _weights(said: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    known = {"for_you": SOURCES, **{placement: tuple(of) for placement, of in WEIGHTS.items()}}
    for placement, of in said.items():
        if placement not in known:
            raise ReleaseError(f"source_weights of shop.yaml: expected {', '.join(known)}, got {placement!r}.")
        if strange := sorted(set(of) - set(known[placement])):
            raise ReleaseError(
                f"source_weights of shop.yaml, {placement}: expected {', '.join(known[placement])}, got {', '.join(strange)}."
            )
        if placement in WEIGHTS and not any({**WEIGHTS[placement], **of}.values()):
            raise ReleaseError(f"source_weights of shop.yaml, {placement}: all weights are 0; expected one above it.")
    return {placement: dict(of) for placement, of in said.items()}


def _features(name: str, service: str, reads: str, kind: Literal["features", "rules"] = "features") -> Node:
    return Node(name=name, kind=kind, reads=(reads,), service=service, definition=OURS.service(service).digest)
