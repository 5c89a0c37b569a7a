"""What was told of an item since the tables were built, and how it reads on top of `item_catalog`.

Beside the table's row the online store keeps the states told since, each whole; whoever reads sees what the table job makes of all
of them (`spark_jobs/item_catalog.py`). Pure functions, without Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from features.fresh.facts import Row
from features.money import served, units
from features.online.packing import from_microseconds
from features.views import VIEWS, View

CATALOG = VIEWS["item_catalog"]
STATES = View("item_states", "fresh/item_states", keys=(("item_id", "string"),), columns=(("states", "strings"),))
"""Online rows of states that were told since the tables were built, by item. They are no table and not registered."""

MOST_STATES = 20
"""States of one item that are kept: the first, which says since when there is the item, and the newest."""


@dataclass(frozen=True, order=True)
class State:
    """What is known of an item from `time` on, told at `known`, both microseconds UTC; `said` is its raw row, as JSON."""

    time: int
    known: int
    said: str

    @classmethod
    def of(cls, time: int, known: int, row: Row) -> State:
        said = {name: row[name] for name in CATALOG.column_names if name in row}
        return cls(time, known, orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode())

    def to_json(self) -> str:
        return orjson.dumps([self.time, self.known, self.said]).decode()


def states_of(texts: Iterable[str]) -> list[State]:
    """States as an online row holds them."""
    return [State(*orjson.loads(text)) for text in texts]


def is_in_row(state: State, event: int, known: int) -> bool:
    """Whether a row of `item_catalog` of these times says it. A state is told after all that tables hold which lack it, so that one
    of these times lies before the state's where it does not."""
    return state.time <= event and state.known <= known


def worth_keeping(states: Iterable[State], event: int, known: int) -> list[State]:
    """Of all states of an item those to keep beside a row of these times, in order."""
    rest = sorted({state for state in states if not is_in_row(state, event, known)})
    return rest if len(rest) <= MOST_STATES else [rest[0], *rest[1 - MOST_STATES :]]


def with_states(event: int | None, built: Mapping[str, Any], states: Sequence[State]) -> tuple[int, dict[str, Any]]:
    """Event time and columns of a row of `item_catalog` with the states that it does not hold, as the table job would say it.

    Where no price is told the last price paid stands, and where no begin is told the first sight, both of which the built row knows.

    Args:
        event, built: of the built row; None and nothing where there is none.
        states: at least one, in order; of several at one instant the last counts.
    """
    paid = built.get("price")
    seen = min([from_microseconds(states[0].time), *([built["created_at"]] if built.get("created_at") else [])])
    at, columns = event, dict(built) if event is not None else None
    for state in {state.time: state for state in states}.values():
        said = orjson.loads(state.said)
        new = {name: _served(name, said.get(name)) for name in CATALOG.column_names}
        new |= {"price": paid if new["price"] is None else new["price"], "created_at": new["created_at"] or seen}
        is_late = at is not None and state.time < at
        if is_late and "price" not in said and paid is not None:
            columns = new  # the built row is of the day after its price was first paid, and that holds
        elif is_late or new != columns:
            at, columns = state.time, new
    assert at is not None
    assert columns is not None
    return at, columns


def _served(name: str, value: Any) -> str | float | datetime | None:
    """A value of a raw row as the view serves it."""
    if value is None:
        return None
    if name == "price":
        return served(units(value))
    return from_microseconds(value) if name in ("created_at", "withdrawn_at") else str(value)
