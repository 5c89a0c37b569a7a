"""Training frames and latest rows, as Arrow tables, from tables of the lake. What Feast's offline store and ours both call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.offline.join import NOTHING, latest_rows, rows_at
from features.tables import ARROW_TYPES
from features.views import View
from infra.errors import FeatureError, TableContractError
from infra.lake import Lake

_TIME = ARROW_TYPES["timestamp"]


def join(labels: pa.Table, views: Sequence[View], names: dict[str, dict[str, str]], lake: Lake) -> pa.Table:
    """`labels` with the feature columns of every view appended, each value as it was visible at the label's time.

    Args:
        labels: key columns, `event_timestamp` and whatever else; any order, any number of rows.
        names: view -> column -> name in the frame.

    Returns:
        The labels, row for row, then the columns of the views in order; null where nothing was visible.

    Raises:
        FeatureError: a key or the time is missing or of a type that does not fit, or a feature's name is taken.
        TableContractError: a table was never built, or lacks a declared column.
    """
    times = label_times(labels)
    frame = labels.set_column(labels.schema.get_field_index(EVENT_TIMESTAMP), EVENT_TIMESTAMP, times)
    for view in views:
        taken = sorted(set(names[view.name].values()) & set(frame.column_names))
        if taken:
            raise FeatureError(f"the labels already have {', '.join(taken)}, which view {view.name} serves; rename or drop them.")
        keys = label_keys(labels, view)
        newest = pc.max(times).as_py()
        visible = None if newest is None else (pc.field(EVENT_TIMESTAMP) <= newest) & (pc.field(CREATED_TIMESTAMP) <= newest)
        rows = read(lake, view, visible)
        found = rows_at(keys, times, [rows[k] for k in view.key_names], rows[EVENT_TIMESTAMP], rows[CREATED_TIMESTAMP], view.ttl)
        values = rows.select(list(names[view.name])).take(pa.array(found, mask=found == NOTHING))
        for column, name in names[view.name].items():
            frame = frame.append_column(name, values[column])
    return frame


def latest(view: View, as_of: datetime, lake: Lake, since: datetime | None = None) -> pa.Table:
    """The row each key shows to a reader at `as_of`, in the view's schema; keys with none are left out.

    Args:
        since: leave out rows whose event is older; the view's ttl counts all the same.
    """
    limits = [limit for limit in (view.ttl, None if since is None else as_of - since) if limit is not None]
    age = min(limits, default=None)
    visible = (pc.field(EVENT_TIMESTAMP) <= as_of) & (pc.field(CREATED_TIMESTAMP) <= as_of)
    rows = read(lake, view, visible)
    found = latest_rows([rows[k] for k in view.key_names], rows[EVENT_TIMESTAMP], rows[CREATED_TIMESTAMP], as_of, age)
    return rows.take(pa.array(found))


def read(lake: Lake, view: View, filter: ds.Expression | None = None) -> pa.Table:
    """The rows of the view's table in the view's schema: keys, columns, event and created time.

    Raises:
        TableContractError: the table does not exist or lacks a declared column.
    """
    dataset = lake.dataset(view.path)
    missing = [name for name in view.schema.names if name not in dataset.schema.names]
    if missing:
        raise TableContractError(f"table {view.path} lacks declared column(s) {', '.join(missing)}; rebuild it: `shopgraph build`.")
    rows = dataset.to_table(columns=view.schema.names, filter=filter).combine_chunks()
    columns = [_nearest(rows[name]) if pa.types.is_decimal(rows[name].type) else rows[name] for name in view.schema.names]
    return pa.table(columns, names=view.schema.names).cast(view.schema)


def _nearest(money: pa.ChunkedArray) -> pa.ChunkedArray:
    """DECIMAL(18,4) as the nearest float64, as `float("19.99")` gives it; Arrow's own cast is off by one unit in the last place."""
    units = pc.multiply(money, pa.scalar(10_000, pa.decimal128(5, 0))).cast(pa.int64())
    return pc.divide(units.cast(pa.float64(), safe=False), 10_000.0)


def label_times(labels: pa.Table) -> pa.ChunkedArray:
    """The labels' `event_timestamp` as microseconds UTC; a time without a zone is UTC, what is finer is cut off.

    Raises:
        FeatureError: the column is missing, no timestamp, or holds null.
    """
    if EVENT_TIMESTAMP not in labels.column_names:
        raise FeatureError(f"labels need a column {EVENT_TIMESTAMP}; got {', '.join(labels.column_names)}.")
    times = labels[EVENT_TIMESTAMP]
    if not pa.types.is_timestamp(times.type):
        raise FeatureError(f"labels: {EVENT_TIMESTAMP} must be a timestamp, it is {times.type}.")
    if times.null_count:
        raise FeatureError(f"labels: {EVENT_TIMESTAMP} holds {times.null_count} null(s); a label needs a time.")
    return times.cast(_TIME, safe=False)


def label_keys(labels: pa.Table, view: View) -> list[pa.ChunkedArray]:
    """The view's key columns out of `labels`, in the view's types.

    Raises:
        FeatureError: one is missing or cannot be read as its type.
    """
    missing = [name for name in view.key_names if name not in labels.column_names]
    if missing:
        raise FeatureError(f"view {view.name} needs key column(s) {', '.join(missing)}; got {', '.join(labels.column_names)}.")
    keys = []
    for name, kind in view.keys:
        try:
            keys.append(labels[name].cast(ARROW_TYPES[kind]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FeatureError(f"key {name} must be a {kind}, it is {labels[name].type}: {error}") from None
    return keys


def all_rows(view: View, lake: Lake, start: datetime | None, end: datetime | None) -> pa.Table:
    """Every row with start <= event <= end, in the view's schema."""
    event = pc.field(EVENT_TIMESTAMP)
    within = pc.scalar(True) if start is None else event >= pa.scalar(start, _TIME)
    return read(lake, view, within if end is None else within & (event <= pa.scalar(end, _TIME)))
