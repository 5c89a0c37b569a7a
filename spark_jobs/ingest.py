"""`shopgraph ingest`: a shop's own data into its raw tables, all of it or nothing.

New parts of the sources are staged as Parquet, mapped and validated on Spark, compared with what is there, written, and
committed together through a journal. read = accepted + duplicates + quarantined + dropped holds for every source and table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.progress import Progress

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID
from features.mapping import Source, TableMapping
from features.revisions import REVISED
from features.shop import Shop
from features.tables import ITEMS, ORDERS, QUARANTINE_SCHEMA, RATES, RAW_TABLES, Table
from infra import clock
from infra.errors import HomeError, IngestError, disk_trouble
from infra.home import Home
from infra.journal import Append, Journal
from infra.lake import Lake, digest_of
from infra.settings import Settings
from spark_jobs.session import read_files, read_table, share_out, write_files
from spark_jobs.sources import drift, seen
from spark_jobs.sources.arrow_files import PART, ROW, family
from spark_jobs.sources.changes import ACCEPTED, CORRECTION, DUPLICATE, FATE, ORDER, decide
from spark_jobs.sources.mapped import DROPPED, REASON, SOURCE_ROW, mapped
from spark_jobs.sources.parts import Part, find_parts
from spark_jobs.sources.report import Line, Report
from spark_jobs.sources.returns import link
from spark_jobs.sources.seen import Seen
from spark_jobs.sources.staging import Staged, check_columns, stage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ingest(
    settings: Settings,
    shop: Shop,
    start: Callable[[], AbstractContextManager[SparkSession]],
    *,
    check: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read what is new in all sources of `shop` into its raw tables.

    Args:
        start: opens Spark; called only where something is new.
        check: do everything but the commit.

    Raises:
        IngestError: a source cannot be read or mapped, too large a share is bad, or the disk is full; nothing was committed.
        HomeError: another ingest of this shop is running, or the home cannot be written.
    """
    if not shop.sources:
        raise IngestError(f"shop {shop.name} has no sources; `shopgraph init {shop.name} --from <files>` writes them.")
    began = time.monotonic()
    home = Home(settings)
    with _plain_errors(home), home.lock(f"ingest-{shop.name}"):
        run = _Ingest(settings, shop, Lake.open(settings, shop.name), home, progress or Progress(disable=True), check)
        with run.scratch():
            run.read()
            if run.staged:
                if any(staged.num_rows for staged in run.staged):
                    with start() as spark, run.holding():
                        share_out(spark, run.lake, sum(staged.num_rows for staged in run.staged))
                        run.decide(spark)
                        if not check:
                            run.commit()
                elif not check:
                    run.commit()
    run.report.seconds = round(time.monotonic() - began, 3)
    return run.report


@dataclass(frozen=True)
class _Feed:
    """The rows of one source for one raw table."""

    staged: Staged
    mapping: TableMapping
    extras: dict[str, str]
    rows: DataFrame
    line: Line

    @property
    def good(self) -> DataFrame:
        """The rows that nothing is against: declared columns, kept columns, order."""
        names = [*self.mapping.declared.names, *self.extras.values(), ORDER]
        return self.rows.where(F.col(DROPPED).isNull() & F.col(REASON).isNull()).select(names)

    @property
    def content(self) -> list[str]:
        """What the source speaks of: two rows are equal where these are. A constant says nothing of when a row could be known."""
        said = [name for name, value in self.mapping.columns.items() if name != CREATED_TIMESTAMP or value.constant is None]
        return [*said, *self.extras.values()]


