"""What a table job is: one feature table, the tables it reads, and the function between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from pyspark.sql import DataFrame

from features.profiles import ProfileRules
from features.tables import Table

FIRST = "_first"
"""The first local day whose row may differ from what is stored."""
ANY_DAY = "0001-01-01"
"""A FIRST before every day: all rows may."""


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
    """What of a table new facts touch: all its rows of a `key` (a column) depend on nothing but the input rows of that key.

    Attributes:
        key: column of the table and of the inputs that are cut to the touched keys; other inputs are handed over whole.
        reach_days: for a daily table, how many local days after its own a fact still brings rows about; None: the table is not
            daily, and all rows of a touched key are computed anew.
        others: for a change of an input without the key: (table, its new rows, all inputs whole) -> a frame of touched keys.
    """

    key: str
    reach_days: int | None = None
    others: Callable[[Table, DataFrame, Inputs], DataFrame] | None = None


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
