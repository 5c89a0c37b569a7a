"""The door to Spark: how a shuffle is divided, and what dead sessions leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import DataFrame, SparkSession

from features.tables import ITEMS
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.session import scratch, share_out

PARTS = "spark.sql.shuffle.partitions"


@pytest.fixture
def kept(spark: SparkSession) -> Iterator[SparkSession]:
    """The shared Spark, whose setting is put back."""
    before = spark.conf.get(PARTS)
    yield spark
    spark.conf.set(PARTS, before)


def test_an_empty_shop_has_a_part_per_core(kept: SparkSession, lake: Lake) -> None:
    share_out(kept, lake)
    assert int(kept.conf.get(PARTS)) == kept.sparkContext.defaultParallelism


def test_parts_grow_with_the_rows_that_are_there_and_those_to_come(
    kept: SparkSession, lake: Lake, frame: Callable[..., DataFrame]
) -> None:
    share_out(kept, lake, 100_000_000)
    assert int(kept.conf.get(PARTS)) == 400
    rows = frame(ITEMS, {"item_id": "a", "event_timestamp": "2024-05-01T00:00+00:00"}).toArrow()
    lake.write(ITEMS.path, rows.cast(ITEMS.schema), "overwrite", digest="x")
    share_out(kept, lake, 100_000_000)
    assert int(kept.conf.get(PARTS)) == 401


def test_what_dead_sessions_left_goes_once_no_other_lives(settings: Settings) -> None:
    home = Home(settings)
    with scratch(home) as folder:
        (folder / "blockmgr-1").mkdir()
        (folder / "blockmgr-1" / "rows").touch()
        with scratch(home):
            assert (folder / "blockmgr-1" / "rows").exists()
        with scratch(home):  # the end of one that began later frees nothing of the first
            assert (folder / "blockmgr-1" / "rows").exists()
    with scratch(home):
        assert list(folder.iterdir()) == []
