"""Splits of facts by time: what a model may learn from, and what it is then asked.

The global time split decides releases: everybody is cut at the same instant, so nothing of the future leaks (Ji et al. 2023).
Leave-one-out (last act = test, last but one = validation) is kept to compare with published tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID, SESSION_ID, USER_ID

Target = Literal["session", "item", "act"]

DAY_US = 86_400_000_000
SESSION_GAP_US = 30 * 60 * 1_000_000
"""A session ends after half an hour without an act; used only where rows carry no session."""
MOST_ASKED = 100_000
"""Acts of a part that are asked for one by one; beyond it an even sample."""
LONGEST = 200
"""Acts before each of them that are its history; serving keeps no more."""


@dataclass(frozen=True)
class Holdout:
    """One part to be scored: of the same users, what is known (`history`) and what came next (`targets`)."""

    history: pa.Table
    targets: pa.Table
    num_cold_users: int = 0
    """Users (or acts, where each is asked for) in the part without any history: not scored, only counted."""
    askers: tuple[str, ...] | None = None
    """Where questions are numbered users, who asks each of them, in their order; None: each user asks one."""


@dataclass(frozen=True)
class Split:
    """Rows to learn from and two parts to be scored on, in time order. `refit`: all that precedes the test part."""

    train: pa.Table
    refit: pa.Table
    val: Holdout
    test: Holdout
    cutoffs: tuple[int, int] | None = None
    """When the validation and the test part begin, microseconds UTC; None: not everybody is cut at one instant."""

    @property
    def digest(self) -> str:
        """Fingerprint of who is asked what, in what order; equal splits can be compared pair by pair."""
        parts = (self.train, self.val.history, self.val.targets, self.test.history, self.test.targets)
        return hashlib.sha256("".join(_fingerprint(part) for part in parts).encode()).hexdigest()


def in_order(interactions: pa.Table) -> pa.Table:
    """Rows by user and time; rows of one instant by `interaction_id` where there is one, else as they came (stable)."""
    keys = [USER_ID, EVENT_TIMESTAMP, *(["interaction_id"] if "interaction_id" in interactions.column_names else [])]
    return interactions.take(pc.sort_indices(interactions, sort_keys=[(key, "ascending") for key in keys])).combine_chunks()


def time_split(interactions: pa.Table, val_days: float, test_days: float, target: Target = "session") -> Split:
    """Cut everybody at the same two instants: `train` < val cutoff <= `val` < test cutoff <= `test`.

    What happened before a cutoff and was known only after it (`created_timestamp`) is not among what precedes that cutoff.

    A user is asked once per part: for the first session that begins in it (`target="session"`: all its items; `"item"`: its
    first item). Of a session that a cutoff divides, the acts before it are history and those after it are not asked for.
    With `target="act"` each act of the part is asked for, given all that its user did before it, in the part as well: so who is
    known by one session alone is asked about too (the protocol of session-based work, Hidasi et al. 2016). Each question then
    is a user of its own, `<user>#<number>`.

    Args:
        interactions: `user_id`, `item_id`, `event_timestamp`; `session_id` and `created_timestamp` where known.
        val_days: length of the validation part.
        test_days: length of the test part, counted back from the newest row.

    Raises:
        ValueError: a part is left without a user to ask.
    """
    rows = in_order(interactions)
    time = microseconds(rows)
    if not len(time):
        raise ValueError("there are no interactions to split")
    known = np.maximum(time, microseconds(rows, CREATED_TIMESTAMP)) if CREATED_TIMESTAMP in rows.column_names else time
    end = int(time.max()) + 1
    test_cutoff = end - int(test_days * DAY_US)
    val_cutoff = test_cutoff - int(val_days * DAY_US)
    users, sessions = _codes(rows[USER_ID]), session_codes(rows)
    started = np.full(sessions.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(started, sessions, time)

    def holdout(cutoff: int, until: int, name: str) -> Holdout:
        if target == "act":
            return _each_act(rows, users, known, np.flatnonzero((time >= cutoff) & (time < until)), f"{name} part")
        history = known < cutoff
        fresh = (time >= cutoff) & (time < until) & (started[sessions] >= cutoff)
        asked, first = np.unique(users[fresh], return_index=True)
        first = np.flatnonzero(fresh)[first]
        warm = np.isin(asked, users[history])
        if not warm.any():
            raise ValueError(f"no user acts both before and in the {name} part; give it another length ({val_days=}, {test_days=})")
        is_target = np.zeros(len(time), dtype=bool)
        if target == "item":
            is_target[first[warm]] = True
        else:
            is_target = fresh & np.isin(sessions, sessions[first[warm]]) & np.isin(users, asked[warm])
        return Holdout(
            rows.filter(pa.array(history & np.isin(users, asked[warm]))), rows.filter(pa.array(is_target)), int((~warm).sum())
        )

    return Split(
        train=rows.filter(pa.array(known < val_cutoff)),
        refit=rows.filter(pa.array(known < test_cutoff)),
        val=holdout(val_cutoff, test_cutoff, "validation"),
        test=holdout(test_cutoff, end, "test"),
        cutoffs=(val_cutoff, test_cutoff),
    )


def every_session(interactions: pa.Table, start: int, until: int) -> Holdout:
    """Each session that begins in [start, until), asked for with what its user did before it and was known by then.

    Each question is a user of its own, `<user>#<number>`; of who has no history nothing is asked.

    Args:
        start, until: microseconds UTC.

    Raises:
        ValueError: there is no such session.
    """
    rows = in_order(interactions)
    time, users, sessions = microseconds(rows), _codes(rows[USER_ID]), session_codes(rows)
    known = np.maximum(time, microseconds(rows, CREATED_TIMESTAMP)) if CREATED_TIMESTAMP in rows.column_names else time
    _, first, number = np.unique(sessions, return_index=True, return_inverse=True)
    is_warm = (time[first] >= start) & (time[first] < until) & (first > np.searchsorted(users, users[first]))
    asked = np.sort(first[is_warm])
    question, before = _histories(users, known, asked)
    kept = np.unique(question)
    if not len(kept):
        raise ValueError("no session of a user with a history begins in this part; make it longer")
    askers = tuple(rows[USER_ID].take(asked[kept]).to_pylist())
    names = _numbered(askers)
    place = np.full(len(asked), -1)
    place[kept] = np.arange(len(kept))
    of_session = np.full(len(first), -1)  # the question that each session is
    of_session[number[asked]] = place
    acts = of_session[number]
    targets = np.flatnonzero(acts >= 0)
    targets = targets[np.argsort(acts[targets], kind="stable")]
    history = _named(rows.take(pa.array(before)), names[place[question]])
    num_cold = int(((time[first] >= start) & (time[first] < until)).sum()) - len(kept)
    return Holdout(history, _named(rows.take(pa.array(targets)), names[acts[targets]]), num_cold, askers)


def _each_act(rows: pa.Table, users: NDArray[np.int64], known: NDArray[np.int64], acts: NDArray[np.int64], where: str) -> Holdout:
    """Some acts, each asked for with what its user did before it and was known by then."""
    begins = np.searchsorted(users, users[acts])
    warm = acts[acts > begins]
    asked = warm[:: max(1, -(-len(warm) // MOST_ASKED))]
    question, before = _histories(users, known, asked)
    kept = np.unique(question)
    if not len(kept):
        raise ValueError(f"no user acts after another act in the {where}; make it longer")
    number = np.cumsum(np.bincount(question, minlength=len(asked)) > 0) - 1
    askers = tuple(rows[USER_ID].take(asked[kept]).to_pylist())
    names = _numbered(askers)
    history = _named(rows.take(pa.array(before)), names[number[question]])
    return Holdout(history, _named(rows.take(pa.array(asked[kept])), names), len(acts) - len(warm), askers)


def _histories(
    users: NDArray[np.int64], known: NDArray[np.int64], asked: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per act before one of the `asked` acts of its user and known by then, the number of that one and its own place."""
    counts = np.minimum(asked - np.searchsorted(users, users[asked]), LONGEST)
    question = np.repeat(np.arange(len(asked)), counts)
    before = asked[question] - (np.cumsum(counts)[question] - np.arange(len(question)))
    is_known = known[before] <= known[asked[question]]
    return question[is_known], before[is_known]


