"""The loop learns, keeps the best epoch, stops early, resumes exactly, and gives the same result through Ray Train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from infra.errors import EngineError, TableContractError
from infra.settings import Settings
from training.trainer import FitConfig, _explained, _join, cores_per_worker, fit, train


class LineTask:
    """y = 3x + 1 with a little dropout, so that random state matters."""

    monitor: str | None = "val_log_loss"
    mode: Literal["max", "min"] = "min"

    def __init__(self, batch_size: int = 16) -> None:
        self.batch_size = batch_size
        self.x = torch.linspace(-1, 1, 64)[:, None]

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def num_steps(self, epoch: int) -> int:
        return len(self.x) // self.batch_size

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(self.batch_size):
            yield {"x": self.x[rows[rank::world_size]]}

    def loss(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((module(batch["x"]) - (3 * batch["x"] + 1)) ** 2).mean()

    def validate(self, module: nn.Module) -> dict[str, float]:
        return {"val_log_loss": float(self.loss(module, {"x": self.x}))}


class BrokenTask(LineTask):
    def loss(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return super().loss(module, batch) * float("nan")


class WorseningTask(LineTask):
    """Validation gets worse from the third epoch on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def validate(self, module: nn.Module) -> dict[str, float]:
        self.seen += 1
        return {"val_log_loss": [3.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0, 8.0][self.seen - 1]}


class RisingTask(LineTask):
    """Nothing is held back, and the loss, though of a better network, rises with each epoch."""

    monitor = None

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, torch.Tensor]]:
        for batch in super().batches(epoch, rank, world_size):
            yield batch | {"weight": torch.tensor(100.0**epoch)}

    def loss(self, module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return super().loss(module, batch) * batch["weight"]

    def validate(self, module: nn.Module) -> dict[str, float]:
        self.last = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return {}


NOWHERE = {"ray_address": "127.0.0.1:9"}
CONFIG = FitConfig(epochs=6, learning_rate=0.02, schedule="cosine", warmup_steps=2)


def test_fit_learns_the_line() -> None:
    result = fit(LineTask(), FitConfig(epochs=60, learning_rate=0.02))
    assert min(epoch["val_log_loss"] for epoch in result.history) < 0.1 * result.history[0]["val_log_loss"]


def test_bfloat16_learns_the_line_as_well_and_its_weights_stay_float32() -> None:
    result = fit(LineTask(), FitConfig(epochs=60, learning_rate=0.02, mixed_precision=True))
    exact = fit(LineTask(), FitConfig(epochs=60, learning_rate=0.02))
    assert result.history != exact.history
    assert min(epoch["val_log_loss"] for epoch in result.history) < 0.1 * result.history[0]["val_log_loss"]
    assert {tensor.dtype for tensor in result.state.values()} == {torch.float32}


def test_a_fit_stops_where_it_is_told_to(tmp_path: Path) -> None:
    told: list[int] = []

    def stop_after_third(epoch: int, metrics: dict[str, float]) -> bool:
        told.append(epoch)
        return epoch == 2

    result = fit(LineTask(), CONFIG, stop_after_third, checkpoint=tmp_path)
    assert told == [0, 1, 2]
    assert len(result.history) == 3
    assert fit(LineTask(), CONFIG, stop_after_third, checkpoint=tmp_path).history == result.history


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    first, again = fit(LineTask(), CONFIG), fit(LineTask(), CONFIG)
    other = fit(LineTask(), FitConfig(**{**CONFIG.model_dump(), "seed": 8}))
    assert first.history == again.history
    assert first.history != other.history


def test_early_stop_keeps_the_best_epoch() -> None:
    result = fit(WorseningTask(), FitConfig(epochs=8, patience=2))
    assert result.best_epoch == 2
    assert len(result.history) == 5


def test_where_nothing_is_monitored_all_epochs_count() -> None:
    task = RisingTask()
    result = fit(task, CONFIG.model_copy(update={"epochs": 3, "patience": 1}))
    losses = [epoch["train_loss"] for epoch in result.history]
    assert losses == sorted(losses)
    assert (len(losses), result.best_epoch) == (3, 2)
    assert all(torch.equal(result.state[name], task.last[name]) for name in task.last)


def test_killed_fit_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = fit(LineTask(), CONFIG, checkpoint=tmp_path / "whole")

    def kill_after_third(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(LineTask(), CONFIG, kill_after_third, checkpoint=tmp_path / "killed")
    resumed = fit(LineTask(), CONFIG, checkpoint=tmp_path / "killed")
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.state[name], whole.state[name]) for name in whole.state)


@pytest.mark.parametrize(
    ("node_cores", "num_workers", "cores"),
    [([2], 1, 2), ([2], 2, 1), ([1, 2], 1, 2), ([3, 1], 2, 1), ([4, 4], 2, 4), ([5, 0], 2, 2)],
)
def test_workers_get_what_their_node_has(node_cores: list[int], num_workers: int, cores: int) -> None:
    assert cores_per_worker(node_cores, num_workers) == cores


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(EngineError, match="3 workers need a core each and Ray has 2"):
        cores_per_worker([1, 1], 3)


def test_nan_loss_is_named() -> None:
    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(BrokenTask(), CONFIG)


class UnjudgedTask(LineTask):
    def validate(self, module: nn.Module) -> dict[str, float]:
        return {"val_log_loss": float("nan")}


def test_nan_of_the_monitored_metric_is_named() -> None:
    with pytest.raises(FloatingPointError, match="val_log_loss is nan in epoch 0"):
        fit(UnjudgedTask(), CONFIG)


def test_a_cluster_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(EngineError, match="no Ray answers at 127.0.0.1:9"):
        _join(settings.model_copy(update=NOWHERE))


def test_a_continued_fit_tells_its_past_epochs_first(tmp_path: Path) -> None:
    fit(LineTask(), CONFIG.model_copy(update={"epochs": 2}), checkpoint=tmp_path)
    told: list[int] = []
    fit(LineTask(), CONFIG, lambda epoch, metrics: told.append(epoch), checkpoint=tmp_path)
    assert told == list(range(6))


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (TableContractError("table x is short"), TableContractError, "^table x is short$"),
        (FloatingPointError("training loss is nan"), EngineError, "worker failed: training loss is nan"),
        (ValueError("a\nb"), EngineError, "worker failed: ValueError: a$"),
    ],
)
def test_a_worker_that_failed_is_told_in_one_sentence(cause: Exception, kind: type[Exception], words: str) -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    failed = WorkerGroupError("long", {1: UserExceptionWithTraceback(cause, "Traceback ...")})
    with pytest.raises(kind, match=words):
        raise _explained(failed)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_ray_train_gives_the_same_result(settings: Settings, tmp_path: Path) -> None:
    seen: list[int] = []
    through_ray = train(
        WorseningTask(),
        CONFIG,
        settings,
        title="line",
        checkpoint=tmp_path / "line",
        refit=LineTask(),
        on_epoch=lambda epoch, metrics: seen.append(epoch),
    )
    tuned = fit(WorseningTask(), CONFIG)
    final = fit(LineTask(), CONFIG.model_copy(update={"epochs": tuned.best_epoch + 1}))
    assert seen == list(range(6))
    for theirs, here in ((through_ray.tuned, tuned), (through_ray.final, final)):
        assert theirs.best_epoch == here.best_epoch
        assert [epoch["val_log_loss"] for epoch in theirs.history] == pytest.approx(
            [epoch["val_log_loss"] for epoch in here.history]
        )
    assert len(through_ray.final.history) == tuned.best_epoch + 1 < CONFIG.epochs
