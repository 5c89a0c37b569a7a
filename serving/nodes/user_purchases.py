"""Feature node: what each user or visitor bought and on which days, from the online store, with the running session's purchases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Self

from features.columns import USER_ID
from features.store import FeatureStore
from serving.nodes.last_good import LastGood
from serving.nodes.node import Node, NodeSettings
from serving.nodes.user_history import instant_of, is_read, person_of
from serving.parts import Parts
from serving.schemas import Placement, RecommendReason, RecommendRequest


@dataclass(frozen=True)
class Purchased:
    """Items one person bought and the local day of each; `degraded` names what could not be read."""

    item_ids: tuple[str, ...] = ()
    days: tuple[date, ...] = ()
    degraded: tuple[RecommendReason, ...] = ()


class UserPurchases(Node):
    """Reads `user_purchases` of the `buy_again` service.

    Args:
        hidden_in: placements that leave out what the person bought, so that it is read for them as well.
    """

    gives = Purchased
    services = ("buy_again",)
    stand_in = "last_good_features"

    def __init__(self, store: FeatureStore, hidden_in: Collection[Placement] = ()) -> None:
        self.store = store
        self.placements: tuple[Placement, ...] = ("buy_again", *hidden_in)
        self.last_good: LastGood[Purchased] = LastGood()

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """Nothing is loaded."""
        return cls(parts.store, parts.rules.hide_bought)

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *_: Sequence[Any]) -> list[Purchased]:
        """What was bought, one per request. Nothing is read for a request that asks for no list that it matters to.

        Raises:
            EngineError: the online store cannot be read.
        """
        wanted = self._wanted(requests)
        stored: dict[str, Purchased] = {}
        if wanted:
            rows = self.store.online_rows("buy_again", {USER_ID: wanted}, at)
            kept = zip(wanted, rows["purchase_item_ids"], rows["purchase_dates"], strict=True)
            stored = {
                person: Purchased(tuple(items), tuple(map(date.fromisoformat, dates)))
                for person, items, dates in kept
                if items is not None
            }
            self.last_good.keep(stored)
        return self._purchases(requests, stored, at)

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *_: Sequence[Any]) -> list[Purchased]:
        """What was read last, as `last_good_features`, else the session's alone, as `history_unavailable`."""
        stored = {
            person: Purchased(degraded=("history_unavailable",))
            if (kept := self.last_good.get(person)) is None
            else replace(kept, degraded=("last_good_features",))
            for person in self._wanted(requests)
        }
        return self._purchases(requests, stored, at)

    def _wanted(self, requests: Sequence[RecommendRequest]) -> list[str]:
        return sorted({person for r in requests if self._is_read(r) and (person := person_of(r)) is not None})

    def _is_read(self, request: RecommendRequest) -> bool:
        return any(is_read(request, placement) for placement in self.placements)

    def _purchases(self, requests: Sequence[RecommendRequest], stored: Mapping[str, Purchased], at: datetime) -> list[Purchased]:
        return [self._with_session(r, stored, at) if self._is_read(r) else Purchased() for r in requests]

    def _with_session(self, request: RecommendRequest, stored: Mapping[str, Purchased], at: datetime) -> Purchased:
        told = stored.get(person_of(request) or "", Purchased())  # whoever has no row bought nothing, known or not
        acts = [act for act in request.session if act.event_type == "purchase"]
        zone = self.store.shop.zone
        return Purchased(
            told.item_ids + tuple(act.item_id for act in acts),
            told.days + tuple((at if act.event_timestamp is None else instant_of(act)).astimezone(zone).date() for act in acts),
            told.degraded,
        )
