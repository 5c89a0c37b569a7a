"""Model node: of all items that may be shown, those that may fill each list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import numpy as np
from pydantic import Field

from serving.catalogue import Catalogue, Listing
from serving.edges import Shortlist, Shortlists
from serving.nodes.item_tables import ItemTables
from serving.nodes.node import Node, NodeSettings
from serving.nodes.user_history import History
from serving.nodes.user_purchases import Purchased
from serving.parts import Parts
from serving.placements import Ask, Placements
from serving.problems import invalid
from serving.schemas import AskedList, Placement, RecommendRequest
from training.ranker.candidates import NUM_CANDIDATES

_AT_ONCE = 2048
"""Of the items that rise those that are looked at first: a filter seldom leaves fewer than k of them."""


class RetrievalSettings(NodeSettings):
    """How much is retrieved."""

    candidates: int = Field(
        NUM_CANDIDATES, ge=1, le=10_000, description="Items of a shortlist, beside those that other lists may take."
    )


class Retrieval(Node):
    """The placements over the recommender's items.

    Args:
        weights: see `Placements`.
        hidden_in: placements that leave out what the person bought.
        most_k: the longest list that is given.
    """

    reads = (History, Purchased)
    gives = Shortlists
    models = ("recommender",)
    Settings = RetrievalSettings
    stand_in = "trending"

    def __init__(
        self,
        catalogue: Catalogue,
        weights: Mapping[str, Mapping[str, float]],
        hidden_in: Sequence[Placement],
        candidates: int,
        most_k: int,
    ) -> None:
        self.catalogue = catalogue
        self.weights = weights
        self.hidden_in = hidden_in
        self.candidates = candidates
        self.most_k = most_k
        self.placements = Placements(catalogue.now, weights)
        catalogue.follow(self._take_up)

    @classmethod
    def open(cls, settings: RetrievalSettings, parts: Parts) -> Self:
        """Over the catalogue of the recommender."""
        return cls(parts.catalogue, parts.manifest.weights, parts.rules.hide_bought, settings.candidates, parts.limits.k)

    def _take_up(self, listing: Listing, tables: ItemTables) -> None:  # noqa: ARG002
        self.placements = Placements(listing, self.weights)

    def check(self, request: RecommendRequest) -> None:
        """Refuse a list longer than the graph gives (raises Problem)."""
        if any(asked.k > self.most_k for asked in request.lists):
            raise invalid("/k", f"this graph gives at most {self.most_k} items")

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Shortlists]:
        """The shortlists of each request; each holds enough that lists before it may take some away."""
        histories, purchases = read
        placements = self.placements  # taken once: a refresh puts others in its place meanwhile
        asks = [
            [self._ask(request, number, history, purchased) for number in range(len(request.lists))]
            for request, history, purchased in zip(requests, histories, purchases, strict=True)
        ]
        today = at.astimezone(self.catalogue.store.shop.zone).date()
        found = iter(placements.fill([ask for of_one in asks for ask in of_one], today))
        return [Shortlists(tuple(next(found) for _ in of_one)) for of_one in asks]

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Shortlists]:  # noqa: ARG002
        """What rises in the category that the list is about, then what is popular in it, then what rises anywhere."""
        listing = self.placements.listing
        return [Shortlists(tuple(self._trending(listing, request, asked) for asked in request.lists)) for request in requests]

    def _ask(self, request: RecommendRequest, number: int, history: History, purchased: Purchased) -> Ask:
        wanted = request.lists[number]
        exclude = {*request.exclude, *(purchased.item_ids if wanted.placement in self.hidden_in else ())}
        before = sum(asked.k for asked in request.lists[:number])
        return Ask(wanted, history, purchased, frozenset(exclude), max(self.candidates, wanted.k) + before)

    def _trending(self, listing: Listing, request: RecommendRequest, asked: AskedList) -> Shortlist:
        facts, index = listing.facts, listing.model.encoder.index
        allowed = facts.allowed(asked.filters)
        about = asked.item_id or (asked.basket[0] if asked.basket else request.session[-1].item_id if request.session else None)
        banned = {index[item] for item in (*request.exclude, *asked.together) if item in index}
        wanted = sum(one.k for one in request.lists)
        best: list[int] = []
        for start in range(0, len(listing.rising), _AT_ONCE):
            some = listing.rising[start : start + _AT_ONCE]
            best += [place for place in some[allowed[some]].tolist() if place not in banned]
            if len(best) >= wanted:
                break
        if about in index and (category := facts.facts.category[index[about]]):
            best.sort(key=lambda place: facts.facts.category[place] != category)
        places = np.array(best[: max(wanted, self.candidates)], dtype=np.int64)
        rise = facts.facts.rise[places]
        scores = np.log(np.maximum(rise, 1e-9))
        scores = np.minimum.accumulate(scores) if len(scores) else scores
        return Shortlist(
            listing.ids[places],
            scores,
            tuple("trending" if one > 1 else "popular" for one in rise),
            degraded=("trending",),
        )
