"""Reading online rows: columns of a view for a list of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from features.online.rows import Rows
from features.views import View


def read_columns(
    rows: Rows, view: View, keys: Sequence[str | None], oldest: int | None = None, newest: int | None = None
) -> tuple[list[int | None], dict[str, list[Any]]]:
    """Event times and columns, in key order, None where there is no row or, for a column, where its definition lacks it.

    Args:
        keys: key texts as `features.online.packing.key_texts` makes them.
        oldest, newest: in microseconds UTC; a row whose event is before `oldest`, or whose event or created time is after
            `newest`, is as good as none.
    """
    layout, found = rows.read(view, keys)
    hits = [
        (i, row)
        for i, row in enumerate(found)
        if row is not None and (oldest is None or row[0] >= oldest) and (newest is None or max(row[0], row[1]) <= newest)
    ]
    values = layout.unpack([row[2] for _, row in hits])
    known = set(layout.columns)
    events: list[int | None] = [None] * len(keys)
    for i, row in hits:
        events[i] = row[0]
    columns: dict[str, list[Any]] = {}
    for name, kind in view.columns:
        column: list[Any] = [None] * len(keys)
        if (name, kind) in known:
            for (i, _), value in zip(hits, values[name], strict=True):
                column[i] = value
        columns[name] = column
    return events, columns
