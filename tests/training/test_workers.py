"""The real tasks on several workers, and killed with SIGKILL at random steps: neither changes what comes out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from infra.settings import Settings
from tests.training import workers
from tests.training.demand.conftest import CALENDAR, simulate
from training.demand.backtest import BacktestConfig
from training.demand.data import DemandTask, LossConfig, WindowConfig
from training.demand.encoder import Encoder as DemandEncoder
from training.demand.encoder import EncoderConfig
from training.demand.model import Config as DemandConfig
from training.demand.panel import Panel
from training.recommender.content import words_of
from training.recommender.data import DataConfig, RecommenderTask, make_encoder, make_queries, make_sequences, split
from training.recommender.network import Config
from training.trainer import FitConfig, Task, train

CONFIG = FitConfig(epochs=3, batch_size=7, learning_rate=5e-3, schedule="cosine", clip_norm=1.0, seed=3)
MODELS = ("recommender", "recommender with words", "recommender with words and negatives", "demand")


@pytest.fixture(params=MODELS)
def task(request: pytest.FixtureRequest) -> Task:
    """A small task of its kind, with dropout."""
    if request.param == "demand":
        return demand()
    return recommender(request.getfixturevalue("cycle"), 8 if "negatives" in request.param else None, "words" in request.param)


def recommender(cycle: pa.Table, num_negatives: int | None = None, has_words: bool = False) -> RecommenderTask:
    config = Config(dim=16, num_blocks=1, max_length=40, dropout=0.3, num_negatives=num_negatives)
    chosen = DataConfig(val_days=14, test_days=14)
    parts = split(cycle, chosen)
    encoder = make_encoder(parts.train, 28)
    sequences = make_sequences(parts.train, encoder)
    told = [words_of({"brand": item[:2]}) for item in encoder.items] if has_words else None
    queries = make_queries(parts.val, encoder)
    return RecommenderTask(config, chosen, encoder, sequences, queries, CONFIG.batch_size, CONFIG.seed, told)


def demand() -> DemandTask:
    panel = Panel.from_table(simulate(6), {})
    config = DemandConfig(encoder=EncoderConfig(context_length=28, max_horizon=7), hidden_size=16, dropout=0.3)
    end = panel.num_days - 14
    encoder = DemandEncoder.fit(config.encoder, panel.until(end), CALENDAR)
    windows, rules = WindowConfig(windows_per_epoch=150), BacktestConfig(horizon=7, num_origins=1)
    return DemandTask(panel.until(end + 7), encoder, config, windows, rules, LossConfig(), 16, CONFIG.seed, end, (end,))


def test_workers_change_nothing_but_rounding(task: Task, tmp_path: Path) -> None:
    alone = workers.run(task, CONFIG, tmp_path / "1")
    for num_workers in (2, 3):  # neither divides every batch
        together = workers.run(task, CONFIG, tmp_path / str(num_workers), num_workers)
        assert alone
        assert together
        for epoch, same in zip(alone.history, together.history, strict=True):
            assert same["train_loss"] == pytest.approx(epoch["train_loss"], rel=1e-5)
            assert same[str(task.monitor)] == pytest.approx(epoch[str(task.monitor)], abs=1e-5)


def test_other_dropout_would_be_seen(cycle: pa.Table, tmp_path: Path) -> None:
    """What the test above compares moves by far more than its tolerance where the masks are others."""
    made = recommender(cycle)
    one = workers.run(made, CONFIG, tmp_path / "one")
    other = workers.run(replace(made, config=made.config.model_copy(update={"dropout": 0.31})), CONFIG, tmp_path / "other")
    assert one
    assert other
    assert abs(one.history[-1]["train_loss"] / other.history[-1]["train_loss"] - 1) > 1e-3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_at_random_steps_it_ends_bit_for_bit_as_if_it_never_stopped(task: Task, num_workers: int, tmp_path: Path) -> None:
    whole = workers.run(task, CONFIG, tmp_path / "whole", num_workers)
    often = CONFIG.model_copy(update={"checkpoint_s": 0.01})
    chance, result, found = random.Random(num_workers), None, []
    folder = tmp_path / "killed"
    for _ in range(4):
        result = workers.run(task, often, folder, num_workers, kill_after=chance.randint(4, 2 * task.num_steps(0)))
        if result:
            break
        assert len(list((folder / "fit").glob("*"))) <= 7  # two checkpoints of three files, and a draft
        found.append(json.loads((folder / "fit" / "progress.json").read_text())["step"])
    result = result or workers.run(task, often, folder, num_workers)
    assert any(step % task.num_steps(0) for step in found), "it was never continued within an epoch"
    assert whole
    assert result
    assert (result.history, result.best_epoch) == (whole.history, whole.best_epoch)
    assert result.state.keys() == whole.state.keys()
    assert all(torch.equal(result.state[name], whole.state[name]) for name in whole.state)
    assert len(list((folder / "fit").iterdir())) == 3


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_two_workers_of_ray_train_change_nothing_but_rounding(cycle: pa.Table, settings: Settings, tmp_path: Path) -> None:
    made = recommender(cycle)
    alone = workers.run(made, CONFIG, tmp_path / "alone")
    two = CONFIG.model_copy(update={"num_workers": 2})
    together = train(made, two, settings, title="two", checkpoint=tmp_path / "two").tuned
    assert alone
    for epoch, same in zip(alone.history, together.history, strict=True):
        assert same["train_loss"] == pytest.approx(epoch["train_loss"], rel=1e-5)
        assert same["val_ndcg_at_10"] == pytest.approx(epoch["val_ndcg_at_10"], abs=1e-5)
