"""What a person did since the tables were built, and how it reads on top of `user_history`.

The table's row says what happened up to the end of a local day. Beside it the online store keeps the acts told since, as they are, so
that late and out-of-order ones find their place; whoever reads sees both as the one list that the table job makes of all acts once
the day is over (`spark_jobs/user_history.py`). Pure functions, without Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from features.columns import EVENT_TIMESTAMP, HISTORY_STEPS, PURCHASES_KEPT, SESSION_PREFIX, VISITOR_PREFIX
from features.fresh.facts import Row
from features.views import View

ACTS = View("user_acts", "fresh/user_acts", keys=(("user_id", "string"),), columns=(("acts", "strings"),))
"""Online rows of acts that were told since the tables were built, by person. They are no table and not registered."""
LOGINS = View("visitor_logins", "fresh/visitor_logins", keys=(("visitor_id", "string"),), columns=(("logins", "strings"),))
"""Online rows of who logged in as whom, by visitor."""

MOST_ACTS = 4 * HISTORY_STEPS
"""Acts of one person that are kept: the newest. Who does more between two builds loses the oldest of them until the next."""
MOST_LOGINS = 50
_KINDS = ("click", "view", "favourite", "cart")


class Act(NamedTuple):
    """One act on an item, in the order of acts. Times are microseconds UTC; `day` is the local day, as ISO text.

    `visitor` is set where the act itself names no user: who it was follows from the visitor's logins.
    """

    time: int
    id: str
    item_id: str
    event_type: str
    known: int
    day: str
    visitor: str | None = None


class Login(NamedTuple):
    """A visitor is this user from `time` on."""

    time: int
    id: str
    user_id: str
    known: int


def login_of(id: str, row: Row, known: int) -> Login | None:
    """The login that an event tells of, if it does."""
    if row["event_type"] != "login" or not row.get("user_id") or not row.get("visitor_id"):
        return None
    return Login(row[EVENT_TIMESTAMP], id, row["user_id"], known)


def texts_of(told: Iterable[Act | Login]) -> list[str]:
    """Acts or logins as an online row holds them."""
    return [orjson.dumps(tuple(one)).decode() for one in told]


def acts_of(texts: Iterable[str]) -> list[Act]:
    """Acts of an online row."""
    return [Act(*of) for of in _read(texts)]


def logins_of(texts: Iterable[str]) -> list[Login]:
    """Logins of an online row."""
    return [Login(*of) for of in _read(texts)]


def _read(texts: Iterable[str]) -> list[list[Any]]:
    """The fields of each: parsed as one text, since a row of a busy person has hundreds."""
    fields: list[list[Any]] = orjson.loads(f"[{','.join(texts)}]")
    return fields


def is_act(row: Row, counts_purchases: bool) -> bool:
    """Whether the event speaks for its item. Purchases do where the shop has no orders, which else are its purchases."""
    kind = row["event_type"]
    return kind in _KINDS or (kind == "purchase" and counts_purchases)


def people(row: Row, logins: Sequence[Login]) -> set[str]:
    """Everybody that the event may be told of."""
    if user := row.get("user_id"):
        return {user}
    if visitor := row.get("visitor_id"):
        return {VISITOR_PREFIX + visitor, *(login.user_id for login in logins)}
    return {SESSION_PREFIX + row["session_id"]}


def person(visitor: str, time: int, logins: Sequence[Login]) -> tuple[str, int]:
    """Who a visitor was at that time, and since when that is known; `logins` in order."""
    before = [login for login in logins if login.time <= time]
    return (before[-1].user_id, before[-1].known) if before else (VISITOR_PREFIX + visitor, 0)


def is_told_by(act: Act, stamp: int) -> bool:
    """Whether a row of `user_history` of this event time says what there is to say of the act's day.

    What was told of that day after it was built is in neither, and comes with the next build: the row does not tell what it read.
    """
    return act.time < stamp


def merged(items: Sequence[str], types: Sequence[str], acts: Iterable[Act]) -> tuple[list[str], list[str]]:
    """`item_ids` and `event_types` of a row of `user_history` with the acts that it does not hold, as the table job would say it.

    Acts in a row on one item are one step; of each step and day the last act of each kind stays, of all the last HISTORY_STEPS steps.
    """
    said = list(zip(items, types, strict=True))
    steps = [0] * len(said)
    for place in range(1, len(said)):
        steps[place] = steps[place - 1] + (said[place][0] != said[place - 1][0])
    step, item = (steps[-1], said[-1][0]) if said else (-1, None)
    last: dict[tuple[str, int, str], Act] = {}
    for act in sorted(acts):
        step += act.item_id != item
        item = act.item_id
        last[act.day, step, act.event_type] = act
    days = sorted({day for day, _, _ in last})[-HISTORY_STEPS:]
    new = sorted((act, step) for (day, step, _), act in last.items() if day in set(days))
    if len(days) == HISTORY_STEPS:  # days further back than that are left out
        said, steps = [], []
    said += [(act.item_id, act.event_type) for act, _ in new]
    steps += [number for _, number in new]
    kept = [pair for pair, number in zip(said, steps, strict=True) if number > step - HISTORY_STEPS]
    return [item for item, _ in kept], [kind for _, kind in kept]


def bought(items: Sequence[str], dates: Sequence[str], acts: Iterable[Act]) -> tuple[list[str], list[str]]:
    """`purchase_item_ids` and `purchase_dates` of a row of `user_purchases` with the purchases among acts that it does not hold, as
    the table job would say it."""
    told = {(act.day, act.item_id) for act in acts if act.event_type == "purchase"}
    kept = sorted(told | set(zip(dates, items, strict=True)))[-PURCHASES_KEPT:]
    return [item for _, item in kept], [day for day, _ in kept]
