"""Feature node: what each user or visitor did last, from the online store, with the running session appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from features.columns import NO_TASTE, USER_ID, VISITOR_PREFIX
from features.store import FeatureStore
from infra import log
from infra.errors import ShopgraphError
from serving.schemas import Placement, RecommendReason, RecommendRequest, SessionEvent


@dataclass(frozen=True)
class History:
    """Acts of one person, oldest first; `degraded` names what could not be read."""

    item_ids: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    degraded: tuple[RecommendReason, ...] = ()


class UserHistory:
    """Reads `user_history` of the `recommender` service."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def read(self, requests: Sequence[RecommendRequest], at: datetime) -> list[History]:
        """One history per request. Nothing is read for a request that is not about the person.

        A store that cannot be read makes no error: the history is then that of the session, and `history_unavailable`.
        """
        wanted = sorted({person for r in requests if is_read(r, "for_you") and (person := person_of(r)) is not None})
        stored: dict[str, History] = {}
        if wanted:
            try:
                rows = self.store.online_rows("recommender", {USER_ID: wanted}, at)
            except ShopgraphError as error:
                log.get(__name__).warning("user_history cannot be read", error=str(error))
                stored = {person: History(degraded=("history_unavailable",)) for person in wanted}
            else:
                kept = zip(wanted, rows["item_ids"], rows["event_types"], strict=True)
                stored = {person: History(tuple(items), tuple(kinds)) for person, items, kinds in kept if items is not None}
        return [self._with_session(request, stored) if is_read(request, "for_you") else History() for request in requests]

    @staticmethod
    def _with_session(request: RecommendRequest, stored: dict[str, History]) -> History:
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
