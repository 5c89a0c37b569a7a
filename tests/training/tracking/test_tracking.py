"""Against a real MLflow server: runs carry what a reviewer needs, registered models come back byte for byte, silence loses nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import pyarrow as pa
import pytest
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file, save_file

from infra.errors import EngineError, ModelNotFoundError
from infra.home import Home
from infra.lake import Lake
from infra.pins import Pin, pins
from infra.processes import free_ports, is_open, processes, running, start, stop
from infra.settings import Settings
from training.tracking import Run, Tracking
from training.tracking.registry import fetch, register
from training.tracking.runs import description
from training.tracking.server import NAME, ensure_server, server_uri


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    settings = Settings.load(home=tmp_path_factory.mktemp("tracking") / "home", mlflow_port=free_ports(1)[0])
    Home(settings).create()
    yield Tracking(settings, "shop_a")
    stop(Home(settings), NAME)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    save_file({"weight": torch.arange(6.0).reshape(2, 3)}, made / "weights.safetensors")
    (made / "config.json").write_text('{"width": 3}')
    return made


SPEC = {"item_rows": ((-1, 50), "int64")}
INPUTS = {"features/interactions": 3}


def test_a_run_carries_parameters_inputs_plots_and_commit(tracking: Tracking) -> None:
    with tracking.run("recommender", name="demo", role="model", recipe={"fit": {"epochs": 3}}, inputs=INPUTS) as run:
        run.metrics({"val_ndcg_at_10": 0.1}, step=0)
        run.metrics({"val_ndcg_at_10": 0.2}, step=1)
        run.table(pa.table({"user": ["a"], "ndcg_at_10": [1.0]}), "per_user.parquet")
        figure, _ = plt.subplots()
        run.figure(figure, "curve.png")
        plt.close(figure)
        run.note("# Card\nwords")
    kept = tracking.client.get_run(run.id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["fit.epochs"] == "3"
    assert kept.data.tags["role"] == "model"
    assert len(kept.data.tags["git_commit"]) >= 40
    assert [dataset.dataset.digest for dataset in kept.inputs.dataset_inputs] == ["v3"]
    assert [metric.value for metric in tracking.client.get_metric_history(run.id, "val_ndcg_at_10")] == [0.1, 0.2]
    assert {item.path for item in tracking.client.list_artifacts(run.id)} >= {"plots", "tables", "card.md"}


def test_a_card_too_long_for_a_description_ends_with_a_whole_line_and_says_where_the_rest_is() -> None:
    card = "\n".join(f"| row {number} | {'x' * 50} |" for number in range(200))
    cut, pointer = description(card).rsplit("\n\n", 1)
    assert len(description(card)) <= 5000
    assert cut == "\n".join(card.splitlines()[: cut.count("\n") + 1])
    assert "card.md" in pointer
    assert description("# Card") == "# Card"


def test_a_failing_run_is_marked_failed(tracking: Tracking) -> None:
    with (
        pytest.raises(ValueError, match="boom"),
        tracking.run("demand", name="demo", role="model", recipe={}, inputs=INPUTS) as run,
    ):
        raise ValueError("boom")
    assert tracking.client.get_run(run.id).info.status == "FAILED"


def test_what_the_server_refuses_fails_the_run_in_words_that_help(tracking: Tracking) -> None:
    with (
        pytest.raises(EngineError, match=r"INVALID_PARAMETER_VALUE.*shopgraph status.*has kept the fitted epochs"),
        tracking.run("sentiment", name="refused", role="model", recipe={"x": 1}, inputs=INPUTS) as run,
    ):
        run.params({"x": 2})  # a parameter is logged once
    assert tracking.client.get_run(run.id).info.status == "FAILED"


def held(tracking: Tracking) -> list[Pin]:
    return pins(Lake.open(tracking.settings, tracking.shop))


def test_a_run_pins_its_tables_and_hands_the_pin_to_the_model_it_registers(tracking: Tracking, folder: Path) -> None:
    with tracking.run("stock", name="demo", role="model", recipe={}, inputs=INPUTS) as run:
        assert [dict(pin.tables) for pin in held(tracking) if pin.holder == f"run {run.id}"] == [INPUTS]
        version = tracking.register(run, "stock", folder, SPEC, "card")
    assert [dict(pin.tables) for pin in held(tracking) if pin.holder == f"model shop_a.stock-{version}"] == [INPUTS]
    assert not [pin for pin in held(tracking) if pin.name == run.id]
    killed = tracking.run("stock", name="demo", role="model", recipe={}, inputs=INPUTS)
    run = killed.__enter__()
    register(tracking.client, run, "shop_a.stock", folder, SPEC, "card")  # and the process died before the model's own pin
    assert tracking.close_abandoned("stock") == [run.id]
    assert [pin.name for pin in held(tracking) if pin.kind == "run"].count(run.id) == 1


def test_what_a_killed_training_left_running_is_closed_and_nothing_else(tracking: Tracking) -> None:
    elsewhere = Settings.load(home=tracking.home.path.with_name("other"), mlflow_uri=server_uri(tracking.home))
    contexts = [
        t.run("demand", name="x", role="model", recipe={}, inputs=INPUTS) for t in (tracking, Tracking(elsewhere, "shop_a"))
    ]
    left, own = (context.__enter__() for context in contexts)
    assert tracking.close_abandoned("sentiment") == []
    assert {pin.holder for pin in held(tracking)} >= {f"run {left.id}"}
    assert tracking.close_abandoned("demand") == [left.id]
    assert f"run {left.id}" not in {pin.holder for pin in held(tracking)}
    assert tracking.client.get_run(left.id).info.status == "KILLED"
    assert tracking.client.get_run(own.id).info.status == "RUNNING"
    assert tracking.close_abandoned("demand") == []


def test_a_registered_model_comes_back_byte_for_byte(tracking: Tracking, folder: Path) -> None:
    with tracking.run("sentiment", name="demo", role="model", recipe={}, inputs=INPUTS) as run:
        version = tracking.register(run, "sentiment", folder, SPEC, "card")
    saved = tracking.fetch("sentiment")
    assert (saved.version, saved.run_id, saved.inputs) == (version, run.id, INPUTS)
    assert torch.equal(load_file(saved.folder / "weights.safetensors")["weight"], torch.arange(6.0).reshape(2, 3))
    assert tracking.fetch("sentiment", str(version)).folder == tracking.fetch("sentiment", saved.run_id).folder == saved.folder


def test_the_next_version_is_the_newest_and_aliases_resolve(tracking: Tracking, folder: Path) -> None:
    with tracking.run("ranker", name="demo", role="model", recipe={}, inputs=INPUTS) as run:
        first = tracking.register(run, "ranker", folder, SPEC, "card")
        (folder / "config.json").write_text('{"width": 4}')
        second = tracking.register(run, "ranker", folder, SPEC, "card")
    assert tracking.fetch("ranker").version == second == first + 1
    tracking.client.set_registered_model_alias("shop_a.ranker", "champion", str(first))
    assert tracking.fetch("ranker", "champion").version == first


def test_a_model_that_is_not_there_is_named(tracking: Tracking) -> None:
    with pytest.raises(ModelNotFoundError, match="shop_a.nothing"):
        tracking.fetch("nothing")
    with pytest.raises(ModelNotFoundError, match="'99'"):
        tracking.fetch("sentiment", "99")
    with pytest.raises(ModelNotFoundError, match="run 0{32} registered no version"):
        tracking.fetch("sentiment", "0" * 32)


def test_a_version_that_was_registered_by_hand_is_named(tmp_path: Path) -> None:
    class Registry:
        """What MLflow's client answers of a version that was made in its UI."""

        def search_model_versions(self, _: str) -> list[ModelVersion]:
            return [ModelVersion("shop_a.ranker", "7", creation_timestamp=0)]

    with pytest.raises(EngineError, match=r"version 7 of model shop_a\.ranker was not registered.*`digest`.*train.*delete"):
        fetch(Registry(), "shop_a.ranker", None, Home(Settings.load(home=tmp_path)))


