"""The point-in-time join on Spark: the oracle of the embedded engine holds it too, and its frames are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.offline import frames
from features.offline.labels import Labels
from features.tables import Type
from features.views import View
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs import point_in_time
from tests.point_in_time import Answers, Case, World, hold_to_oracle


@pytest.fixture
def joined(spark: SparkSession, tmp_path: Path) -> Callable[..., pa.Table]:
    """`joined(labels, views, names, lake)`: the frame as Spark writes it, the labels read from two files."""
    calls = 0

    def join(labels: pa.Table, views: Sequence[View], names: dict[str, dict[str, str]], lake: Lake) -> pa.Table:
        nonlocal calls
        calls += 1
        folder = tmp_path / f"labels {calls} é"
        folder.mkdir()
        half = labels.num_rows // 2
        pq.write_table(labels.slice(0, half), folder / "1.parquet", row_group_size=max(half // 3, 1))
        pq.write_table(labels.slice(half), folder / "2.parquet")
        found = Labels.find(folder)
        frame = point_in_time.join(spark, found, views, names, lake)
        point_in_time.write(frame, found.num_rows, tmp_path / f"frame{calls}", parts=3)
        return pq.read_table(tmp_path / f"frame{calls}")

    return join


@pytest.mark.parametrize("kinds", [("string", "string"), ("date", "int")])
def test_random_cases_equal_the_oracle(joined: Callable[..., pa.Table], settings: Settings, kinds: tuple[Type, ...]) -> None:
    calls = 0

    def engine(cases: Sequence[Case]) -> dict[int | None, Answers]:
        nonlocal calls
        calls += 1
        world, lake = World(cases, kinds), Lake.open(settings, f"shop{calls}")
        world.write(lake)
        frame = joined(world.labels(), world.views, world.names, lake)
        assert frame.equals(frames.join(world.labels(), world.views, world.names, lake, with_times=True))
        return world.answers(frame)

    hold_to_oracle(engine, 5_000, number=10 + len(kinds[0]))
