"""The network keeps the contract of all models, and its answers are one curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.model_contract import ModelContract
from tests.training.propensity.conftest import acts, simulate
from training.propensity.data import PropensityTask, make_rows, split
from training.propensity.encoder import FEATURES, HABITS, NAMES, Encoder, Facts, features
from training.propensity.model import Config, Network, Propensity, answers_of, negative_log_likelihood, spread_of
from training.propensity.recipes import DataConfig
from training.propensity.train import calibrate
from training.trainer import FitConfig, fit

FACTS = Facts.of(simulate(), "UTC")
DAY = int(FACTS.day.max())
SMALL = Config(dim=16, layers=1, dropout=0.0)


class TestPropensity(ModelContract):
    overfit_steps = 200
    overfit_rate = 3e-2
    overfit_to = 0.3  # users who are alike bought on different days

    def config(self) -> Config:
        return SMALL

    def task(self) -> PropensityTask:
        rows = make_rows(FACTS, [DAY - 60], DAY, 30).take(np.arange(12))
        return PropensityTask.of(rows, rows, Encoder.fit(rows.values, 30), SMALL, 12, 3)

    def model(self, module: nn.Module) -> Propensity:
        assert isinstance(module, Network)
        return Propensity(SMALL, self.task().encoder, module)

    def load(self, folder: Path) -> Propensity:
        return Propensity.load(folder)

    def answer(self, model: Propensity, request: Any) -> Sequence[Any]:
        users, answers, drivers = model.score(request, DAY)
        return [*users.tolist(), *answers.p_buy_30d.tolist(), *answers.expected_days.tolist(), *drivers]

    def ordinary(self) -> list[Any]:
        return [FACTS, FACTS.before(DAY - 100)]

    def odd(self) -> list[Any]:
        early = -float(200)
        return [
            Facts.of(acts([("new", "purchase", 1.0, 3.0)]), "UTC"),
            Facts.of(acts([("looker", "view", 0.0, 3.0)]), "UTC"),
            Facts.of(acts([("rich", "purchase", 9e13, 3.0), ("rich", "purchase", 9e13, early)]), "UTC"),
            Facts.of(acts([("busy", "purchase", 1.0, n / 50) for n in range(5_000)]), "UTC"),
        ]


@pytest.fixture(scope="module")
def model() -> Propensity:
    parts = split(FACTS, DataConfig(num_cutoffs=4), 7)
    encoder = Encoder.fit(parts.train.values, parts.plan.horizon)
    task = PropensityTask.of(parts.train, parts.val, encoder, Config(dim=16), 64, 7)
    network = task.build()
    network.load_state_dict(fit(task, FitConfig(epochs=15, batch_size=64, learning_rate=5e-3, seed=7)).state)
    return Propensity(Config(dim=16), encoder, network.eval())


def test_a_month_is_never_less_likely_than_a_week(model: Propensity) -> None:
    values = np.random.default_rng(0).normal(0, 50, (500, len(NAMES)))
    answers = model.answers(values, DAY)
    assert (answers.p_buy_7d <= answers.p_buy_30d).all()
    assert ((answers.p_buy_7d >= 0) & (answers.p_buy_30d <= 1)).all()
    assert ((answers.expected_days >= 1) & (answers.expected_days <= model.encoder.horizon)).all()


def test_who_buys_often_and_lately_is_likelier(model: Propensity) -> None:
    rows = [("often", "purchase", 20.0, float(day)) for day in range(0, 240, 5)] + [("gone", "purchase", 20.0, 1.0)]
    facts = Facts.of(acts(rows), "UTC")
    users, values = features(facts, int(facts.day.max()) + 1)
    answers = model.answers(values, int(facts.day.max()) + 1)
    assert facts.users[users].tolist() == ["gone", "often"]
    assert answers.p_buy_30d[1] > 3 * answers.p_buy_30d[0]
    assert answers.expected_days[1] < answers.expected_days[0]


def test_a_weekday_on_which_nobody_buys_is_learned(model: Propensity) -> None:
    effects = model.network.weekdays.detach().numpy()
    assert effects.argmin() == 6  # Sunday
    _, values = features(FACTS, DAY)
    monday = DAY - (DAY + 3) % 7
    hazard = torch.sigmoid(model.logits(values, monday)).mean(dim=0)
    assert float(hazard[6]) < float(hazard[5])
    assert float(torch.sigmoid(model.logits(values, monday + 6)).mean(dim=0)[0]) < float(hazard[0])


def test_drivers_are_exact_differences_in_points(model: Propensity) -> None:
    _, values = features(FACTS, DAY)
    told = model.drivers(values[:5], DAY)
    whole = model.answers(values[:5], DAY).p_buy_30d
    for row, drivers in enumerate(told):
        assert len(drivers) == 3
        sizes = [float(driver.split(" points")[0]) for driver in drivers]
        assert [abs(size) for size in sizes] == sorted((abs(size) for size in sizes), reverse=True)
        effects = []
        for habit in HABITS:
            without = values[row : row + 1].copy()
            places = [place for place, feature in enumerate(FEATURES) if feature.habit == habit]
            without[:, places] = model.encoder.typical[places]
            effects.append(100 * (whole[row] - model.answers(without, DAY).p_buy_30d[0]))
        assert sizes[0] == pytest.approx(max(effects, key=abs), abs=0.051)


def test_the_expected_wait_is_the_mean_of_the_curve() -> None:
    unbought = np.tile(np.linspace(0.9, 0.3, 30), (1, 1))
    answers = answers_of(unbought)
    days = np.arange(1, 31)
    bought = np.diff(np.concatenate([[0.0], 1 - unbought[0]]))
    assert answers.expected_days[0] == pytest.approx(float(bought @ days + unbought[0, -1] * 30))
    assert (answers.p_buy_7d[0], answers.p_buy_30d[0]) == (1 - unbought[0, 6], pytest.approx(0.7))


def test_the_likelihood_is_that_of_what_was_seen() -> None:
    logits = torch.tensor([[-1.0, 0.5, 2.0], [-1.0, 0.5, 2.0]])
    h = torch.sigmoid(logits[0])
    found = negative_log_likelihood(logits, torch.tensor([2, 2]), torch.tensor([True, False]))
    assert torch.allclose(found, torch.stack([-torch.log((1 - h[0]) * h[1]), -torch.log((1 - h[0]) * (1 - h[1]))]))


def test_knots_cover_every_day() -> None:
    for horizon in (30, 47, 90):
        spread = spread_of(horizon)
        np.testing.assert_allclose(spread.sum(axis=0), 1, rtol=1e-5)
        assert (spread >= 0).all()


def test_calibration_moves_the_level_to_what_was_seen(model: Propensity) -> None:
    rows = make_rows(FACTS, [DAY - 40], DAY, model.encoder.horizon)
    logits = model.logits(rows.values, rows.day).clone() + 1.5
    network = Network(model.config, model.encoder.horizon)
    calibrate(network, logits, rows)
    assert float(network.shift) < -0.5
    curve = torch.sigmoid(logits + network.shift)
    watched = torch.arange(curve.shape[1]) < torch.from_numpy(rows.days)[:, None]
    assert float((curve * watched).sum()) == pytest.approx(float(rows.bought.sum()), rel=0.1)
