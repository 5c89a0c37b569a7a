"""Services: which views each model eats, by the model's name, and `profile`, what people look up; FeatureServices in Feast."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from features.views import VIEWS, View
from infra.errors import FeatureError


@dataclass(frozen=True)
class Service:
    """The views of one model and the names their columns have in its frames and rows."""

    name: str
    views: tuple[View, ...]
    meaning: str = ""

    @cached_property
    def output_names(self) -> dict[str, dict[str, str]]:
        """View -> column -> name in a frame: the column's own, with `<view>__` before it where two views share it."""
        counts = Counter(column for view in self.views for column in view.column_names)
        return {view.name: {c: c if counts[c] == 1 else f"{view.name}__{c}" for c in view.column_names} for view in self.views}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All key columns, each once."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.key_names))

    @cached_property
    def digest(self) -> str:
        """Digest of what the service means: the definitions of its views."""
        return hashlib.sha256(json.dumps([self.name, [view.digest for view in self.views]]).encode()).hexdigest()

    def views_for(self, given: Collection[str]) -> tuple[View, ...]:
        """The views whose keys are all in `given`; the others are left out.

        Raises:
            FeatureError: no view is left.
        """
        found = tuple(view for view in self.views if set(view.key_names) <= set(given))
        if not found:
            wanted = " or ".join(dict.fromkeys("+".join(view.key_names) for view in self.views))
            raise FeatureError(f"service {self.name} needs key column(s) {wanted}; got {', '.join(given) or 'none'}.")
        return found


SERVICES: Mapping[str, Service] = {
    service.name: service
    for service in (
        Service(
            "recommender",
            (VIEWS["user_history"], VIEWS["item_catalog"], VIEWS["item_activity"]),
            "what a user did last, what is known of an item, and what happened to it lately",
        ),
        Service("buy_again", (VIEWS["user_purchases"],), "what a user bought, and on which days"),
        Service(
            "ranker",
            tuple(
                VIEWS[name] for name in ("user_activity", "user_profile", "item_activity", "item_catalog", "user_category_affinity")
            ),
            "what a user does and pays, what happens to an item, and what the user makes of its category",
        ),
        Service("demand", (VIEWS["daily_demand"],), "units per item and local day with their covariates"),
        Service("sentiment", (VIEWS["clean_reviews"],), "texts with a label; training only"),
        Service(
            "profile",
            (VIEWS["user_profile"], VIEWS["user_activity"], VIEWS["user_category_affinity"]),
            "who a user is to the shop, for people who look one up",
        ),
    )
}
