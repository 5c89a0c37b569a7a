"""What may fill each list of a recommend request: one rule per placement, each choosing among the items that may be shown.

Filters and exclusions act on all items before any is chosen, so k come back wherever k are allowed and the rule has a word for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from features.days import day_number, day_of
from infra.errors import ReleaseError
from serving.catalogue import Listing
from serving.edges import Content, Shortlist
from serving.graph import WEIGHTS
from serving.nodes.user_history import History
from serving.nodes.user_purchases import Purchased
from serving.schemas import AskedList, RecommendReason, Source
from training.metrics.ranking import top_k
from training.ranker.candidates import RETRIEVAL, retrieve
from training.recommender.bought import Bought, Pairs
from training.recommender.sources import blended, shares_of, softmax

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_SHARPNESS = 0.1
"""Of likeness as a share: cosines that differ by so much differ by a factor of e."""
_LEAST = 1e-11
"""What a share counts as where there is none, so that a fall to it can be told."""
_NOTHING = float(np.log(np.finfo(np.float32).tiny))
"""Log of a share where there is none."""
_SCORES = 4_000_000
"""Shares that are held at a time by each source."""


@dataclass(frozen=True)
class Ask:
    """One list of one request, and what is known of the person to fill it with."""

    wanted: AskedList
    history: History
    purchased: Purchased
    exclude: frozenset[str]
    most: int
    """How many items its shortlist may hold."""


class Placements:
    """The rules, over the items of one catalogue at one time.

    Args:
        weights: placement -> source -> weight, where not those of `serving.graph.WEIGHTS` or, for for_you, of the model; what the model
            does not have counts nothing.

    Raises:
        ReleaseError: they leave for_you without a source.
    """

    def __init__(self, listing: Listing, weights: Mapping[str, Mapping[str, float]]) -> None:
        model = listing.model
        learned = {source: weights.get("for_you", {}).get(source, weight) for source, weight in model.weights.items()}
        if not any(learned.values()):
            raise ReleaseError(f"source_weights of shop.yaml leave for_you nothing: expected a weight above 0, got {learned}.")
        self.listing = listing
        self.model = replace(model, weights=learned)
        self.purchases = listing.purchases
        self.facts = listing.facts
        self.weights = {placement: {**usual, **weights.get(placement, {})} for placement, usual in WEIGHTS.items()}
        self._popular = np.maximum(model.encoder.popular, np.float32(_LEAST))

    def fill(self, asks: Sequence[Ask], today: date) -> list[Shortlist]:
        """A shortlist each, best first.

        Where there is nothing to go by it is the popular one, or in buy_again an empty one; `degraded` names what was missing.

        Args:
            today: the shop's present local day.
        """
        lists: dict[int, Shortlist] = {}
        by_history = []
        for row, ask in enumerate(asks):
            way = self._way(ask.wanted)
            if way == "similar":
                lists[row] = self._similar(ask)
            elif way == "bought_together":
                lists[row] = self._together(ask)
            elif way == "buy_again":
                lists[row] = self._again(ask, today)
            elif way == "trending":
                lists[row] = self._trending(ask)
            else:
                by_history.append(row)
        step = max(1, _SCORES // len(self.model.encoder.items))
        for start in range(0, len(by_history), step):
            rows = by_history[start : start + step]
            lists.update(zip(rows, self._by_history([asks[row] for row in rows]), strict=True))
        return [lists[row] for row in range(len(asks))]

    def explain(self, ask: Ask, items: Sequence[Content]) -> None:
        """Say with each item of the list what speaks for it."""
        way = self._way(ask.wanted)
        if way == "similar":
            for item in items:
                item["reasons"] = _reasons([(str(ask.wanted.item_id), item["score"])] if item["score"] > 0 else [])
        elif way == "bought_together":
            self._explain_together(ask, items)
        elif way == "buy_again":
            self._explain_again(ask, items)
        elif way == "trending":
            for item in items:
                item["reasons"] = []
                item["rise"] = float(self.facts.facts.rise[self.model.encoder.index[item["item_id"]]])
        else:
            history = ask.history if ask.wanted.placement == "for_you" else History()
            reasons = self.model.reasons(history.item_ids, history.event_types, [item["item_id"] for item in items])
            for item, why in zip(items, reasons, strict=True):
                item["reasons"] = _reasons(why)

    def _way(self, wanted: AskedList) -> str:
        """The placement, but `for_you` where it has nothing to go by."""
        if wanted.placement == "similar" and (wanted.item_id is None or not self.model.knows(wanted.item_id)):
            return "for_you"
        if wanted.placement == "bought_together" and not any(map(self.model.knows, wanted.together)):
            return "for_you"
        return wanted.placement

    def _by_history(self, asks: Sequence[Ask]) -> list[Shortlist]:
        """What follows from the histories; of another placement than for_you nobody's history is read, so it is what is popular."""
        encoder = self.model.encoder
        histories = [ask.history if ask.wanted.placement == "for_you" else History() for ask in asks]
        read = [encoder.read(history.item_ids, history.event_types) for history in histories]
        allowed = np.empty((len(asks), len(encoder.items)), dtype=np.bool_)
        for row, (ask, (items, _)) in enumerate(zip(asks, read, strict=True)):
            allowed[row] = self.facts.allowed(ask.wanted.filters)
            allowed[row, [encoder.index[item] for item in ask.exclude if item in encoder.index]] = False
            if not self.model.config.repeats:
                allowed[row, items] = False
        most = max(ask.most for ask in asks)
        found = retrieve(self.model, [items for items, _ in read], [events for _, events in read], allowed, most)
        ends = np.searchsorted(found.history, np.arange(len(asks) + 1))
        shortlists = []
        for row, (ask, history, (items, _)) in enumerate(zip(asks, histories, read, strict=True)):
            is_personal = len(items) > 0
            degraded = list(history.degraded)
            if ask.wanted.placement != "for_you":
                degraded.append("unknown_item")
            elif history.item_ids and not is_personal:
                degraded.append("unknown_item" if self.model.reads(history.event_types) else "empty_history")
            own = slice(ends[row], min(ends[row + 1], ends[row] + ask.most))
            source: Source = "history" if is_personal else "popular"
            shortlists.append(
                Shortlist(
                    self.listing.ids[found.item[own]],
                    np.nan_to_num(found.shares[RETRIEVAL][own], nan=_NOTHING),
                    (source,) * len(found.item[own]),
                    is_personal,
                    tuple(degraded),
                    ranks=found.rank[own] if is_personal else None,
                    shares={name: share[own] for name, share in found.shares.items()} if is_personal else {},
                )
            )
        return shortlists

    def _similar(self, ask: Ask) -> Shortlist:
        item_id = str(ask.wanted.item_id)
        scores = self.model.cosines([item_id])
        self._ban(scores, [item_id, *ask.exclude], ask, -np.inf)
        best = self._best(scores, ask, -np.inf)
        return self._shortlist(best, scores[best], "similar", steepness=_SHARPNESS)

    def _together(self, ask: Ask) -> Shortlist:
        """What is bought with the items; where that is too little, what stands near them in histories, then what is like them."""
        basket = self._basket(ask)
        sources = self._beside(basket)
        degraded: tuple[RecommendReason, ...] = () if sources["purchases"].any() else ("no_purchases",)
        return self._blend(sources, self.weights["bought_together"], ask, [*basket, *ask.exclude], degraded)

    def _explain_together(self, ask: Ask, items: Sequence[Content]) -> None:
        if not items:
            return
        basket, weights = self._basket(ask), self.weights["bought_together"]
        places = [self.model.encoder.index[item["item_id"]] for item in items]
        whole = np.log(np.maximum(_blended(self._beside(basket), weights)[places], _LEAST))
        falls: dict[str, Floats] = {}
        for left in basket:
            rest = [item for item in basket if item != left]
            others = _blended(self._beside(rest), weights) if rest else self._popular
            falls[left] = whole - np.log(np.maximum(others[places], _LEAST))
        for row, item in enumerate(items):
            why = sorted(((float(fall[row]), left) for left, fall in falls.items() if fall[row] > 0), reverse=True)
            item["reasons"] = _reasons([(left, fall) for fall, left in why[:3]])

    def _basket(self, ask: Ask) -> list[str]:
        return [item for item in ask.wanted.together if self.model.knows(item)]

    def _beside(self, basket: Sequence[str]) -> dict[Source, Floats]:
        """What speaks for each item beside those of a basket, (I,) by source; each is at least 0."""
        places = np.array([self.model.encoder.index[item] for item in basket], dtype=np.int64)
        near = self.model.counted.get("co_occurrence")
        size = len(self.model.encoder.items)
        return {
            "purchases": self.purchases.together.scores([places])[0],
            "co_occurrence": near.scores([places])[0] if near else np.zeros(size, dtype=np.float32),
            "similar": softmax(self.model.cosines(basket)[None] / np.float32(_SHARPNESS))[0],
        }

    def _again(self, ask: Ask, today: date) -> Shortlist:
        """What the person bought before, by the chance of wanting it again by now; never what nobody buys twice."""
        pairs = self._pairs(ask)
        chances = self.purchases.again.chances(pairs, day_number(today))
        scores = np.full(len(self.model.encoder.items), -np.inf, dtype=np.float32)
        scores[pairs.items[chances > 0]] = np.log(chances[chances > 0])
        self._ban(scores, ask.exclude, ask, -np.inf)
        best = self._best(scores, ask, -np.inf)
        degraded: list[RecommendReason] = [*ask.purchased.degraded]
        if not (chances > 0).any():
            degraded.append("no_purchases")
        return self._shortlist(best, scores[best], "purchases", len(best) > 0, tuple(degraded))

    def _explain_again(self, ask: Ask, items: Sequence[Content]) -> None:
        pairs = self._pairs(ask)
        rows = {int(place): row for row, place in enumerate(pairs.items)}
        for item in items:
            place = self.model.encoder.index[item["item_id"]]
            row = rows[place]
            gap = float(np.exp(self.purchases.again.habits.gap[place]))
            item["reasons"] = []
            item["bought"] = {"times": int(pairs.counts[row]), "last_on": day_of(int(pairs.last[row])), "usual_gap_days": gap}

    def _pairs(self, ask: Ask) -> Pairs:
        return Bought.of_one(ask.purchased.item_ids, ask.purchased.days, self.model.encoder).pairs

    def _trending(self, ask: Ask) -> Shortlist:
        """What rises, then what is popular."""
        above = np.maximum(self.facts.facts.rise - 1, 0).astype(np.float32)
        self._ban(above, ask.exclude, ask, 0.0)
        sources: dict[Source, Floats] = {"trending": above, "popular": self._popular}
        degraded: tuple[RecommendReason, ...] = () if above.any() else ("no_recent_activity",)
        return self._blend(sources, self.weights["trending"], ask, ask.exclude, degraded)

    def _blend(
        self,
        sources: Mapping[Source, Floats],
        weights: Mapping[str, float],
        ask: Ask,
        banned: Collection[str],
        degraded: tuple[RecommendReason, ...],
    ) -> Shortlist:
        """The best items of a blend of sources, each with the log of its share and the source that speaks most for it."""
        shares = _blended(sources, weights)
        self._ban(shares, banned, ask, 0.0)
        best = self._best(shares, ask, 0.0)
        parts = [weights.get(name, 0.0) * shares_of(values[None])[0][best] for name, values in sources.items()]
        names = list(sources)
        loudest = np.argmax(parts, axis=0) if len(best) else []
        return self._shortlist(best, np.log(shares[best]), tuple(names[place] for place in loudest), degraded=degraded)

    def _best(self, scores: Floats, ask: Ask, least: float) -> Ints:
        best: Ints = top_k(scores[None], ask.most)[0]
        return best[scores[best] > least]

    def _shortlist(
        self,
        best: Ints,
        scores: Floats,
        sources: Source | tuple[Source, ...],
        is_personal: bool = False,
        degraded: tuple[RecommendReason, ...] = (),
        steepness: float = 1.0,
    ) -> Shortlist:
        named = sources if isinstance(sources, tuple) else (sources,) * len(best)
        return Shortlist(self.listing.ids[best], scores.astype(np.float64), named, is_personal, degraded, steepness)

    def _ban(self, scores: Floats, items: Collection[str], ask: Ask, least: float) -> None:
        """Set what may not be shown to `least`, in place."""
        index = self.model.encoder.index
        scores[[index[item] for item in items if item in index]] = least
        scores[~self.facts.allowed(ask.wanted.filters)] = least


def _blended(sources: Mapping[Source, Floats], weights: Mapping[str, float]) -> Floats:
    """Share of every item, (I,)."""
    shares = {str(name): shares_of(values[None]) for name, values in sources.items()}
    whole: Floats = blended(shares, weights)[0]
    return whole


def _reasons(found: Sequence[tuple[str, float]]) -> list[Content]:
    return [{"item_id": item, "weight": weight} for item, weight in found]
