"""The items that a recommender version can recommend now, and what is known of them; shared by the nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.fresh.items import ToldItems
from features.shop import Blocked
from features.store import FeatureStore
from serving.nodes.item_facts import ItemFacts
from serving.nodes.item_tables import ItemTables
from training.recommender.content import Row
from training.recommender.model import Recommender
from training.recommender.purchases import Purchases


@dataclass(frozen=True)
class Listing:
    """The items at one time: a model over them, what is bought of them, and their facts, all in one order."""

    model: Recommender
    purchases: Purchases
    facts: ItemFacts
    ids: NDArray[np.object_] = field(init=False, repr=False)
    """(I,) of the items."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.array(self.model.encoder.items, dtype=object))

    @cached_property
    def rising(self) -> NDArray[np.int64]:
        """(I,) the items, those that rise first, then by how popular they are."""
        rise = self.facts.facts.rise
        return np.lexsort((-self.model.encoder.popular, -np.maximum(rise, 1.0)))


Follower = Callable[[Listing, ItemTables], None]


class Catalogue:
    """The items of one recommender version, followed through the tables and what is told of them.

    Args:
        model, purchases: both halves of the model version, over the items it learned from.
        blocked: what the shop shows to nobody.
        at: the present instant.
    """

    def __init__(
        self, store: FeatureStore, told: ToldItems, model: Recommender, purchases: Purchases, blocked: Blocked, at: datetime
    ) -> None:
        self.store = store
        self.learned = model, purchases
        self._followers: list[Follower] = []
        self._tables = tables = ItemTables.read(store, at)
        facts = ItemFacts(model.encoder.items, tables, told, blocked)
        self._listed: dict[str, Row] = {}
        self.now = Listing(model, purchases.resized(len(model.encoder.items)), facts)
        self._take_up(tables)

    def follow(self, follower: Follower) -> None:
        """Let somebody know of what is there now, and of each refresh from now on."""
        self._followers.append(follower)
        follower(self.now, self._tables)

    def refresh(self, at: datetime) -> None:
        """Read the item facts as of `at`; items that were listed since the model learned join."""
        self._tables = tables = ItemTables.read(self.store, at)
        if not self._take_up(tables):
            self.now.facts.refresh(tables)
            self.now = Listing(self.now.model, self.now.purchases, self.now.facts)
        for follower in self._followers:
            follower(self.now, tables)

    def tell(self, at: datetime) -> None:
        """Put what was told of items over the facts."""
        self.now.facts.tell(at)

    def _take_up(self, tables: ItemTables) -> bool:
        """Whether what is listed beyond the items of the model has changed; then all of it is made anew."""
        learned, purchases = self.learned
        listed = self.now.facts.listed(learned.encoder.items, tables)
        if listed == self._listed:
            return False
        model = learned.with_items(listed)
        items = model.encoder.items
        self.now = Listing(model, purchases.resized(len(items)), self.now.facts.over(items, tables))
        self._listed = listed
        return True
