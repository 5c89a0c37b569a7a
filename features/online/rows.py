"""What an online store of packed rows can do, whichever engine holds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, TypeVar

from features.online.generations import Generation, Generations, begun, current, dropped, switched
from features.online.packing import Layout, Packed, to_microseconds
from features.views import View
from infra.home import Home
from infra.settings import Settings

T = TypeVar("T")

Row = tuple[int, int, bytes]
"""Event and created time in microseconds UTC, packed columns."""

Change = Callable[[Mapping[View, Mapping[str, Row]]], Mapping[View, Iterable[Packed]]]
"""New rows out of those that are there; a key that has none is not among them. Pure: it may be called again."""

Progress = Callable[[int], None]
"""Told, batch by batch, how many rows went in."""


class Put(Protocol):
    """Puts rows into a generation under construction."""

    def __call__(self, view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None: ...


class Rows(ABC):
    """Packed rows of one shop, kept per definition: two definitions of a view live side by side.

    A reader gets the rows of its own definition once they are complete, and until then those of the newest complete one, whose
    columns it matches by name and type. It never waits for a writer. Every method raises FeatureError where another format
    version wrote the store, EngineError where it cannot be used.
    """

    @abstractmethod
    def read(self, asked: Mapping[View, Sequence[str | None]]) -> dict[View, tuple[Layout, list[Row | None]]]:
        """Per view the layout its rows were written in and, per key in order, its row; None where there is none or the key is None.

        All views are read as they stood at one instant.
        """

    @abstractmethod
    def generations(self) -> Generations:
        """The sets of rows there are, as they stand now; which one a reader of a view gets is told by `readable`."""

    @abstractmethod
    def write(self, view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None:
        """Put rows; one that is older, by (event, created), than what is there changes nothing."""

    @abstractmethod
    def update(self, keys: Mapping[View, Collection[str]], change: Change, mark: str, after: int, to: int) -> int:
        """Put what `change` makes of the rows of these keys and move a watermark, all in one step that nothing comes between.

        Args:
            keys: what `change` is shown, of each view's own definition.
            mark: name of the watermark, which says up to where somebody's facts are in the rows. A new one stands at 0.
            after, to: `change` adds what lies after `after` up to `to`. If the watermark does not stand at `after`, nothing
                happens: a step that is repeated after a crash counts once.

        Returns:
            Where the watermark stands now: `to` if the step is done; else go on from there, `change` cut accordingly.
        """

    @abstractmethod
    def mark(self, name: str) -> int:
        """Where a watermark stands."""

    @contextmanager
    def rebuild(
        self,
        views: Collection[View],
        as_of: datetime,
        back_to: Mapping[str, int] | None = None,
        sources: Mapping[View, int] = {},
    ) -> Iterator[Put]:
        """Put, inside the `with`, all rows of these views that are visible at `as_of`; at its end they replace all that was.

        Until then readers see none of it, then all of it, over all views at one instant. What is written meanwhile goes to the
        rows of before and of after. A process killed in the middle changes nothing; the next rebuild of these views removes what
        it left.

        Args:
            back_to: None: rows newer than `as_of`, which the tables cannot hold yet, stay, and so do the watermarks. Else the
                tables were restored and nothing stays, neither newer rows nor what `update` makes of them meanwhile; these
                watermarks are set in the same step, so that whoever keeps one adds again what came after it. Rebuild all views
                that are updated under a watermark together.
            sources: the versions of the tables that the rows are made from, for who holds them against each other.

        Raises:
            FeatureError: another process began to rebuild one of the views after this one; nothing is changed.
        """
        moment = to_microseconds(as_of)
        made = {
            view: Generation.of(view, "building" if back_to is None else "restoring", moment, sources.get(view)) for view in views
        }
        found = self._alter(lambda generations: begun(generations, made.values()))
        self._sweep(found)
        self._make_room(made.values())
        if back_to is None:
            for view, generation in made.items():
                if before := current(found, view):
                    self._carry(before, generation, moment)

        def put(view: View, rows: Sequence[Packed], progress: Progress | None = None) -> None:
            self._put(made[view], rows, progress)

        yield put
        self._sweep(self._alter(lambda generations: switched(generations, made.values()), back_to or {}))

    def drop(self, view_name: str) -> None:
        """Forget every definition of a view; readers find none of its rows from one instant on."""
        self._sweep(self._alter(lambda generations: dropped(generations, view_name)))

    def _sweep(self, generations: Generations) -> None:
        """Remove the rows of retired generations, then their names: killed between, it is done by the next."""
        gone = {g.id for g in generations if g.state == "retired" and self._remove(g.id)}
        if gone:
            self._alter(lambda found: [g for g in found if g.id not in gone])

    @abstractmethod
    def _alter(self, change: Callable[[Generations], Generations], marks: Mapping[str, int] = {}) -> Generations:
        """Replace the list of generations, and set watermarks, in one step; the new list. `change` may be called again."""

    @abstractmethod
    def _make_room(self, made: Collection[Generation]) -> None:
        """Be ready for rows of generations that are on the list and new."""

    @abstractmethod
    def _put(self, generation: Generation, rows: Sequence[Packed], progress: Progress | None) -> None:
        """Put rows into a generation under construction, except over what was written into it meanwhile and is as new."""

    @abstractmethod
    def _carry(self, before: Generation, generation: Generation, moment: int) -> None:
        """Put what is newer than `moment` from one generation into the one under construction, as `_put` does."""

    @abstractmethod
    def _remove(self, id: int) -> bool:
        """Remove the rows of a generation that nobody reads, and say whether all are gone; others get their turn meanwhile."""


def batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Neighbouring rows, at most so many together."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def changed(change: Change, held: Mapping[View, Mapping[str, Row]]) -> dict[View, list[Packed]]:
    """What `change` makes of the rows held.

    Raises:
        ValueError: it makes rows of a view that it was not shown.
    """
    made = {view: list(rows) for view, rows in change(held).items()}
    if unknown := made.keys() - held.keys():
        raise ValueError(f"rows of view(s) that were not asked for: {', '.join(view.name for view in unknown)}")
    return made


def open_rows(settings: Settings, shop: str) -> Rows:
    """The online store that the settings name."""
    if settings.online_store is None:
        from features.online.embedded import EmbeddedRows

        return EmbeddedRows(Home(settings).online / f"{shop}.db")
    from features.online.redis import RedisRows

    return RedisRows(settings.online_store.get_secret_value(), shop)
