"""The table `purchase_propensity`: what a version of the model `propensity` says of every known user, as of a local day.

Users are shared out over Spark's tasks, each with all its acts; a task computes features and scores with the code that training
used. The same model, tables and day give the same rows, so a rerun commits nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, USER_ID
from features.days import day_number, first_instant
from features.online.packing import from_microseconds
from features.revisions import has_revisions
from features.shop import Shop
from features.tables import INTERACTIONS, PURCHASE_PROPENSITY
from infra import clock
from infra.errors import SettingsError, TableContractError
from infra.home import Home
from infra.lake import Commit, Lake, digest_of
from infra.settings import Settings
from infra.source import code_digest
from spark_jobs.revisions import current
from spark_jobs.session import read_table, session, share_out_rows, write_table
from training.propensity import encoder as propensity_encoder
from training.propensity import model as propensity_model
from training.propensity.encoder import FACT_COLUMNS, Facts
from training.propensity.model import Propensity

if TYPE_CHECKING:
    from training.tracking import Saved

TABLE = PURCHASE_PROPENSITY


@dataclass(frozen=True)
class Scored:
    """What became of the table; `commit.skipped`: it held these scores already."""

    commit: Commit
    as_of: datetime
    model_version: int
    interactions_version: int


def score(
    settings: Settings, model: str | None = None, day: date | None = None, say: Callable[[str], None] = lambda _: None
) -> Scored:
    """Score every known user of the settings' shop and write the table.

    Args:
        model: number, alias or run id of a version; None: the newest.
        day: local day from which days are counted; what was known before its first instant counts. None: today by the shop's clock.
        say: told what is done.

    Raises:
        SettingsError: a day that has not begun by the shop's clock, or before its first act.
        ModelNotFoundError: there is no such version.
        TableContractError: `interactions` was never built.
        EngineError: MLflow or Spark cannot be used.
        HomeError: another scoring of this shop is running.
    """
    from training.tracking import Tracking  # not above: tasks import this module, and need no MLflow

    home = Home(settings).create()
    shop = Shop.load(home)
    lake = Lake.open(settings, shop.name)
    version = lake.version(INTERACTIONS.path)
    if version is None:
        raise TableContractError(
            f"table {INTERACTIONS.path} of shop {shop.name} does not exist; run `shopgraph build interactions`."
        )
    today = clock.now(settings.now or shop.now, lake).astimezone(shop.zone).date()
    day = day or today
    if day > today:
        raise SettingsError(f"--as-of {day}: expected a day that has begun; by the shop's clock it is {today}.")
    say("fetching the model")
    saved = Tracking(settings, shop.name).fetch("propensity", model)
    Propensity.load(saved.folder)  # one that this version cannot read is told before Spark starts
    source = lake.rows_of(INTERACTIONS.path, version)
    as_of = from_microseconds(first_instant(day_number(day), shop.zone))
    code = code_digest(propensity_encoder, propensity_model, _scores)
    digest = digest_of({INTERACTIONS.path: source}, saved.version, saved.digest, str(day), shop.time_zone, repr(TABLE), code)
    with home.lock(f"score-{shop.name}"):
        base = lake.version(TABLE.path)
        commit = lake.committed(TABLE.path, digest, base)
        if commit is None:
            say("starting Spark")
            with session(settings, "score") as spark:
                share_out_rows(spark, lake.num_rows(INTERACTIONS.path, version))
                rows = read_table(spark, lake, INTERACTIONS, version, in_order=has_revisions(lake, INTERACTIONS.path, version))
                if day < today and rows.filter(F.greatest(EVENT_TIMESTAMP, CREATED_TIMESTAMP) < F.lit(as_of)).isEmpty():
                    raise SettingsError(f"--as-of {day}: expected a day after the first act of the shop; none was known before it.")
                say("scoring")
                scores = scored(current(rows, INTERACTIONS), saved, source, day, shop)
                metadata = {
                    "inputs": {INTERACTIONS.path: source},
                    "model": f"{saved.name} version {saved.version}",
                    "model_digest": saved.digest,
                    "as_of": as_of.isoformat(),
                    "time_zone": shop.time_zone,
                }
                commit = write_table(scores, lake, TABLE, "overwrite", digest=digest, read_version=base, metadata=metadata)
    return Scored(commit, as_of, saved.version, source)


def scored(interactions: DataFrame, saved: Saved, source: int, day: date, shop: Shop) -> DataFrame:
    """Rows of the table from current rows of `interactions`, which are their version `source`."""
    files = {path.name: path.read_bytes() for path in saved.folder.iterdir()}
    number, as_of = day_number(day), from_microseconds(first_instant(day_number(day), shop.zone))
    time_zone = shop.time_zone
    told: dict[str, int | datetime] = {"model_version": saved.version, "interactions_version": source, "as_of": as_of}

    def of_part(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = [batch for batch in batches if batch.num_rows]
        if rows:
            yield from _scores(pa.Table.from_batches(rows), files, number, time_zone, told).to_batches()

    mine = interactions.select(*FACT_COLUMNS).repartition(USER_ID)
    return mine.mapInArrow(of_part, from_arrow_schema(TABLE.schema))


def _scores(rows: pa.Table, files: Mapping[str, bytes], day: int, time_zone: str, told: Mapping[str, int | datetime]) -> pa.Table:
    """What the model in `files` says of the users of `rows`, who are all there with all their acts."""
    import torch

    torch.set_num_threads(1)  # a task has one core
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        model = Propensity.load(Path(folder))
    facts = Facts.of(rows, time_zone)
    users, answers, drivers = model.score(facts, day)
    columns = {
        "user_id": facts.users[users].tolist(),
        "p_buy_7d": answers.p_buy_7d,
        "p_buy_30d": answers.p_buy_30d,
        "expected_days_to_next": answers.expected_days,
        "horizon_days": [model.encoder.horizon] * len(users),
        "drivers": drivers,
        **{name: [value] * len(users) for name, value in told.items()},
    }
    return pa.table(columns, schema=TABLE.schema)
