"""Reading online rows: columns of views for lists of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from features.fresh.catalog import STATES, is_in_row, states_of, with_states
from features.fresh.history import ACTS, acts_of, is_told_by, merged
from features.online.packing import Layout
from features.online.rows import Row, Rows
from features.views import View

Columns = tuple[list[int | None], dict[str, list[Any]]]
"""Event times in microseconds UTC and columns, in key order."""


def read_columns(
    rows: Rows,
    asked: Mapping[View, Sequence[str | None]],
    now: int | None = None,
    seen: dict[View, tuple[Layout, list[Row | None]]] | None = None,
) -> dict[View, Columns]:
    """Each view's rows, all as they stood at one instant; None where there is no row or, for a column, where its definition lacks it.

    Args:
        asked: view -> key texts as `features.online.packing.key_texts` makes them.
        now: in microseconds UTC; a row that was not yet known then, or has expired, is as good as none. None: all count.
        seen: filled with what the store gave, for who logs it.
    """
    told = {view: _TOLD[view.name] for view in asked if view.name in _TOLD}
    found = rows.read({**asked, **{beside: asked[view] for view, (beside, _) in told.items()}})
    if seen is not None:
        seen.update(found)
    columns = {view: _columns(view, *found[view], now) for view in asked}
    for view, (beside, add) in told.items():
        add(columns[view], found[view][1], *found[beside], now)
    return columns


def _add_acts(
    columns: Columns, histories: Sequence[Row | None], layout: Layout, found: Sequence[Row | None], now: int | None
) -> None:
    """Put the acts that were told since on top of what `user_history` says."""
    events, values = columns
    if not {"item_ids", "event_types"} <= values.keys():
        return
    for i, row in enumerate(found):
        if row is None:
            continue
        history = histories[i] if events[i] is not None else None
        acts = [
            act
            for act in acts_of(layout.unpack([row[2]])["acts"][0])
            if not (history and is_told_by(act, history[0])) and (now is None or max(act.time, act.known) <= now)
        ]
        if acts:
            items, types = merged(values["item_ids"][i] or [], values["event_types"][i] or [], acts)
            values["item_ids"][i], values["event_types"][i] = items, types
            events[i] = max(events[i] or -(1 << 63), *(act.time for act in acts))


def _add_states(
    columns: Columns, catalog: Sequence[Row | None], layout: Layout, found: Sequence[Row | None], now: int | None
) -> None:
    """Put the states that were told since on top of what `item_catalog` says."""
    events, values = columns
    for i, row in enumerate(found):
        if row is None:
            continue
        built = catalog[i] if events[i] is not None else None
        states = [
            state
            for state in states_of(layout.unpack([row[2]])["states"][0])
            if not (built and is_in_row(state, built[0], built[1])) and (now is None or max(state.time, state.known) <= now)
        ]
        if states:
            said = {name: column[i] for name, column in values.items()} if built else {}
            events[i], new = with_states(events[i], said, states)
            for name in new.keys() & values.keys():
                values[name][i] = new[name]


_TOLD = {"user_history": (ACTS, _add_acts), "item_catalog": (STATES, _add_states)}
"""View -> the rows of what was told since it was built, and what puts them on top of it."""


def _columns(view: View, layout: Layout, found: Sequence[Row | None], now: int | None) -> Columns:
    oldest = None if now is None or view.ttl is None else now - view.ttl // timedelta(microseconds=1)
    hits = [
        (i, row)
        for i, row in enumerate(found)
        if row is not None and (oldest is None or row[0] >= oldest) and (now is None or max(row[0], row[1]) <= now)
    ]
    values = layout.unpack([row[2] for _, row in hits])
    known = set(layout.columns)
    events: list[int | None] = [None] * len(found)
    for i, row in hits:
        events[i] = row[0]
    columns: dict[str, list[Any]] = {}
    for name, kind in view.columns:
        column: list[Any] = [None] * len(found)
        if (name, kind) in known:
            for (i, _), value in zip(hits, values[name], strict=True):
                column[i] = value
        columns[name] = column
    return events, columns
