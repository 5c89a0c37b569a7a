"""What the tables told when they were built: up to which day and which entry of the spool, and the day sums their rows were made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED, TO_NOTHING, USER_ID
from features.days import day_number, local_day, stamp
from features.fresh.spool import NUMBER, SPOOL
from features.fresh.windows import BUILT_TO, KEPT_DAYS, USER_DAYS, BuiltTo
from features.money import column_units
from features.offline.join import newest_rows
from features.online.packing import from_microseconds, to_microseconds
from features.tables import EVENTS, INTERACTIONS, ORDERS, USER_ACTIVITY
from features.views import View
from features.windows import USER_WINDOWS
from infra.lake import Lake, reached, standing

_LAST_DAY, _ZONE, _INPUTS, _COMMON = "last_day", "time_zone", "inputs", "common"
"""What a commit of a build says of itself: the last local day it tells of, in which zone, from which versions, and what all rows share."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sales:
    """From which local day on order lines tell of purchases and of returns, so that events of those do not count."""

    begin: Mapping[str, date]

    @classmethod
    def of(cls, lake: Lake) -> Sales:
        """As the last build of `interactions` found it; where it read no orders that there are, none of either counts."""
        if lake.version(ORDERS.path) is None:
            return cls({})
        built = _build(lake, INTERACTIONS.path)
        if built is None or ORDERS.path not in json.loads(built[_INPUTS]):
            return cls(dict.fromkeys(("purchase", "return"), date.min))
        return cls({kind: date.fromisoformat(day) for kind, day in json.loads(built[_COMMON]).items()})

    def counts_all(self, event_type: str) -> bool:
        """Whether events of this type count, whatever their day."""
        return event_type not in self.begin

    def counts(self, event_type: str, day: date) -> bool:
        """Whether an event of this type and local day is one of the acts of a person."""
        return event_type not in self.begin or day < self.begin[event_type]


def built_to(lake: Lake, version: int, as_of: datetime) -> BuiltTo | None:
    """What a version of `user_activity` was built from, as a reader at an instant sees it; None where the table does not say."""
    built = _build(lake, USER_ACTIVITY.path, version)
    if built is None or _ZONE not in built:
        return None
    zone = ZoneInfo(built[_ZONE])
    last_day = min(day_number(date.fromisoformat(built[_LAST_DAY])), local_day(to_microseconds(as_of), zone) - 1)
    interactions = json.loads(built[_INPUTS]).get(INTERACTIONS.path)
    read = None if interactions is None else _build(lake, INTERACTIONS.path, interactions)
    events = None if read is None else json.loads(read[_INPUTS]).get(EVENTS.path)
    return BuiltTo(last_day, 0 if events is None else _drained(lake, events), zone)


def built_rows(lake: Lake, version: int, as_of: datetime) -> dict[View, pa.Table]:
    """Rows of `BUILT_TO` and `USER_DAYS` that go with the online rows of a version of `user_activity`; none where it cannot say."""
    to = built_to(lake, version, as_of)
    if to is None:
        return {BUILT_TO: BUILT_TO.schema.empty_table(), USER_DAYS: USER_DAYS.schema.empty_table()}
    at = from_microseconds(stamp(to.day, to.zone))
    times = {EVENT_TIMESTAMP: at, CREATED_TIMESTAMP: at}
    said = {"view": USER_ACTIVITY.name, "day": to.day, "number": to.number, "time_zone": to.zone.key}
    return {BUILT_TO: pa.Table.from_pylist([said | times], schema=BUILT_TO.schema), USER_DAYS: _user_days(lake, version, as_of, to)}