@dataclass
class _Ingest:
    """One run, step by step: read, decide, commit."""

    settings: Settings
    shop: Shop
    lake: Lake
    home: Home
    progress: Progress
    check: bool
    staged: list[Staged] = field(default_factory=list)
    accepted: dict[str, DataFrame] = field(default_factory=dict)
    feeds: list[_Feed] = field(default_factory=list)
    extras: dict[str, dict[str, str]] = field(default_factory=dict)
    newest: list[datetime] = field(default_factory=list)
    num_returns: int = 0
    held: list[DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = Report(self.shop.name, self.check)
        self.journal = Journal(self.lake, "ingest")
        self.scratch_uri = self.lake.uri("staging")
        if not self.check:
            for commit in self.journal.recover():
                self.report.notices.append(
                    f"{commit.path} version {commit.version}: finished what an interrupted ingest had begun."
                )
        self.seen = Seen.load(self.lake)
        self.task = self.progress.add_task("looking for new data", total=None)

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """The staging folder, gone afterwards; what a killed run left there goes first."""
        self._clear()
        try:
            yield
        finally:
            self._clear()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While the run lasts Spark keeps the frames that are counted and written; a session outlives a run."""
        try:
            yield
        finally:
            for frame in self.held:
                frame.unpersist()

    def read(self) -> None:
        """Find and stage the new parts of every source; all that is wrong with a source as a whole is found here."""
        found: list[tuple[Source, list[Part]]] = []
        for source in self.shop.sources:
            parts, skipped = find_parts(source, self.home.shop(self.shop.name), self.seen)
            self.report.parts_skipped += skipped
            check_columns(source, parts)
            self._check_readable_again(source, parts)
            for part in parts:
                if part.schema is not None:
                    drift.check_needed(source, {f.name: family(f.type) for f in part.schema}, part.name)
            if parts:
                found.append((source, parts))
        for source, parts in found:
            self._tell(f"reading {source.name}")
            staged = stage(source, parts, self.lake, f"{self.scratch_uri}/{uuid4().hex}", self._tell_rows)
            for read in staged.parts:
                drift.check_needed(source, read.columns, read.part.name)
                if read.num_rows == 0 and source.format != "postgres":
                    self.report.notices.append(f"{read.part.name} has no rows below its header.")
            self.extras[source.name] = self._extras(staged)
            self.report.parts_read += len(parts)
            self.staged.append(staged)

    def decide(self, spark: SparkSession) -> None:
        """Map and validate all rows, then tell new ones from duplicates and corrections."""
        present = self._present()
        jobs = sorted(
            ((staged, mapping) for staged in self.staged for mapping in staged.source.tables),
            key=lambda job: job[1].table != RATES.name,
        )
        for staged, mapping in jobs:
            self._tell(f"validating {staged.source.name} -> {mapping.table}")
            feed = self._feed(spark, staged, mapping, present)
            self.feeds.append(feed)
            if mapping.table == RATES.name:
                self._accept(spark, feed, present)
        self._stop_if_too_many_bad()
        known_from = self._known_from(present)
        for feed in self.feeds:
            if feed.mapping.table != RATES.name:
                self._tell(f"comparing {feed.line.source} -> {feed.mapping.table}")
                self._accept(spark, feed, known_from)
            feed.line.check()
        if self.num_returns:
            orders = self._hold(link(self.accepted[ORDERS.name], self._stored(spark, ORDERS)))
            self.accepted[ORDERS.name] = orders
            lone = orders.where("quantity < 0 and returned_order_id is null").count()
            if lone:
                self.report.notices.append(f"{lone:,} returns have no purchase they could take back; they are accepted as returns.")
        self._tell_unknown_items(spark)

    def commit(self) -> None:
        """Write all files, then make them visible together."""
        digest = digest_of(
            self.lake.version(seen.PATH),
            [(s.source.model_dump(mode="json"), [(p.part.digest, p.num_rows, p.cursor) for p in s.parts]) for s in self.staged],
        )
        appends: list[Append] = []
        try:
            for table, rows in self._quarantined(digest).items():
                appends.append(self._write(f"quarantine/{table}", rows, QUARANTINE_SCHEMA, digest))
            for table, rows in self.accepted.items():
                if not any(line.accepted for line in self.report.lines if line.table == table):
                    continue
                declared = RAW_TABLES[table]
                kept = dict.fromkeys(
                    [*self._kept(declared), *(n for n in rows.columns if n not in declared.names and n[:2] != "__")]
                )
                rows = rows.withColumns({name: F.lit(None) for name in kept if name not in rows.columns})
                schema = pa.schema([*declared.schema, *(pa.field(name, pa.string()) for name in kept)])
                revised = sum(line.corrections for line in self.report.lines if line.table == table)
                appends.append(self._write(declared.path, rows, schema, digest, revised))
            appends.append(self._write_seen(digest))
        except BaseException:
            for append in appends:
                self.lake.filesystem.delete_dir(self.lake.on_filesystem(append.attempt.uri))
            raise
        self._tell("committing")
        self.report.versions = {commit.path: commit.version for commit in self.journal.commit(appends)}

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _feed(self, spark: SparkSession, staged: Staged, mapping: TableMapping, present: datetime) -> _Feed:
        """The mapped rows of one source for one table, counted."""
        extras = self.extras[staged.source.name] if mapping is staged.source.tables[0] else {}
        frame = read_files(spark, self.lake, staged.files, staged.schema)
        rates = self.accepted.get(RATES.name)
        stored_rates = self._stored(spark, RATES)
        rates = stored_rates.unionByName(rates.drop(ORDER), allowMissingColumns=True) if rates is not None else stored_rates
        rows = mapped(frame, staged.source, self.staged.index(staged), mapping, extras, self.shop, rates, present)
        feed = _Feed(
            staged,
            mapping,
            extras,
            self._hold(rows),
            Line(staged.source.name, mapping.table, staged.num_rows),
        )
        times = [F.max(F.unix_micros(EVENT_TIMESTAMP)).alias("newest")] if EVENT_TIMESTAMP in mapping.declared.names else []
        for row in feed.rows.groupBy(DROPPED, REASON).agg(F.count(F.lit(1)).alias("count"), *times).collect():
            if row[DROPPED] is not None:
                feed.line.dropped[row[DROPPED]] = feed.line.dropped.get(row[DROPPED], 0) + row["count"]
            elif row[REASON] is not None:
                feed.line.quarantined += row["count"]
                feed.line.reasons[row[REASON]] = row["count"]
            elif times and mapping.declared.path in clock.FACTS:
                self.newest.append(_EPOCH + timedelta(microseconds=row["newest"]))
        self.report.lines.append(feed.line)
        return feed

    def _accept(self, spark: SparkSession, feed: _Feed, known_from: datetime) -> None:
        """Add the feed's new rows and corrections to what this run accepts of its table."""
        table = feed.mapping.declared
        stored = self._stored(spark, table)
        before = self.accepted.get(table.name)
        if before is not None:
            stored = stored.unionByName(before.drop(ORDER), allowMissingColumns=True)
        for name in feed.extras.values():
            if name not in stored.columns:
                stored = stored.withColumn(name, F.lit(None).cast("string"))
        decided = decide(feed.good, stored, table, feed.content, known_from, feed.mapping.identical)
        decided = self._hold(decided)
        is_return = F.col("quantity") < 0 if table is ORDERS else F.lit(False)
        told = decided.groupBy(FATE).agg(F.count(F.lit(1)).alias("count"), F.count_if(is_return).alias("returns")).collect()
        counts = {row[FATE]: row["count"] for row in told}
        self.num_returns += sum(row["returns"] for row in told if row[FATE] != DUPLICATE)
        feed.line.corrections = counts.get(CORRECTION, 0)
        feed.line.accepted = counts.get(ACCEPTED, 0) + feed.line.corrections
        feed.line.duplicates = counts.get(DUPLICATE, 0)
        if feed.mapping.is_bare:
            feed.line.identical = feed.line.accepted - decided.select(*feed.content).distinct().count()
        new = decided.where(F.col(FATE) != DUPLICATE).drop(FATE)
        self.accepted[table.name] = new if before is None else before.unionByName(new, allowMissingColumns=True)

    def _extras(self, staged: Staged) -> dict[str, str]:
        """Columns beyond the mapping that are kept, by the first table that the source feeds."""
        table, columns = staged.source.tables[0].declared, staged.columns
        stored = set(self._kept(table))
        kept, _ = drift.extras(staged.source, table, self.seen.columns(staged.source.name), [], stored)
        new, told = drift.check_changes(staged.source, columns, self.seen, set(kept))
        extras, also_told = drift.extras(staged.source, table, columns, new, stored)
        self.report.notices += told + also_told
        return extras

    def _hold(self, frame: DataFrame) -> DataFrame:
        """Keep the rows of a frame that is counted and written, in memory or on disk, to the end of the run."""
        self.held.append(frame.persist(StorageLevel.MEMORY_AND_DISK))
        return self.held[-1]

    def _kept(self, table: Table) -> list[str]:
        """Columns that the raw table has beyond its declaration."""
        exists = self.lake.version(table.path) is not None
        return [name for name in self.lake.dataset(table.path).schema.names if name not in table.names] if exists else []

    def _stored(self, spark: SparkSession, table: Table) -> DataFrame:
        return read_table(spark, self.lake, table)

    def _present(self) -> datetime:
        """The instant that facts must not lie after. A `data` clock only follows facts, so there it is the machine's."""
        mode = self.settings.now or self.shop.now
        return datetime.now(UTC) if mode == "data" else clock.now(mode, self.lake)

    def _known_from(self, present: datetime) -> datetime:
        """The instant that corrections of this run become known after: now, on a `data` clock the newest fact."""
        if (self.settings.now or self.shop.now) != "data":
            return present
        stored = clock.newest_fact(self.lake)
        return max([*self.newest, *([stored] if stored else [])], default=present)

    def _check_readable_again(self, source: Source, parts: Sequence[Part]) -> None:
        """Rows without ids cannot be told from those that the same part gave before, or gave to another source."""
        bare = source.bare
        if bare is None:
            return
        fed = {mapping.table for mapping in source.tables if mapping.is_bare}
        apart = {
            other.name
            for other in self.shop.sources
            if other.format == "postgres" or not fed & {mapping.table for mapping in other.tables}
        }
        known, elsewhere = self.seen.parts(source.name), self.seen.sources(apart)
        for part in parts:
            if part.name not in known:
                if other := elsewhere.get(part.name) or elsewhere.get(part.digest):
                    remedy = f"give source {source.name} that name again, or say `identical: drop`."
                    if source.format == "postgres":  # the name of a database does not say what was asked of it
                        remedy = f"put source {other} back into shop.yaml beside it where its query was another; else {remedy}"
                    raise IngestError(
                        f"{part.name} was read before as source {other}, and {bare.name} has no {bare.row_id}: its rows would be "
                        f"counted twice; {remedy}"
                    )
            elif source.format != "postgres":
                raise IngestError(
                    f"{part.name} was read before and has changed, and {bare.name} has no {bare.row_id}: its old rows would be "
                    "counted twice. Deliver new rows in a new file, or say `identical: drop`."
                )
            elif not source.cursor:
                raise IngestError(
                    f"source {source.name} was read before and has no `cursor`, and {bare.name} has no {bare.row_id}: its rows would "
                    f"be counted twice. Declare a cursor column or map {bare.row_id}."
                )

    def _stop_if_too_many_bad(self) -> None:
        for line in self.report.lines:
            if line.quarantine_share > self.shop.quarantine_share:
                top = sorted(line.reasons.items(), key=lambda item: -item[1])[:3]
                told = "; ".join(f"{count:,} x {reason}" for reason, count in top)
                raise IngestError(
                    f"source {line.source} -> {line.table}: {line.quarantined:,} of {line.read:,} rows are bad "
                    f"({line.quarantine_share:.1%}, at most {self.shop.quarantine_share:.1%}): {told}. Nothing was committed; "
                    "correct the mapping or the data, or raise `quarantine_share` in shop.yaml."
                )

    def _tell_unknown_items(self, spark: SparkSession) -> None:
        """How many items are spoken of that `items` does not list; they are derived from the ids."""
        items = self._stored(spark, ITEMS).select(ITEM_ID)
        if ITEMS.name in self.accepted:
            items = items.unionByName(self.accepted[ITEMS.name].select(ITEM_ID))
        elif self.lake.version(ITEMS.path) is None:
            return
        for table, rows in self.accepted.items():
            if table != ITEMS.name and ITEM_ID in RAW_TABLES[table].names:
                unknown = (
                    rows.where(F.col(ITEM_ID).isNotNull()).select(ITEM_ID).distinct().join(items, ITEM_ID, "left_anti").count()
                )
                if unknown:
                    self.report.notices.append(
                        f"{table} speaks of {unknown:,} items that `items` does not list; they are accepted."
                    )

    def _quarantined(self, digest: str) -> dict[str, DataFrame]:
        found: dict[str, list[DataFrame]] = {}
        for feed in self.feeds:
            if feed.line.quarantined:
                names = F.array(*[F.lit(part.part.name) for part in feed.staged.parts])
                found.setdefault(feed.mapping.table, []).append(
                    feed.rows.where(F.col(REASON).isNotNull()).select(
                        F.col(REASON).alias("reason"),
                        F.lit(feed.line.source).alias("source"),
                        F.element_at(names, F.col(PART).cast("int") + 1).alias("part"),
                        F.col(ROW).alias("row"),
                        F.col(SOURCE_ROW).alias("source_row"),
                        F.lit(digest).alias("ingest"),
                    )
                )
        return {table: reduce(DataFrame.unionByName, frames) for table, frames in found.items()}

    def _write(self, path: str, rows: DataFrame, schema: pa.Schema, digest: str, revised: int = 0) -> Append:
        self._tell(f"writing {path}")
        attempt = write_files(rows, self.lake, path, schema)
        sources = sorted({staged.source.name for staged in self.staged})
        return Append(attempt, schema, digest_of(digest, path), {"ingest": digest, "sources": sources, REVISED: revised})

    def _write_seen(self, digest: str) -> Append:
        rows = [
            {
                "source": staged.source.name,
                "part": part.part.name,
                "size": part.part.size,
                "modified": part.part.modified,
                "digest": part.part.digest,
                "num_rows": part.num_rows,
                "columns": json.dumps(part.columns, ensure_ascii=False),
                "cursor": part.cursor,
                "ingest": digest,
            }
            for staged in self.staged
            for part in staged.parts
        ]
        attempt = self.lake.attempt(seen.PATH)
        table = pa.Table.from_pylist(rows, schema=seen.SCHEMA)
        pq.write_table(table, f"{self.lake.on_filesystem(attempt.uri)}/part-0.parquet", filesystem=self.lake.filesystem)
        return Append(attempt, seen.SCHEMA, digest_of(digest, seen.PATH), {"ingest": digest})

    def _tell(self, step: str) -> None:
        self.progress.update(self.task, description=step)

    def _tell_rows(self, num_rows: int) -> None:
        self.progress.update(self.task, advance=num_rows)

    def _clear(self) -> None:
        path = self.lake.on_filesystem(self.scratch_uri)
        if self.lake.filesystem.get_file_info(path).type is pafs.FileType.Directory:
            self.lake.filesystem.delete_dir(path)


@contextmanager
def _plain_errors(home: Home) -> Iterator[None]:
    """What files and Spark refuse, as one message that says that nothing was committed."""
    try:
        yield
    except (OSError, PySparkException, Py4JJavaError) as error:
        if trouble := disk_trouble(error) or (isinstance(error, OSError) and str(error)):
            raise HomeError(
                f"home {home.path} or a source: {trouble}; nothing was committed. Make room or give access, then run again."
            ) from error
        if isinstance(error, PySparkException):
            raise IngestError(
                f"Spark refuses the mapping or its data: {str(error).splitlines()[0]} Nothing was committed."
            ) from error
        raise
