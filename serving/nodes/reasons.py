"""Model node: what speaks for each item of a list, where somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from serving.catalogue import Catalogue, Listing
from serving.edges import Content
from serving.nodes.item_tables import ItemTables
from serving.nodes.node import Node, NodeSettings
from serving.nodes.user_history import History
from serving.nodes.user_purchases import Purchased
from serving.parts import Parts
from serving.placements import Ask, Placements
from serving.schemas import RecommendRequest


class Reasons(Node):
    """The placements of the recommender, asked why."""

    reads = (Content, History, Purchased)
    gives = Content
    models = ("recommender",)
    stand_in = "unexplained"

    def __init__(self, catalogue: Catalogue, weights: Mapping[str, Mapping[str, float]]) -> None:
        self.weights = weights
        self.placements = Placements(catalogue.now, weights)
        catalogue.follow(self._take_up)

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """Over the catalogue of the recommender."""
        return cls(parts.catalogue, parts.manifest.weights)

    def _take_up(self, listing: Listing, tables: ItemTables) -> None:  # noqa: ARG002
        self.placements = Placements(listing, self.weights)

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Content]:  # noqa: ARG002
        """The lists as they are, with reasons where they were asked for."""
        contents, histories, purchases = read
        for request, content, history, purchased in zip(requests, contents, histories, purchases, strict=True):
            if request.explain:
                lists = content.get("lists") or [content]
                for asked, one in zip(request.lists, lists, strict=True):
                    self.placements.explain(Ask(asked, history, purchased, frozenset(), 0), one["items"])
        return list(contents)

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Content]:  # noqa: ARG002
        """The lists without reasons."""
        contents = list(read[0])
        for request, content in zip(requests, contents, strict=True):
            if request.explain:
                for one in {id(one): one for one in (content, *content.get("lists", ()))}.values():
                    one["degraded"] = [*one["degraded"], "unexplained"]
        return contents
