"""Reading online rows: columns of views for lists of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from features.online.packing import Layout
from features.online.rows import Row, Rows
from features.views import View

Columns = tuple[list[int | None], dict[str, list[Any]]]
"""Event times in microseconds UTC and columns, in key order."""


def read_columns(rows: Rows, asked: Mapping[View, Sequence[str | None]], now: int | None = None) -> dict[View, Columns]:
    """Each view's rows, all as they stood at one instant; None where there is no row or, for a column, where its definition lacks it.

    Args:
        asked: view -> key texts as `features.online.packing.key_texts` makes them.
        now: in microseconds UTC; a row that was not yet known then, or has expired, is as good as none. None: all count.
    """
    return {view: _columns(view, *found, now) for view, found in rows.read(asked).items()}


def _columns(view: View, layout: Layout, found: Sequence[Row | None], now: int | None) -> Columns:
    oldest = None if now is None or view.ttl is None else now - view.ttl // timedelta(microseconds=1)
    hits = [
        (i, row)
        for i, row in enumerate(found)
        if row is not None and (oldest is None or row[0] >= oldest) and (now is None or max(row[0], row[1]) <= now)
    ]
    values = layout.unpack([row[2] for _, row in hits])
    known = set(layout.columns)
    events: list[int | None] = [None] * len(found)
    for i, row in hits:
        events[i] = row[0]
    columns: dict[str, list[Any]] = {}
    for name, kind in view.columns:
        column: list[Any] = [None] * len(found)
        if (name, kind) in known:
            for (i, _), value in zip(hits, values[name], strict=True):
                column[i] = value
        columns[name] = column
    return events, columns
