"""The point-in-time join: which row of a feature table a reader at time t could see. Exact, embedded, on DuckDB.

The rule: a row is visible at t iff event <= t, created <= t and, where there is a ttl, event >= t - ttl; the greatest
(event, created) wins, and among equals the row that lies last in the table.

A row becomes visible at max(event, created) and stays so. Per key, sort by that instant and keep the frontier: rows whose
(event, created) is at least that of every row visible before them. A late row about an older day never enters the frontier, so
it can never replace a newer one. Between two frontier instants the answer does not change, hence one plain ASOF join on the
instant finds it. Expiry is checked last: if the greatest event is too old, every other visible one is older still.

Only keys and times go through DuckDB, as 64-bit microseconds; features are gathered by row number afterwards, so nothing is
converted, rounded or moved between zones. Times are expected within +-146,000 years, keys as Arrow arrays without nulls inside
nested types; a NULL in any key part matches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keys = Sequence[pa.ChunkedArray]
"""One array per key part; all of one length."""

_FRONTIER = """
    SELECT {keys}, visible, event, position FROM (
        SELECT {keys}, greatest(event, created) AS visible, event, position,
            event::HUGEINT * 18446744073709551616::HUGEINT + created AS stamp
        FROM source WHERE {not_null}
    )
    WINDOW seen AS (PARTITION BY {keys} ORDER BY visible, stamp, position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    QUALIFY stamp = max(stamp) OVER seen AND visible IS DISTINCT FROM lead(visible) OVER seen
"""


def rows_at(label_keys: Keys, label_times: pa.ChunkedArray, keys: Keys, events: pa.ChunkedArray, createds: pa.ChunkedArray,
            ttl: timedelta | None) -> npt.NDArray[np.int64]:  # fmt: skip
    """For each label the number of the table row it could see, -1 where there is none.

    Args:
        label_keys, keys: key parts of labels and of table rows, of the same types.
        label_times, events, createds: timestamps in microseconds UTC, without nulls.
        ttl: how old the event may be; None: any age.

    Returns:
        int64 of shape (labels,), in label order.
    """
    names = [f"k{i}" for i in range(len(keys))]
    labels = _frame(names, label_keys, t=label_times)
    source = _frame(names, keys, event=events, created=createds)
    frontier = _FRONTIER.format(keys=", ".join(names), not_null=" AND ".join(f"{n} IS NOT NULL" for n in names))
    on = " AND ".join(f"l.{n} = f.{n}" for n in names)
    alive = "TRUE" if ttl is None else f"f.event >= l.t - {_microseconds(ttl)}"
    query = f"""
        SELECT l.position AS label, CASE WHEN {alive} THEN f.position END AS found
        FROM (SELECT * FROM labels WHERE {" AND ".join(f"{n} IS NOT NULL" for n in names)}) l
        ASOF JOIN ({frontier}) f ON {on} AND l.t >= f.visible
    """  # noqa: S608 - names are ours
    answer = np.full(len(label_times), -1, dtype=np.int64)
    with duckdb.connect() as connection:
        connection.register("labels", labels)
        connection.register("source", source)
        matched = connection.execute(query).fetchnumpy()
    found = matched["found"]
    hits = ~np.ma.getmaskarray(found)
    answer[matched["label"][hits]] = np.ma.getdata(found)[hits]
    return answer


def latest_rows(keys: Keys, events: pa.ChunkedArray, createds: pa.ChunkedArray, as_of: datetime,
                age: timedelta | None) -> npt.NDArray[np.int64]:  # fmt: skip
    """Numbers of the rows a reader at `as_of` sees, one per key, in table order; rows with a NULL key are left out.

    Args:
        age: how old the event may be; None: any age.

    Returns:
        int64 of shape (keys with a visible row,), ascending.
    """
    names = [f"k{i}" for i in range(len(keys))]
    source = _frame(names, keys, event=events, created=createds)
    t = _microseconds(as_of - datetime(1970, 1, 1, tzinfo=UTC))
    oldest = "" if age is None else f"AND event >= {t - _microseconds(age)}"
    query = f"""
        SELECT max_by(position, (event, created, position)) AS found FROM source
        WHERE event <= {t} AND created <= {t} {oldest} AND {" AND ".join(f"{n} IS NOT NULL" for n in names)}
        GROUP BY {", ".join(names)}
    """  # noqa: S608 - names are ours
    with duckdb.connect() as connection:
        connection.register("source", source)
        found: npt.NDArray[np.int64] = np.ma.getdata(connection.execute(query).fetchnumpy()["found"])
    return np.sort(found)


def _frame(names: list[str], keys: Keys, **times: pa.ChunkedArray) -> pa.Table:
    """Keys, times as integers and the row number, as one narrow table."""
    columns = dict(zip(names, keys, strict=True))
    columns |= {name: pc.cast(column, pa.int64()) for name, column in times.items()}
    length = len(next(iter(times.values())))
    return pa.table({**columns, "position": pa.array(np.arange(length))})


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
