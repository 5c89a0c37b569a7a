"""The point-in-time join: which row of a feature table a reader at time t could see. Exact, in process, on NumPy.

The rule: a row is visible at t iff event <= t, created <= t and, where there is a ttl, event >= t - ttl; the greatest
(event, created) wins, and among equals the row that lies last in the table. Where the winner is retracted to nothing, nothing is
seen.

A row becomes visible at max(event, created) and stays so. Per key, sort by that instant and keep the frontier: rows whose event
is at least that of every row visible before them. A late row about an older day never enters it, so it can never replace a
newer one; a later row about the same event has the later created time, so it rightly does. Between two instants of the frontier
the answer does not change, hence one binary search finds it. Expiry is checked last: if the greatest event is too old, every
other visible one is older still. So is retraction: what the winner takes back does not uncover another row.

Only keys, as small integers, and times, as 64-bit microseconds, take part, in one sort of all rows: the cost grows as n log n
also when one key holds most of them. Features are gathered by row number afterwards. A NULL in any key part matches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import TO_NOTHING

Integers = npt.NDArray[np.int64]
Keys = Sequence[pa.ChunkedArray]
"""One array per key part; all of one length."""

NOTHING = -1

_PACKED_BITS = 63
"""Key and time are sorted as one integer of so many bits."""


def rows_at(
    label_keys: Keys,
    label_times: pa.ChunkedArray,
    keys: Keys,
    events: pa.ChunkedArray,
    createds: pa.ChunkedArray,
    ttl: timedelta | None,
    retracted: pa.ChunkedArray | None = None,
) -> Integers:
    """For each label the number of the table row it could see, NOTHING where there is none.

    Args:
        label_keys, keys: key parts of labels and of table rows, of the same types.
        label_times, events, createds: timestamps in microseconds UTC, without nulls.
        ttl: how old the event may be; None: any age.
        retracted: whether a row takes back what was known, and to what; None: every row stands.

    Returns:
        int64 of shape (labels,), in label order.
    """
    label_codes, codes = _encode(label_keys, keys)
    t, event, created = (_microseconds_of(times) for times in (label_times, events, createds))
    known = np.flatnonzero(codes != NOTHING)
    answer = np.full(len(t), NOTHING, dtype=np.int64)
    if not len(known) or not len(t):
        return answer
    span, (now, happened, visible) = _compress(
        int(max(codes.max(), label_codes.max())) + 1, t, event[known], np.maximum(event, created)[known]
    )
    base = codes[known] * span
    order = _sort(base + visible, event[known], created[known])
    instants = (base + visible)[order]
    newest = np.maximum.accumulate((base + happened)[order])
    frontier = ((base + happened)[order] == newest) & np.append(instants[1:] != instants[:-1], True)
    order, instants = known[order[frontier]], instants[frontier]

    place = np.searchsorted(instants, label_codes * span + now, side="right") - 1
    row = order[np.maximum(place, 0)]
    seen = (place >= 0) & (label_codes != NOTHING) & (codes[row] == label_codes)
    if ttl is not None:
        seen &= event[row] >= t - _microseconds(ttl)
    if retracted is not None:
        seen &= _stands(retracted)[row]
    answer[seen] = row[seen]
    return answer


def latest_rows(
    keys: Keys,
    events: pa.ChunkedArray,
    createds: pa.ChunkedArray,
    as_of: datetime,
    age: timedelta | None,
    retracted: pa.ChunkedArray | None = None,
) -> Integers:
    """Numbers of the rows a reader at `as_of` sees, one per key, in table order; rows with a NULL key are left out.

    Args:
        age: how old the event may be; None: any age.
        retracted: whether a row takes back what was known, and to what; None: every row stands.

    Returns:
        int64 of shape (keys with a visible row,), ascending.
    """
    (codes,) = _encode(keys)
    event, created = _microseconds_of(events), _microseconds_of(createds)
    t = _microseconds(as_of - datetime(1970, 1, 1, tzinfo=UTC))
    visible = (codes != NOTHING) & (event <= t) & (created <= t)
    if age is not None:
        visible &= event >= t - _microseconds(age)
    rows = np.flatnonzero(visible)
    if not len(rows):
        return rows
    span, (happened,) = _compress(int(codes.max()) + 1, event[rows])
    order = _sort(codes[rows] * span + happened, created[rows])
    ordered = codes[rows][order]
    winners = np.sort(rows[order[np.append(ordered[1:] != ordered[:-1], True)]])
    return winners if retracted is None else winners[_stands(retracted)[winners]]


def _stands(retracted: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Per row whether it tells anything: false where it is retracted to nothing."""
    return np.asarray(pc.fill_null(pc.not_equal(retracted, TO_NOTHING), True))


def newest_rows(keys: Keys, createds: pa.ChunkedArray) -> Integers:
    """Numbers of the rows with the greatest created time, one per key, the last of equals; rows with a NULL key are left out.

    Returns:
        int64 of shape (keys,), in no order that means anything.
    """
    (codes,) = _encode(keys)
    rows = np.flatnonzero(codes != NOTHING)
    order = _sort(codes[rows], _microseconds_of(createds)[rows])
    ordered = codes[rows][order]
    return rows[order[np.append(ordered[1:] != ordered[:-1], True)]] if len(rows) else rows


def _encode(*tables: Keys) -> list[Integers]:
    """One integer per entity, the same in every table, for keys of one or more parts; NOTHING where a part is null."""
    codes = [np.zeros(len(keys[0]), dtype=np.int64) for keys in tables]
    ends = np.cumsum([len(code) for code in codes])[:-1]
    for parts in zip(*tables, strict=True):
        together = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type).combine_chunks()
        encoded = pc.dictionary_encode(together, null_encoding="mask")
        numbers = np.asarray(encoded.indices.fill_null(NOTHING), dtype=np.int64)
        before = np.concatenate(codes)
        pairs = before * (len(encoded.dictionary) + 1) + numbers
        if len(tables[0]) > 1:  # renumber densely, so that the next product cannot overflow
            pairs = np.unique(pairs, return_inverse=True)[1]
        joined = np.where((numbers == NOTHING) | (before == NOTHING), NOTHING, pairs)
        codes = np.split(joined, ends)
    return codes


def _compress(keys: int, *times: Integers) -> tuple[int, list[Integers]]:
    """Times as integers in [0, span) that compare as they did, small enough that key * span + time fits 63 bits."""
    low = min(int(time.min()) for time in times)
    span = max(int(time.max()) for time in times) - low + 1
    if keys * span < 2**_PACKED_BITS:
        return span, [time - low for time in times]
    instants = np.unique(np.concatenate(times))
    return len(instants), [np.searchsorted(instants, time) for time in times]


def _sort(first: Integers, *then: Integers) -> Integers:
    """Stable order by `first`, then by `then`; cheap where few are tied on `first`."""
    order = np.argsort(first, kind="stable")
    tie = first[order][1:] == first[order][:-1]
    if tie.any():
        tied = np.append(tie, False) | np.insert(tie, 0, False)
        part = order[tied]
        order[tied] = part[np.lexsort((*(column[part] for column in reversed(then)), first[part]))]
    return order


def _microseconds_of(times: pa.ChunkedArray) -> Integers:
    return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
