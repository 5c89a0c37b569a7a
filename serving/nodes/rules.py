"""Rules node: what the shop wants of every list, over what the models say; and the list itself.

The rules of `rules` in shop.yaml act one after the other on the order of a shortlist. What each of them moved can be told, and told back:
`replay` of a trace gives the same list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.online.packing import to_microseconds
from features.shop import Boost, ListRules
from infra import log
from serving import list_ids
from serving.catalogue import Catalogue, Listing
from serving.edges import Content, Floats, Ints, Shortlist, Shortlists, reasons_of
from serving.nodes.node import Node, NodeSettings
from serving.own_rules import OwnRule
from serving.parts import Parts
from serving.schemas import AskedList, RecommendRequest

Order = Ints
"""Places in the shortlist, the first of the list first."""


class Rules(Node):
    """Boosts, own rules, variety and exploration; then the first k that no list before shows."""

    reads = (Shortlists,)
    gives = Content
    is_quick = True
    stand_in = "without_rules"

    def __init__(self, catalogue: Catalogue, said: ListRules, own: Sequence[OwnRule]) -> None:
        self.catalogue = catalogue
        self.said = said
        self.own = own

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """The rules of the manifest; own ones are run once, on no items."""
        return cls(parts.catalogue, parts.rules, parts.own_rules)

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Content]:
        """The lists of each request. Of several the first chooses first: what it shows, no later one shows again."""
        (shortlists,) = read
        return [self._content(request, of_one.lists, at) for request, of_one in zip(requests, shortlists, strict=True)]

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *read: Sequence[Any]) -> list[Content]:
        """The first k of each shortlist; what the shop blocks is in none."""
        (shortlists,) = read
        bare = Rules(self.catalogue, ListRules(), ())
        is_missed = self.said != ListRules(blocked=self.said.blocked, hide_bought=self.said.hide_bought)
        found = bare.run(requests, at, shortlists)
        for content in found if is_missed else ():
            for one in (content, *content.get("lists", ())):
                one["degraded"] = [*one["degraded"], "without_rules"]
        return found

    def _content(self, request: RecommendRequest, shortlists: Sequence[Shortlist], at: datetime) -> Content:
        shown: set[str] = set()
        lists = []
        for asked, shortlist in zip(request.lists, shortlists, strict=True):
            content = self._list(request, asked, shortlist, shown, at)
            shown.update(item["item_id"] for item in content["items"])
            lists.append(content)
        content = {name: value for name, value in lists[0].items() if name != "placement"}
        if request.placements is None:
            return content
        return {**content, "degraded": reasons_of(lists), "lists": lists}

    def _list(self, request: RecommendRequest, asked: AskedList, shortlist: Shortlist, shown: set[str], at: datetime) -> Content:
        list_id = list_ids.new()
        trace = _Trace(shortlist) if request.trace else None
        degraded: list[str] = list(shortlist.degraded)
        order: Order = np.arange(len(shortlist.items))
        scores = shortlist.scores
        if shown:
            order = order[[item not in shown for item in shortlist.items]]
            if trace:
                trace.add("shown_before", order, ())
        for name, factors in self._factors(asked, shortlist, at, degraded):
            touched = np.flatnonzero(factors[order] != 1)
            if len(touched):
                touched = order[touched]
                scores = shortlist.lifted(scores, factors)
                order = order[factors[order] > 0]
                order = order[np.argsort(-scores[order], kind="stable")]
                if trace:
                    trace.add(name, order, touched)
        if self.said.most_of_one:
            order = self._varied(shortlist, order, asked.k, trace)
        propensities = None
        if self.said.explore:
            order, propensities = self._explored(list_id, order, asked.k, trace)
        best = order[: asked.k]
        items = [self._item(shortlist, place, scores) for place in best.tolist()]
        if request.explain and shortlist.chances:
            for place, item in zip(best, items, strict=True):
                item["chances"] = {task: float(chances[place]) for task, chances in shortlist.chances.items()}
        if propensities is not None:
            for item, propensity in zip(items, propensities, strict=True):
                item["propensity"] = propensity
        content: Content = {
            "placement": asked.placement,
            "list_id": list_id,
            "items": items,
            "personalized": shortlist.is_personal,
            "degraded": degraded,
        }
        if trace:
            content["trace"] = trace.told()
        return content

    @staticmethod
    def _item(shortlist: Shortlist, place: int, scores: Floats) -> Content:
        return {"item_id": shortlist.items[place], "score": float(scores[place]), "source": shortlist.sources[place]}

    def _factors(self, asked: AskedList, shortlist: Shortlist, at: datetime, degraded: list[str]) -> Iterator[tuple[str, Floats]]:
        """Rule -> how many times as much each candidate counts by it."""
        if not (self.said.boosts or self.own) or not len(shortlist.items):
            return
        columns = _columns(self.catalogue.now, shortlist)
        for boost in self.said.boosts:
            yield boost.name, np.where(_is_boosted(boost, columns, at), boost.factor, 1.0)
        for rule in self.own:
            try:
                yield rule.name, rule.of(columns, asked.placement)
            except Exception as error:  # whatever somebody's code does
                log.get(__name__).warning("rule left out", rule=rule.name, error=str(error))
                degraded.append("without_rules")

    def _varied(self, shortlist: Shortlist, order: Order, k: int, trace: _Trace | None) -> Order:
        """So many of one category and brand, then the others, then what was passed over."""
        facts, index = self.catalogue.now.facts.facts, self.catalogue.now.model.encoder.index
        columns = {"category": facts.category, "brand": facts.brand}
        taken: dict[str, Counter[str]] = {name: Counter() for name in self.said.most_of_one}
        first: list[int] = []
        passed: list[int] = []
        for at, place in enumerate(order.tolist()):
            if len(first) >= k:
                rest = order[at:].tolist()
                break
            where = index.get(shortlist.items[place])
            words = {name: "" if where is None else str(columns[name][where]) for name in taken}
            if any(word and taken[name][word] >= self.said.most_of_one[name] for name, word in words.items()):  # type: ignore[index]
                passed.append(place)
                continue
            first.append(place)
            for name, word in words.items():
                taken[name][word] += 1
        else:
            rest = []
        if not passed:
            return order
        varied = np.array([*first, *passed, *rest], dtype=np.int64)
        if trace:
            trace.add("most_of_one", varied, passed)
        return varied

    def _explored(self, list_id: str, order: Order, k: int, trace: _Trace | None) -> tuple[Order, list[float]]:
        """Places below the first, some of them drawn; and the chance with which each shown item came to its place, given those before it.

        The draws follow from the name of the list, so that they can be made again.
        """
        rng = np.random.default_rng(int(list_id, 16))
        left = order.tolist()
        shown: list[int] = []
        propensities: list[float] = []
        drawn = []
        for slot in range(min(k, len(left))):
            share = self.said.explore if slot else 0.0
            place = 0
            if share and rng.random() < share:
                place = int(rng.integers(len(left)))
            propensities.append(share / len(left) + (1 - share if place == 0 else 0.0))
            if place:
                drawn.append(left[place])
            shown.append(left.pop(place))
        explored = np.array([*shown, *left], dtype=np.int64)
        if trace and drawn:
            trace.add("explore", explored, drawn)
        return explored, propensities


class _Trace:
    """What each rule did to the order of one shortlist."""

    def __init__(self, shortlist: Shortlist) -> None:
        self.items = shortlist.items
        self.order: list[int] = list(range(len(shortlist.items)))
        self.steps: list[Content] = []

    def add(self, rule: str, order: Order, touched: Sequence[int] | NDArray[np.int64]) -> None:
        """After this rule the order is this one; the places that it touched."""
        after = {place: position for position, place in enumerate(order.tolist())}
        before = {place: position for position, place in enumerate(self.order)}
        removed = [self.items[place] for place in self.order if place not in after]
        moved = [
            {"item_id": self.items[place], "from": before[place], "to": after[place]}
            for place in sorted((int(one) for one in touched if int(one) in after), key=lambda one: after[one])
        ]
        if removed or moved:
            self.steps.append({"rule": rule, "removed": removed, "moved": moved})
        self.order = list(after)

    def told(self) -> Content:
        return {"before": self.items.tolist(), "steps": self.steps}


def replay(trace: Mapping[str, Any]) -> list[str]:
    """The items of a list in their order, by its trace alone; the list shows the first k of them."""
    order: list[str] = list(trace["before"])
    for step in trace["steps"]:
        placed = {move["to"]: move["item_id"] for move in step["moved"]}
        gone = {*step["removed"], *placed.values()}
        rest = iter([item for item in order if item not in gone])
        order = [placed[position] if position in placed else next(rest) for position in range(len(order) - len(step["removed"]))]
    return order


def _columns(listing: Listing, shortlist: Shortlist) -> dict[str, NDArray[Any]]:
    """What is known of the candidates: (n,) each, by name; of what the catalogue does not know, nothing."""
    facts, index = listing.facts.facts, listing.model.encoder.index
    places = np.array([index.get(item, -1) for item in shortlist.items], dtype=np.int64)
    is_known = places >= 0
    return {
        "item_id": shortlist.items,
        "score": shortlist.scores,
        "category": np.where(is_known, facts.category[places], ""),
        "brand": np.where(is_known, facts.brand[places], ""),
        "price": np.where(is_known, facts.price[places], np.nan),
        "created_at": np.where(is_known, facts.created[places], np.nan),
        "rise": np.where(is_known, facts.rise[places], 0.0),
    }


def _is_boosted(boost: Boost, columns: Mapping[str, NDArray[Any]], at: datetime) -> NDArray[np.bool_]:
    """(n,) the candidates that a boost speaks of."""
    wanted: NDArray[np.bool_] = np.isin(columns["category"], boost.category) | np.isin(columns["brand"], boost.brand)
    if boost.items:
        wanted |= np.isin(columns["item_id"].astype(str), boost.items)
    if boost.new_days is not None:
        wanted |= columns["created_at"] >= to_microseconds(at - timedelta(days=boost.new_days))
    return wanted
