"""Rows that a sparse gradient names move as torch's AdamW moves them, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.optimizer import AdamW
from training.trainer import _clip

SIZE = (7, 3)


def tables(sparse: bool) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(*SIZE, sparse=sparse), "head": nn.Linear(3, 1)})


def step(module: nn.ModuleDict, optimizer: torch.optim.Optimizer, ids: list[int], clip: float | None = None) -> None:
    optimizer.zero_grad(set_to_none=True)
    (module["head"](module["table"](torch.tensor(ids))) ** 2).sum().backward()
    if clip is not None:
        _clip(module, clip)
    optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_where_every_step_names_every_row_it_is_torchs_adamw(decay: float) -> None:
    ours, theirs = tables(True), tables(False)
    mine, stock = (
        AdamW(ours.parameters(), lr=0.1, weight_decay=decay),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=decay),
    )
    for number in range(5):
        ids = [*range(7), number, number]  # one of them is named three times
        step(ours, mine, ids)
        step(theirs, stock, ids)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_row_that_no_step_names_keeps_its_value_and_its_moments() -> None:
    module = tables(True)
    optimizer = AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
    step(module, optimizer, [2, 5])
    state = optimizer.state[module["table"].weight]
    kept = [value[2].clone() for value in (module["table"].weight, state["exp_avg"], state["exp_avg_sq"])]
    before = module["table"].weight.detach().clone()
    step(module, optimizer, [5, 6])
    for value, old in zip((module["table"].weight, state["exp_avg"], state["exp_avg_sq"]), kept, strict=True):
        assert torch.equal(value[2], old)
    moved = (module["table"].weight != before).any(dim=1)
    assert moved.tolist() == [False] * 5 + [True] * 2


def test_moments_are_saved_and_loaded_as_those_of_torch() -> None:
    module = tables(True)
    optimizer = AdamW(module.parameters(), lr=0.1)
    step(module, optimizer, [2, 5])
    again = AdamW(module.parameters(), lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    for index, part in optimizer.state_dict()["state"].items():
        assert {name: value.shape for name, value in part.items()} == {
            "step": (),
            "exp_avg": part["exp_avg"].shape,
            "exp_avg_sq": part["exp_avg"].shape,
        }
        assert all(torch.equal(again.state_dict()["state"][index][name], value) for name, value in part.items())


@pytest.mark.parametrize("most", [0.01, 1e6])
def test_gradients_are_clipped_together_whether_sparse_or_not(most: float) -> None:
    ours, theirs = tables(True), tables(False)
    for module in (ours, theirs):
        (module["head"](module["table"](torch.tensor([1, 1, 4]))) ** 2).sum().backward()
    _clip(ours, most)
    nn.utils.clip_grad_norm_(theirs.parameters(), most)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.to_dense() if one.grad.is_sparse else one.grad, other.grad)
