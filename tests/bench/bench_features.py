"""Benchmarks of the feature store against Feast's own stores and a bare DuckDB ASOF join; `make bench-features`.

Ours is measured through `features.store.FeatureStore`. Peers run in the same call, alternating with ours; figures are medians.
The bare ASOF join is the easier task: it knows neither created times nor expiry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import feast
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from rich.console import Console

from features.services import Service
from features.shop import Shop
from features.store import FeatureStore
from features.views import View
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from report import Figure, alternate, figure, publish

COLUMNS = [*((f"f{i}", "float") for i in range(12)), *((f"i{i}", "int") for i in range(6)), ("s0", "string"), ("s1", "string")]
VIEW = View("bench", "features/bench", (("user_id", "string"),), tuple(COLUMNS), ttl_days=60)  # type: ignore[arg-type]
NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAY = 86_400_000_000


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


def ours(folder: Path, rows: pa.Table) -> FeatureStore:
    """Our store of a fresh home that holds these rows."""
    settings = Settings.load(home=folder)
    Home(settings).create()
    lake = Lake.open(settings)
    lake.write(VIEW.path, rows, "overwrite", digest="bench", read_version=None)
    shop = Shop(name="sample", currency="EUR", time_zone="UTC", now=NOW.isoformat())
    return FeatureStore(settings, shop, lake, {"bench": VIEW}, {"bench": Service("bench", (VIEW,))})


def theirs(folder: Path, rows: pa.Table) -> feast.FeatureStore:
    """Feast with its file offline store and its SQLite online store, on the same rows."""
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "rows.parquet")
    store = feast.FeatureStore(
        config=feast.RepoConfig(
            project="bench",
            registry=str(folder / "registry.db"),
            provider="local",
            offline_store={"type": "file"},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    user = feast.Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.STRING)
    types = {"float": Float64, "int": Int64, "string": String}
    source = FileSource(
        name="rows",
        path=str(folder / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    view = feast.FeatureView(
        name="bench",
        entities=[user],
        ttl=timedelta(days=36_500),
        source=source,
        schema=[feast.Field(name=n, dtype=types[k]) for n, k in COLUMNS],
    )
    store.apply([user, view, feast.FeatureService(name="bench", features=[view])])
    return store


def bench_frames(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """200,000 labels x 1,000,000 rows x 20 features."""
    rng = np.random.default_rng(7)
    users = rng.integers(0, 50_000, 1_000_000)
    hot = np.where(rng.random(len(users)) < 0.1, 0, users)
    label_users = rng.integers(0, 50_000, 200_000)
    labels, hot_labels = labels_of(label_users, rng), labels_of(np.where(rng.random(200_000) < 0.1, 0, label_users), rng)
    rows = rows_of(users, rng)
    store, hot_store = ours(folder / "uniform", rows), ours(folder / "hot", rows_of(hot, rng))
    peer = theirs(folder / "feast", rows)
    entities = labels.to_pandas()
    service = peer.get_feature_service("bench")
    files = store.lake.file_uris(VIEW.path)

    def bare() -> pa.Table:
        with duckdb.connect() as connection:
            connection.register("labels", labels)
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(
                "SELECT l.*, r.* EXCLUDE (user_id, event_timestamp) FROM labels l ASOF LEFT JOIN read_parquet(?) r "
                "ON l.user_id = r.user_id AND l.event_timestamp >= r.event_timestamp",
                [files],
            ).to_arrow_table()

    say("point-in-time frames: ours, a hot key, DuckDB's bare ASOF join, Feast's file store")
    uniform, skewed, asof, file_store = alternate(
        lambda: store.training_frame(labels, "bench"),
        lambda: hot_store.training_frame(hot_labels, "bench"),
        bare,
        lambda: peer.get_historical_features(entities, service).to_df(),
    )
    what = "frame of 200 k labels x 1 M rows x 20 features, s"
    return [
        figure(f"{what}; peer: Feast's file store", uniform, file_store, better="less", least_ratio=8),
        figure(f"{what}; peer: bare DuckDB ASOF join", uniform, asof, better="less", least_ratio=0.67),
        figure(f"{what}, 10 % of rows on one key; peer: ours without a hot key", skewed, uniform, better="less", least_ratio=0.67),
    ]


def bench_online(folder: Path, say: Callable[[str], None]) -> list[Figure]:
    """100,000 entities x 20 features: loading them, and reading 1, 100 and 500."""
    rng = np.random.default_rng(8)
    rows = rows_of(np.arange(100_000), rng, days=59)  # none is past the expiry of 60 days
    store, peer = ours(folder / "ours", rows), theirs(folder / "feast", rows)
    start = NOW - timedelta(days=60)
    say("loading 100 k entities: ours, Feast's SQLite store (about a minute a run)")
    load, peer_load = alternate(lambda: store.materialize(NOW), lambda: peer.materialize(start, NOW))
    figures = [
        figure(
            "materialise 100 k entities x 20 features, s; peer: Feast's SQLite store",
            load,
            peer_load,
            better="less",
            least_ratio=30,
        )
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
