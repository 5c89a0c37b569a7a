"""`shopgraph frame`: from files of labels to a folder of Parquet files, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

import shopgraph
from features.offline import frames
from features.tables import FEATURE_TABLES
from infra.errors import FeatureError, SettingsError, TableContractError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import frame as verb
from spark_jobs.frame import frame

T = datetime(2024, 5, 1, 12, tzinfo=UTC)
HISTORY = FEATURE_TABLES["user_history"]


@pytest.fixture
def tables(lake: Lake, settings: Settings) -> Lake:
    folder = Home(settings).shop("sample")
    folder.mkdir(parents=True)
    (folder / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: Europe/Berlin\n")
    rows: list[dict[str, Any]] = [
        {"user_id": "u1", "item_ids": ["a"], "event_types": ["view"], "event_timestamp": T},
        {"user_id": "u1", "item_ids": ["a", "b"], "event_types": ["view", "cart"], "event_timestamp": T + timedelta(days=1)},
    ]
    rows = [row | {"created_timestamp": row["event_timestamp"]} for row in rows]
    lake.write(HISTORY.path, pa.Table.from_pylist(rows, schema=HISTORY.schema), "append", digest="rows")
    return lake


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    at = pa.array([T + timedelta(days=2), T, T - timedelta(microseconds=1)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": ["u1"] * 3, "event_timestamp": at, "y": [1, 0, 1]}), tmp_path / "labels.parquet")
    return tmp_path / "labels.parquet"


def test_both_engines_write_the_same_frame(
    tables: Lake, labels: Path, settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def shared(*_: Any) -> Iterator[SparkSession]:
        yield spark

    parts = spark.conf.get("spark.sql.shuffle.partitions")
    monkeypatch.setattr(verb, "session", shared)
    made = {engine: frame(settings, "recommender", labels, tmp_path / engine, engine) for engine in ("embedded", "spark")}
    spark.conf.set("spark.sql.shuffle.partitions", parts)
    read = {engine: ds.dataset(done.out).to_table() for engine, done in made.items()}
    assert read["spark"].equals(read["embedded"])
    assert read["embedded"]["item_ids"].to_pylist() == [["a", "b"], ["a"], None]
    assert read["embedded"]["y"].to_pylist() == [1, 0, 1]
    assert made["spark"].num_rows == 3
    assert made["spark"].columns == made["embedded"].columns == tuple(read["spark"].column_names)
    assert {path.suffix for engine in made for path in (tmp_path / engine).iterdir()} == {".parquet"}


def test_the_command_reports_and_the_folder_stays(tables: Lake, labels: Path, settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "中文 frame"
    words = ["--home", str(settings.home_path), "frame", "--service", "recommender", "--labels", str(labels), "--out", str(out)]
    done = CliRunner().invoke(shopgraph.app, [*words, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert (told["out"], told["engine"], told["num_rows"]) == (str(out), "embedded", 3)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(FeatureError, match="exists already"):
        CliRunner().invoke(shopgraph.app, words, catch_exceptions=False)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_feature_from_the_future_leaves_no_frame(
    tables: Lake, labels: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The seeded mistake: an engine that looks ahead, and does not look at what it made either."""
    monkeypatch.setattr(frames, "rows_at", lambda *_: np.array([1, 1, 1]))
    monkeypatch.setattr(frames, "refuse_future", lambda *_: None)
    with pytest.raises(FeatureError, match=r"4 time\(s\) from the future: label 1 is of 2024-05-01T12"):
        frame(settings, "recommender", labels, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_labels_of_a_folder_and_of_a_delta_table(tables: Lake, labels: Path, settings: Settings, tmp_path: Path) -> None:
    given = pq.read_table(labels)
    (tmp_path / "many" / "_temporary").mkdir(parents=True)
    pq.write_table(given.slice(2), tmp_path / "many" / "b.parquet")
    pq.write_table(given.slice(0, 2), tmp_path / "many" / "a.parquet")
    (tmp_path / "many" / "_temporary" / "half.parquet").write_bytes(b"PAR1")
    lake = Lake(str(tmp_path), "delta")
    for n in range(2):
        lake.write("labels", given.slice(2 * n, 2 - n), "append", digest=str(n))
    for path in (tmp_path / "many", Path(lake.uri("labels"))):
        done = frame(settings, "recommender", path, tmp_path / f"frame of {path.name}")
        assert ds.dataset(done.out).to_table()["item_ids"].to_pylist() == [["a", "b"], ["a"], None]


def test_what_does_not_fit_is_named_and_nothing_is_made(tables: Lake, labels: Path, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.parquet").write_bytes(labels.read_bytes()[:-9])
    (tmp_path / "two").mkdir()
    pq.write_table(pq.read_table(labels), tmp_path / "two" / "1.parquet")
    pq.write_table(pq.read_table(labels).drop_columns("y"), tmp_path / "two" / "2.parquet")
    before = sorted(tmp_path.iterdir())
    for path, told in (
        ("nowhere", "no labels at"),
        ("empty", "no labels in"),
        ("half.parquet", "no whole Parquet"),
        ("two", "one schema"),
    ):
        with pytest.raises(FeatureError, match=told):
            frame(settings, "recommender", tmp_path / path, tmp_path / "out")
    with pytest.raises(SettingsError, match="expected embedded or spark"):
        frame(settings, "recommender", labels, tmp_path / "out", "duckdb")
    pq.write_table(pq.read_table(labels).append_column("review_id", pa.array(["r"] * 3)), tmp_path / "half.parquet")
    with pytest.raises(TableContractError, match="clean_reviews .* does not exist"):
        frame(settings, "sentiment", tmp_path / "half.parquet", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
