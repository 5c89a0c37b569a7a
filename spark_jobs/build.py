"""The one driver of all table jobs: reads current inputs, skips what is already built, commits with lineage.

A table's input digest is made of the versions of the tables it reads, the shop's zone, calendars and horizon, and the code and
declaration of the table; a rerun with the same digest writes nothing. Where its inputs only gained rows since, a table gains
rows too: what the new facts touch is computed anew, and what differs is added (`spark_jobs/revisions.py`). Where its code, its
declaration or the shop's zone changed, or an input was rewritten, it is computed and written as a whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from features.columns import CREATED_TIMESTAMP, DS, EVENT_TIMESTAMP
from features.fresh.intake import Intake
from features.quality.gate import Gate
from features.quality.overview import check_names
from features.revisions import REVISED, has_revisions
from features.shop import Shop
from features.tables import RAW_TABLES, Table
from infra import clock
from infra.errors import SettingsError, TableContractError
from infra.home import Home
from infra.journal import Journal
from infra.lake import Commit, Lake, digest_of, reached
from infra.settings import Settings
from spark_jobs import days, raw, revisions
from spark_jobs.job import FIRST, KNOWN, Inputs, Job
from spark_jobs.jobs import code_of, in_order, jobs_of
from spark_jobs.revisions import IS_REVISION, SINCE, TAKEN, TAKEN_TYPE, revise
from spark_jobs.session import POSITION, read_table, session, share_out, typed, write_table
from spark_jobs.touched import Change, cut, touched_keys


@dataclass(frozen=True)
class Horizon:
    """How far time has come at the shop's clock.

    `now` bounds the facts that are read, `last_day` is the last local day that is over, `cuts` says whether any fact is true or known at
    or after `now` (else the exact instant of `now` is no part of what a table is computed from).
    """

    now: datetime
    last_day: date
    cuts: bool

    @classmethod
    def of(cls, now: datetime, shop: Shop, lake: Lake) -> Horizon:
        """The horizon of a shop at `now` (aware)."""
        newest = [lake.newest((table.path for table in RAW_TABLES.values()), time) for time in (EVENT_TIMESTAMP, CREATED_TIMESTAMP)]
        cuts = any(time is not None and time >= now for time in newest)
        return cls(now, now.astimezone(shop.zone).date() - timedelta(1), cuts)

    def told(self) -> dict[str, Any]:
        """What a commit keeps of it."""
        return {"last_day": str(self.last_day), "now": self.now.isoformat(), "cuts": self.cuts}


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
        self._current: dict[tuple[str, int | None], DataFrame] = {}
        self._held: list[DataFrame] = []

    def version(self, table: Table) -> int | None:
        """The version that is read; None if the table does not exist."""
        return self._versions[table.path] if table.kind == "raw" else self.lake.version(table.path)

    def lineage(self, table: Table) -> int | None:
        """The version that first held the rows that are read: what a table built from them names. None if the table does not exist."""
        version = self.version(table)
        return None if version is None else self.lake.rows_of(table.path, version)

    def frame(self, table: Table) -> DataFrame:
        """Current feature rows; raw rows in their newest version, none from after the shop's now, kept for the next job.

        Raises:
            TableContractError: the stored table lacks a declared column.
        """
        read = (table.path, self.version(table))
        if read not in self._current:
            self._current[read] = self._features(table) if table.kind == "features" else self._raw(table)
        return self._current[read]

    def _features(self, table: Table) -> DataFrame:
        rows = self.every(table)
        current = revisions.current(rows, table)
        return self.hold(current) if POSITION in rows.columns else current  # else reading it anew costs less

    def _raw(self, table: Table) -> DataFrame:
        version = self.version(table)
        rows = read_table(self.spark, self.lake, table, version)
        if self.horizon.cuts:  # a correction that came after the shop's now hides nothing
            rows = rows.where(F.col(CREATED_TIMESTAMP) <= F.lit(self.horizon.now))
        rows = raw.current(rows, table, is_revised=version is None or has_revisions(self.lake, table.path, version))
        if version is None:
            return rows  # stays empty in the plans of the jobs, which shrink around it
        if self.horizon.cuts and EVENT_TIMESTAMP in table.names:
            rows = rows.where(F.col(EVENT_TIMESTAMP) < F.lit(self.horizon.now))
        return self.hold(rows)

    def hold(self, rows: DataFrame) -> DataFrame:
        """Keep the rows of a frame that several jobs or steps read, until `release`."""
        self._held.append(rows.persist())
        return self._held[-1]

    def release(self) -> None:
        """Let go of what is held: Spark compares each plan with all that it holds."""
        while self._held:
            self._held.pop().unpersist()

    def inputs(self, job: Job, shop: Shop) -> Inputs:
        """All that a job reads, whole."""
        frames = {table.path: self.frame(table) for table in job.reads}
        return Inputs(frames, shop.time_zone, shop.calendars, self.horizon.last_day, shop.profile)

    def newest(self, table: Table) -> DataFrame:
        """The newest revision of each row of a feature table, those taken back included."""
        return revisions.newest(self.every(table), table)

    def newest_of(self, table: Table, key: str, touched: DataFrame) -> DataFrame:
        """The same of the rows that hold one of the touched keys, with what `touched` says of each."""
        if key not in table.keys:  # a revision may have given the row to another
            return self.newest(table).join(touched, key)
        rows = self.every(table).join(touched, key)
        if DS in table.keys:  # each day has a row of its own: none of those before the touched days comes before one of theirs
            rows = rows.where(F.col(SINCE).isNull() | (F.col(EVENT_TIMESTAMP) >= F.col(SINCE)))
        return revisions.newest(rows, table)

    def every(self, table: Table) -> DataFrame:
        """The rows of a feature table with all their revisions, where there may be some in order, by POSITION."""
        version = self.lake.version(table.path)
        return read_table(self.spark, self.lake, table, version, in_order=has_revisions(self.lake, table.path, version))


@dataclass(frozen=True)
class Standing:
    """What the rows of a feature table were last built from."""

    inputs: Mapping[str, int]
    basis: str
    common: Mapping[str, str]
    last_day: date
    now: datetime
    cuts: bool

    @classmethod
    def of(cls, lake: Lake, path: str) -> Standing | None:
        """The last build of a table that told all of it; None: there is none."""
        for entry in reached(lake.history(path)) if lake.version(path) is not None else ():
            if "basis" in entry:
                last_day, now = date.fromisoformat(entry["last_day"]), datetime.fromisoformat(entry["now"])
                return cls(
                    json.loads(entry["inputs"]), entry["basis"], json.loads(entry["common"]), last_day, now, entry["cuts"] == "true"
                )
        return None

    def told(self) -> dict[str, Any]:
        """The same as a commit keeps it."""
        return {
            "inputs": self.inputs,
            "basis": self.basis,
            "common": self.common,
            **Horizon(self.now, self.last_day, self.cuts).told(),
        }


@dataclass(frozen=True)
class Built:
    """What became of one table. `num_rows`: those its last commit brought; where they were `added`, the others stayed."""

    table: str
    version: int
    num_rows: int
    seconds: float
    skipped: bool
    added: bool = False


def build(
    settings: Settings,
    names: Iterable[str] = (),
    between: Range | None = None,
    on_table: Callable[[str], None] | None = None,
    on_built: Callable[[Built], None] | None = None,
) -> list[Built]:
    """Build feature tables of the settings' shop, each after what it reads; what was posted is committed to the raw tables before.

    Args:
        names: feature tables; what they are built from comes along. None: all.
        between: rebuild only rows of the named tables stamped in this range and keep the others; tables that come along
            are built whole.
        on_table, on_built: told when a table begins and ends.

    Raises:
        SettingsError: a name that is no feature table.
        FeatureError: an own file of the shop says no feature table.
        TableContractError: a range of a table that was never built, or rows that break a hard expectation.
        TableConflictError: somebody else committed to a table meanwhile.
        HomeError: another build or an ingest of this shop is running.
        EngineError: what was posted cannot be read; nothing is built without it.
    """
    home = Home(settings).create()
    shop = Shop.load(home)
    lake = Lake.open(settings, shop.name)
    jobs = jobs_of(shop)
    asked = list(names) or list(jobs)
    order = in_order(asked, jobs)
    results = []
    with home.lock(f"build-{shop.name}"), session(settings, "build") as spark:
        Intake.of(settings, shop, lake).drain()  # else a row would say of its day what was in the tables, not what was told
        # between two commits of an ingest, running or killed, the raw tables do not belong together
        with home.lock(f"ingest-{shop.name}"):
            Journal(lake, "ingest").recover()
            horizon = Horizon.of(clock.now(settings.now or shop.now, lake), shop, lake)
            snapshot = Snapshot(spark, lake, horizon)
        check_raw_tables(snapshot, shop)
        share_out(spark, lake)
        for name in order:
            if on_table:
                on_table(name)
            built = build_table(snapshot, shop, jobs[name], between if name in asked else None)
            results.append(built)
            if on_built:
                on_built(built)
        snapshot.release()
    return results


def check_raw_tables(snapshot: Snapshot, shop: Shop) -> None:
    """Hold the raw tables, in the versions that are read, against what is expected of them; a version that passed is not read again.

    Raises:
        TableContractError: one breaks a hard expectation: nothing is built from it.
        SettingsError: the shop expects something of a table or column that there is not.
    """
    check_names(shop)
    for table in RAW_TABLES.values():
        version = snapshot.version(table)
        if version is not None:
            Gate(snapshot.lake, shop, table, snapshot.horizon.now).stand(version)


def build_table(snapshot: Snapshot, shop: Shop, job: Job, between: Range | None = None) -> Built:
    """Build one table from the versions of the snapshot, or leave it where nothing changed.

    Raises:
        TableContractError: a range of a table that was never built, or rows that break its declaration or a hard expectation.
        TableConflictError: somebody else committed to the table meanwhile.
    """
    began = time.monotonic()
    lake, horizon, path = snapshot.lake, snapshot.horizon, job.table.path
    versions = {table.path: snapshot.lineage(table) for table in job.reads}
    if between and lake.version(path) is None:
        raise TableContractError(
            f"table {path} has no rows outside {between.first} to {between.last} to keep; build it once without --from and --to."
        )
    basis = digest_of(
        {"time_zone": shop.time_zone, "calendars": shop.calendars},
        {name: getattr(shop, name) for name in job.settings},
        {"table": repr(job.table), "code": code_of(job, shop)},
    )
    base = lake.version(path)
    digest = digest_of(versions, basis, str(horizon.last_day), {"now": horizon.now if horizon.cuts else None, "between": between})
    gate = Gate(lake, shop, job.table, horizon.now)
    if commit := lake.committed(path, digest, base):
        gate.keep(commit.version)
        return Built(job.table.name, commit.version, commit.num_rows, time.monotonic() - began, skipped=True)
    standing = Standing.of(lake, path)
    changes = None if standing is None else _changes(snapshot, job, versions, standing)
    common = job.scope.common(snapshot.inputs(job, shop)) if job.scope and job.scope.common else {}
    is_comparable = standing is not None and standing.basis == basis and standing.common == common and standing.now <= horizon.now
    metadata = {
        "inputs": {p: v for p, v in versions.items() if v is not None},
        "basis": basis,
        "common": common,
        "time_zone": shop.time_zone,
        **horizon.told(),
    }
    if base is not None and lake.add_columns(path, job.table.stored_schema):
        base = lake.version(path)
    added = between is not None or (changes is not None and is_comparable)
    if added:
        if between:  # the other rows are as they were built
            metadata |= {"between": [str(between.first), str(between.last)], **(standing.told() if standing else {"inputs": {}})}
        rows = _revisions(snapshot, shop, job, standing, changes or (), between)
        commit = _append(rows, lake, job.table, digest, base, metadata, gate)
    else:
        rows = job.run(snapshot.inputs(job, shop))
        metadata |= {REVISED: 0}
        commit = write_table(
            rows, lake, job.table, "overwrite", digest=digest, read_version=base, metadata=metadata, check=gate.check
        )
    gate.keep(commit.version)
    return Built(job.table.name, commit.version, commit.num_rows, time.monotonic() - began, commit.skipped, added)


def _changes(snapshot: Snapshot, job: Job, versions: Mapping[str, int | None], standing: Standing) -> tuple[Change, ...] | None:
    """What came to the inputs of a job since a build of it; None where more happened to one than that rows came to it."""
    changes = []
    for table in job.reads:
        since, version = standing.inputs.get(table.path), versions[table.path]
        before, now = (each.now if each.cuts and table.kind == "raw" else None for each in (standing, snapshot.horizon))
        if version == since and (version is None or not before):
            continue
        files = None if version is None else snapshot.lake.added_files(table.path, since, version)
        held = snapshot.version(table)
        if held is None or files is None:
            return None
        changes.append(Change(table, since, held, files, before, now))
    return tuple(changes)


def _revisions(
    snapshot: Snapshot, shop: Shop, job: Job, standing: Standing | None, changes: Sequence[Change], between: Range | None
) -> DataFrame:
    """The rows that a table has to gain; with IS_REVISION."""
    lake, horizon = snapshot.lake, snapshot.horizon
    inputs = snapshot.inputs(job, shop)
    newest = lake.newest((table.path for table in job.reads), CREATED_TIMESTAMP)
    known = F.lit(None if newest is None else min(newest, horizon.now)).cast("timestamp")
    if job.scope and standing and not between:
        key = job.scope.key
        touched = touched_keys(snapshot.spark, lake, job.scope, changes, inputs, snapshot.every(job.table), standing.last_day)
        keys = snapshot.hold(touched.withColumn(KNOWN, F.coalesce(KNOWN, known)))
        keys.count()  # Spark sends few keys to all facts, and only where it knows that they are few; else it sorts all facts by key
        inputs = replace(inputs, frames=cut(inputs, job.scope, keys), first_days=keys.select(key, FIRST))
        computed = typed(job.run(inputs), job.table.schema)
        touched = keys.drop(FIRST)
        return revise(snapshot.newest_of(job.table, key, touched), computed.join(touched, key), job.table)
    nothing = F.lit(None).cast("timestamp")
    touch = {
        SINCE: nothing,
        TAKEN: F.array().cast(TAKEN_TYPE),
        KNOWN: known,
    }
    stored, computed = snapshot.newest(job.table), typed(job.run(inputs), job.table.schema)
    if between:
        touch[SINCE] = days.first_instant(F.lit(between.first), shop.time_zone)
        before_end = days.local_day(F.col(EVENT_TIMESTAMP), shop.time_zone) <= F.lit(between.last)
        stored, computed = stored.where(before_end), computed.where(before_end)
    return revise(stored.withColumns(touch), computed.withColumns(touch), job.table)


def _append(
    rows: DataFrame, lake: Lake, table: Table, digest: str, base: int | None, metadata: Mapping[str, Any], gate: Gate
) -> Commit:
    """Add rows to a table, and note how many of them revise others."""
    rows = rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        (revised,) = rows.agg(F.count_if(IS_REVISION)).collect()[0]
        noted = {**metadata, REVISED: revised}
        return write_table(rows, lake, table, "append", digest=digest, read_version=base, metadata=noted, check=gate.check)
    finally:
        rows.unpersist()
