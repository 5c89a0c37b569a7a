"""From the lake to the online store: the latest visible row of every key, packed and put."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from features.offline.frames import latest
from features.online.packing import pack_rows
from features.online.rows import Rows
from features.views import View
from infra.lake import Lake


def materialize(
    view: View,
    as_of: datetime,
    lake: Lake,
    rows: Rows,
    since: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the rows a reader at `as_of` sees, none older than the view keeps online; the definition is complete after it.

    Args:
        since: write only rows whose event is at or after it; the definition is then not said to be complete.
        progress: called with rows done and rows in all.

    Returns:
        How many keys were written.
    """
    oldest = None if view.online_age is None else as_of - view.online_age
    packed = pack_rows(view, latest(view, as_of, lake, max((t for t in (since, oldest) if t is not None), default=None)))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, len(packed))

    rows.write(view, packed, advance)
    if since is None or (oldest is not None and since <= oldest):
        rows.complete(view, as_of, oldest)
    return len(packed)
