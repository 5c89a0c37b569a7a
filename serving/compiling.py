"""From a definition and registered models to a graph version: what is checked, and pinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from features.definitions import OURS
from features.shop import RankingRules, Shop
from infra.errors import ModelNotFoundError, ReleaseError
from infra.home import Home
from serving import own_rules
from serving.definition import Definition, load
from serving.graph import STATIC, WEIGHTS, Manifest, ModelPin, PinnedNode, Product, Registered
from training.recommender.encoder import Encoder
from training.recommender.names import SOURCES

M = TypeVar("M")

_STATIC_ITEMS = 200
"""Of the list at the end of the ladder."""


def newest(shop: Shop, product: Product, fetch: Callable[[str], M]) -> dict[str, M]:
    """The models of a product's graph, by name.

    Args:
        fetch: model name -> its version.

    Raises:
        ModelNotFoundError: one is not there that the graph cannot do without.
        ReleaseError: the graph's definition cannot work.
    """
    definition = load(shop, product)
    models: dict[str, M] = {}
    for name in definition.order():
        for model in definition.kind(name).models:
            if model not in models:
                try:
                    models[model] = fetch(model)
                except ModelNotFoundError:
                    if not definition.nodes[name].optional:
                        raise
    return models


def compile_graph(home: Home, shop: Shop, product: Product, models: Mapping[str, Registered]) -> Manifest:
    """The graph of a product over the given model versions, by name.

    Raises:
        ReleaseError: the definition cannot work; what shop.yaml says of lists speaks of what there is not; or a model that the graph cannot
            do without is not among them.
    """
    definition = load(shop, product)
    missing = {
        name for name, node in definition.nodes.items() if node.optional and not set(definition.kind(name).models) <= set(models)
    }
    definition = definition.without(missing)
    if lacking := [m for name in definition.nodes for m in definition.kind(name).models if m not in models]:
        raise ReleaseError(f"the {product} graph needs the model {lacking[0]}; run `shopgraph train {lacking[0]}`.")
    tables: dict[str, int] = {}
    for model in models.values():
        tables.update({path: min(version, tables.get(path, version)) for path, version in model.inputs.items()})
    is_of_lists = product == "recommend"
    has_ranker = any("ranker" in definition.kind(name).models for name in definition.nodes)
    return Manifest(
        shop=shop.name,
        product=product,
        nodes=tuple(_pinned(definition, name) for name in definition.order()),
        models={name: ModelPin(version=one.version, digest=one.digest, run_id=one.run_id) for name, one in sorted(models.items())},
        answer=definition.answer,
        ladder=definition.ladder,
        budget_ms=definition.budget_ms,
        limits=definition.limits,
        tables=tables,
        weights=_weights(shop.source_weights) if is_of_lists else {},
        ranking=shop.ranking if has_ranker else RankingRules(),
        rules=shop.rules if is_of_lists else type(shop.rules)(),
        own_rules=own_rules.keep(home, shop) if is_of_lists else {},
        static=_static(shop, models["recommender"].folder) if STATIC in definition.ladder else (),
    )


def _pinned(definition: Definition, name: str) -> PinnedNode:
    node, kind = definition.nodes[name], definition.kind(name)
    return PinnedNode(
        name=name,
        kind=node.kind or name,
        reads=node.reads,
        models=kind.models,
        services={service: OURS.service(service).digest for service in kind.services},
        share=node.share,
        settings=kind.Settings.model_validate(node.settings).model_dump(mode="json"),
        stand_in=kind.stand_in if kind.stand_in in definition.ladder else None,
    )


def _static(shop: Shop, folder: Path) -> tuple[str, ...]:
    """What is popular by the model, without what the shop blocks by id; facts of items are not known where it is needed."""
    encoder = Encoder.load(folder / "encoder.json")
    best = sorted(range(len(encoder.items)), key=lambda place: -encoder.popularity[place])
    blocked = set(shop.rules.blocked.items)
    return tuple([encoder.items[place] for place in best if encoder.items[place] not in blocked][:_STATIC_ITEMS])


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
