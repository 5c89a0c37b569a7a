"""From the lake to the online store: the latest visible row of every key, packed and put."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from features.columns import EVENT_TIMESTAMP
from features.fresh.built import built_rows
from features.offline.frames import latest
from features.online.packing import pack_rows
from features.online.rows import Rows
from features.tables import USER_ACTIVITY
from features.views import View
from infra.home import Home
from infra.lake import Lake


def materialize(
    views: Sequence[View],
    as_of: datetime,
    lake: Lake,
    rows: Rows,
    home: Home,
    back_to: Mapping[str, int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, int]:
    """Make the online rows of views what a reader at `as_of` sees, none older than the view keeps online, all at one instant.

    Args:
        back_to: as `Rows.rebuild` takes it: None: newer rows stay.
        progress: called with view, rows done and rows in all.

    Returns:
        View -> how many keys were written.

    Raises:
        HomeError: another process of this home materialises one of the views.
    """
    written = {}
    with ExitStack() as held:
        held.enter_context(_alone(views, lake, home))
        versions = {view: lake.table(view.path).version() for view in views}
        beside = {view: found for one in views for view, found in _beside(one, as_of, lake, versions[one]).items()}
        put = held.enter_context(rows.rebuild([*views, *beside], as_of, back_to, versions))
        for view, found in beside.items():
            put(view, pack_rows(view, found))
        for view in views:
            packed = pack_rows(view, worth_keeping(view, as_of, lake, versions[view]))
            put(view, packed, _counting(view.name, len(packed), progress))
            written[view.name] = len(packed)
    return written


def add(view: View, since: datetime, as_of: datetime, lake: Lake, rows: Rows, home: Home) -> None:
    """Put the online rows of a view whose event is at or after `since`; where those are all, or others go with them, this is
    `materialize`.

    Raises:
        HomeError: another process of this home materialises the view.
    """
    if view.name == USER_ACTIVITY.name:
        materialize([view], as_of, lake, rows, home)
        return
    with _alone([view], lake, home):
        version = lake.table(view.path).version()
        found = worth_keeping(view, as_of, lake, version)
        chosen = found.filter(pc.field(EVENT_TIMESTAMP) >= since)
        if chosen.num_rows < found.num_rows:
            rows.write(view, pack_rows(view, chosen))
            return
        with rows.rebuild([view], as_of, sources={view: version}) as put:
            put(view, pack_rows(view, found))


def _beside(view: View, as_of: datetime, lake: Lake, version: int) -> dict[View, pa.Table]:
    """Online rows that go with those of a view: by them whoever reads takes it on to a later day than it was built to."""
    return built_rows(lake, version, as_of) if view.name == USER_ACTIVITY.name else {}


@contextmanager
def _alone(views: Sequence[View], lake: Lake, home: Home) -> Iterator[None]:
    """Of two that materialise a view at once, the one that read an older table could have the last word."""
    with ExitStack() as held:
        for name in sorted(view.name for view in views):
            held.enter_context(home.lock(f"materialize-{lake.shop}-{name}"))
        yield


def worth_keeping(view: View, as_of: datetime, lake: Lake, version: int) -> pa.Table:
    """The rows that the online store holds of a version of a view's table once it is materialised as of an instant."""
    return latest(view, as_of, lake, None if view.online_age is None else as_of - view.online_age, version)


def _counting(name: str, total: int, progress: Callable[[str, int, int], None] | None) -> Callable[[int], None] | None:
    """Adds batches up for `progress`."""
    if progress is None:
        return None
    tell, done = progress, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tell(name, done, total)

    return advance
