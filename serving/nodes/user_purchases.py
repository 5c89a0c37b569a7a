"""Feature node: what each user or visitor bought and on which days, from the online store, with the running session's purchases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from features.columns import USER_ID
from features.store import FeatureStore
from infra import log
from infra.errors import ShopgraphError
from serving.nodes.user_history import instant_of, is_read, person_of
from serving.schemas import RecommendReason, RecommendRequest


@dataclass(frozen=True)
class Purchased:
    """Items one person bought and the local day of each; `degraded` names what could not be read."""

    item_ids: tuple[str, ...] = ()
    days: tuple[date, ...] = ()
    degraded: tuple[RecommendReason, ...] = ()


class UserPurchases:
    """Reads `user_purchases` of the `buy_again` service."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def today(self, at: datetime) -> date:
        """The shop's local day of an instant."""
        return at.astimezone(self.store.shop.zone).date()

    def read(self, requests: Sequence[RecommendRequest], at: datetime) -> list[Purchased]:
        """What was bought, one per request. Nothing is read for a request that asks for no list of it.

        A store that cannot be read makes no error: then only the session's purchases are known, and `history_unavailable`.
        """
        wanted = sorted({person for r in requests if is_read(r, "buy_again") and (person := person_of(r)) is not None})
        stored: dict[str, Purchased] = {}
        if wanted:
            try:
                rows = self.store.online_rows("buy_again", {USER_ID: wanted}, at)
            except ShopgraphError as error:
                log.get(__name__).warning("user_purchases cannot be read", error=str(error))
                stored = {person: Purchased(degraded=("history_unavailable",)) for person in wanted}
            else:
                kept = zip(wanted, rows["purchase_item_ids"], rows["purchase_dates"], strict=True)
                stored = {
                    person: Purchased(tuple(items), tuple(map(date.fromisoformat, dates)))
                    for person, items, dates in kept
                    if items is not None
                }
        return [self._with_session(r, stored, at) if is_read(r, "buy_again") else Purchased() for r in requests]

    def _with_session(self, request: RecommendRequest, stored: dict[str, Purchased], at: datetime) -> Purchased:
        told = stored.get(person_of(request) or "", Purchased())  # whoever has no row bought nothing, known or not
        acts = [act for act in request.session if act.event_type == "purchase"]
        return Purchased(
            told.item_ids + tuple(act.item_id for act in acts),
            told.days + tuple(self.today(at if act.event_timestamp is None else instant_of(act)) for act in acts),
            told.degraded,
        )
