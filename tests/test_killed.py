"""Every stage of the main job killed with SIGKILL at a third and at two thirds of its time, then run again: nothing is lost or doubled.

The peer is a home that nobody killed: the same tables row by row, the same metrics, an API that answers. Run by `make soak`.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, installation
from training.tracking import Tracking

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

STAGES = (
    ("sample", "--size", "tiny"),
    ("build",),
    ("features", "apply"),
    ("features", "materialize"),
    ("train", "sentiment", "--set", "fit.epochs=3"),
    ("up",),
)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Installation]]:
    """A home built undisturbed, and one whose every stage was killed twice before it was let through."""
    folder = tmp_path_factory.mktemp("killed")
    whole, killed = (installation(folder / name) for name in ("whole 家", "killed 家"))
    try:
        for stage in STAGES:
            began = time.monotonic()
            whole.shopgraph(*stage)
            took_s = time.monotonic() - began
            if stage[0] == "up":  # two sets of servers at once would not fit beside each other's time
                whole.shopgraph("down")
            assert killed.killed(took_s / 3, *stage), f"{stage} ended before it was killed"
            killed.killed(took_s * 2 / 3, *stage)  # it may go on where it was and end before
            killed.shopgraph(*stage)
        yield whole, killed
    finally:
        for home in (whole, killed):
            home.shopgraph("down")


def test_the_same_tables(homes: tuple[Installation, Installation]) -> None:
    whole, killed = homes
    assert killed.lake.tables() == whole.lake.tables() != []
    for path in whole.lake.tables():
        assert killed.rows(path).equals(whole.rows(path)), path


def test_the_same_metrics_and_no_run_left_running(homes: tuple[Installation, Installation]) -> None:
    metrics: dict[str, list[dict[str, float]]] = {}
    for home in homes:
        client = Tracking(home.settings).client
        runs = client.search_runs([client.get_experiment_by_name("sample/sentiment").experiment_id])
        assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
        finished = [run for run in runs if run.info.status == "FINISHED" and run.data.tags["role"] == "model"]
        metrics[home.settings.home_path.name] = [
            {name: value for name, value in run.data.metrics.items() if name.startswith("test_")} for run in finished
        ]
    (expected,) = metrics["whole 家"]
    assert expected
    # one more for each kill that came after the model was finished and before its baselines were
    assert 1 <= len(metrics["killed 家"]) <= 3
    assert all(found == expected for found in metrics["killed 家"])


def test_it_answers(homes: tuple[Installation, Installation]) -> None:
    _, killed = homes
    answer = killed.post("/v1/sentiment", {"texts": ["质量很好,物流很快"]})
    assert answer.status_code == 200, answer.text
    assert killed.shopgraph("doctor")


def test_nothing_half_written_stays(homes: tuple[Installation, Installation]) -> None:
    whole, killed = homes
    assert killed.leavings() == whole.leavings()


def test_ten_kills_of_a_build_at_random_moments_show_nothing_half_done(
    homes: tuple[Installation, Installation], tmp_path: Path
) -> None:
    whole, _ = homes
    fresh = installation(tmp_path / "fresh")
    fresh.shopgraph("sample", "--size", "tiny")
    chance, took_s = random.Random(7), 0.0
    for turn in range(11):  # the first is let through, to see how long it takes
        home = installation(tmp_path / f"{turn}")
        shutil.copytree(fresh.settings.home_path, home.settings.home_path)
        if turn:
            home.killed(chance.uniform(0.1, 0.95) * took_s, "build")
            for path in home.lake.tables():
                assert home.rows(path).equals(whole.rows(path)), f"{path} after kill {turn}"
        began = time.monotonic()
        home.shopgraph("build")
        took_s = took_s or time.monotonic() - began
        assert home.lake.tables() == whole.lake.tables()
        for path in home.lake.tables():
            assert home.rows(path).equals(whole.rows(path)), path
        shutil.rmtree(home.settings.home_path)
