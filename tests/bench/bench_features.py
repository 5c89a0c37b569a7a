"""Benchmarks of the feature store against Feast's own stores and a bare DuckDB ASOF join; `make bench-features`.

Ours is measured through `features.store.FeatureStore`, on Spark through `spark_jobs.point_in_time`. Peers run in the same call,
alternating with ours; figures are medians, and what takes over `SLOW_S` runs once. The peers have the easier task: the bare ASOF join
knows neither created times nor expiry, Feast's stores take a created time for a tie-break only and lose the order of the labels.
Peak memory is that of a process of its own that makes one frame, or one materialisation, from files.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from pyspark.sql import SparkSession
from rich.console import Console

from features.definitions import Definitions
from features.offline.labels import Labels
from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from features.views import View
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import Figure, alternate, figure, peak_memory_mb, publish
from spark_jobs import point_in_time
from spark_jobs.session import session, share_out_rows

COLUMNS = [*((f"f{i}", "float") for i in range(12)), *((f"i{i}", "int") for i in range(6)), ("s0", "string"), ("s1", "string")]
VIEW = View("bench", "features/bench", (("user_id", "string"),), tuple(COLUMNS), ttl_days=60)  # type: ignore[arg-type]
NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAY = 86_400_000_000
SLOW_S = 20


def rows_of(users: np.ndarray, rng: np.random.Generator, days: int = 90) -> pa.Table:
    """One row per entry of `users`, at random instants of the last days before NOW; every twentieth was known up to a day late."""
    n = len(users)
    event = int(NOW.timestamp() * 1e6) - 1 - rng.integers(0, days * DAY, n)
    created = event + np.where(rng.random(n) < 0.05, rng.integers(0, DAY, n), 0)
    values: dict[str, Any] = {"user_id": user_ids(users)}
    for name, kind in COLUMNS:
        if kind == "float":
            values[name] = pa.array(rng.normal(size=n), mask=rng.random(n) < 0.02)
        elif kind == "int":
            values[name] = pa.array(rng.integers(0, 10_000, n))
        else:
            values[name] = pa.array(np.char.add("word", rng.integers(0, 500, n).astype(str)))
    values |= {"event_timestamp": event, "created_timestamp": np.minimum(created, int(NOW.timestamp() * 1e6))}
    return pa.table([pa.array(values[f.name]).cast(f.type) for f in VIEW.schema], schema=VIEW.schema)


def user_ids(numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add("u", numbers.astype(str)))


def labels_of(users: np.ndarray, rng: np.random.Generator) -> pa.Table:
    at = int(NOW.timestamp() * 1e6) - 1 - rng.integers(0, 90 * DAY, len(users))
    return pa.table({"user_id": user_ids(users), "event_timestamp": pa.array(at).cast(pa.timestamp("us", "UTC"))})


def write_ours(folder: Path, rows: pa.Table) -> FeatureStore:
    """Our store of a fresh home that holds these rows."""
    store = ours(folder)
    Home(store.settings).create()
    store.lake.write(VIEW.path, rows, "overwrite", digest="bench", read_version=None)
    return store


def ours(folder: Path) -> FeatureStore:
    """Our store of the home in a folder."""
    settings = Settings.load(home=folder, spark_master="local[2]", spark_driver_memory="2g")
    shop = Shop(name="sample", currency="EUR", time_zone="UTC", now=NOW.isoformat())
    return FeatureStore(settings, shop, Lake.open(settings), Definitions({}, {"bench": VIEW}, {"bench": Service("bench", (VIEW,))}))


def write_theirs(folder: Path, rows: pa.Table) -> feast.FeatureStore:
    """Feast's store with its SQLite online store on the same rows."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / "rows.parquet")
    return apply_theirs(folder, "file")


def apply_theirs(folder: Path, offline: Literal["file", "spark"]) -> feast.FeatureStore:
    """Register the rows in a folder with Feast. Its file store drops labels whose rows are all expired, so there no row expires."""
    store = theirs(folder, offline)
    rows = {
        "name": "rows",
        "path": str(folder / "rows.parquet"),
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    user = feast.Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.STRING)
    types = {"float": Float64, "int": Int64, "string": String}
    view = feast.FeatureView(
        name="bench",
        entities=[user],
        ttl=timedelta(days=36_500) if offline == "file" else VIEW.ttl,
        source=FileSource(**rows) if offline == "file" else SparkSource(**rows, file_format="parquet"),
        schema=[feast.Field(name=n, dtype=types[k]) for n, k in COLUMNS],
    )
    store.apply([user, view, feast.FeatureService(name="bench", features=[view])])
    return store


