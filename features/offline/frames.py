"""Training frames and latest rows, as Arrow tables, from tables of the lake. What Feast's offline store and ours both call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, RETRACTED
from features.money import column_served
from features.offline.future import refuse_future
from features.offline.join import NOTHING, Integers, latest_rows, rows_at
from features.offline.labels import label_keys, label_times
from features.tables import ARROW_TYPES
from features.views import View
from infra.errors import FeatureError, TableContractError
from infra.lake import Lake

_TIME = ARROW_TYPES["timestamp"]


def join(
    labels: pa.Table, views: Sequence[View], names: dict[str, dict[str, str]], lake: Lake, with_times: bool = False
) -> pa.Table:
    """`labels` with the feature columns of every view appended, each value as it was visible at the label's time.

    Args:
        labels: key columns, `event_timestamp` and whatever else; any order, any number of rows.
        names: view -> column -> name in the frame.
        with_times: give also, after the columns of each view, when its row became true and when it was known:
            `<view>__event_timestamp`, `<view>__created_timestamp`.

    Returns:
        The labels, row for row, then the columns of the views in order; null where nothing was visible.

    Raises:
        FeatureError: a key or the time is missing or of a type that does not fit, or a feature's name is taken.
        TableContractError: a table was never built, or lacks a declared column.
    """
    times = label_times(labels)
    refuse_taken(labels.column_names, views, names)
    frame = labels.set_column(labels.schema.get_field_index(EVENT_TIMESTAMP), EVENT_TIMESTAMP, times)
    for view in views:
        keys = label_keys(labels, view)
        newest = pc.max(times).as_py()
        visible = None if newest is None else (pc.field(EVENT_TIMESTAMP) <= newest) & (pc.field(CREATED_TIMESTAMP) <= newest)
        rows = read(lake, view, visible)
        own_keys = [rows[k] for k in view.key_names]
        found = rows_at(keys, times, own_keys, rows[EVENT_TIMESTAMP], rows[CREATED_TIMESTAMP], view.ttl, rows[RETRACTED])
        given = names[view.name] | time_names(view)
        values = rows.select(list(given)).take(pa.array(found, mask=found == NOTHING))
        for column, name in given.items():
            frame = frame.append_column(name, values[column])
    refuse_future(frame.to_batches(), views)
    return frame if with_times else frame.drop_columns([name for view in views for name in time_names(view).values()])


def time_names(view: View) -> dict[str, str]:
    """The times of the row that a view answers with -> their names in a frame."""
    return {EVENT_TIMESTAMP: view.time_column, CREATED_TIMESTAMP: view.created_column}


def refuse_taken(given: Sequence[str], views: Sequence[View], names: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse labels that have a column, `given` by name, under whose name a view puts its own into the frame.

    Raises:
        FeatureError: naming the columns.
    """
    for view in views:
        taken = sorted({*names[view.name].values(), *time_names(view).values()} & set(given))
        if taken:
            raise FeatureError(f"the labels already have {', '.join(taken)}, which view {view.name} serves; rename or drop them.")


def latest(view: View, as_of: datetime, lake: Lake, since: datetime | None = None, version: int | None = None) -> pa.Table:
    """The row each key shows to a reader at `as_of`, in the view's schema; keys with none are left out.

    Args:
        since: leave out rows whose event is older; the view's ttl counts all the same.
        version: of the table; None: the newest.
    """
    limits = [limit for limit in (view.ttl, None if since is None else as_of - since) if limit is not None]
    rows = read(lake, view, _visible(as_of), version)
    return rows.select(view.schema.names).take(pa.array(_latest(rows, view, as_of, min(limits, default=None))))


