"""From the spool to the online rows: what was told is in the row that the next request reads, each fact once, in order.

The number of the last event that is in the rows is kept in the online store and moves in one step with them. So it does not matter
who applies what was told: after a crash whoever comes next goes on where the rows stand.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pyarrow as pa

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.days import day_of, local_day
from features.fresh.built import Sales
from features.fresh.catalog import CATALOG, STATES, State, states_of, worth_keeping
from features.fresh.counted import counted
from features.fresh.history import (
    ACTS,
    LOGINS,
    MOST_ACTS,
    MOST_LOGINS,
    Act,
    Login,
    acts_of,
    is_act,
    is_told_by,
    login_of,
    logins_of,
    people,
    person,
    texts_of,
)
from features.fresh.spool import Entry, Spool
from features.fresh.windows import BUILT_TO, MOST_DAYS, TOLD_DAYS, DaySums, added, built_to_of, told_of, told_text
from features.online.packing import Layout, Packed, from_microseconds, pack_rows
from features.online.rows import Row, Rows
from features.tables import EVENTS, ITEMS, USER_ACTIVITY
from features.views import VIEWS, View
from infra.lake import Lake

HISTORY = VIEWS["user_history"]
_BATCH = 1_000
_LOOK_S = 60.0
"""How often it is looked what the orders tell."""


class Applied:
    """Applies the spool of one shop to its online rows."""

    def __init__(self, spool: Spool, rows: Rows, lake: Lake, zone: ZoneInfo) -> None:
        self.spool = spool
        self.rows = rows
        self.lake = lake
        self.zone = zone
        self._known_sales = Sales({})
        self._look_at = 0.0

    @property
    def mark(self) -> str:
        """Name of the watermark in the online store: numbers of another spool say nothing of this one's."""
        return f"spool-{self.spool.progress().id}"

    def number(self) -> int:
        """Number of the last entry of the spool that is in the rows."""
        return self.rows.mark(self.mark)

    def apply(self, to: int) -> None:
        """Put all that was told up to the entry of this number into the rows; what is there already stays.

        Raises:
            EngineError: the online store does not answer. What was applied before stays.
        """
        mark, after = self.mark, self.number()
        while after < to:
            entries = self.spool.after(after, _BATCH)
            last = entries[-1].number if entries else to
            keys, change = self._change(entries, after, last)
            after = self.rows.update(keys, change, mark, after, last)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _change(
        self, entries: Sequence[Entry], after: int, last: int
    ) -> tuple[Mapping[View, set[str]], Callable[[Mapping[View, Mapping[str, Row]]], Mapping[View, list[Packed]]]]:
        """Which rows the events and items touch, and what becomes of them.

        The rows of logins change only together with the watermark, so those read here are those that the step finds.
        """
        told = [entry for entry in entries if entry.path == EVENTS.path]
        states: defaultdict[str, list[State]] = defaultdict(list)
        for entry in entries:
            if entry.path == ITEMS.path:
                states[entry.key].append(State.of(entry.instant, entry.received, entry.row))
        versions = self.spool.versions(EVENTS.path, {entry.key for entry in told}, last)
        visitors = {visitor for entry in versions if (visitor := entry.row.get("visitor_id"))}
        held_logins = self._logins(visitors)
        logins, moved = {visitor: list(held_logins[visitor]) for visitor in visitors}, set[str]()
        for entry in versions:
            if login := login_of(entry.key, entry.row, entry.received):
                logins[entry.row["visitor_id"]].append(login)
                moved.add(entry.row["visitor_id"])
        touched = {name for entry in versions for name in people(entry.row, ())}
        touched |= {name for visitor in visitors for name in people({"visitor_id": visitor}, logins[visitor])}
        sales = self._sales()
        before = [entry for entry in versions if entry.number <= after]
        if moved:
            theirs = self.spool.of_visitors(EVENTS.path, moved, after) | {entry.key for entry in told}
            before = self.spool.versions(EVENTS.path, theirs, after)
        sums: defaultdict[str, list[DaySums]] = defaultdict(list)
        for name, of in counted(told, before, held_logins, self.zone, sales):
            sums[name].append(of)
        people_keys, item_keys = set(map(_key, touched)), set(map(_key, states))
        keys = {
            ACTS: people_keys,
            HISTORY: people_keys,
            LOGINS: set(map(_key, visitors)),
            TOLD_DAYS: set(map(_key, sums)),
            BUILT_TO: {_key(USER_ACTIVITY.name)},
            STATES: item_keys,
            CATALOG: item_keys,
        }

        def change(held: Mapping[View, Mapping[str, Row]]) -> Mapping[View, list[Packed]]:
            changed = self._changed(told, visitors, held, last, sales.counts_all("purchase"))
            days = _packed(TOLD_DAYS, _added(sums, held), last)
            return {**changed, TOLD_DAYS: days, STATES: _with_states(states, held, last)}

        return keys, change

    def _changed(
        self, told: Sequence[Entry], visitors: set[str], held: Mapping[View, Mapping[str, Row]], last: int, counts_purchases: bool
    ) -> Mapping[View, list[Packed]]:
        """New rows. What is known of logins is that of `visitors`: acts of others stay with whom they are."""
        logins = {name: logins_of(texts) for name, texts in _texts(LOGINS, held).items()}
        acts = {name: {act.id: act for act in acts_of(texts)} for name, texts in _texts(ACTS, held).items()}
        before = {name: dict(of) for name, of in acts.items()}
        login_ids = {entry.key for entry in told}
        known_logins = {visitor: [login for login in of if login.id not in login_ids] for visitor, of in logins.items()}
        newest = {entry.key: entry for entry in told}  # of several versions the last
        for entry in newest.values():
            if login := login_of(entry.key, entry.row, entry.received):
                known_logins.setdefault(entry.row["visitor_id"], []).append(login)
            for of in acts.values():
                of.pop(entry.key, None)
        known_logins = {visitor: sorted(of)[-MOST_LOGINS:] for visitor, of in known_logins.items()}
        for entry in newest.values():
            if is_act(entry.row, counts_purchases):
                (name, act) = self._act(entry)
                acts.setdefault(name, {})[act.id] = act
        for name, of in list(acts.items()):  # a login that is told late takes what the visitor did since
            for act in list(of.values()):
                if act.visitor not in visitors or act.visitor is None:
                    continue
                if (whose := person(act.visitor, act.time, known_logins.get(act.visitor, ())))[0] != name:
                    del of[act.id]
                    moved = Act(act.time, act.id, act.item_id, act.event_type, max(act.known, whose[1]), act.day, act.visitor)
                    acts.setdefault(whose[0], {})[act.id] = moved
        stamps = {_name(key): event for key, (event, _, _) in held[HISTORY].items()}
        kept: dict[str, list[str]] = {}
        for name, of in acts.items():
            if of != before.get(name, {}):
                rest = sorted(act for act in of.values() if not is_told_by(act, stamps.get(name, -(1 << 63))))
                kept[name] = texts_of(rest[-MOST_ACTS:])
        changed_logins = {visitor: texts_of(of) for visitor, of in known_logins.items() if of != logins.get(visitor, [])}
        return {ACTS: _packed(ACTS, kept, last), LOGINS: _packed(LOGINS, changed_logins, last)}

    def _act(self, entry: Entry) -> tuple[str, Act]:
        """The act, under the name of who did it as the event alone says it."""
        row = entry.row
        day = day_of(local_day(row[EVENT_TIMESTAMP], self.zone)).isoformat()
        visitor = None if row.get("user_id") else row.get("visitor_id")
        act = Act(row[EVENT_TIMESTAMP], entry.key, row["item_id"], row["event_type"], entry.received, day, visitor)
        return person(visitor, act.time, ())[0] if visitor else next(iter(people(row, ()))), act

    def _logins(self, visitors: Iterable[str]) -> defaultdict[str, list[Login]]:
        names = sorted(visitors)
        layout, found = self.rows.read({LOGINS: [_key(name) for name in names]})[LOGINS]
        held = {_key(name): row for name, row in zip(names, found, strict=True) if row is not None}
        return defaultdict(list, {name: logins_of(texts) for name, texts in _texts(LOGINS, {LOGINS: held}, layout).items()})

    def _sales(self) -> Sales:
        if time.monotonic() >= self._look_at:
            self._known_sales = Sales.of(self.lake)
            self._look_at = time.monotonic() + _LOOK_S
        return self._known_sales


