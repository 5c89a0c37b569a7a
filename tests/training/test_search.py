"""A search: what may be tried, that a killed one goes on as if it had not been, and what it never looks at."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mlflow import MlflowClient

from features.shop import Shop
from features.tables import INTERACTIONS
from infra.errors import SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from training import recipe as recipes
from training import space as spaces
from training.context import Context
from training.recommender import train as recommender
from training.search import Search, Trial
from training.space import Range, Space
from training.tracking import Tracking
from training.tune import check

SPACE: Space = {
    "fit.learning_rate": Range(low=1e-3, high=1.0, log=True),
    "model.dim": (8, 16),
    "model.num_blocks": Range(low=1, high=3),
}
FIRST = {"fit.learning_rate": 0.01, "model.dim": 8, "model.num_blocks": 2}


def search(folder: Path, name: str = "a", seed: int = 7) -> Search:
    return Search(folder / "searches.db", name, SPACE, "max", seed, FIRST)


def value_of(trial: Trial, epoch: int) -> float:
    """The nearer the learning rate is to 0.1, the better; each epoch helps."""
    rate = float(trial.changes[0].partition("=")[2])
    return epoch - abs(rate - 0.1) * 10


def run(made: Search, total: int, stop: Callable[[int, int], bool] = lambda number, epoch: False) -> bool:
    """Try `total`; False if `stop` broke off in mid-trial."""
    for trial in made.trials(total):
        for epoch in range(4):
            is_hopeless = trial.is_hopeless(epoch, value_of(trial, epoch))
            if stop(trial.number, epoch):
                return False
            if is_hopeless:
                trial.prune()
                break
        else:
            trial.finish()
    return True


@pytest.mark.parametrize("model", recipes.MODELS)
def test_every_recipe_declares_what_to_search_and_each_value_fits_it(model: str) -> None:
    from importlib import import_module

    declared = import_module(f"training.{model}.search").SPACES
    assert declared.keys() == recipes.names(model).keys()
    for name, space in declared.items():
        check(model, name, (), space)


def test_the_first_trial_is_the_recipe_as_it_is_and_the_best_is_found(tmp_path: Path) -> None:
    made = search(tmp_path)
    run(made, 16)
    assert made.tried[0].changes == ("fit.learning_rate=0.01", "model.dim=8", "model.num_blocks=2")
    assert made.best
    assert made.best.value == max(one.value for one in made.tried if not one.is_pruned and one.value is not None)
    assert made.best.value > made.tried[0].value  # type: ignore[operator]


def test_a_trial_below_the_median_is_stopped_and_is_never_the_best(tmp_path: Path) -> None:
    made = search(tmp_path)
    run(made, 16)
    stopped = [one for one in made.tried if one.is_pruned]
    assert stopped
    assert all(2 <= one.epochs <= 4 for one in stopped)
    assert made.best not in stopped


def test_a_search_broken_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole, places = search(tmp_path / "whole"), {(2, 1), (6, 0), (7, 1)}
    run(whole, 10)

    def stop(number: int, epoch: int) -> bool:
        found = (number, epoch) in places
        places.discard((number, epoch))
        return found

    for _ in range(3):
        assert not run(search(tmp_path / "broken"), 10, stop)
    assert run(search(tmp_path / "broken"), 10, stop)
    assert search(tmp_path / "broken").tried == whole.tried
    assert len(whole.tried) == 10


def test_more_trials_go_on_from_the_end_and_other_searches_stay_apart(tmp_path: Path) -> None:
    run(search(tmp_path), 3)
    before = search(tmp_path).tried
    run(search(tmp_path, "b"), 2)
    run(search(tmp_path), 5)
    assert search(tmp_path).tried[:3] == before
    assert len(search(tmp_path).tried) == 5
    run(search(tmp_path), 5)
    assert len(search(tmp_path).tried) == 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "all of it"),
        ("fit.epochs: []", "nothing to choose"),
        ("fit.epochs: 3", "fit.epochs: "),
        ("fit.epochs: {low: 3, high: 1}", "expected low < high"),
        ("fit.learning_rate: {low: 0, high: 1, log: true}", "low > 0"),
        ("fit.epochs: [1", "is not YAML"),
        ("fit.epoch: [1, 2]", "no field 'fit.epoch'"),
        ("fit.epochs: [0, 2]", "fit.epochs: Input should be greater than 0"),
        ("fit.seed: [1, 2]", "fit.seed is both searched and set"),
    ],
)
def test_a_search_file_that_does_not_fit_is_told(content: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=told):
        check("recommender", "demo", ("fit.seed=3",), spaces.read(file))


def test_a_search_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("fit.learning_rate: {low: 1e-4, high: 1e-2, log: true}\nmodel.dim: [32, 64]\nmodel.temperature: [null, 0.1]\n")
    space = spaces.read(file)
    assert space == {
        "fit.learning_rate": Range(low=1e-4, high=1e-2, log=True),
        "model.dim": (32, 64),
        "model.temperature": (None, 0.1),
    }
    check("recommender", "demo", (), space)
    with pytest.raises(SettingsError, match="cannot be read"):
        spaces.read(tmp_path / "none.yaml")


def write(lake: Lake, rows: pa.Table) -> None:
    rows = rows.append_column("created_timestamp", rows["event_timestamp"])
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in INTERACTIONS.schema
    ]
    lake.write(INTERACTIONS.path, pa.table(columns, schema=INTERACTIONS.schema), "overwrite", digest=str(rows["item_id"][-1]))


def test_what_is_tuned_holds_nothing_of_the_test_part(cycle: pa.Table, settings: Settings) -> None:
    """Other items in the test part, the very same task."""
    recipe = recipes.load("recommender", "demo", ("data.val_days=14", "data.test_days=14"))
    is_test = pc.greater_equal(
        cycle["event_timestamp"], pc.subtract(pc.max(cycle["event_timestamp"]), pa.scalar(14 * 86_400_000_000, pa.duration("us")))
    )
    changed = cycle.set_column(cycle.column_names.index("item_id"), "item_id", pc.if_else(is_test, "other", cycle["item_id"]))
    assert not changed.equals(cycle)
    tasks = []
    for shop, rows in (("a", cycle), ("b", changed)):
        lake = Lake.open(settings, shop)
        write(lake, rows)
        context = Context(settings, Shop(name=shop, currency="EUR", time_zone="UTC"), lake, Tracking(settings, shop))
        tasks.append(recommender.tuning(recipe, context).task)  # type: ignore[arg-type]
    assert pickle.dumps(tasks[0]) == pickle.dumps(tasks[1])


@pytest.mark.e2e
def test_a_search_killed_in_a_trial_goes_on_and_says_what_to_train(
    cycle: pa.Table,
    settings: Settings,
    mlflow_uri: str,
    tmp_path: Path,
) -> None:
    folder = Home(settings).shop("tuned")
    folder.mkdir()
    (folder / "shop.yaml").write_text("name: tuned\ncurrency: EUR\ntime_zone: UTC\nnow: '2024-03-01T00:00:00Z'\n")
    write(Lake.open(settings, "tuned"), cycle)
    file = tmp_path / "search.yaml"
    file.write_text("fit.learning_rate: {low: 1e-4, high: 1e-1, log: true}\nmodel.dim: [8, 16]\n")
    fixed = ["fit.epochs=3", "fit.batch_size=16", "data.val_days=14", "data.test_days=14", "model.max_length=8"]
    command = [sys.executable, "-m", "shopgraph", "--home", str(settings.home), "--shop", "tuned", "tune", "recommender"]
    command += ["--search", str(file), "--trials", "3", *(part for change in fixed for part in ("--set", change))]
    environment = {**os.environ, **settings.environment(with_secrets=True), "SHOPGRAPH_MLFLOW_URI": mlflow_uri}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr
        for line in killed.stderr:
            if "trial 2 of 3" in line:
                killed.kill()
                break
    states = (
        sqlite3.connect(settings.home_path / "sql" / "searches.db").execute("select state from trials order by number").fetchall()
    )
    assert states == [("COMPLETE",), ("RUNNING",)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("shopgraph train recommender --recipe demo --set fit.epochs=3")
    client = MlflowClient(mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tuned/recommender").experiment_id])
    (parent,) = [one for one in runs if one.data.tags["role"] == "search"]
    below = [one for one in runs if one.data.tags["role"] == "trial"]
    assert len(below) == 4  # the killed one, and it again
    assert {one.data.tags["mlflow.parentRunId"] for one in below} == {parent.info.run_id}
    assert sorted(one.info.status for one in runs) == ["FINISHED"] * 4 + ["KILLED"]
    assert not [name for one in runs for name in one.data.metrics if name.startswith("test_")]
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "plots")] == ["plots/trials.png"]
    assert done.stdout.splitlines()[-1] == parent.data.tags["best"]
    assert not list((settings.home_path / "checkpoints" / "tuned" / "recommender").iterdir())
