"""What a table job is: one feature table, the tables it reads, and the function between them.

Imports no Spark: whoever only reads the features of a shop runs its own files, which say jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from features.profiles import ProfileRules
from features.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FIRST = "_first"
"""The first local day whose row may differ from what is stored."""
KNOWN = "_known"
"""When the newest of the facts that touch a key became known."""


@dataclass(frozen=True)
class Inputs:
    """What a job is given: a frame per declared input, the shop's zone, calendars and profile rules, and how far time has come.

    `last_day` is the last local day that is over at the shop's clock. A daily row of day D is stamped with the first instant
    of D+1, so rows of later days would be stamped in the future and are not written.

    `first_days` holds, in an incremental build, the keys whose rows are wanted, each with its FIRST day; a job may leave out the
    days before it. The frames then hold only the rows of these keys.
    """

    frames: Mapping[str, DataFrame]
    time_zone: str
    calendars: tuple[str, ...]
    last_day: date
    profile: ProfileRules = field(default_factory=ProfileRules)
    first_days: DataFrame | None = None

    def __getitem__(self, table: Table) -> DataFrame:
        return self.frames[table.path]


@dataclass(frozen=True)
class Scope:
    """What of a table new facts touch: all its rows of a `key` (a column) depend on nothing but the facts of that key.

    Attributes:
        key: a column of the table; the facts of a key are the rows of the inputs with that column that hold it.
        reach_days: how many local days after its own a fact brings rows about, each once that day is over: (0, 7) for sums over
            7 days, which it enters and leaves. None of them: a fact brings all of its rows about at once, whatever day it is.
        is_daily: whether a fact leaves the rows of the days before it as they were; else all rows of its key are computed anew.
        due: (all inputs whole, the table's rows with all their revisions, the last day it was built for) -> keys of which time
            alone makes or takes rows, with FIRST; where `reach_days` cannot say it.
        others: (input, its new rows with KNOWN, all inputs whole) -> more keys that they touch, with KNOWN, and FIRST where not all
            of their rows may differ; None: no others.
        cut: (all inputs whole, touched keys) -> what the rows of these keys depend on, where that is more than the facts that
            hold them, or inputs without the key would be handed over whole.
        common: all inputs whole -> what the rows of all keys depend on. Where it changes, the table is computed as a whole.
    """

    key: str
    reach_days: Sequence[int] = (0,)
    is_daily: bool = True
    due: Callable[[Inputs, DataFrame, date], DataFrame] | None = None
    others: Callable[[Table, DataFrame, Inputs], DataFrame | None] | None = None
    cut: Callable[[Inputs, DataFrame], Mapping[str, DataFrame]] | None = None
    common: Callable[[Inputs], Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Job:
    """One feature table, what it is computed from, and how. `run` hands the inputs to the module's pure `transform`.

    `settings` names what it reads of the shop beside its zone and calendars. Without a `scope` a build computes all rows, whatever
    changed, and adds those that differ.
    """

    table: Table
    reads: tuple[Table, ...]
    run: Callable[[Inputs], DataFrame]
    settings: tuple[str, ...] = ()
    scope: Scope | None = None


def of_keys(rows: DataFrame, key: str, keys: DataFrame) -> DataFrame:
    """The rows that hold one of the keys."""
    return rows.join(keys.select(key), key, "left_semi")
