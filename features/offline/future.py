"""Frames hold nothing from the future: the last look before a frame is handed out or learned from.

It knows nothing of how a frame was made: beside the features of each view a frame tells when the view's row became true and when
it was known, and both are held against the label's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from features.columns import EVENT_TIMESTAMP
from features.views import View
from infra.errors import FeatureError


def refuse_future(frame: Iterable[pa.RecordBatch], views: Sequence[View]) -> None:
    """Refuse a frame in which a row of one of the views became true, or was known, only after the label's time.

    Args:
        frame: `event_timestamp` and, for each view, `<view>__event_timestamp` and `<view>__created_timestamp`, microseconds UTC.

    Raises:
        FeatureError: with the number of such times and the first of them; or the frame lacks one of the columns.
    """
    words = {name: told for v in views for name, told in ((v.time_column, "became true"), (v.created_column, "was known"))}
    count, example, number = 0, "", 0
    for batch in frame:
        missing = [name for name in (EVENT_TIMESTAMP, *words) if name not in batch.schema.names]
        if missing:
            raise FeatureError(
                f"the frame does not tell when its features were true and known: expected also {', '.join(missing)}; "
                "make it with `shopgraph frame`."
            )
        for name, told in words.items():
            late = pc.fill_null(pc.greater(batch[name], batch[EVENT_TIMESTAMP]), False)
            found = pc.sum(late).as_py() or 0
            if found and not count:
                row = pc.index(late, True).as_py()
                view, at, label = name.rpartition("__")[0], _iso(batch[name][row]), _iso(batch[EVENT_TIMESTAMP][row])
                example = f"label {number + row} is of {label}, and its row of {view} {told} at {at}"
            count += found
        number += batch.num_rows
    if count:
        raise FeatureError(
            f"the frame holds {count:,} time(s) from the future: {example}. Expected only what was true and known at the label's time; "
            "do not train on it, make it anew with `shopgraph frame`."
        )


def _iso(time: pa.Scalar) -> str:
    """ISO 8601 text; unlike Python's own, without a limit of years."""
    return f"{pc.strftime(time, '%Y-%m-%dT%H:%M:%S').as_py()}Z"
