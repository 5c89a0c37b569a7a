"""What a table job is: one feature table, the tables it reads, and the function between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from pyspark.sql import DataFrame

from features.profiles import ProfileRules
from features.tables import Table


@dataclass(frozen=True)
class Inputs:
    """What a job is given: a frame per declared input, the shop's zone, calendars and profile rules, and how far time has come.

    `last_day` is the last local day that is over at the shop's clock. A daily row of day D is stamped with the first instant
    of D+1, so rows of later days would be stamped in the future and are not written.
    """

    frames: Mapping[str, DataFrame]
    time_zone: str
    calendars: tuple[str, ...]
    last_day: date
    profile: ProfileRules = field(default_factory=ProfileRules)

    def __getitem__(self, table: Table) -> DataFrame:
        return self.frames[table.path]


@dataclass(frozen=True)
class Job:
    """One feature table, what it is computed from, and how. `run` hands the inputs to the module's pure `transform`.

    `settings` names what it reads of the shop beside its zone and calendars.
    """

    table: Table
    reads: tuple[Table, ...]
    run: Callable[[Inputs], DataFrame]
    settings: tuple[str, ...] = ()
