"""The one driver of all table jobs: reads current inputs, skips what is already built, commits with lineage.

A table's input digest is made of the versions of the tables it reads, the shop's zone, calendars and horizon, and the code and
declaration of the table; a rerun with the same digest writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import features.calendars
import features.profiles
import features.windows
from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.shop import Shop
from features.tables import RAW_TABLES, Table
from infra import clock
from infra.errors import SettingsError, TableContractError
from infra.home import Home
from infra.journal import Journal
from infra.lake import Lake, digest_of
from infra.settings import Settings
from infra.source import code_digest
from spark_jobs import (
    categories,
    clean_reviews,
    daily_demand,
    days,
    interactions,
    item_activity,
    item_catalog,
    raw,
    sales,
    sessions,
    states,
    user_activity,
    user_category_affinity,
    user_history,
    user_profile,
    windows,
)
from spark_jobs.job import Inputs, Job
from spark_jobs.session import read_table, session, share_out, write_table

_MODULES = (
    item_catalog, interactions, sessions, user_history, user_activity, item_activity, user_category_affinity, user_profile,
    daily_demand, clean_reviews,
)  # fmt: skip
_SHARED = (categories, days, raw, sales, states, windows, features.calendars, features.profiles, features.windows)

JOBS: dict[str, Job] = {module.JOB.table.name: module.JOB for module in _MODULES}
"""Name of a feature table -> its job."""
_CODE = {module.JOB.table.name: (module, *_SHARED) for module in _MODULES}


@dataclass(frozen=True)
class Horizon:
    """How far time has come at the shop's clock.

    `now` bounds the facts that are read, `last_day` is the last local day that is over, `cuts` says whether any fact lies at or
    after `now` (else the exact instant of `now` is no part of what a table is computed from).
    """

    now: datetime
    last_day: date
    cuts: bool

    @classmethod
    def of(cls, now: datetime, shop: Shop, lake: Lake) -> Horizon:
        """The horizon of a shop at `now` (aware)."""
        newest = lake.newest(table.path for table in RAW_TABLES.values() if EVENT_TIMESTAMP in table.names)
        return cls(now, now.astimezone(shop.zone).date() - timedelta(1), newest is not None and newest >= now)


@dataclass(frozen=True)
class Range:
    """Local days, both included, whose rows are rebuilt: those stamped on these days.

    Raises:
        SettingsError: the first day lies after the last.
    """

    first: date = date.min
    last: date = date.max

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise SettingsError(f"--from {self.first} lies after --to {self.last}; expected a range of local days, both included.")


class Snapshot:
    """The tables as one build sees them: raw ones in the versions of its start, each read and cleaned once for all jobs."""

    def __init__(self, spark: SparkSession, lake: Lake, horizon: Horizon) -> None:
        self.spark = spark
        self.lake = lake
        self.horizon = horizon
        self._versions = {table.path: lake.version(table.path) for table in RAW_TABLES.values()}
        self._current: dict[str, DataFrame] = {}

    def version(self, table: Table) -> int | None:
        """The version that is read; None if the table does not exist."""
        return self._versions[table.path] if table.kind == "raw" else self.lake.version(table.path)

    def frame(self, table: Table) -> DataFrame:
        """Feature rows as they are; raw rows in their newest version, none from after the shop's now, kept for the next job.

        Raises:
            TableContractError: the stored table lacks a declared column.
        """
        if table.kind == "features":
            return read_table(self.spark, self.lake, table, self.version(table))
        if table.path not in self._current:
            self._current[table.path] = self._read(table)
        return self._current[table.path]

    def _read(self, table: Table) -> DataFrame:
        version = self.version(table)
        rows = read_table(self.spark, self.lake, table, version)
        if self.horizon.cuts:  # a correction that came after the shop's now hides nothing
            rows = rows.where(F.col(CREATED_TIMESTAMP) <= F.lit(self.horizon.now))
        rows = raw.current(rows, table)
        if version is None:
            return rows  # stays empty in the plans of the jobs, which shrink around it
        if self.horizon.cuts and EVENT_TIMESTAMP in table.names:
            rows = rows.where(F.col(EVENT_TIMESTAMP) < F.lit(self.horizon.now))
        return rows.persist()


@dataclass(frozen=True)
class Built:
    """What became of one table."""

    table: str
    version: int
    num_rows: int
    seconds: float
    skipped: bool


def build(
    settings: Settings,
    names: Iterable[str] = (),
    between: Range | None = None,
    on_table: Callable[[str], None] | None = None,
    on_built: Callable[[Built], None] | None = None,
) -> list[Built]:
    """Build feature tables of the settings' shop, each after what it reads.

    Args:
        names: feature tables; what they are built from comes along. None: all.
        between: rebuild only rows of the named tables stamped in this range and keep the others; tables that come along
            are built whole.
        on_table, on_built: told when a table begins and ends.

    Raises:
        SettingsError: a name that is no feature table.
        TableContractError: a range of a table that was never built.
        TableConflictError: somebody else committed to a table meanwhile.
        HomeError: another build or an ingest of this shop is running.
    """
    home = Home(settings).create()
    shop = Shop.load(home)
    lake = Lake.open(settings, shop.name)
    asked = list(names) or list(JOBS)
    order = in_order(asked)
    results = []
    with home.lock(f"build-{shop.name}"), session(settings, "build") as spark:
        # between two commits of an ingest, running or killed, the raw tables do not belong together
        with home.lock(f"ingest-{shop.name}"):
            Journal(lake, "ingest").recover()
            horizon = Horizon.of(clock.now(settings.now or shop.now, lake), shop, lake)
            snapshot = Snapshot(spark, lake, horizon)
        share_out(spark, lake)
        for name in order:
            if on_table:
                on_table(name)
            built = build_table(snapshot, shop, JOBS[name], between if name in asked else None)
            results.append(built)
            if on_built:
                on_built(built)
    return results


def in_order(names: Iterable[str]) -> list[str]:
    """The named feature tables (none: all) and what they are built from, each after what it reads.

    Raises:
        SettingsError: a name that is no feature table.
    """
    reads = {name: [table.name for table in job.reads if table.kind == "features"] for name, job in JOBS.items()}
    wanted: set[str] = set()
    pending = list(names) or list(JOBS)
    while pending:
        name = pending.pop()
        if name not in JOBS:
            raise SettingsError(f"no feature table {name!r}; there are {', '.join(JOBS)}.")
        if name not in wanted:
            wanted.add(name)
            pending += reads[name]
    return list(TopologicalSorter({name: reads[name] for name in JOBS if name in wanted}).static_order())


def build_table(snapshot: Snapshot, shop: Shop, job: Job, between: Range | None = None) -> Built:
    """Build one table from the versions of the snapshot, or leave it where nothing changed.

    Raises:
        TableContractError: a range of a table that was never built, or rows that break its declaration.
        TableConflictError: somebody else committed to the table meanwhile.
    """
    began = time.monotonic()
    lake, horizon = snapshot.lake, snapshot.horizon
    versions = {table.path: snapshot.version(table) for table in job.reads}
    base = lake.version(job.table.path)
    if between and base is None:
        raise TableContractError(
            f"table {job.table.path} has no rows outside {between.first} to {between.last} to keep; "
            "build it once without --from and --to."
        )
    digest = digest_of(
        versions,
        {"time_zone": shop.time_zone, "calendars": shop.calendars, "last_day": horizon.last_day},
        {name: getattr(shop, name) for name in job.settings},
        {"now": horizon.now if horizon.cuts else None, "between": between},
        {"table": repr(job.table), "code": code_digest(*_CODE[job.table.name])},
    )
    commit = lake.committed(job.table.path, digest, base)
    if commit is None:
        frames = {table.path: snapshot.frame(table) for table in job.reads}
        rows = job.run(Inputs(frames, shop.time_zone, shop.calendars, horizon.last_day, shop.profile))
        if between:
            rows = _replaced(read_table(snapshot.spark, lake, job.table, base), rows, between, shop)
        metadata = _metadata(versions, horizon, between, base)
        commit = write_table(rows, lake, job.table, "overwrite", digest=digest, read_version=base, metadata=metadata)
    return Built(job.table.name, commit.version, commit.num_rows, time.monotonic() - began, commit.skipped)


def _replaced(old: DataFrame, new: DataFrame, between: Range, shop: Shop) -> DataFrame:
    """`old` with its rows of the range replaced by those of `new`."""
    day = days.local_day(F.col(EVENT_TIMESTAMP), shop.time_zone)
    inside = day.between(F.lit(between.first), F.lit(between.last))
    return old.where(~inside).unionByName(new.where(inside))


def _metadata(versions: Mapping[str, int | None], horizon: Horizon, between: Range | None, base: int | None) -> dict[str, Any]:
    """What the commit keeps: the version of each input, the horizon, and for a range which version the other rows are from."""
    kept = {
        "inputs": {path: version for path, version in versions.items() if version is not None},
        "last_day": str(horizon.last_day),
    }
    return kept | ({"between": [str(between.first), str(between.last)], "base": base} if between else {})
