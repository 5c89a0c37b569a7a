"""What every model does, stated once: a model's own test inherits `ModelContract` and says how to make one.

class TestRecommender(ModelContract):
    def task(self) -> Task: ...
    def model(self, module, folder=None): ...
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from training.trainer import FitConfig, Task, fit


class ModelContract:
    """Override `config`, `task`, `model`, `load`, `answer`, `ordinary` and `odd`; add what is special about the model."""

    overfit_steps: ClassVar[int] = 200
    overfit_rate: ClassVar[float] = 1e-2
    overfit_to: ClassVar[float] = 0.1
    """Share of the first loss that is left after `overfit_steps` on one batch."""

    def config(self) -> BaseModel:
        """The smallest sensible config of the network; not the defaults."""
        raise NotImplementedError

    def task(self) -> Task:
        """A task of a few hand-written rows with that config, without dropout."""
        raise NotImplementedError

    def model(self, module: nn.Module) -> Any:
        """The inference half around a network that `task().build()` made; has `save(folder)`."""
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        """The inference half that `save` wrote."""
        raise NotImplementedError

    def answer(self, model: Any, request: Any) -> Sequence[Any]:
        """What the model answers to one request; compared with `==`, so made of plain values."""
        raise NotImplementedError

    def ordinary(self) -> list[Any]:
        """Requests about what was trained on."""
        raise NotImplementedError

    def odd(self) -> list[Any]:
        """Requests that must be answered all the same: an unknown id, an empty history, an empty text."""
        raise NotImplementedError

    def trained(self) -> Any:
        """The model after one epoch."""
        task = self.task()
        result = fit(task, FitConfig(epochs=1, batch_size=4, seed=3))
        module = task.build()
        module.load_state_dict(result.state)
        return self.model(module.eval())

    # -- the contract ---------------------------------------------------------------------------------------------------------

    def test_config_round_trips(self) -> None:
        config = self.config()
        assert type(config).model_validate_json(config.model_dump_json()) == config

    def test_config_is_frozen_and_refuses_unknown_keys(self) -> None:
        config = self.config()
        with pytest.raises(ValidationError, match="no_such_key"):
            type(config)(**config.model_dump(), no_such_key=1)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, next(iter(type(config).model_fields)), 1)

    def test_batches_are_what_the_network_says_it_eats(self) -> None:
        task = self.task()
        spec = task.build().input_spec  # type: ignore[union-attr]
        assert spec
        batch = next(iter(task.batches(0, 0, 1)))
        for name, (shape, dtype) in spec.items():
            assert str(batch[name].dtype).removeprefix("torch.") == dtype, name
            assert len(batch[name].shape) == len(shape), name
            assert all(said in (-1, found) for said, found in zip(shape, batch[name].shape, strict=True)), name

    def test_num_steps_counts_the_batches(self) -> None:
        task = self.task()
        assert task.num_steps(0) == len(list(task.batches(0, 0, 1))) > 0

    @pytest.mark.parametrize("num_ranks", [2, 3])
    def test_losses_of_ranks_average_to_the_loss_of_one(self, num_ranks: int) -> None:
        """Also where their rows are not as many, or do not weigh as much; a rank may even have none."""
        torch.manual_seed(0)
        task = self.task()
        module = task.build().eval()
        every = [list(task.batches(0, rank, num_ranks)) for rank in range(num_ranks)]
        for whole, *parts in zip(task.batches(0, 0, 1), *every, strict=True):
            mean = torch.stack([task.loss(module, part).reshape(()) for part in parts]).mean()
            torch.testing.assert_close(mean, task.loss(module, whole).reshape(()))

    def test_overfits_one_batch(self) -> None:
        torch.manual_seed(0)
        task = self.task()
        module, batch = task.build().train(), next(iter(task.batches(0, 0, 1)))
        optimizer = torch.optim.Adam(module.parameters(), lr=self.overfit_rate)
        first = last = float(task.loss(module, batch).detach())
        for _ in range(self.overfit_steps):
            loss = task.loss(module, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            last = float(loss.detach())
        assert last < first * self.overfit_to

    def test_same_seed_same_losses(self) -> None:
        runs = [fit(self.task(), FitConfig(epochs=2, batch_size=4, seed=5)).history for _ in range(2)]
        assert runs[0] == runs[1]

    def test_saved_and_loaded_answers_are_equal(self, tmp_path: Path) -> None:
        model = self.trained()
        model.save(tmp_path / "model")
        loaded = self.load(tmp_path / "model")
        for request in self.ordinary():
            assert self.answer(loaded, request) == self.answer(model, request)

    def test_saves_safetensors_and_json_only(self, tmp_path: Path) -> None:
        self.trained().save(tmp_path / "model")
        files = sorted(path.name for path in (tmp_path / "model").iterdir())
        assert {"config.json", "encoder.json", "weights.safetensors"} <= set(files)
        assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
        for path in (tmp_path / "model").glob("*.json"):
            json.loads(path.read_text())

    def test_answers_do_not_depend_on_earlier_requests(self) -> None:
        model = self.trained()
        request = self.ordinary()[0]
        before = copy.deepcopy(self.answer(model, request))
        for other in (*self.ordinary(), *self.odd()):
            self.answer(model, other)
        assert self.answer(model, request) == before

    def test_odd_requests_are_answered(self) -> None:
        model = self.trained()
        for request in self.odd():
            assert len(self.answer(model, request)) > 0, request
