"""The embedded point-in-time join against a brute-force oracle that knows only the rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from features.offline import frames
from features.offline import join as joining
from features.offline.join import NOTHING, latest_rows, rows_at
from features.tables import Type
from infra.lake import Lake
from infra.settings import Settings
from tests.point_in_time import BASE, TTLS, Answers, Case, World, draw, hold_to_oracle, oracle

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def engine(settings: Settings) -> Callable[..., dict[int | None, Answers]]:
    """`engine(cases, kinds)`: the answers of the embedded engine, from a frame of its own lake."""
    calls = 0

    def answers(cases: Sequence[Case], kinds: tuple[Type, ...] = ("string", "string")) -> dict[int | None, Answers]:
        nonlocal calls
        calls += 1
        world, lake = World(cases, kinds), Lake.open(settings, f"shop{calls}")
        world.write(lake)
        return world.answers(frames.join(world.labels(), world.views, world.names, lake, with_times=True))

    return answers


@pytest.mark.parametrize("kinds", [("string", "string"), ("date", "int")])
def test_random_cases_equal_the_oracle(engine: Callable[..., dict[int | None, Answers]], kinds: tuple[Type, ...]) -> None:
    hold_to_oracle(lambda cases: engine(cases, kinds), 5_000, number=len(kinds[0]))


def test_times_far_apart_are_ranked_instead_of_packed(
    engine: Callable[..., dict[int | None, Answers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many keys over a long span, key and time do not fit one integer; the answer must not change."""
    monkeypatch.setattr(joining, "_PACKED_BITS", 8)
    hold_to_oracle(engine, 500, number=3)


@pytest.mark.parametrize("as_of", [2, 2 * 86_400_000_000])
def test_latest_rows_equal_labels_at_that_instant(lake: Lake, as_of: int) -> None:
    world = World(draw(500, number=4), ("string", "string"))
    world.write(lake)
    for ttl, view in zip(TTLS, world.views, strict=True):
        expected = set()
        for n, case in enumerate(world.cases):
            keys = {row.key for row in case.rows}
            expected |= {(str(n), number) for number in oracle(Case(case.rows, tuple((key, as_of) for key in keys)), ttl)}
        found = frames.latest(view, BASE + as_of * MICROSECOND, lake)
        assert found.schema == view.schema
        told = list(zip(found["case_id"].to_pylist(), found["number"].to_pylist(), strict=True))
        assert sorted(told) == sorted((case, number) for case, number in expected if number is not None)


def column(values: Sequence[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def times(values: Sequence[int]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))])


def test_empty_sides_give_nothing() -> None:
    nobody = [column([])]
    assert rows_at([column(["a"])], times([5]), nobody, times([]), times([]), None).tolist() == [NOTHING]
    assert rows_at(nobody, times([]), [column(["a"])], times([1]), times([1]), None).tolist() == []
    assert rows_at([column(["a"])], times([5]), [column([None])], times([1]), times([1]), None).tolist() == [NOTHING]
    assert latest_rows(nobody, times([]), times([]), datetime(2024, 1, 1, tzinfo=UTC), None).tolist() == []


def test_a_microsecond_decides() -> None:
    key, born = [column(["a"])], times([1_714_564_800_000_001])
    labels = [column(["a"] * 3)]
    at = times([1_714_564_800_000_000, 1_714_564_800_000_001, 1_714_564_800_000_012])
    assert rows_at(labels, at, key, born, born, 10 * MICROSECOND).tolist() == [NOTHING, 0, NOTHING]
