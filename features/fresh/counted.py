"""What entries of the spool add to the day sums of people, and what they take away again.

What the spool tells up to an entry is the newest version of each event, under the name of who did it. So an entry takes what the version
before it counted, and adds what it counts; a login moves what its visitor did since. Each entry is counted once: the day sums move in
one step with the watermark. Pure functions.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from features.columns import EVENT_TIMESTAMP, EVENT_TYPE, QUANTITY
from features.days import day_of, local_day, stamp
from features.fresh.built import Sales
from features.fresh.facts import Row
from features.fresh.history import MOST_LOGINS, Login, login_of, people, person
from features.fresh.spool import Entry
from features.fresh.windows import DaySums, amounts
from features.money import units

SETTLES = timedelta(hours=1) // timedelta(microseconds=1)
"""What is told longer than this before its day ends is in the tables when a build tells of that day, unless the drain was held up."""


def counted(
    told: Sequence[Entry], before: Iterable[Entry], logins: Mapping[str, Sequence[Login]], zone: ZoneInfo, sales: Sales
) -> list[tuple[str, DaySums]]:
    """Name of a person and what is added to their day sums, by each of the entries in order.

    Args:
        told: new entries.
        before: earlier ones, of the same events and of all visitors that the new ones log in, in order.
        logins: those that the entries before tell of, by visitor.
    """
    versions: dict[str, Entry] = {}
    of_visitors: defaultdict[str, dict[str, Entry]] = defaultdict(dict)

    def put(entry: Entry) -> None:
        if visitor := (old := versions.get(entry.key)) and old.row.get("visitor_id"):
            of_visitors[visitor].pop(entry.key)
        versions[entry.key] = entry
        if visitor := entry.row.get("visitor_id"):
            of_visitors[visitor][entry.key] = entry

    for entry in before:
        put(entry)
    known = {visitor: sorted(of) for visitor, of in logins.items()}
    found: list[tuple[str, DaySums]] = []

    def count(entry: Entry | None, by: Entry, sign: int) -> None:
        if entry is not None and (one := _of(entry.row, known, zone, sales)):
            name, day, of = one
            number = by.number if by.received >= stamp(day, zone) - SETTLES else 0
            found.append((name, DaySums(day, number, tuple(sign * amount for amount in of))))

    for entry in told:
        old = versions.get(entry.key)
        moved = {row["visitor_id"] for row in (entry.row, *([old.row] if old else ())) if login_of("", row, 0)}
        theirs = [one for visitor in moved for one in of_visitors[visitor].values() if one is not old]
        for one in (*theirs, old):
            count(one, entry, -1)
        for visitor in moved:
            known[visitor] = [login for login in known.get(visitor, ()) if login.id != entry.key]
        if login := login_of(entry.key, entry.row, entry.received):
            insort(known[entry.row["visitor_id"]], login)
            del known[entry.row["visitor_id"]][:-MOST_LOGINS]
        put(entry)
        for one in (*theirs, entry):
            count(one, entry, 1)
    return found


def _of(row: Row, logins: Mapping[str, Sequence[Login]], zone: ZoneInfo, sales: Sales) -> tuple[str, int, tuple[int, ...]] | None:
    """Who did it, on which local day, and what it adds; None where that is nothing."""
    kind, at = row[EVENT_TYPE], row[EVENT_TIMESTAMP]
    of = amounts({EVENT_TYPE: kind, **_sale(row)})
    if not any(of):
        return None
    day = local_day(at, zone)
    if not sales.counts(kind, day_of(day)):
        return None
    visitor = None if row.get("user_id") else row.get("visitor_id")
    return person(visitor, at, logins.get(visitor, ()))[0] if visitor else next(iter(people(row, ()))), day, of


def _sale(row: Row) -> dict[str, Any]:
    """Quantity and value of a purchase or return, as `interactions` has them."""
    quantity = abs(row.get(QUANTITY, 1))
    price = row.get("price")
    return {QUANTITY: quantity, "value": None if price is None else quantity * units(price)}
