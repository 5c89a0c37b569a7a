"""From the lake to the online store: the latest visible row of every key, packed and put."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pyarrow.compute as pc

from features.columns import EVENT_TIMESTAMP
from features.offline.frames import latest
from features.online.packing import pack_rows
from features.online.rows import Rows
from features.views import View
from infra.home import Home
from infra.lake import Lake


def materialize(
    view: View,
    as_of: datetime,
    lake: Lake,
    rows: Rows,
    home: Home,
    since: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make the online rows of a view what a reader at `as_of` sees, none older than the view keeps online; newer rows stay.

    Args:
        since: write only rows whose event is at or after it; where that leaves rows out, nothing is taken away and the
            definition is not yet complete.
        progress: called with rows done and rows in all.

    Returns:
        How many keys were written.

    Raises:
        HomeError: another process of this home materialises the view.
    """
    # Of two at once the one that read an older table could have the last word.
    with home.lock(f"materialize-{lake.shop}-{view.name}"):
        found = latest(view, as_of, lake, None if view.online_age is None else as_of - view.online_age)
        chosen = found if since is None else found.filter(pc.field(EVENT_TIMESTAMP) >= since)
        packed = pack_rows(view, chosen)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, len(packed))

        if chosen.num_rows == found.num_rows:
            rows.replace(view, packed, as_of, advance)
        else:
            rows.write(view, packed, advance)
        return len(packed)
