"""What a graph is made of, as a person writes it: one YAML of nodes, what each reads, and what an answer goes down to.

A shop's own `graphs/<product>.yaml` stands in place of ours. What cannot work is found before anything is pinned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from features.shop import Shop
from infra.errors import ReleaseError
from serving.edges import Content
from serving.graph import REQUEST, STATIC, Limits, Product
from serving.kinds import KINDS
from serving.nodes.node import Node

OURS = Path(__file__).parent / "graphs"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredNode(_Strict):
    """One node."""

    kind: str = Field("", description="What it is, one of serving/kinds.py; default: its name.")
    reads: tuple[str, ...] = Field(min_length=1, description="The nodes whose results it takes, in the order of its kind.")
    share: float = Field(1.0, gt=0, le=1, description="The most of a request's time that it may take.")
    optional: bool = Field(False, description="Left out where its model is not registered; who reads it reads what it reads.")
    settings: dict[str, Any] = Field({}, description="What its kind lets a graph say.")


class Definition(_Strict):
    """One graph."""

    product: Product
    budget_ms: int = Field(gt=0, le=600_000, description="What a request may take that says nothing by X-Request-Timeout-Ms.")
    nodes: dict[Name, DeclaredNode] = Field(min_length=1)
    answer: str = Field(description="The node whose result is the answer.")
    ladder: tuple[str, ...] = Field((), description="What an answer may go without, as `degraded` calls it, the least first.")
    limits: Limits = Limits()

    def order(self) -> list[str]:
        """The nodes, each after those that it reads.

        Raises:
            ReleaseError: they read each other in a circle.
        """
        edges = {name: [read for read in node.reads if read != REQUEST] for name, node in self.nodes.items()}
        try:
            return list(TopologicalSorter(edges).static_order())
        except CycleError as error:
            raise ReleaseError(f"the nodes read each other in a circle: {' -> '.join(error.args[1])}.") from None

    def kind(self, name: str) -> type[Node]:
        """What a node is."""
        return KINDS[self.nodes[name].kind or name]

    def without(self, missing: Collection[str]) -> Definition:
        """The graph without some optional nodes: who reads one of them reads the node whose result passes through it."""
        nodes = {name: node for name, node in self.nodes.items() if name not in missing}

        def through(name: str) -> str:
            return through(self._passes(name)) if name in missing else name

        kept = {name: node.model_copy(update={"reads": tuple(map(through, node.reads))}) for name, node in nodes.items()}
        steps = {self.kind(name).stand_in for name in missing}
        ladder = tuple(step for step in self.ladder if step not in steps)
        return self.model_copy(update={"nodes": kept, "answer": through(self.answer), "ladder": ladder})

    def _passes(self, name: str) -> str:
        """The node whose result an optional node gives in another order or shape."""
        node, kind = self.nodes[name], self.kind(name)
        return next(read for read, type_ in zip(node.reads, kind.reads, strict=True) if type_ == kind.gives)

    def mistakes(self) -> Iterator[str]:
        """What cannot work, in words."""
        for name, node in self.nodes.items():
            if (node.kind or name) not in KINDS:
                yield f"{name}: expected a kind ({', '.join(KINDS)}), got {node.kind or name!r}"
                continue
            unknown = [read for read in node.reads if read != REQUEST and read not in self.nodes]
            if unknown:
                yield f"{name} reads {', '.join(unknown)}, which there is not"
                continue
            yield from self._wrong_types(name)
            yield from self._wrong_settings(name)
            if node.optional and self.kind(name).gives not in self.kind(name).reads:
                yield f"{name} cannot be optional: nothing passes through it"
        if self.answer not in self.nodes:
            yield f"answer: expected one of {', '.join(self.nodes)}, got {self.answer!r}"
        elif self.kind_or_none(self.answer) and self.kind(self.answer).gives != Content:
            yield f"answer: {self.answer} gives {_said(self.kind(self.answer).gives)}, which is no answer"
        steps = [kind.stand_in for name in self.nodes if (kind := self.kind_or_none(name)) and kind.stand_in]
        for step in self.ladder:
            if step not in steps and not (step == STATIC and step == self.ladder[-1]):
                yield f"ladder: expected {', '.join(dict.fromkeys(map(str, steps)))} and last {STATIC}, got {step!r}"

    def kind_or_none(self, name: str) -> type[Node] | None:
        """What a node is, if it is anything."""
        return KINDS.get(self.nodes[name].kind or name)

    def _wrong_types(self, name: str) -> Iterator[str]:
        reads = [read for read in self.nodes[name].reads if read != REQUEST]
        expected = self.kind(name).reads
        given = [self.kind_or_none(read) for read in reads]
        if len(reads) != len(expected) or any(kind and kind.gives != type_ for kind, type_ in zip(given, expected, strict=False)):
            got = ", ".join(f"{read} ({_said(kind.gives) if kind else 'nothing'})" for read, kind in zip(reads, given, strict=True))
            yield f"{name} reads {', '.join(map(_said, expected)) or 'the request alone'}; got {got or 'the request alone'}"

    def _wrong_settings(self, name: str) -> Iterator[str]:
        try:
            self.kind(name).Settings.model_validate(self.nodes[name].settings)
        except ValidationError as error:
            for one in error.errors():
                yield f"{name}: settings {'.'.join(map(str, one['loc']))}: {one['msg']}"


def load(shop: Shop, product: Product) -> Definition:
    """The graph of a product: the shop's own, else ours.

    Raises:
        ReleaseError: the file is no graph, or not one that can work.
    """
    own = shop.folder / "graphs" / f"{product}.yaml" if shop.folder else None
    return read(own if own and own.exists() else OURS / f"{product}.yaml", product)


def read(file: Path, product: Product) -> Definition:
    """The graph that a file defines.

    Raises:
        ReleaseError: it is no graph of this product, or not one that can work.
    """
    try:
        definition = Definition.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{file} is not YAML in UTF-8: {error}") from None
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ReleaseError(f"{file}: {told}.") from None
    if definition.product != product:
        raise ReleaseError(f"{file}: expected product {product}, got {definition.product}.")
    if found := list(definition.mistakes()):
        raise ReleaseError(f"{file}: {'; '.join(found)}.")
    definition.order()
    return definition


def _said(type_: Any) -> str:
    return "an answer" if type_ == Content else type_.__name__
