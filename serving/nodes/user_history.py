"""Feature node: what each user did last, from the online store, with the running session appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from features.store import FeatureStore
from infra import log
from infra.errors import ShopgraphError
from serving.schemas import RecommendReason, RecommendRequest, SessionEvent

_ACTS = frozenset({"click", "view", "favourite", "cart", "purchase", "return"})
"""Event types that user_history keeps; others say nothing of taste."""


@dataclass(frozen=True)
class History:
    """Acts of one user, oldest first; `degraded` names what could not be read."""

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
        wanted = sorted({r.user_id for r in requests if r.user_id is not None and is_personal(r)})
        stored: dict[str, History] = {}
        if wanted:
            try:
                rows = self.store.online_rows("recommender", {"user_id": wanted}, at)
            except ShopgraphError as error:
                log.get(__name__).warning("user_history cannot be read", error=str(error))
                stored = {user: History(degraded=("history_unavailable",)) for user in wanted}
            else:
                kept = zip(wanted, rows["item_ids"], rows["event_types"], strict=True)
                stored = {user: _stored(items, kinds) for user, items, kinds in kept}
        return [self._with_session(request, stored) if is_personal(request) else History() for request in requests]

    @staticmethod
    def _with_session(request: RecommendRequest, stored: dict[str, History]) -> History:
        history = stored[request.user_id] if request.user_id is not None else History()
        if request.visitor_id is not None:  # visitors have no stored history before they log in
            history = History(degraded=("unknown_visitor",))
        acts = [act for act in request.session if act.event_type in _ACTS]
        if all(act.event_timestamp is not None for act in acts):
            acts.sort(key=_instant)
        return History(
            history.item_ids + tuple(act.item_id for act in acts),
            history.event_types + tuple(act.event_type for act in acts),
            history.degraded,
        )


def _instant(act: SessionEvent) -> datetime:
    """When an act happened; a time without a zone is UTC."""
    time = act.event_timestamp or datetime.min
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_personal(request: RecommendRequest) -> bool:
    """Whether the request may be answered from what the person did."""
    return request.personalize and request.placement == "for_you"


def _stored(items: Sequence[str] | None, kinds: Sequence[str] | None) -> History:
    if items is None:
        return History(degraded=("unknown_user",))
    if not items:
        return History(degraded=("empty_history",))
    return History(tuple(items), tuple(kinds or ()))
