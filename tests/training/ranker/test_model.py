"""The network keeps the contract of all models; what it learns is what was planted; values follow the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.model_contract import ModelContract
from training.metrics.classification import auc, quantile_ece
from training.ranker.calibration import Calibration, best_weights
from training.ranker.candidates import SOURCES
from training.ranker.data import Lists, RankerTask, labels_of
from training.ranker.encoder import ITEM_FEATURES, USER_FEATURES, Candidates, Encoder, cross_features
from training.ranker.model import CLICK, PURCHASE, TASKS, Config, Network, Ranker, both, encode, value_of
from training.trainer import FitConfig, fit

SMALL = Config(dim=16, dropout=0.0)


def drawn(num_lists: int, size: int = 6, seed: int = 0) -> Lists:
    """Lists of random candidates: item feature 0 decides clicks, item feature 1 what is bought of what is clicked."""
    rng = np.random.default_rng(seed)
    count = num_lists * size
    item = rng.normal(size=(count, len(ITEM_FEATURES)))
    clicked = item[:, 0] + 0.3 * rng.normal(size=count) > 0.5
    bought = clicked & (item[:, 1] > 0)
    own = np.repeat(np.arange(num_lists), size)
    candidates = Candidates(
        rng.normal(size=(num_lists, len(USER_FEATURES))),
        item,
        rng.normal(size=(count, len(cross_features(SOURCES)))),
        np.asarray(rng.choice(["a", "b"], count), dtype=object),
        own,
    )
    labels = np.stack([clicked, bought, bought], axis=1).astype(np.int64)
    wanted = np.maximum(np.bincount(own, labels[:, 0], num_lists), 1).astype(np.int64)
    users = tuple(f"u{number}" for number in range(num_lists))
    return Lists(candidates, labels, np.ones(count), rng.normal(size=count), np.arange(count), wanted, users, np.arange(num_lists))


LISTS = drawn(12)


def part(candidates: Candidates, **changed: Any) -> Candidates:
    return replace(candidates, **changed)


class TestContract(ModelContract):
    overfit_to = 0.05

    def config(self) -> Config:
        return SMALL

    def task(self) -> RankerTask:
        return RankerTask(SMALL, Encoder.fit(LISTS.candidates, SOURCES), TASKS, LISTS, LISTS, batch_size=4, seed=3)

    def model(self, module: nn.Module) -> Ranker:
        assert isinstance(module, Network)
        return Ranker(SMALL, self.task().encoder, module, {CLICK: 1.0, PURCHASE: 4.0})

    def load(self, folder: Path) -> Ranker:
        return Ranker.load(folder)

    def answer(self, model: Ranker, request: Candidates) -> Sequence[Any]:
        return [*model.values(request).tolist(), *model.chances(request).ravel().tolist()]

    def ordinary(self) -> list[Any]:
        return [LISTS.candidates, drawn(1, size=1).candidates]

    def odd(self) -> list[Any]:
        known = drawn(1).candidates
        unknown = np.full(len(known.list), None, dtype=object)
        nothing = {name: np.full_like(getattr(known, name), np.nan) for name in ("user", "item", "cross")}
        huge = {name: np.full_like(getattr(known, name), 1e30) for name in ("user", "item", "cross")}
        return [
            part(known, category=unknown),
            part(known, category=np.full(len(known.list), "never seen", dtype=object)),
            part(known, **nothing),
            part(known, **huge),
        ]

    def test_odd_requests_get_chances(self) -> None:
        for request in self.odd():
            found = self.trained().chances(request)
            assert ((found > 0) & (found < 1)).all()


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    learned, tuned = drawn(300, seed=1), drawn(100, seed=2)
    task = RankerTask(SMALL, Encoder.fit(learned.candidates, SOURCES), TASKS, learned, tuned, 16, 3)
    result = fit(task, FitConfig(epochs=8, batch_size=16, learning_rate=5e-3, seed=3))
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]
    network = task.build()
    network.load_state_dict(result.state)
    return Ranker(SMALL, task.encoder, network.eval(), {CLICK: 1.0})


def test_it_learns_what_was_planted(ranker: Ranker) -> None:
    test = drawn(200, seed=4)
    found = ranker.chances(test.candidates)
    for place in range(len(TASKS)):
        assert auc(test.labels[:, place], found[:, place]) > 0.9
    assert test.ndcg(ranker.values(test.candidates)).mean() > test.ndcg(test.share).mean() + 0.2


def test_a_purchase_is_never_likelier_than_a_click(ranker: Ranker) -> None:
    found = ranker.chances(drawn(50, seed=5).candidates)
    assert (found[:, 1:] <= found[:, :1] + 1e-9).all()


def test_the_chance_of_both_is_the_product() -> None:
    first, second = torch.tensor([-3.0, 0.0, 4.0]), torch.tensor([1.0, -9.0, 30.0])
    torch.testing.assert_close(torch.sigmoid(both(first, second)), torch.sigmoid(first) * torch.sigmoid(second))
    assert torch.isfinite(both(torch.tensor([90.0]), torch.tensor([90.0]))).all()


def test_values_follow_the_weights_of_the_request(ranker: Ranker) -> None:
    asked = drawn(3, seed=6).candidates
    found = ranker.chances(asked)
    assert ranker.values(asked, {CLICK: 1.0, PURCHASE: 3.0}) == pytest.approx(found[:, 0] + 3 * found[:, 2])
    assert value_of(found, TASKS, {PURCHASE: 1.0}, np.full(len(found), 7.0)) == pytest.approx(7 * found[:, 2])
    with pytest.raises(ValueError, match="expected click, cart, purchase, got smile"):
        ranker.values(asked, {"smile": 1.0})


def test_a_candidate_is_worth_the_same_alone_and_among_others(ranker: Ranker) -> None:
    """So the vectors of users and items may be computed beforehand."""
    asked = drawn(4, seed=7).candidates
    whole, network, batch = ranker.chances(asked), ranker.network, encode(ranker.encoder, asked)
    with torch.inference_mode():
        users, items = network.users(batch["user"]), network.items(batch["item"], batch["category"])
        row = 13
        logits = network.together(users[batch["list"][row]][None], items[row][None], batch["cross"][row][None])
    assert torch.sigmoid(logits).numpy()[0] == pytest.approx(whole[row], rel=1e-4)


def test_calibration_finds_what_was_done_to_logits() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(-2, 1.5, size=(40_000, 1))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.int64)
    found = Calibration.fit((true - 1) / 2, labels)
    assert (found.scale[0], found.shift[0]) == (pytest.approx(2, rel=0.05), pytest.approx(1, abs=0.1))
    assert quantile_ece(labels[:, 0], found.chances((true - 1) / 2)[:, 0]) < 0.01


def test_weights_are_those_that_order_best_and_one_task_has_none_to_choose() -> None:
    lists = drawn(40, seed=8)
    perfect = np.stack([np.full(len(lists.item), 0.5), np.full(len(lists.item), 0.5), lists.labels[:, 0] * 0.9], axis=1)
    assert best_weights(lists, perfect, TASKS)[PURCHASE] > 0
    assert best_weights(lists, perfect[:, :1], (PURCHASE,)) == {PURCHASE: 1.0}


def test_labels_are_taken_by_task() -> None:
    assert labels_of(LISTS, (PURCHASE,)).tolist() == LISTS.labels[:, [2]].tolist()
