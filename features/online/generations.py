"""Generations: which rows a reader of a view finds, and which a writer must put. Pure functions over one shop's list of them.

A generation is the rows of one definition of a view. A rebuild makes a new one that nobody reads, and one step makes it current,
together with those of other views: a reader finds all of before or all of after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Literal, Self

from features.online.packing import Layout
from features.views import View
from infra.errors import FeatureError

State = Literal["building", "restoring", "current", "retired"]
"""`building` takes whatever is written meanwhile; `restoring` takes no updates, since those are made of rows that it replaces."""


@dataclass(frozen=True)
class Generation:
    """One set of rows. `columns` are the names and types its rows are packed with, as JSON; `as_of`, in microseconds UTC, is the
    instant of its rebuild, and `source` the version of the table that it was made from: None where rows were only ever put, so that
    nobody knows whether they are all."""

    id: int
    view: str
    digest: str
    columns: str
    state: State
    as_of: int | None = None
    source: int | None = None

    @classmethod
    def of(cls, view: View, state: State, as_of: int | None = None, source: int | None = None) -> Self:
        """A new one. Its number is the time in nanoseconds: greater than those before it, and never given again."""
        return cls(time.time_ns(), view.name, view.digest, json.dumps(view.columns), state, as_of, source)

    @property
    def layout(self) -> Layout:
        return _layout(self.columns)

    def is_of(self, view: View) -> bool:
        return (self.view, self.digest) == (view.name, view.digest)

    def may_hold_newer(self, moment: int) -> bool:
        """Whether what its rebuild put may be newer than a moment; else only rows that were put by themselves are."""
        return self.as_of is not None and moment < self.as_of

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls(**json.loads(text))


Generations = list[Generation]


def readable(generations: Iterable[Generation], view: View) -> Generation | None:
    """What a reader of the view gets: its own definition once that is complete; until then the newest complete one."""
    current = [g for g in generations if g.view == view.name and g.state == "current"]
    own = next((g for g in current if g.digest == view.digest), None)
    if own and own.as_of is not None:
        return own
    complete = [g for g in current if g.as_of is not None]
    return max(complete, key=lambda g: (g.as_of, g.id), default=own)


def current(generations: Iterable[Generation], view: View) -> Generation | None:
    """What readers of the view's own definition get."""
    return next((g for g in generations if g.state == "current" and g.is_of(view)), None)


def written(generations: Iterable[Generation], view: View, is_update: bool) -> Generations:
    """Every generation that a row of the view goes to."""
    states = ("current", "building") if is_update else ("current", "building", "restoring")
    return [g for g in generations if g.state in states and g.is_of(view)]


def begun(generations: Iterable[Generation], made: Collection[Generation]) -> Generations:
    """With new generations under construction; others of the same definitions, which a killed process left, are retired."""
    definitions = {(g.view, g.digest) for g in made}
    kept = [
        replace(g, state="retired") if g.state in ("building", "restoring") and (g.view, g.digest) in definitions else g
        for g in generations
    ]
    return [*kept, *made]


def switched(generations: Generations, made: Collection[Generation]) -> Generations:
    """With the new generations current and those in their place retired.

    Raises:
        FeatureError: another process took their place first.
    """
    check_building(generations, made)
    ids, definitions = {g.id for g in made}, {(g.view, g.digest) for g in made}
    found: Generations = []
    for g in generations:
        if g.id in ids:
            found.append(replace(g, state="current"))
        elif g.state == "current" and (g.view, g.digest) in definitions:
            found.append(replace(g, state="retired"))
        else:
            found.append(g)
    return found


def dropped(generations: Iterable[Generation], view_name: str) -> Generations:
    """With all of the view's retired."""
    return [replace(g, state="retired") if g.view == view_name else g for g in generations]


def check_building(generations: Iterable[Generation], made: Collection[Generation]) -> None:
    """Raises FeatureError where one of `made` is no longer under construction."""
    still = {g.id for g in generations if g.state in ("building", "restoring")}
    if lost := sorted({g.view for g in made if g.id not in still}):
        raise FeatureError(
            f"online rows of {', '.join(lost)} are being rebuilt by another process, or were dropped; what this one made is not "
            "shown. Let one finish, then run `shopgraph features materialize` again."
        )


@lru_cache(maxsize=256)
def _layout(columns: str) -> Layout:
    return Layout([(name, kind) for name, kind in json.loads(columns)])
