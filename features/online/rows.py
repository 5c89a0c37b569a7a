"""What an online store of packed rows can do, whichever engine holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from features.online.packing import Layout, Packed
from features.views import View
from infra.home import Home
from infra.settings import Settings

Row = tuple[int, int, bytes]
"""Event and created time in microseconds UTC, packed columns."""


class Rows(Protocol):
    """Packed rows of one shop, kept per definition: two definitions of a view live side by side.

    A reader gets the rows of its own definition once they are complete, and until then those of the newest complete one, whose
    columns it matches by name and type.
    """

    def write(self, view: View, rows: Sequence[Packed], progress: Callable[[int], None] | None = None) -> None:
        """Put rows; one that is older, by (event, created), than what is there changes nothing. Readers are not held up.

        `progress` is told, batch by batch, how many rows went in.
        """

    def replace(self, view: View, rows: Sequence[Packed], as_of: datetime, progress: Callable[[int], None] | None = None) -> None:
        """Put all that is visible at `as_of`, in place of all that was: the definition is complete then.

        What was there and is visible at `as_of` changes to what `rows` say, or goes; what is newer than `as_of` stays. A reader
        finds each key's old row or its new one. `rows` are in order of their keys, as `pack_rows` makes them; two writers must
        not do this to one definition at once.
        """

    def read(self, view: View, keys: Sequence[str | None]) -> tuple[Layout, list[Row | None]]:
        """The layout the rows were written in, and per key, in order, its row; None where there is none or the key is None."""

    def drop(self, view_name: str) -> None:
        """Forget every definition of a view."""


def open_rows(settings: Settings, shop: str) -> Rows:
    """The online store that the settings name."""
    if settings.online_store is None:
        from features.online.embedded import EmbeddedRows

        return EmbeddedRows(Home(settings).online / f"{shop}.db")
    from features.online.redis import RedisRows

    return RedisRows(settings.online_store.get_secret_value(), shop)
