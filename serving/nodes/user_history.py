"""Feature node: what each user or visitor did last, from the online store, with the running session appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from features.columns import NO_TASTE, USER_ID, VISITOR_PREFIX
from features.store import FeatureStore
from serving.nodes.last_good import LastGood
from serving.nodes.node import Node, NodeSettings
from serving.parts import Parts
from serving.schemas import Placement, RecommendReason, RecommendRequest, SessionEvent


@dataclass(frozen=True)
class History:
    """Acts of one person, oldest first; `degraded` names what could not be read."""

    item_ids: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    degraded: tuple[RecommendReason, ...] = ()


class UserHistory(Node):
    """Reads `user_history` of the `recommender` service."""

    gives = History
    services = ("recommender",)
    stand_in = "last_good_features"

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.last_good: LastGood[History] = LastGood()

    @classmethod
    def open(cls, settings: NodeSettings, parts: Parts) -> Self:  # noqa: ARG003
        """Nothing is loaded."""
        return cls(parts.store)

    def run(self, requests: Sequence[RecommendRequest], at: datetime, *_: Sequence[Any]) -> list[History]:
        """One history per request. Nothing is read for a request that is not about the person.

        Raises:
            EngineError: the online store cannot be read.
        """
        wanted = self._wanted(requests)
        stored: dict[str, History] = {}
        if wanted:
            rows = self.store.online_rows("recommender", {USER_ID: wanted}, at)
            kept = zip(wanted, rows["item_ids"], rows["event_types"], strict=True)
            stored = {person: History(tuple(items), tuple(kinds)) for person, items, kinds in kept if items is not None}
            self.last_good.keep(stored)
        return self._histories(requests, stored)

    def without(self, requests: Sequence[RecommendRequest], at: datetime, *_: Sequence[Any]) -> list[History]:  # noqa: ARG002
        """What was read last, as `last_good_features`, else the session alone, as `history_unavailable`."""
        stored = {
            person: History(degraded=("history_unavailable",))
            if (kept := self.last_good.get(person)) is None
            else replace(kept, degraded=("last_good_features",))
            for person in self._wanted(requests)
        }
        return self._histories(requests, stored)

    @staticmethod
    def _wanted(requests: Sequence[RecommendRequest]) -> list[str]:
        return sorted({person for r in requests if is_read(r, "for_you") and (person := person_of(r)) is not None})

    def _histories(self, requests: Sequence[RecommendRequest], stored: Mapping[str, History]) -> list[History]:
        return [self._with_session(request, stored) if is_read(request, "for_you") else History() for request in requests]

    @staticmethod
    def _with_session(request: RecommendRequest, stored: Mapping[str, History]) -> History:
        person = person_of(request)
        unknown: RecommendReason = "unknown_user" if request.visitor_id is None else "unknown_visitor"
        history = History() if person is None else stored.get(person, History(degraded=(unknown,)))
        acts = [act for act in request.session if act.event_type not in NO_TASTE]
        if all(act.event_timestamp is not None for act in acts):
            acts.sort(key=instant_of)
        return History(
            history.item_ids + tuple(act.item_id for act in acts),
            history.event_types + tuple(act.event_type for act in acts),
            history.degraded,
        )


def person_of(request: RecommendRequest) -> str | None:
    """The `user_id` under which the tables keep what the person did; None where the request names nobody."""
    return request.user_id if request.visitor_id is None else VISITOR_PREFIX + request.visitor_id


def instant_of(act: SessionEvent) -> datetime:
    """When an act happened; a time without a zone is UTC."""
    time = act.event_timestamp or datetime.min
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_read(request: RecommendRequest, placement: Placement) -> bool:
    """Whether the request may be answered from what is known of the person, and asks for a list that is made of it."""
    return request.personalize and any(asked.placement == placement for asked in request.lists)
