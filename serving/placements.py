"""What fills each list of a recommend request: one rule per placement, each choosing among the items that may be shown.

Filters and exclusions act on all items before any is chosen, so k come back wherever k are allowed and the rule has a word for them.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.days import day_number, day_of
from infra import log
from infra.errors import ReleaseError
from serving.graph import WEIGHTS
from serving.nodes.item_rules import Bools, ItemRules
from serving.nodes.ranker import Ranking
from serving.nodes.user_history import History, person_of
from serving.nodes.user_purchases import Purchased
from serving.schemas import AskedList, RecommendRequest, Source
from training.metrics.ranking import top_k
from training.ranker.candidates import retrieve
from training.recommender.bought import Bought
from training.recommender.model import Recommender
from training.recommender.purchases import Purchases
from training.recommender.sources import blended, shares_of, softmax

Content = dict[str, Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_SHARPNESS = 0.1
"""Of likeness as a share: cosines that differ by so much differ by a factor of e."""
_LEAST = 1e-11
"""What a share counts as where there is none, so that a fall to it can be told."""


@dataclass(frozen=True)
class Ask:
    """One list of one request, and what is known of the person to fill it with."""

    request: RecommendRequest
    wanted: AskedList
    history: History
    purchased: Purchased
    exclude: frozenset[str]


class Placements:
    """The rules, over one model version.

    Args:
        weights: placement -> source -> weight, where not those of `serving.graph.WEIGHTS` or, for for_you, of the model; what the model
            does not have counts nothing.
        ranking: orders for_you, over the same items; None: the order of retrieval stands.

    Raises:
        ReleaseError: they leave for_you without a source.
    """

    def __init__(
        self,
        model: Recommender,
        purchases: Purchases,
        rules: ItemRules,
        weights: Mapping[str, Mapping[str, float]] | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        said = weights or {}
        learned = {source: said.get("for_you", {}).get(source, weight) for source, weight in model.weights.items()}
        if not any(learned.values()):
            raise ReleaseError(f"source_weights of shop.yaml leave for_you nothing: expected a weight above 0, got {learned}.")
        self.model = replace(model, weights=learned)
        self.purchases = purchases.resized(len(model.encoder.items))  # a model may know items that came after it learned
        self.rules = rules
        self.ranking = ranking
        self.weights = {placement: {**usual, **said.get(placement, {})} for placement, usual in WEIGHTS.items()}
        self._popular = np.maximum(model.encoder.popular, np.float32(_LEAST))

    def fill(self, asks: Sequence[Ask], at: datetime, today: date) -> list[Content]:
        """A list each, best first.

        Where there is nothing to go by it is the popular list, or in buy_again an empty one; `degraded` names what was missing.

        Args:
            at: the present instant.
            today: the shop's present local day.
        """
        answers: list[Content] = [{}] * len(asks)
        masks = [self.rules.allowed(ask.wanted.filters) for ask in asks]
        by_history = []
        for row, (ask, allowed) in enumerate(zip(asks, masks, strict=True)):
            wanted = ask.wanted
            if wanted.placement == "similar" and wanted.item_id is not None and self.model.knows(wanted.item_id):
                answers[row] = self._similar(ask, wanted.item_id, allowed)
            elif wanted.placement == "bought_together" and any(map(self.model.knows, wanted.together)):
                answers[row] = self._together(ask, allowed)
            elif wanted.placement == "buy_again":
                answers[row] = self._again(ask, allowed, today)
            elif wanted.placement == "trending":
                answers[row] = self._trending(ask, allowed)
            else:
                by_history.append(row)
        read: dict[int, tuple[Ints, Ints]] = {}
        if self.ranking:
            histories = {row: asks[row].history for row in by_history if asks[row].wanted.placement == "for_you"}
            read = {row: self.model.encoder.read(one.item_ids, one.event_types) for row, one in histories.items()}
        personal = [row for row, (items, _) in read.items() if len(items)]
        ranked = None
        if personal:
            ranked = self._ranked(
                [asks[row] for row in personal], [masks[row] for row in personal], [read[row] for row in personal], at
            )
        if ranked is not None:
            for row, content in zip(personal, ranked, strict=True):
                answers[row] = content
            by_history = sorted(set(by_history) - set(personal))
        scored: defaultdict[int, list[int]] = defaultdict(list)
        for row in by_history:
            scored[id(masks[row])].append(row)
        for rows in scored.values():  # lists under one mask share one pass through the network
            for row, content in zip(rows, self._by_history([asks[row] for row in rows], masks[rows[0]]), strict=True):
                answers[row] = content
        if ranked is None:
            for row in personal:
                answers[row]["degraded"].append("unranked")
        return answers

    def _ranked(
        self, asks: Sequence[Ask], masks: Sequence[Bools], read: Sequence[tuple[Ints, Ints]], at: datetime
    ) -> list[Content] | None:
        """What follows from the histories, of which none is empty, in the order of the ranker; None where it has none to give.

        Args:
            read: what the encoder reads of each history.
        """
        assert self.ranking is not None
        encoder = self.model.encoder
        allowed = np.empty((len(asks), len(encoder.items)), dtype=np.bool_)
        for row, (ask, mask, (items, _)) in enumerate(zip(asks, masks, read, strict=True)):
            allowed[row] = mask
            allowed[row, [encoder.index[item] for item in ask.exclude if item in encoder.index]] = False
            if not self.model.config.repeats:
                allowed[row, items] = False
        found = retrieve(self.model, [items for items, _ in read], [events for _, events in read], allowed)
        histories = [(items, [encoder.event_types[event] for event in events]) for items, events in read]
        try:
            values, chances = self.ranking.rank([person_of(ask.request) for ask in asks], histories, found, at)
        except Exception as error:  # whatever it is, the order of retrieval is a good one
            log.get(__name__).warning("not ranked", error=str(error))
            return None
        ends = np.searchsorted(found.history, np.arange(len(asks) + 1))
        contents = []
        for row, ask in enumerate(asks):
            own = np.arange(ends[row], ends[row + 1])
            best = own[np.argsort(-values[own], kind="stable")[: ask.wanted.k]]
            shown = [_item(encoder.items[found.item[place]], float(values[place]), "history") for place in best]
            if ask.request.explain:
                self._explain(shown, ask.history)
                for item, place in zip(shown, best, strict=True):
                    item["chances"] = dict(zip(self.ranking.ranker.tasks, chances[place].tolist(), strict=True))
            contents.append(_content(ask, shown, True, ask.history.degraded))
        return contents

    def _by_history(self, asks: Sequence[Ask], allowed: Bools) -> list[Content]:
        """What follows from the histories; of another placement than for_you nobody's history is read, so it is what is popular."""
        histories = [ask.history if ask.wanted.placement == "for_you" else History() for ask in asks]
        best = self.model.recommend(
            [history.item_ids for history in histories],
            max(ask.wanted.k for ask in asks),
            [ask.exclude for ask in asks],
            allowed,
            [history.event_types for history in histories],
        )
        contents = []
        for ask, history, items in zip(asks, histories, best, strict=True):
            is_personal = self.model.is_personal(history.item_ids, history.event_types)
            degraded = list(history.degraded)
            if ask.wanted.placement != "for_you":
                degraded.append("unknown_item")
            elif history.item_ids and not is_personal:
                degraded.append("unknown_item" if self.model.reads(history.event_types) else "empty_history")
            source: Source = "history" if is_personal else "popular"
            found = [_item(item, score, source) for item, score in items[: ask.wanted.k]]
            if ask.request.explain:
                self._explain(found, history)
            contents.append(_content(ask, found, is_personal, degraded))
        return contents

    def _explain(self, items: Sequence[Content], history: History) -> None:
        """Say with each item what of the history speaks for it."""
        reasons = self.model.reasons(history.item_ids, history.event_types, [item["item_id"] for item in items])
        for item, why in zip(items, reasons, strict=True):
            item["reasons"] = _reasons(why)

    def _similar(self, ask: Ask, item_id: str, allowed: Bools) -> Content:
        items = self.model.similar(item_id, ask.wanted.k, exclude=ask.exclude, allowed=allowed)
        found = [_item(item, score, "similar") for item, score in items]
        if ask.request.explain:
            for item in found:
                item["reasons"] = _reasons([(item_id, item["score"])] if item["score"] > 0 else [])
        return _content(ask, found, False, [])

    def _together(self, ask: Ask, allowed: Bools) -> Content:
        """What is bought with the items; where that is too little, what stands near them in histories, then what is like them."""
        basket = [item for item in ask.wanted.together if self.model.knows(item)]
        sources = self._beside(basket)
        weights = self.weights["bought_together"]
        found, shares = self._blend(sources, weights, ask, allowed, [*basket, *ask.exclude])
        if ask.request.explain and found:
            places = [self.model.encoder.index[item["item_id"]] for item in found]
            whole = np.log(np.maximum(shares[places], _LEAST))
            falls: dict[str, Floats] = {}
            for left in basket:
                rest = [item for item in basket if item != left]
                others = _blended(self._beside(rest), weights) if rest else self._popular
                falls[left] = whole - np.log(np.maximum(others[places], _LEAST))
            for row, item in enumerate(found):
                why = sorted(((float(fall[row]), left) for left, fall in falls.items() if fall[row] > 0), reverse=True)
                item["reasons"] = _reasons([(left, fall) for fall, left in why[:3]])
        return _content(ask, found, False, [] if sources["purchases"].any() else ["no_purchases"])

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

    def _again(self, ask: Ask, allowed: Bools, today: date) -> Content:
        """What the person bought before, by the chance of wanting it again by now; never what nobody buys twice."""
        pairs = Bought.of_one(ask.purchased.item_ids, ask.purchased.days, self.model.encoder).pairs
        chances = self.purchases.again.chances(pairs, day_number(today))
        scores = np.full(len(self.model.encoder.items), -np.inf, dtype=np.float32)
        scores[pairs.items[chances > 0]] = np.log(chances[chances > 0])
        self._ban(scores, ask.exclude, allowed, -np.inf)
        best = [int(place) for place in top_k(scores[None], ask.wanted.k)[0] if scores[place] > -np.inf]
        found = [_item(self.model.encoder.items[place], float(scores[place]), "purchases") for place in best]
        if ask.request.explain:
            rows = {int(place): row for row, place in enumerate(pairs.items)}
            for place, item in zip(best, found, strict=True):
                row = rows[place]
                gap = float(np.exp(self.purchases.again.habits.gap[place]))
                item["reasons"] = []
                item["bought"] = {"times": int(pairs.counts[row]), "last_on": day_of(int(pairs.last[row])), "usual_gap_days": gap}
        degraded = [*ask.purchased.degraded, *([] if (chances > 0).any() else ["no_purchases"])]
        return _content(ask, found, bool(found), degraded)

    def _trending(self, ask: Ask, allowed: Bools) -> Content:
        """What rises, then what is popular."""
        rise = self.rules.facts.rise
        above = np.maximum(rise - 1, 0).astype(np.float32)
        self._ban(above, ask.exclude, allowed, 0.0)
        sources: dict[Source, Floats] = {"trending": above, "popular": self._popular}
        found, _ = self._blend(sources, self.weights["trending"], ask, allowed, ask.exclude)
        if ask.request.explain:
            for item in found:
                item["reasons"] = []
                item["rise"] = float(rise[self.model.encoder.index[item["item_id"]]])
        return _content(ask, found, False, [] if above.any() else ["no_recent_activity"])

    def _blend(
        self, sources: Mapping[Source, Floats], weights: Mapping[str, float], ask: Ask, allowed: Bools, banned: Collection[str]
    ) -> tuple[list[Content], Floats]:
        """The k best items of a blend of sources, each with the log of its share and the source that speaks most for it; and all shares."""
        shares = _blended(sources, weights)
        open_ = shares.copy()
        self._ban(open_, banned, allowed, 0.0)
        best = [int(place) for place in top_k(open_[None], ask.wanted.k)[0] if open_[place] > 0]
        parts = {name: weights.get(name, 0.0) * shares_of(values[None])[0] for name, values in sources.items()}
        items = []
        for place in best:
            source = max(parts, key=lambda name: parts[name][place])
            items.append(_item(self.model.encoder.items[place], float(np.log(shares[place])), source))
        return items, shares

    def _ban(self, scores: Floats, items: Collection[str], allowed: Bools, least: float) -> None:
        """Set what may not be shown to `least`, in place."""
        index = self.model.encoder.index
        scores[[index[item] for item in items if item in index]] = least
        scores[~allowed] = least


def _blended(sources: Mapping[Source, Floats], weights: Mapping[str, float]) -> Floats:
    """Share of every item, (I,)."""
    shares = {str(name): shares_of(values[None]) for name, values in sources.items()}
    whole: Floats = blended(shares, weights)[0]
    return whole


def _item(item: str, score: float, source: Source) -> Content:
    return {"item_id": item, "score": score, "source": source}


def _reasons(found: Sequence[tuple[str, float]]) -> list[Content]:
    return [{"item_id": item, "weight": weight} for item, weight in found]


def _content(ask: Ask, items: list[Content], personalized: bool, degraded: Sequence[str]) -> Content:
    return {
        "placement": ask.wanted.placement,
        "list_id": uuid.uuid4().hex,
        "items": items,
        "personalized": personalized,
        "degraded": list(degraded),
    }