def latest_in_parts(
    view: View, as_of: datetime, lake: Lake, version: int, size: int, among: ds.Expression | None = None
) -> tuple[int, Iterator[pa.Table]]:
    """What the online store holds of a version of a view's table once it is materialised as of an instant, `size` rows at a time.

    In memory are keys and times of all rows, and of other columns those of a part. The same arguments give the same parts in the same
    order.

    Args:
        among: only keys for which it holds.

    Returns:
        How many rows there are in all, and the parts, in the view's schema; only the last is smaller.
    """
    dataset, names = _dataset(lake, view, version)
    wanted = _visible(as_of) if among is None else _visible(as_of) & among
    served = {name for name, _ in view.columns}
    times = dataset.to_table([name for name in names if name not in served], filter=wanted)
    keys_and_times = times if RETRACTED in times.column_names else times.append_column(RETRACTED, pa.nulls(len(times), pa.string()))
    found = _latest(keys_and_times, view, as_of, view.online_age)

    def parts() -> Iterator[pa.Table]:
        rest, past = view.schema.empty_table(), 0
        for batch in dataset.to_batches(columns=names, filter=wanted, batch_size=size, batch_readahead=1, fragment_readahead=1):
            first, last = np.searchsorted(found, [past, past + batch.num_rows])
            kept = pa.Table.from_batches([batch.take(pa.array(found[first:last] - past))])
            rest = pa.concat_tables([rest, _served(kept, view).select(view.schema.names)])
            past += batch.num_rows
            while len(rest) >= size:
                yield rest.slice(0, size)
                rest = rest.slice(size)
        if len(rest):
            yield rest

    return len(found), parts()


def _visible(as_of: datetime) -> ds.Expression:
    return (pc.field(EVENT_TIMESTAMP) <= as_of) & (pc.field(CREATED_TIMESTAMP) <= as_of)


def _latest(rows: pa.Table, view: View, as_of: datetime, age: timedelta | None) -> Integers:
    """Numbers of the rows that a reader at `as_of` sees, ascending."""
    keys = [rows[name] for name in view.key_names]
    return latest_rows(keys, rows[EVENT_TIMESTAMP], rows[CREATED_TIMESTAMP], as_of, age, rows[RETRACTED])


def read(lake: Lake, view: View, filter: ds.Expression | None = None, version: int | None = None) -> pa.Table:
    """The rows of the view's table (default: its newest version) in the view's schema, and whether each is retracted.

    That is null throughout where the table cannot tell.

    Raises:
        TableContractError: the table or that version does not exist, or lacks a declared column.
    """
    dataset, names = _dataset(lake, view, version)
    return _served(dataset.to_table(columns=names, filter=filter).combine_chunks(), view)


def _dataset(lake: Lake, view: View, version: int | None) -> tuple[ds.Dataset, list[str]]:
    """The view's table, and the columns to read of it (raises as `read`)."""
    dataset = lake.dataset(view.path, version)
    missing = [name for name in view.schema.names if name not in dataset.schema.names]
    if missing:
        raise TableContractError(f"table {view.path} lacks declared column(s) {', '.join(missing)}; rebuild it: `shopgraph build`.")
    return dataset, [*view.schema.names, *([RETRACTED] if RETRACTED in dataset.schema.names else [])]


def _served(rows: pa.Table, view: View) -> pa.Table:
    """Rows of the table as the view serves them, and whether each is retracted."""
    columns = [column_served(rows[name]) if pa.types.is_decimal(rows[name].type) else rows[name] for name in view.schema.names]
    retracted = rows[RETRACTED] if RETRACTED in rows.column_names else pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    return pa.table(columns, names=view.schema.names).cast(view.schema).append_column(RETRACTED, retracted)


def all_rows(view: View, lake: Lake, start: datetime | None, end: datetime | None) -> pa.Table:
    """Every row with start <= event <= end, in the view's schema."""
    event = pc.field(EVENT_TIMESTAMP)
    within = pc.scalar(True) if start is None else event >= pa.scalar(start, _TIME)
    rows = read(lake, view, within if end is None else within & (event <= pa.scalar(end, _TIME)))
    return rows.select(view.schema.names)