def test_our_own_server_is_started_again_where_it_is_gone(tracking: Tracking) -> None:
    with tracking.run("demand", name="gone", role="model", recipe={}, inputs=INPUTS) as run:
        run.metrics({"val_wql": 0.5}, step=0)
        for process in processes(tracking.home, NAME):
            process.kill()
        run.text("kept", "note.txt")
        run.metrics({"val_wql": 0.4}, step=1)
    assert [metric.value for metric in tracking.client.get_metric_history(run.id, "val_wql")] == [0.5, 0.4]
    assert [file.path for file in tracking.client.list_artifacts(run.id)] == ["note.txt"]


def test_metrics_wait_for_the_server_of_another_that_is_gone(tracking: Tracking) -> None:
    ensure_server(tracking.home)
    other = Tracking(tracking.settings.model_copy(update={"mlflow_uri": server_uri(tracking.home)}), "shop_a")
    with other.run("demand", name="gone", role="model", recipe={}, inputs=INPUTS) as run:
        run.metrics({"val_wql": 0.5}, step=0)
        stop(tracking.home, NAME)
        run.metrics({"val_wql": 0.4}, step=1)
        ensure_server(tracking.home)
    assert [metric.value for metric in tracking.client.get_metric_history(run.id, "val_wql")] == [0.5, 0.4]


def test_the_database_is_on_no_command_line(tracking: Tracking) -> None:
    ensure_server(tracking.home)
    assert not any("sqlite" in part for process in processes(tracking.home, NAME) for part in process.cmdline())
    assert "sqlite" not in (tracking.home.run / f"{NAME}.json").read_text()


