"""The sample shop: a simulated shop of two years whose truth is known, generated on Spark.

Users are independent of each other and so are items: users are cut into tasks for their visits, items for the warehouse, and
between them lies one shuffle of what was wanted. Every draw is a function of (seed, user or item, counter), see
`spark_jobs.sample.chance`: the rows are the same for any number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features import tables
from features.columns import EVENT_TIMESTAMP
from features.profiles import ProfileRules
from features.revisions import REVISED
from features.shop import Shop
from features.tables import Table
from infra.errors import SettingsError
from infra.home import Home
from infra.journal import Journal, Overwrite
from infra.lake import Commit, Lake, digest_of
from infra.settings import Settings
from infra.source import code_digest
from spark_jobs.sample import (
    acts,
    aftermath,
    calendar_rows,
    catalogue,
    chance,
    days,
    frames,
    goods,
    next_item,
    people,
    prices,
    reviews,
    stock,
    truth,
    views,
    visitors,
    visits,
)
from spark_jobs.sample.catalogue import Size
from spark_jobs.sample.chance import Ints
from spark_jobs.sample.days import CALENDARS, TIME_ZONE
from spark_jobs.session import session, share_out, write_files

MARK = "# Made by `shopgraph sample`: a simulated shop. Another size or seed replaces its tables.\n"
RAW = (
    tables.EVENTS, tables.ORDERS, tables.PAYMENTS, tables.INVENTORY, tables.REVIEWS, tables.TICKETS, tables.USERS, tables.EXPOSURES,
    tables.ITEMS, tables.PROMOTIONS, tables.SUPPLIERS, tables.COMPETITOR_PRICES, tables.CAMPAIGNS, tables.CALENDAR,
)  # fmt: skip
PATHS = tuple(table.path for table in (*RAW, *truth.TRUTH_TABLES.values()))
"""Every table of a sample shop."""
_CODE = (
    acts, aftermath, calendar_rows, catalogue, chance, days, frames, goods, next_item, people, prices, reviews, stock, truth,
    views, visitors, visits,
)  # fmt: skip

Rows = Callable[[Size, int, Ints], pa.Table]

USERS_PER_TASK = 2500
ITEMS_PER_TASK = 8192
EVENTS_PER_FILE = 4_000_000
ROWS_PER_BATCH = 65_536


@dataclass(frozen=True)
class Sample:
    """The frames of one sample shop by table, in the order they are best written. `release` frees what Spark holds of them."""

    frames: dict[Table, DataFrame]
    held: tuple[DataFrame, ...]

    def release(self) -> None:
        """Let Spark drop what it holds; a frame that is read later is computed anew."""
        for frame in self.held:
            frame.unpersist()


@dataclass(frozen=True)
class Written:
    """What became of one table."""

    table: str
    version: int
    num_rows: int
    skipped: bool


def sample(settings: Settings, size: Size, seed: int, on_table: Callable[[str], None] | None = None) -> list[Written]:
    """Write the sample shop under the settings' shop name: its shop.yaml, raw tables and truth tables, all of them or none.

    Tables of the same size and seed written before are left alone; others are replaced.

    Args:
        on_table: told the path of each table before it is written.

    Raises:
        SettingsError: a shop of that name exists and is not a sample.
        HomeError: another `sample` or an ingest of this shop runs.
    """
    home = Home(settings).create()
    # the lock and the journal of all that writes raw tables: a build begins between two writers and reads no mix
    with home.lock(f"ingest-{settings.shop}"):
        write_shop(home, settings.shop)
        lake = Lake.open(settings)
        Journal(lake, "ingest").recover()
        there = [lake.committed(path, _digest(size, seed)) for path in PATHS]
        if None not in there:
            return [_written(commit) for commit in there if commit]
        with session(settings, f"sample {size.name}") as spark:
            share_out(spark, lake, size.num_events)
            return write(spark, lake, size, seed, on_table)


def write(spark: SparkSession, lake: Lake, size: Size, seed: int, on_table: Callable[[str], None] | None = None) -> list[Written]:
    """Write the tables of a sample shop to a lake; see `sample`."""
    digest = _digest(size, seed)
    metadata = {"shopgraph.sample": {"size": size.name, "seed": seed}, REVISED: 0}
    commits, writes = {}, []
    made = transform(spark, size, seed)
    try:
        for table, frame in made.frames.items():
            if on_table:
                on_table(table.path)
            if there := lake.committed(table.path, digest):
                commits[table.path] = there
                continue
            attempt = write_files(_in_time(frame, size), lake, table.path, table.schema)
            writes.append(Overwrite(attempt, table.schema, digest, metadata))
    finally:
        made.release()
    commits |= {commit.path: commit for commit in Journal(lake, "ingest").commit(writes)}
    return [_written(commits[path]) for path in PATHS]


def write_shop(home: Home, name: str) -> Path:
    """Write the shop.yaml of a sample shop; one that is there, perhaps edited, is kept.

    Raises:
        SettingsError: a shop of that name exists and is not a sample: its data is not ours to replace.
    """
    path = home.shop(name) / "shop.yaml"
    if path.exists():
        if path.read_text(encoding="utf-8").startswith(MARK):
            return path
        raise SettingsError(
            f"shop {name} exists and was not made by `shopgraph sample` ({path}); expected a free name. "
            "Choose another with `shopgraph --shop <name> sample`."
        )
    rules = ProfileRules(monetary_value=(500, 1500, 3000, 6000), price=(200, 500))
    shop = Shop(
        name=name, currency="CNY", time_zone=TIME_ZONE, calendars=CALENDARS, languages=("zh", "en"), now="data", profile=rules
    )
    content = shop.model_dump(mode="json", exclude_defaults=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(MARK + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    draft.replace(path)
    return path


def transform(spark: SparkSession, size: Size, seed: int, tasks: int | None = None) -> Sample:
    """The raw and truth tables of a sample shop; nothing is computed yet.

    Args:
        tasks: number of tasks over users and over items; by default one per some thousands. It changes no row.
    """
    every_user = _generate(spark, size, seed, size.num_users, USERS_PER_TASK, tasks)
    every_item = _generate(spark, size, seed, size.num_items, ITEMS_PER_TASK, tasks)

    done = every_user(acts.make_acts, acts.ACTS).persist()
    ledger = _ledger(done, size, seed, tasks).persist()
    got = ledger.where("sold > 0").select("user", "number", "sold")
    bought = done.where(F.col("kind") == acts.KIND["purchase"]).join(got, ["user", "number"])
    sales = bought.withColumn("quantity", F.col("sold")).drop("sold").persist()
    after = _map(sales, aftermath.aftermath, aftermath.AFTERMATH, size, seed).persist()
    returns = sales.join(after.where("returned_at is not null").select("user", "number", "returned_at"), ["user", "number"])
    lines = frames.lines(sales, returns)
    made = {
        tables.EVENTS: frames.events(done.where(F.col("kind") != acts.KIND["purchase"]), sales, returns),
        tables.ORDERS: lines,
        tables.PAYMENTS: frames.payments(lines),
        tables.INVENTORY: frames.inventory(ledger),
        tables.REVIEWS: frames.reviews(sales, after),
        tables.TICKETS: frames.tickets(sales, after),
        tables.USERS: frames.users(every_user(visitors.users, visitors.USERS)),
        tables.EXPOSURES: frames.exposures(every_user(visitors.exposures, visitors.EXPOSURES)),
        tables.ITEMS: frames.items(every_item(goods.items, goods.ITEMS)),
        tables.PROMOTIONS: frames.promotions(
            every_item(goods.promotions, goods.PROMOTIONS), frames.small(spark, goods.category_promotions(size, seed))
        ),
        tables.SUPPLIERS: frames.suppliers(every_item(goods.supplier_terms, goods.SUPPLIERS)),
        tables.COMPETITOR_PRICES: frames.competitor_prices(every_item(goods.rival_prices, goods.RIVAL_PRICES)),
        tables.CAMPAIGNS: frames.campaigns(frames.small(spark, calendar_rows.campaigns(size))),
        tables.CALENDAR: frames.calendar(frames.small(spark, calendar_rows.shopping_days())),
        truth.ITEMS: every_item(goods.truth, goods.TRUTH).withColumn("item_id", frames.item_id()),
        truth.SUCCESSORS: frames.successors(every_item(goods.successors, goods.SUCCESSORS)),
        truth.PROCESS: frames.small(spark, next_item.parts()),
        truth.USER_TASTES: every_user(visitors.tastes, visitors.TASTES).withColumn("user_id", frames.user_id()),
        truth.USERS: every_user(visitors.truth, visitors.TRUTH).withColumn("user_id", frames.user_id()),
        truth.DAYS: frames.small(spark, calendar_rows.truth(size, seed)),
        truth.SEASONS: frames.small(spark, calendar_rows.seasons(size, seed)),
        truth.DEMAND: frames.demand(done, ledger),
        truth.REVIEWS: frames.review_truth(after),
    }
    return Sample(made, (done, ledger, sales, after))


def _digest(size: Size, seed: int) -> str:
    return digest_of(size.name, seed, code_digest(transform, _ledger, _map, *_CODE))


def _written(commit: Commit) -> Written:
    return Written(commit.path, commit.version, commit.num_rows, commit.skipped)


def _in_time(frame: DataFrame, size: Size) -> DataFrame:
    """A frame of facts in order of time, in files of some millions of rows: readers of a stretch of time open few of them."""
    if EVENT_TIMESTAMP not in frame.columns:
        return frame
    files = -(-size.num_events // EVENTS_PER_FILE)
    # ranges are found by sampling, which computes the frame once more
    parts = frame.repartitionByRange(files, EVENT_TIMESTAMP) if files > 1 else frame.repartition(1)
    return parts.sortWithinPartitions(EVENT_TIMESTAMP)


def _ledger(done: DataFrame, size: Size, seed: int, tasks: int | None) -> DataFrame:
    """Each item's wants, after a want of nothing by nobody that opens its stock, run through the warehouse."""
    wants = done.where(F.col("kind") == acts.KIND["purchase"]).select(*stock.WANTS)
    nobody = {"user": -1, "number": -1, "at": days.start_of_history(), "quantity": 0}
    opening = (
        done.sparkSession.range(size.num_items)
        .withColumnRenamed("id", "item")
        .withColumns({k: F.lit(v).cast("long") for k, v in nobody.items()})
    )
    parts = tasks or max(2, -(-size.num_items // ITEMS_PER_TASK))
    return (
        wants.unionByName(opening)
        .repartition(parts, "item")
        .groupBy("item")
        .applyInArrow(lambda rows: stock.ledger(size, seed, rows), from_arrow_schema(stock.LEDGER))
    )


def _generate(
    spark: SparkSession, size: Size, seed: int, count: int, per_task: int, tasks: int | None
) -> Callable[[Rows, pa.Schema], DataFrame]:
    """What makes a frame of a function of ids, for the ids 0 to `count` - 1 cut into tasks."""
    parts = tasks or max(1, -(-count // per_task))
    return lambda rows, schema: _map(spark.range(0, count, 1, parts), rows, schema, size, seed)


def _map(frame: DataFrame, rows: Callable[[Size, int, Any], pa.Table], schema: pa.Schema, size: Size, seed: int) -> DataFrame:
    """`rows` applied to batches of ids (a frame with the one column `id`) or of rows."""
    ids = frame.columns == ["id"]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            told = batch.column(0).to_numpy() if ids else pa.Table.from_batches([batch])
            yield from rows(size, seed, told).combine_chunks().to_batches(ROWS_PER_BATCH)

    return frame.mapInArrow(run, from_arrow_schema(schema))
