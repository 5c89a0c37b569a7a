"""Training frames from files to files, by either engine: `shopgraph frame`."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from features.offline.frames import join
from features.offline.future import refuse_future
from features.offline.labels import Labels
from features.shop import Shop
from infra.errors import FeatureError, SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import point_in_time
from spark_jobs.session import session, share_out_rows

ENGINES = ("embedded", "spark")

_LABELS_PER_FILE = 1_000_000


@dataclass(frozen=True)
class Frame:
    """What was written: a folder of Parquet files whose rows, files in order of their names, are the labels in their order."""

    out: str
    engine: str
    num_rows: int
    columns: tuple[str, ...]
    seconds: float


def frame(settings: Settings, service: str, labels: Path, out: Path, engine: str = "embedded") -> Frame:
    """Write the training frame of a service for files of labels. Both engines write the same rows.

    Args:
        labels: a Parquet file, a folder of them, or a Delta table, with key columns and `event_timestamp`.
        out: the folder to make; nothing is there until the frame is whole and was held against its labels' times.

    Raises:
        SettingsError: there is no such engine.
        FeatureError: the service does not exist, the labels do not fit, `out` is there already, or a feature is from the future.
        TableContractError: a table was never built.
        EngineError: Spark does not start.
    """
    began = time.monotonic()
    if engine not in ENGINES:
        raise SettingsError(f"--engine {engine!r}: expected {' or '.join(ENGINES)}.")
    if out.exists():
        raise FeatureError(f"{out} exists already; name another folder, or remove it first.")
    found = Labels.find(labels)
    shop = Shop.load(Home(settings))
    wanted, lake = shop.definitions.service(service), Lake.open(settings, shop.name)
    views, names = wanted.views_for(found.schema.names), wanted.output_names
    draft = out.absolute().parent / f".{out.name}-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        if engine == "embedded":
            pq.write_table(
                join(found.read(), views, names, lake, with_times=True), draft / "part-00000.parquet", compression="zstd"
            )
        else:
            with session(settings, "frame") as spark:
                share_out_rows(spark, found.num_rows + sum(lake.num_rows(view.path) for view in views))
                made = point_in_time.join(spark, found, views, names, lake)
                point_in_time.write(made, found.num_rows, draft, parts=-(-found.num_rows // _LABELS_PER_FILE) or 1)
        written = ds.dataset(draft, format="parquet")
        times = [name for view in views for name in (view.time_column, view.created_column)]
        refuse_future(written.to_batches(columns=["event_timestamp", *times]), views)
        draft.rename(out)
    except OSError as error:
        raise FeatureError(f"{out} cannot be written: {error.strerror}; name another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Frame(str(out), engine, found.num_rows, tuple(written.schema.names), time.monotonic() - began)
