"""What a list is worth, against arithmetic by hand; gains are paired; baselines answer about the same candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.ranker.test_model import drawn
from training.metrics.classification import auc
from training.ranker import evaluate
from training.ranker.baselines import BASELINES, Answer, sample
from training.ranker.candidates import SOURCES
from training.ranker.data import Lists
from training.ranker.encoder import Encoder
from training.ranker.model import TASKS


@pytest.fixture(scope="module")
def lists() -> Lists:
    made = drawn(60, size=20, seed=1)
    return replace(made, price=np.arange(len(made.item)) % 7 + 1.0)


def test_revenue_is_the_price_of_what_was_bought_of_the_first_ten(lists: Lists) -> None:
    values = np.random.default_rng(0).normal(size=len(lists.item))
    found = evaluate.revenue_at_10(lists, values)
    for number in range(len(lists)):
        rows = np.arange(lists.offsets[number], lists.offsets[number + 1])
        first = rows[np.argsort(-values[rows])[:10]]
        assert found[number] == pytest.approx((lists.price[first] * lists.labels[first, 2]).sum())
    assert found.sum() > 0


def test_a_short_list_is_worth_what_is_in_it() -> None:
    made = drawn(3, size=2, seed=2)
    assert evaluate.revenue_at_10(made, np.zeros(6)) == pytest.approx(np.add.reduceat(made.labels[:, 2], [0, 2, 4]))


def test_intervals_hold_the_value_and_a_gain_over_oneself_is_zero(lists: Lists) -> None:
    rng = np.random.default_rng(3)
    chances = np.clip(lists.labels * 0.3 + rng.uniform(0.05, 0.5, lists.labels.shape), 0, 1)
    answer = Answer(chances[:, 0], chances)
    values, draws = evaluate.per_list(lists, answer), evaluate.resampled(lists, answer, TASKS, seed=7)
    found = evaluate.metrics(values, draws, seed=7)
    for name in ("ndcg_at_10", "revenue_at_10", "auc_click", "log_loss_purchase"):
        assert found[f"test_{name}_lo"] < found[f"test_{name}"] < found[f"test_{name}_hi"]
    assert found["test_auc_cart"] == pytest.approx(auc(lists.labels[:, 1], chances[:, 1]))
    assert all(gain == (0, 0, 0) for gain in evaluate.gains((values, draws), (values, draws), seed=7).values())


def test_a_gain_is_positive_where_a_loss_is_smaller(lists: Lists) -> None:
    sure, unsure = (np.clip(lists.labels * (1.0 - spoilt) + spoilt / 2, 0.01, 0.99) for spoilt in (0.1, 0.9))
    ours, theirs = (
        (evaluate.per_list(lists, answer), evaluate.resampled(lists, answer, TASKS, seed=7))
        for answer in (Answer(sure[:, 0], sure), Answer(unsure[:, 0], unsure))
    )
    assert evaluate.gains(ours, theirs, seed=7)["log_loss_click"][1] > 0


def test_who_only_orders_has_no_chances(lists: Lists) -> None:
    assert evaluate.resampled(lists, Answer(lists.share), TASKS, seed=7) == {}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_answer_about_every_candidate(name: str) -> None:
    learned, tuned, test = drawn(200, seed=4), drawn(60, seed=5), drawn(60, seed=6)
    for lists in (learned, tuned, test):
        lists.candidates.cross[:, -1] = np.nan  # nobody's usual price is known
    encoder = Encoder.fit(learned.candidates, SOURCES)
    answer = BASELINES[name](learned, tuned, encoder, TASKS, 7)(test)
    assert np.isfinite(answer.values).all()
    if name in ("logistic_regression", "gradient_boosting"):
        assert answer.chances is not None
        assert ((answer.chances > 0) & (answer.chances < 1)).all()
        assert test.ndcg(answer.values).mean() > test.ndcg(test.share).mean() + 0.2  # features decide, retrieval is chance
        assert auc(test.labels[:, 0], answer.chances[:, 0]) > 0.9
    elif name == "retrieval":
        assert (test.ndcg(answer.values) == test.ndcg(test.share)).all()


def test_a_sample_keeps_what_was_taken_and_every_rank_and_weighs_as_the_whole(lists: Lists) -> None:
    kept, weights = sample(lists, len(lists.item) // 4, seed=7)
    assert set(np.flatnonzero(lists.labels[:, 0])) <= set(kept)
    assert weights.sum() == pytest.approx(len(lists.item), rel=0.1)
    left = kept[lists.labels[kept, 0] == 0]
    assert len(set((left % 20).tolist())) == 20  # lists are of 20
