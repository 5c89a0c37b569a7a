"""Tables on a real S3 protocol: the same rows and versions as on a local folder, also through Spark."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.offline import frames
from features.offline.labels import Labels
from features.quality.gate import Gate
from features.quality.models import model_drift, newest_models
from features.quality.report import Reports
from features.shop import Shop
from features.tables import ORDERS, Table
from infra import upkeep
from infra.errors import TableConflictError, TableContractError
from infra.home import Home
from infra.lake import Attempt, Commit, Lake
from infra.pins import pin, pins, unpin
from infra.settings import Settings
from infra.vacuum import vacuum, waste
from spark_jobs import point_in_time
from spark_jobs.session import read_table, write_table
from tests.engines.conftest import S3
from tests.point_in_time import TTLS, World, bits, draw, oracle

pytestmark = pytest.mark.engines


@pytest.fixture
def remote(s3: S3, tmp_path: Path) -> Lake:
    settings = Settings.load(home=tmp_path / "home", lake_root=f"s3://shop/{tmp_path.name}", **s3.settings)
    Home(settings).create()
    return Lake.open(settings)


def orders(*ids: str) -> pa.Table:
    when = datetime(2025, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
    row = {"item_id": "商品 1", "quantity": 2, "unit_price": Decimal("3.5000"), "event_timestamp": when, "created_timestamp": when}
    return pa.Table.from_pylist([{"order_id": id_, **row} for id_ in ids], schema=ORDERS.schema)


def test_append_overwrite_time_travel_and_statistics(remote: Lake) -> None:
    assert remote.version(ORDERS.path) is None
    remote.write(ORDERS.path, orders("a"), "append", digest="1")
    remote.write(ORDERS.path, orders("b"), "append", digest="2")
    remote.write(ORDERS.path, orders("c"), "overwrite", digest="3", read_version=1)
    assert remote.read(ORDERS.path)["order_id"].to_pylist() == ["c"]
    assert sorted(remote.read(ORDERS.path, version=1)["order_id"].to_pylist()) == ["a", "b"]
    assert remote.newest([ORDERS.path]) == datetime(2025, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
    assert remote.tables() == [ORDERS.path]


def test_restore_compaction_pins_and_vacuum_as_on_a_local_folder(remote: Lake) -> None:
    for name in ("a", "b", "bad", "c"):
        remote.write(ORDERS.path, orders(name), "append", digest=name)
    pin(remote, "model", "sample.demand-1", {ORDERS.path: 1})
    upkeep.restore(remote, ORDERS.path, 1, kept=[3], undo="u", since=3)
    assert remote.read(ORDERS.path)["order_id"].to_pylist() == ["a", "b", "c"]
    compacted = upkeep.compact(remote, ORDERS.path)
    assert compacted
    assert (compacted.version, len(remote.file_uris(ORDERS.path))) == (5, 1)
    assert remote.read(ORDERS.path)["order_id"].to_pylist() == ["a", "b", "c"]
    upkeep.restore(remote, ORDERS.path, 1, undo="v", since=5)
    assert remote.read(ORDERS.path).equals(remote.read(ORDERS.path, 1))
    vacuum(remote, waste(remote, ORDERS.path, timedelta(0)))
    assert [remote.read(ORDERS.path, version)["order_id"].to_pylist() for version in (1, 6)] == [["a", "b"], ["a", "b"]]
    with pytest.raises(TableContractError, match="version 3 cannot be read"):
        remote.read(ORDERS.path, 3)
    assert [pin.holder for pin in pins(remote)] == ["model sample.demand-1"]
    assert unpin(remote, "model", "sample.demand-1")


def test_a_second_writer_is_told(remote: Lake) -> None:
    remote.write(ORDERS.path, orders("a"), "append", digest="1")
    remote.write(ORDERS.path, orders("b"), "append", digest="2")
    with pytest.raises(TableConflictError):
        remote.write(ORDERS.path, orders("c"), "overwrite", digest="3", read_version=0)


def test_spark_reads_and_writes_the_same_rows(remote: Lake, spark: SparkSession) -> None:
    remote.write(ORDERS.path, orders("a", "b"), "append", digest="1")
    frame = read_table(spark, remote, ORDERS)
    write_table(frame.repartition(3), remote, ORDERS, "overwrite", digest="2", read_version=0)
    back = remote.read(ORDERS.path).sort_by("order_id")
    assert back.equals(orders("a", "b"))


def test_an_object_of_a_lost_task_is_not_committed(remote: Lake, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a task closed its object and died before Spark knew, and the next attempt wrote the rows again."""
    commit = Lake.commit

    def after_a_lost_task(self: Lake, attempt: Attempt, *rest: Any, **more: Any) -> Commit:
        path = f"{self.on_filesystem(attempt.uri)}/part-lost.parquet"
        pq.write_table(orders("a", "b"), path, filesystem=self.filesystem)
        return commit(self, attempt, *rest, **more)

    frame = spark.createDataFrame(orders("a", "b"))
    monkeypatch.setattr(Lake, "commit", after_a_lost_task)
    write_table(frame, remote, ORDERS, "append", digest="1")
    assert remote.read(ORDERS.path).num_rows == 2


def test_point_in_time_frames_are_the_oracles_by_both_engines(remote: Lake, spark: SparkSession, tmp_path: Path) -> None:
    """Also where equals lie in different files: which one is the later is told by the order of the files."""
    world = World(draw(200, number=1), ("string", "date"))
    world.write(remote)
    pq.write_table(world.labels(), tmp_path / "labels.parquet")
    labels = Labels.find(tmp_path / "labels.parquet")
    frame = point_in_time.join(spark, labels, world.views, world.names, remote)
    point_in_time.write(frame, labels.num_rows, tmp_path / "frame", parts=2)
    written = pq.read_table(tmp_path / "frame")
    assert world.answers(written) == {ttl: [oracle(case, ttl) for case in world.cases] for ttl in TTLS}
    assert bits(written).equals(bits(frames.join(labels.read(), world.views, world.names, remote, with_times=True)))


def test_the_quality_gate_keeps_reports_and_refuses(remote: Lake) -> None:
    shop, now = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin"), datetime(2025, 1, 2, tzinfo=UTC)

    def send(*ids: str, table: Table = ORDERS) -> None:
        gate = Gate(remote, shop, table, now)
        attempt = remote.attempt(ORDERS.path)
        pq.write_table(orders(*ids), f"{remote.on_filesystem(attempt.uri)}/part-0.parquet", filesystem=remote.filesystem)
        gate.check(attempt, "append")
        gate.keep(remote.commit(attempt, ORDERS.schema, "append", digest="-".join(ids)).version)

    reports = Reports(remote)
    assert (reports.newest(ORDERS.path), reports.refused(ORDERS.path)) == (None, None)
    send("a", "b")
    report = reports.of(ORDERS.path, 0)
    assert report is not None
    assert (report.rows, report.window["quantity"].rows) == (2, 2)
    with pytest.raises(TableContractError, match="told again"):
        send("c", "c", table=dataclasses.replace(ORDERS, identity=("order_id",)))
    assert reports.refused(ORDERS.path) is not None
    assert remote.version(ORDERS.path) == 0
    Gate(remote, shop, ORDERS, now).stand(0)
    send("d")
    assert (reports.versions(ORDERS.path), reports.refused(ORDERS.path)) == ([0, 1], None)
    pin(remote, "model", "shop.demand-1", {ORDERS.path: 0})
    (kept,) = newest_models(remote)
    assert model_drift(remote, kept).newest == {ORDERS.path: 1}
