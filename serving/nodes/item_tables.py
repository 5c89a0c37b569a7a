"""What the tables say of the items at one instant: read once a minute, off the request path, for all that keep item facts in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from features.columns import ITEM_ID
from features.store import FeatureStore
from features.views import VIEWS

CATALOG, ACTIVITY = VIEWS["item_catalog"], VIEWS["item_activity"]


@dataclass(frozen=True)
class ItemTables:
    """The newest row of each item. Short-lived: what is kept of it is kept in the order of a catalogue."""

    as_of: datetime
    rows: Mapping[str, pa.Table]
    """By view; one whose table was never built is left out: nothing is known of the items by it."""

    @classmethod
    def read(cls, store: FeatureStore, at: datetime) -> ItemTables:
        """The rows that a reader at `at` sees."""
        built = [view for view in (CATALOG, ACTIVITY) if store.lake.version(view.path) is not None]
        return cls(at, {view.name: store.latest(view.name, at) for view in built})

    def aligned(self, view: str, columns: Collection[str], items: pa.Array) -> dict[str, pa.Array]:
        """Columns of a view in the order of `items`, null for items without a row."""
        if view not in self.rows:
            return {name: pa.nulls(len(items), VIEWS[view].schema.field(name).type) for name in columns}
        rows = self.rows[view]
        where = pc.index_in(items, value_set=rows[ITEM_ID].combine_chunks())
        return {name: rows[name].combine_chunks().take(where) for name in columns}