def _numbered(users: Sequence[str]) -> NDArray[np.str_]:
    return np.array([f"{user}#{number}" for number, user in enumerate(users)])


def _named(rows: pa.Table, users: NDArray[np.str_]) -> pa.Table:
    return rows.set_column(rows.column_names.index(USER_ID), USER_ID, pa.array(users, pa.string()))


def leave_one_out(interactions: pa.Table) -> Split:
    """Each user's last act is the test target, the last but one the validation target, the rest is learned from.

    Users with fewer than three acts are only learned from. Ties in time keep the order of the rows.

    Raises:
        ValueError: no user has three acts.
    """
    rows = in_order(interactions)
    users = _codes(rows[USER_ID])
    counts = np.bincount(users)
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))  # 1: the user's last row
    asked = counts[users] >= 3
    if not asked.any():
        raise ValueError("no user has the three acts that leave-one-out needs")

    def rows_where(mask: NDArray[np.bool_]) -> pa.Table:
        return rows.filter(pa.array(mask))

    return Split(
        train=rows_where(~asked | (from_end > 2)),
        refit=rows_where(~asked | (from_end > 1)),
        val=Holdout(rows_where(asked & (from_end > 2)), rows_where(asked & (from_end == 2))),
        test=Holdout(rows_where(asked & (from_end > 1)), rows_where(asked & (from_end == 1))),
    )