def _with_states(told: Mapping[str, Sequence[State]], held: Mapping[View, Mapping[str, Row]], number: int) -> list[Packed]:
    """New rows of items with the states that were told of them."""
    before = {item: states_of(texts) for item, texts in _texts(STATES, held).items()}
    times = {_name(key): (event, known) for key, (event, known, _) in held[CATALOG].items()}
    never = (-(1 << 63), -(1 << 63))
    kept = {item: worth_keeping([*before.get(item, ()), *new], *times.get(item, never)) for item, new in told.items()}
    return _packed(STATES, {item: [state.to_json() for state in states] for item, states in kept.items()}, number)


def _added(sums: Mapping[str, Sequence[DaySums]], held: Mapping[View, Mapping[str, Row]]) -> dict[str, str]:
    """Name -> text of the day sums with what was added, without what the tables tell by now."""
    (told,) = Layout(TOLD_DAYS.columns).unpack([packed for _, _, packed in held[TOLD_DAYS].values()]).values()
    before = dict(zip(map(_name, held[TOLD_DAYS]), told, strict=True))
    built_to = next((built_to_of(Layout(BUILT_TO.columns), packed) for _, _, packed in held[BUILT_TO].values()), None)
    texts = {}
    for name, more in sums.items():
        kept = added(told_of(before[name]) if name in before else (), more)
        texts[name] = told_text([one for one in kept if built_to is None or not built_to.tells(one)][-MOST_DAYS:])
    return {name: text for name, text in texts.items() if text != before.get(name)}


def _key(name: str) -> str:
    return orjson.dumps([name]).decode()


def _name(key: str) -> str:
    (name,) = orjson.loads(key)
    return str(name)


def _texts(view: View, held: Mapping[View, Mapping[str, Row]], layout: Layout | None = None) -> dict[str, list[str]]:
    """Name -> the texts of its row."""
    found = held[view]
    values = (layout or Layout(view.columns)).unpack([packed for _, _, packed in found.values()])
    return {_name(key): texts for key, texts in zip(found, values[view.column_names[0]], strict=True)}


def _packed(view: View, texts: Mapping[str, Any], number: int) -> list[Packed]:
    """Rows whose version is the number of an entry of the spool, so that a later one is newer."""
    version = from_microseconds(number)
    key, column = view.key_names[0], view.column_names[0]
    rows = [{key: name, column: of, EVENT_TIMESTAMP: version, CREATED_TIMESTAMP: version} for name, of in texts.items()]
    return pack_rows(view, pa.Table.from_pylist(rows, schema=view.schema))
