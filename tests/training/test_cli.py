"""`shopgraph train`: what a job is asked for, and how long a training keeps others out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

import shopgraph
from infra.errors import HomeError, TableContractError
from infra.home import Home
from infra.settings import Settings
from training.cli import _show as show

LOCK = "train-sample-demand"


@pytest.fixture
def shop(settings: Settings) -> Settings:
    """A home whose shop has no table yet."""
    folder = Home(settings).shop("sample")
    folder.mkdir()
    (folder / "shop.yaml").write_text("name: sample\ncurrency: EUR\ntime_zone: UTC\nnow: '2024-05-01T00:00:00Z'\n")
    return settings


def train(settings: Settings, *arguments: str, mlflow_uri: str = "") -> Any:
    """Run the command line in this process."""
    environment = {"SHOPGRAPH_MLFLOW_URI": mlflow_uri} if mlflow_uri else {}
    return CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), "train", *arguments], env=environment)


@pytest.mark.parametrize("models", [(), ("demand",)])
def test_a_job_trains_what_the_same_command_trains_here(
    models: tuple[str, ...], shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without names a model that the shop has no data for is left out; with names it is an error."""
    sent: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("training.submit.submit", lambda settings, address, arguments: sent.append((address, arguments)))
    told = train(shop, *models, "--set", "fit.epochs=3", "--json", "--address", "http://ray:8265")
    assert told.exit_code == 0, told.output
    assert sent == [("http://ray:8265", ["train", *models, "--recipe", "demo", "--set", "fit.epochs=3", "--json"])]


def test_a_training_keeps_others_out_until_its_ray_has_ended(
    shop: Settings, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    @contextmanager
    def session(_: Settings) -> Iterator[None]:
        try:
            yield
        finally:  # here Ray's own waits for a fit that was interrupted and still writes
            with pytest.raises(HomeError, match="already running"), Home(shop).lock(LOCK):
                pass
            ended.append(True)

    monkeypatch.setattr("training.trainer.ray_session", session)
    assert isinstance(train(shop, "demand", mlflow_uri=mlflow_uri).exception, TableContractError)
    assert ended == [True]
    with Home(shop).lock(LOCK):
        told = train(shop, mlflow_uri=mlflow_uri)
    assert isinstance(told.exception, HomeError)
    assert ended == [True]  # no Ray was started for it


def test_in_a_log_no_name_and_no_interval_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = [f"a_long_metric_at_{k}" for k in range(8)]
    cells = ["0.1065 [0.0978, 0.1153]"] * len(metrics)
    rows = [["test part", *metrics], ["---"] * (len(metrics) + 1), ["popularity_28d", *cells]]
    summary = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    show({"recommender": {"version": 1, "run_id": "a", "summary": summary}})
    told = capsys.readouterr().out
    assert all(name in told for name in (*metrics, "popularity_28d"))
    assert told.count(cells[0]) == len(cells)