def microseconds(rows: pa.Table, name: str = EVENT_TIMESTAMP) -> NDArray[np.int64]:
    """A time of each row, microseconds UTC."""
    return np.asarray(rows[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy())


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """0, 1, 2 ... for the distinct values of a column that is sorted or at least contiguous, in order of appearance."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)).astype(np.int64)


def session_codes(rows: pa.Table) -> NDArray[np.int64]:
    """A number per session of rows that are `in_order`; where they carry none, a gap of half an hour begins a new one."""
    users, time = _codes(rows[USER_ID]), microseconds(rows)
    if SESSION_ID in rows.column_names:
        pair = users * (len(users) + 1) + _codes(rows[SESSION_ID].cast(pa.string()).fill_null(""))
        return np.asarray(np.unique(pair, return_inverse=True)[1], dtype=np.int64)
    begins = np.r_[True, (np.diff(users) != 0) | (np.diff(time) > SESSION_GAP_US)]
    numbers: NDArray[np.int64] = np.cumsum(begins) - 1
    return numbers


def _fingerprint(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in (USER_ID, ITEM_ID, EVENT_TIMESTAMP):
        column = rows[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()) if name == EVENT_TIMESTAMP else rows[name]
        digest.update("\x1f".join(map(str, column.to_pylist())).encode())
    return digest.hexdigest()


def rolling_origins(num_days: int, horizon: int, num_origins: int) -> tuple[tuple[int, ...], int]:
    """Origins of a backtest over days 0 .. num_days - 1 (Tashman 2000): at each, all days before it are known.

    Returns:
        The validation origins, one horizon apart and ending where the test part begins, and the test origin: the last
        `horizon` days are the test part.

    Raises:
        ValueError: fewer than two horizons are left to learn from.
    """
    test = num_days - horizon
    origins = tuple(test - horizon * back for back in range(num_origins, 0, -1))
    first = origins[0] if origins else test
    if first < 2 * horizon:
        raise ValueError(
            f"{num_days} days leave {first} to learn from before {num_origins} validation origins and a test part of {horizon} days: "
            f"expected at least {2 * horizon}; ask for fewer origins or a shorter horizon"
        )
    return origins, test