def _user_days(lake: Lake, version: int, as_of: datetime, to: BuiltTo) -> pa.Table:
    """Rows of `USER_DAYS`: of everybody whose last days count or who ever bought.

    The shortest window is the day itself. A day without a row is like the day before it, so each row tells of the days until the next.
    """
    names = [feature.column(1) for feature in USER_WINDOWS]
    visible = (pc.field(EVENT_TIMESTAMP) <= as_of) & (pc.field(CREATED_TIMESTAMP) <= as_of)
    wanted = [USER_ID, EVENT_TIMESTAMP, CREATED_TIMESTAMP, RETRACTED, "days_since_last_purchase", *names]
    rows = lake.dataset(USER_ACTIVITY.path, version).to_table(columns=wanted, filter=visible).combine_chunks()
    rows = rows.take(pa.array(newest_rows([rows[USER_ID], rows[EVENT_TIMESTAMP]], rows[CREATED_TIMESTAMP])))
    users = pc.dictionary_encode(rows[USER_ID]).combine_chunks()
    user, event = np.asarray(users.indices, dtype=np.int64), _integers(rows[EVENT_TIMESTAMP])
    order = np.lexsort((event, user))
    user, event, rows = user[order], event[order], rows.take(pa.array(order))
    instants, place = np.unique(event, return_inverse=True)
    day = np.array([local_day(instant, to.zone) - 1 for instant in instants.tolist()], dtype=np.int64)[place]
    stands = np.asarray(pc.fill_null(pc.not_equal(rows[RETRACTED], TO_NOTHING), True))
    sums = np.stack([_units(rows[name]) for name in names], axis=1) * stands[:, None]

    is_last = np.append(user[1:] != user[:-1], True) if len(user) else np.zeros(0, dtype=bool)
    until = np.where(is_last, to.day, np.minimum(np.append(day[1:], 0) - 1, to.day))
    since = np.maximum(day, to.day - KEPT_DAYS + 1)
    length = np.where(sums.any(axis=1), np.maximum(until - since + 1, 0), 0)
    row = np.repeat(np.arange(len(length)), length)
    days = since[row] + np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    told = [pa.array(column).cast(pa.string()) for column in (days, *sums[row].T)]
    texts = pc.binary_join_element_wise("[", pc.binary_join_element_wise(*told, ","), "]", "")
    ends = np.searchsorted(user[row], np.arange(len(users.dictionary) + 1))
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts), ",")

    age = rows["days_since_last_purchase"].take(pa.array(np.flatnonzero(is_last))).combine_chunks()
    bought = pc.if_else(pa.array(stands[is_last]), pc.subtract(pa.array(day[is_last]), age), pa.scalar(None, pa.int64()))
    at = pa.array(np.full(len(users.dictionary), stamp(to.day, to.zone)), pa.int64()).cast(pa.timestamp("us", "UTC"))
    columns = [users.dictionary, bought, pc.binary_join_element_wise("[", joined, "]", ""), at, at]
    found = pa.table(columns, names=USER_DAYS.schema.names).cast(USER_DAYS.schema)
    return found.filter(pc.or_(pa.array(np.diff(ends) > 0), pc.is_valid(bought)))


def _units(column: pa.ChunkedArray) -> Integers:
    """Values as integers, money in units; 0 where null."""
    if pa.types.is_decimal(column.type):
        column = column_units(column)
    return _integers(column)


def _integers(column: pa.ChunkedArray) -> Integers:
    return np.asarray(column.cast(pa.int64()).fill_null(0).to_numpy(), dtype=np.int64)


def _build(lake: Lake, path: str, version: int | None = None) -> Mapping[str, Any] | None:
    """What the last build said that a version (default: the newest) of a feature table was made by; None: it was made otherwise."""
    if lake.version(path) is None:
        return None
    history = [entry for entry in lake.history(path) if version is None or int(entry["version"]) <= version]
    return next((entry for entry in reached(history) if _LAST_DAY in entry), None)


def _drained(lake: Lake, version: int) -> int:
    """Number of the last entry of the spool that a version of the events holds; 0: it holds none."""
    history = (entry for entry in lake.history(EVENTS.path) if int(entry["version"]) <= version)
    return next((int(entry[NUMBER]) for entry in standing(history) if SPOOL in entry), 0)
