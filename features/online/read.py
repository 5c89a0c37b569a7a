"""Reading online rows: columns of views for lists of keys, with what was told and what time did since they were made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from features.days import local_day, stamp
from features.fresh.catalog import STATES, State, is_in_row, states_of, with_states
from features.fresh.history import ACTS, Act, acts_of, bought, is_told_by, merged
from features.fresh.windows import BUILT_TO, TOLD_DAYS, USER_DAYS, built_of, built_to_of, forward, told_of
from features.online.packing import Layout, key_texts
from features.online.rows import Row, Rows
from features.tables import ITEM_CATALOG, USER_ACTIVITY, USER_HISTORY, USER_PURCHASES
from features.views import View

Fact = TypeVar("Fact", Act, State)
Found = Mapping[View, tuple[Layout, Sequence[Row | None]]]
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
        now: in microseconds UTC; a row that was not yet known then, or has expired, is as good as none. None: all count, and windows
            are as the tables were built.
        seen: filled with what the store gave, for who logs it.
    """
    told = [(view, *_TOLD[view.name]) for view in asked if view.name in _TOLD]
    beside = {one: key_texts([[view.name]]) if one is BUILT_TO else asked[view] for view, ones, _ in told for one in ones}
    found = rows.read({**asked, **beside})
    if seen is not None:
        seen.update(found)
    columns = {view: _columns(view, *found[view], now) for view in asked}
    for view, _, add in told:
        add(view, columns[view], found, now)
    return columns


def _move_windows(view: View, columns: Columns, found: Found, now: int | None) -> None:
    """Take rows of `user_activity` on to the last local day that is over, as a build then would."""
    layout, (said,) = found[BUILT_TO]
    built_to = None if said is None else built_to_of(layout, said[2])
    if now is None or built_to is None or (day := local_day(now, built_to.zone) - 1) < built_to.day:
        return
    told = _columns(TOLD_DAYS, *found[TOLD_DAYS], None)[1]["days"]
    if day == built_to.day and not any(told):
        return
    built = _columns(USER_DAYS, *found[USER_DAYS], None)[1]
    events, values = columns
    oldest = None if view.ttl is None else now - view.ttl // timedelta(microseconds=1)
    for i, (days, last_purchase, more) in enumerate(zip(built["days"], built["last_purchase"], told, strict=True)):
        if more is None and (days is None or day == built_to.day):
            continue
        event = events[i]
        if event is not None and event > stamp(built_to.day, built_to.zone):  # of a later build, put by others
            continue
        moved = forward(built_of(days) if days else (), last_purchase, told_of(more) if more else (), built_to, day)
        if moved is None or moved.changed is None:  # the row still says it
            continue
        event = max(stamp(moved.changed, built_to.zone), event or 0)
        if oldest is not None and event < oldest:
            continue
        events[i] = event
        of_day = local_day(event, built_to.zone) - 1
        since = None if moved.last_purchase is None else of_day - moved.last_purchase
        for name, value in {**moved.values, "days_since_last_purchase": since}.items():
            if name in values:
                values[name][i] = value


def _add_acts(view: View, columns: Columns, found: Found, now: int | None) -> None:
    """Put the acts that were told since on top of what `user_history` says."""
    events, values = columns
    if not {"item_ids", "event_types"} <= values.keys():
        return
    for i, _, acts in _since(view, events, found, ACTS, acts_of, lambda act, row: is_told_by(act, row[0]), now):
        items, types = merged(values["item_ids"][i] or [], values["event_types"][i] or [], acts)
        values["item_ids"][i], values["event_types"][i] = items, types
        events[i] = max(events[i] or -(1 << 63), *(act.time for act in acts))


def _add_purchases(view: View, columns: Columns, found: Found, now: int | None) -> None:
    """Put the purchases that were told since on top of what `user_purchases` says."""
    events, values = columns
    if not {"purchase_item_ids", "purchase_dates"} <= values.keys():
        return
    for i, _, acts in _since(view, events, found, ACTS, acts_of, lambda act, row: is_told_by(act, row[0]), now):
        times = [act.time for act in acts if act.event_type == "purchase"]
        if times:
            items, dates = bought(values["purchase_item_ids"][i] or [], values["purchase_dates"][i] or [], acts)
            values["purchase_item_ids"][i], values["purchase_dates"][i] = items, dates
            events[i] = max(events[i] or -(1 << 63), *times)


def _add_states(view: View, columns: Columns, found: Found, now: int | None) -> None:
    """Put the states that were told since on top of what `item_catalog` says."""
    events, values = columns
    for i, built, states in _since(
        view, events, found, STATES, states_of, lambda state, row: is_in_row(state, row[0], row[1]), now
    ):
        said = {name: column[i] for name, column in values.items()} if built else {}
        events[i], new = with_states(events[i], said, states)
        for name in new.keys() & values.keys():
            values[name][i] = new[name]


def _since(
    view: View,
    events: Sequence[int | None],
    found: Found,
    beside: View,
    read: Callable[[Iterable[str]], list[Fact]],
    is_told: Callable[[Fact, Row], bool],
    now: int | None,
) -> Iterator[tuple[int, Row | None, list[Fact]]]:
    """Of each key of which anything was told: its place, its row of the view if one is seen, and the facts that this does not tell."""
    (_, rows), (layout, told) = found[view], found[beside]
    (column,) = beside.column_names
    for i, row in enumerate(told):
        if row is None:
            continue
        built = rows[i] if events[i] is not None else None
        facts = [
            fact
            for fact in read(layout.unpack([row[2]])[column][0])
            if not (built and is_told(fact, built)) and (now is None or max(fact.time, fact.known) <= now)
        ]
        if facts:
            yield i, built, facts


_TOLD: Mapping[str, tuple[tuple[View, ...], Callable[[View, Columns, Found, int | None], None]]] = {
    USER_HISTORY.name: ((ACTS,), _add_acts),
    USER_PURCHASES.name: ((ACTS,), _add_purchases),
    ITEM_CATALOG.name: ((STATES,), _add_states),
    USER_ACTIVITY.name: ((USER_DAYS, TOLD_DAYS, BUILT_TO), _move_windows),
}
"""View -> the rows that lie beside its own, of what was told since it was built, and what takes it on by them."""


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