def theirs(folder: Path, offline: Literal["file", "spark"] = "file") -> feast.FeatureStore:
    """Feast's store in a folder, with its own file or Spark offline store."""
    return feast.FeatureStore(
        config=feast.RepoConfig(
            project="bench",
            registry=str(folder / f"{offline}.db"),
            provider="local",
            offline_store={"type": offline},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )


# -- frames: each from the files of a folder --------------------------------------------------------------------------------


def embedded_frame(folder: Path) -> pa.Table:
    return ours(folder).training_frame(pq.read_table(folder / "labels.parquet"), "bench")


def bare_frame(folder: Path) -> pa.Table:
    """DuckDB's bare ASOF join, which knows one time."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(
            "SELECT l.*, r.* EXCLUDE (user_id, event_timestamp) FROM read_parquet(?) l ASOF LEFT JOIN read_parquet(?) r "
            "ON l.user_id = r.user_id AND l.event_timestamp >= r.event_timestamp",
            [str(folder / "labels.parquet"), str(folder / "rows.parquet")],
        ).to_arrow_table()


def file_store_frame(folder: Path) -> pd.DataFrame:
    store = theirs(folder)
    return store.get_historical_features(pd.read_parquet(folder / "labels.parquet"), store.get_feature_service("bench")).to_df()


def spark_frame(folder: Path, spark: SparkSession | None = None) -> None:
    """Ours on Spark, written as Parquet in label order."""
    store = ours(folder)
    if spark is None:
        with session(store.settings, "bench") as own:
            return spark_frame(folder, own)
    labels, service = Labels.find(folder / "labels.parquet"), store.service("bench")
    share_out_rows(spark, labels.num_rows + store.lake.num_rows(VIEW.path))
    frame = point_in_time.join(spark, labels, service.views, service.output_names, store.lake)
    return point_in_time.write(frame, labels.num_rows, folder / uuid.uuid4().hex, parts=1)


def spark_store_frame(folder: Path, spark: SparkSession | None = None) -> None:
    """Feast's on Spark, in a session with our settings, written as Parquet in no order."""
    if spark is None:
        with session(ours(folder).settings, "bench") as own:
            return spark_store_frame(folder, own)
    store, labels = theirs(folder, "spark"), pq.read_metadata(folder / "labels.parquet").num_rows
    share_out_rows(spark, labels + pq.read_metadata(folder / "rows.parquet").num_rows)
    found = store.get_historical_features(spark.read.parquet(str(folder / "labels.parquet")), store.get_feature_service("bench"))
    found.to_spark_df().write.parquet(str(folder / uuid.uuid4().hex))
    spark.conf.set("spark.sql.parser.quotedRegexColumnNames", "false")  # it sets it and leaves it set
    return None


def bench_frames(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """200,000 labels x 1,000,000 rows x 20 features, spread evenly over the keys, and with a tenth of both on one key."""
    rng = np.random.default_rng(7)
    users, label_users = rng.integers(0, 50_000, 1_000_000), rng.integers(0, 50_000, 200_000)
    even, hot = folder / "even", folder / "hot"
    for where, share in ((even, 0.0), (hot, 0.1)):
        rows = rows_of(np.where(rng.random(len(users)) < share, 0, users), rng)
        write_ours(where, rows)
        write_theirs(where, rows)
        pq.write_table(labels_of(np.where(rng.random(len(label_users)) < share, 0, label_users), rng), where / "labels.parquet")

    say("point-in-time frames: ours, a hot key, DuckDB's bare ASOF join, Feast's file store")
    ours_even, ours_hot, bare, file_store = alternate(
        partial(embedded_frame, even),
        partial(embedded_frame, hot),
        partial(bare_frame, even),
        partial(file_store_frame, even),
        slow_s=SLOW_S,
    )
    say("the same on Spark: ours, a hot key, Feast's Spark store (some minutes)")
    with session(ours(even).settings, "bench") as spark:
        apply_theirs(even, "spark")
        spark_even, spark_hot, spark_store = alternate(
            partial(spark_frame, even, spark),
            partial(spark_frame, hot, spark),
            partial(spark_store_frame, even, spark),
        )  # no turn is left out for a slow first one: that one also starts the JVM's engines
    say("peak memory of each")
    memory = {
        frame: peak_memory_mb(frame, even)
        for frame in (embedded_frame, bare_frame, file_store_frame, spark_frame, spark_store_frame)
    }
    what = "frame of 200 k labels x 1 M rows x 20 features"
    hot_key = "10 % of rows and labels on one key; peer: ours without a hot key"
    return [
        figure(f"{what}, s; peer: Feast's file store", ours_even, file_store, better="less", least_ratio=8),
        figure(f"{what}, s; peer: bare DuckDB ASOF join", ours_even, bare, better="less", least_ratio=0.67),
        figure(f"{what}, s, {hot_key}", ours_hot, ours_even, better="less", least_ratio=0.67),
        figure(f"{what}, Spark, s; peer: Feast's Spark store", spark_even, spark_store, better="less", least_ratio=2),
        figure(f"{what}, Spark, s, {hot_key}", spark_hot, spark_even, better="less", least_ratio=0.67),
        figure(f"{what}, peak MB; peer: Feast's file store", memory[embedded_frame], memory[file_store_frame], better="less"),
        figure(f"{what}, peak MB; peer: bare DuckDB ASOF join", memory[embedded_frame], memory[bare_frame], better="less"),
        figure(f"{what}, Spark, peak MB; peer: Feast's Spark store", memory[spark_frame], memory[spark_store_frame], better="less"),
    ]


def materialize_ours(folder: Path) -> None:
    ours(folder).materialize(NOW)


def materialize_theirs(folder: Path) -> None:
    theirs(folder).materialize(NOW - timedelta(days=60), NOW)


def bench_online(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """100,000 entities x 20 features: loading them, and reading 1, 100 and 500."""
    rng = np.random.default_rng(8)
    rows = rows_of(np.arange(100_000), rng, days=59)  # none is past the expiry of 60 days
    store, peer = write_ours(folder / "ours", rows), write_theirs(folder / "feast", rows)
    start = NOW - timedelta(days=60)
    say("loading 100 k entities: ours, Feast's SQLite store (about a minute a run)")
    load, peer_load = alternate(lambda: store.materialize(NOW), lambda: peer.materialize(start, NOW), slow_s=SLOW_S)
    memory, peer_memory = peak_memory_mb(materialize_ours, folder / "ours"), peak_memory_mb(materialize_theirs, folder / "feast")
    figures = [
        figure(
            "materialise 100 k entities x 20 features, s; peer: Feast's SQLite store",
            load,
            peer_load,
            better="less",
            least_ratio=30,
        ),
        figure("materialise 100 k entities x 20 features, peak MB; same peer", memory, peer_memory, better="less"),
    ]
    service = peer.get_feature_service("bench")
    for count, goal in ((1, None), (100, 10), (500, None)):
        asked = [f"u{n}" for n in rng.choice(100_000, count, replace=False)]
        entities = [{"user_id": user} for user in asked]
        calls = 200 if count == 1 else 20
        say(f"reading {count} entities")
        read, peer_read = alternate(
            lambda asked=asked, calls=calls: [store.online_rows("bench", {"user_id": asked}, NOW) for _ in range(calls)],
            lambda entities=entities, calls=calls: [peer.get_online_features(service, entities).to_dict() for _ in range(calls)],
        )
        figures.append(
            figure(
                f"online read of {count} entities x 20 features, ms; peer: Feast on SQLite",
                read / calls * 1e3,
                peer_read / calls * 1e3,
                better="less",
                least_ratio=goal,
            )
        )
    return figures


def main() -> None:
    """Run all, print a table, write build/bench/features.json."""
    set_quiet_environment()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="shopgraph-bench-") as scratch, console.status("making rows") as status:
        figures = bench_frames(Path(scratch) / "frames", status.update)
        figures += bench_online(Path(scratch) / "online", status.update)
    publish("features", figures)


if __name__ == "__main__":
    main()