def test_a_server_that_falls_silent_is_named(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    other = Tracking(tracking.settings.model_copy(update={"mlflow_uri": server_uri(tracking.home)}), "shop_a")
    ensure_server(tracking.home)
    assert other.client
    stop(tracking.home, NAME)
    with pytest.raises(EngineError, match="does not answer as it should"):
        other.close_abandoned("demand")
    with pytest.raises(EngineError, match="does not answer as it should"):
        other.fetch("sentiment")
    with (
        pytest.raises(EngineError, match="does not answer as it should"),
        other.run("demand", name="demo", role="model", recipe={}, inputs=INPUTS),
    ):
        pass


def test_a_server_that_is_asked_for_twice_at_once_is_started_once(tracking: Tracking) -> None:
    stop(tracking.home, NAME)
    with ThreadPoolExecutor(2) as both:
        assert len(set(both.map(ensure_server, [tracking.home] * 2))) == 1
    assert running(tracking.home, NAME)


def test_a_server_that_runs_on_another_port_is_named_and_goes_on(tracking: Tracking) -> None:
    ensure_server(tracking.home)
    pid = running(tracking.home, NAME)
    elsewhere = Home(tracking.settings.model_copy(update={"mlflow_port": free_ports(1)[0]}))
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"runs on port {tracking.settings.mlflow_port}, .*SHOPGRAPH_MLFLOW_PORT .*down"):
        ensure_server(elsewhere)
    assert time.monotonic() - began < 5
    assert running(tracking.home, NAME) == pid


def test_a_server_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    """Any program that answers /health stands for a server; this one listens late."""
    (tmp_path / "health").touch()
    home = Home(Settings.load(home=tmp_path / "home", mlflow_port=free_ports(1)[0])).create()
    late = "import runpy, time; time.sleep(2); runpy.run_module('http.server', run_name='__main__')"
    command = [sys.executable, "-c", late, str(home.settings.mlflow_port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    pid = start(home, NAME, command, {}, lambda: True)
    try:
        assert ensure_server(home) == server_uri(home)
        assert running(home, NAME) == pid
    finally:
        stop(home, NAME)


@pytest.mark.parametrize("call", ["mlflow.MlflowClient.get_run", "training.tracking.registry.download_artifacts"])
def test_a_server_that_falls_silent_in_mid_fetch_is_named(
    call: str, tracking: Tracking, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    with tracking.run("sentiment", name="demo", role="model", recipe={}, inputs=INPUTS) as run:
        version = tracking.register(run, "sentiment", folder, SPEC, "card")
    monkeypatch.setattr(call, silent)
    with pytest.raises(EngineError, match="connection refused"):
        tracking.fetch("sentiment", str(version))


def test_a_deleted_experiment_is_named(tracking: Tracking) -> None:
    with tracking.run("old", name="demo", role="model", recipe={}, inputs=INPUTS):
        pass
    tracking.client.delete_experiment(tracking.client.get_experiment_by_name("shop_a/old").experiment_id)
    with (
        pytest.raises(EngineError, match="shop_a/old .* was deleted .* restore"),
        tracking.run("old", name="demo", role="model", recipe={}, inputs=INPUTS),
    ):
        pass


def test_an_error_is_not_hidden_by_a_silent_server(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(run: Run, status: str) -> None:
        raise EngineError("MLflow does not answer")

    monkeypatch.setattr(Run, "finish", silent)
    with (
        pytest.raises(ValueError, match="boom"),
        tracking.run("demand", name="demo", role="model", recipe={}, inputs=INPUTS),
    ):
        raise ValueError("boom")


def test_a_foreign_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    silent = Tracking(Settings.load(home=tmp_path, mlflow_uri="http://127.0.0.1:9"))
    with pytest.raises(EngineError, match="127.0.0.1:9"):
        silent.fetch("recommender")


def test_a_graph_version_is_shown_once_and_aliases_say_what_answers(tracking: Tracking) -> None:
    files = {"manifest.json": '{"shop": "知"}', "graph.mmd": "flowchart LR\n"}
    first = tracking.keep_graph("recommend", "aa" * 8, files, {"budget_ms": "50", "static": "x" * 10_000})
    assert tracking.keep_graph("recommend", "aa" * 8, files, {"budget_ms": "50"}) == first
    second = tracking.keep_graph("recommend", "bb" * 8, files, {"budget_ms": "60"})
    assert first != second
    client, name = tracking.client, f"{tracking.shop}.graph_recommend"
    tracking.mirror_graph("recommend", {"stable": "aa" * 8, "candidate": "bb" * 8})
    assert client.get_model_version_by_alias(name, "stable").version == first
    assert client.get_model_version_by_alias(name, "candidate").version == second
    tracking.mirror_graph("recommend", {"stable": "bb" * 8, "candidate": None})
    tracking.mirror_graph("recommend", {"stable": "bb" * 8, "candidate": "of another home"})
    assert dict(client.get_registered_model(name).aliases) == {"stable": second}
    shown = client.get_model_version(name, second)
    assert (shown.tags["kind"], shown.tags["digest"]) == ("graph", "bb" * 8)
    run = client.get_run(shown.run_id)
    assert (run.info.status, run.data.params["budget_ms"]) == ("FINISHED", "60")
    assert Path(client.download_artifacts(shown.run_id, "graph/manifest.json")).read_text() == files["manifest.json"]


def test_no_server_is_started_for_a_mirror(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "home", mlflow_port=free_ports(1)[0])
    Home(settings).create()
    Tracking(settings, "shop_a").mirror_graph("recommend", {"stable": "aa" * 8})
    assert not is_open(settings.mlflow_port)
