from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from features.columns import HISTORY_STEPS
from tests.model_contract import ModelContract
from training.recommender.data import DataConfig, RecommenderTask, make_encoder, make_queries, make_sequences, split
from training.recommender.encoder import Encoder, pad
from training.recommender.model import Recommender
from training.recommender.network import Config, Network
from training.recommender.recipes import Recipe, full
from training.trainer import Task

SMALL = Config(dim=16, num_blocks=1, num_heads=2, max_length=8, dropout=0.0)


class TestRecommender(ModelContract):
    overfit_steps = 60
    overfit_to = 0.35  # an item that several items followed cannot be foreseen better than their share

    @pytest.fixture(autouse=True)
    def _rows(self, cycle: pa.Table) -> None:
        self.rows = cycle

    def config(self) -> Config:
        return SMALL

    def task(self) -> Task:
        data = DataConfig(val_days=14, test_days=14)
        parts = split(self.rows, data)
        encoder = make_encoder(parts.train, data.popular_days)
        return RecommenderTask(SMALL, data, encoder, make_sequences(parts.train, encoder), make_queries(parts.val, encoder), 4, 3)

    def model(self, module: nn.Module) -> Recommender:
        task = self.task()
        assert isinstance(module, Network)
        assert isinstance(task, RecommenderTask)
        return Recommender(SMALL, task.encoder, module)

    def load(self, folder: Path) -> Recommender:
        return Recommender.load(folder)

    def answer(self, model: Recommender, request: Any) -> Sequence[Any]:
        return model.recommend([request], 5)[0]

    def ordinary(self) -> list[Any]:
        return [["i01"], ["i01", "i02", "i03"], [f"i{n % 20:02}" for n in range(100)]]

    def odd(self) -> list[Any]:
        return [[], ["never seen"], ["never seen", "i04"], ["i01"] * 10_000]


@pytest.fixture
def recommender() -> Recommender:
    torch.manual_seed(0)
    encoder = Encoder(("a", "b", "c", "d"), ("view", "purchase"), (0.1, 0.4, 0.3, 0.2))
    return Recommender(SMALL, encoder, Network(SMALL, 4, 2).eval())


def names(answer: list[tuple[str, float]]) -> list[str]:
    return [item for item, _ in answer]


def test_encode_skips_unknown_items_joins_runs_and_keeps_the_newest() -> None:
    encoder = Encoder(("a", "b", "c"), ("view", "purchase"), (0.5, 0.3, 0.2))
    batch = encoder.encode([["a", "x", "a", "b", "b", "c"], []], [["view", "view", "purchase", "view", "purchase", "odd"], []], 2)
    assert batch["items"].tolist() == [[0, 1], [0, 0]]
    assert batch["events"].tolist() == [[1, 1], [0, 0]]  # the last act of a run says its kind
    assert batch["lengths"].tolist() == [2, 0]


def test_encode_reads_the_kinds_of_act_that_training_read() -> None:
    """What is left out does not end a run either."""
    encoder = Encoder(("a", "b", "c"), ("purchase",), (0.5, 0.3, 0.2))
    history, kinds = ["a", "b", "a", "c", "c"], ["purchase", "view", "purchase", "return", "cart"]
    assert encoder.encode([history], [kinds], 9)["items"].tolist() == [[0]]
    assert encoder.encode([history], None, 9)["items"].tolist() == [[0, 1, 0, 2]]


def test_no_history_gets_the_popular_list_and_is_not_called_personal(recommender: Recommender) -> None:
    assert names(recommender.recommend([[]], 4)[0]) == ["b", "c", "d", "a"] == names(recommender.popular(4))
    assert not recommender.is_personal(["x"])
    assert recommender.is_personal(["x", "a"])
    assert not recommender.is_personal(["a", "x"], ["return", "view"])
    assert recommender.is_personal(["a", "x"], ["view", "view"])
    assert names(recommender.recommend([["x"]], 4)[0]) == names(recommender.popular(4))


def test_excluded_and_disallowed_items_are_not_shown(recommender: Recommender) -> None:
    allowed = np.array([True, True, False, True])
    first, second = recommender.recommend([["a"], []], 4, exclude=[{"b", "not there"}, set()], allowed=allowed)
    assert sorted(names(first)) == ["a", "d"]
    assert names(second) == ["b", "d", "a"]
    assert recommender.recommend([["a"]], 3, allowed=np.zeros(4, dtype=bool)) == [[]]


def test_without_repeats_the_history_is_not_recommended() -> None:
    config = Config(**{**SMALL.model_dump(), "repeats": False})
    encoder = Encoder(("a", "b", "c"), ("view",), (0.5, 0.3, 0.2))
    model = Recommender(config, encoder, Network(config, 3, 1).eval())
    assert sorted(names(model.recommend([["a", "b"]], 3)[0])) == ["c"]
    assert sorted(names(model.recommend([["a", "b"]], 3, event_types=[["view", "return"]])[0])) == ["b", "c"]


def test_answers_in_a_batch_equal_answers_alone(recommender: Recommender) -> None:
    histories = [["a"], ["a", "b", "c"], [], ["d", "a"] * 20]
    together = recommender.recommend(histories, 4)
    for history, found in zip(histories, together, strict=True):
        alone = recommender.recommend([history], 4)[0]
        assert names(found) == names(alone)
        assert [score for _, score in found] == pytest.approx([score for _, score in alone], abs=1e-5)


def test_the_kind_of_act_matters(recommender: Recommender) -> None:
    viewed, bought = recommender.recommend([["a"], ["a"]], 4, event_types=[["view"], ["purchase"]])
    assert [score for _, score in viewed] != [score for _, score in bought]


def test_a_list_is_the_same_however_many_are_asked_at_once(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    histories, kinds = [["a"], [], ["b", "c"], ["a", "d"], ["c"]], [["view"], [], ["view", "purchase"], ["view"] * 2, ["purchase"]]
    exclude = [{"b"}, {"a"}, set(), {"c"}, {"d"}]
    whole = recommender.recommend(histories, 3, exclude, event_types=kinds)
    monkeypatch.setattr("training.recommender.model._SCORES", 2 * len(recommender.encoder.items))
    parts = recommender.recommend(histories, 3, exclude, event_types=kinds)
    assert [names(found) for found in parts] == [names(found) for found in whole]
    for found, same in zip(parts, whole, strict=True):
        assert [score for _, score in found] == pytest.approx([score for _, score in same], abs=1e-5)


def test_similar_items(recommender: Recommender) -> None:
    found = recommender.similar("a", 3)
    assert sorted(names(found)) == ["b", "c", "d"]
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert "b" not in names(recommender.similar("a", 3, exclude={"b"}))
    with pytest.raises(KeyError):
        recommender.similar("x", 3)


def test_misuse_is_refused(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="2 histories but 1 of exclude"):
        recommender.recommend([[], []], 1, exclude=[set()])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        recommender.recommend([[]], -1)
    with pytest.raises(ValidationError, match="num_heads 3 does not divide dim 16"):
        Config(dim=16, num_heads=3)
    with pytest.raises(ValidationError, match=f"max_length at most {HISTORY_STEPS}, got {HISTORY_STEPS + 1}"):
        Recipe.model_validate({**full().model_dump(), "model": {"max_length": HISTORY_STEPS + 1}})


def test_one_item_catalogue_is_answered() -> None:
    model = Recommender(SMALL, Encoder(("only",), ("view",), (1.0,)), Network(SMALL, 1, 1).eval())
    assert names(model.recommend([["only"]], 10)[0]) == ["only"]
    assert model.similar("only", 3) == []


def loss_inputs() -> dict[str, torch.Tensor]:
    batch = pad([np.array([1, 2, 3, 1]), np.array([4, 5])], [np.zeros(4, dtype=np.int64), np.ones(2, dtype=np.int64)])
    indices = {"rows": [1, 3, 5], "pair_rows": [0, 1, 1, 2], "pair_targets": [3, 4, 1, 5]}
    batch |= {name: torch.tensor(value) for name, value in indices.items()}
    return batch | {"pair_weights": torch.tensor([0.5, 0.25, 0.1, 0.2], dtype=torch.float64)}


def double_network(repeats: bool, temperature: float | None = None) -> Network:
    torch.manual_seed(0)
    network = Network(Config(dim=8, max_length=6, dropout=0.0, repeats=repeats, temperature=temperature), 11, 2).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize(("repeats", "temperature"), [(True, None), (False, None), (False, 0.2)])
def test_fused_softmax_equals_the_plain_one_with_its_gradients(repeats: bool, temperature: float | None) -> None:
    network, inputs = double_network(repeats, temperature), loss_inputs()
    network(**inputs).backward()
    fused = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    states = network.states(network.acts(network.item(inputs["items"]), inputs["events"], inputs["lengths"])).flatten(0, 1)[
        inputs["rows"]
    ]
    if temperature:
        logits = nn.functional.cosine_similarity(states[:, None], network.item.weight, dim=2) / temperature + network.item_bias
    else:
        logits = nn.functional.linear(states, network.item.weight, network.item_bias)
    logits = logits.scatter_add(1, *network._repeats(states, inputs["rows"], inputs["items"]))
    losses = nn.functional.cross_entropy(logits[inputs["pair_rows"]], inputs["pair_targets"], reduction="none")
    plain = (losses * inputs["pair_weights"]).sum()
    plain.backward()
    assert network(**inputs).item() == pytest.approx(plain.item(), rel=1e-12)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(fused[name], parameter.grad, msg=name)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_sampled_softmax_over_all_items_equals_the_full_one(temperature: float | None) -> None:
    network, inputs = double_network(True, temperature), loss_inputs()
    every = {"negatives": torch.arange(11), "negative_log_weights": torch.zeros(11, dtype=torch.float64)}
    assert network(**inputs, **every).item() == pytest.approx(network(**inputs).item(), rel=1e-12)


def test_sampled_softmax_estimates_the_full_one() -> None:
    network, inputs = double_network(True), loss_inputs()
    full = network(**inputs).item()
    proposal = np.linspace(1, 5, 11) / np.linspace(1, 5, 11).sum()
    rng = np.random.default_rng(0)
    drawn, times = np.unique(rng.choice(11, 20_000, p=proposal), return_counts=True)
    weights = torch.from_numpy(np.log(times / (proposal[drawn] * 20_000)))
    estimate = network(**inputs, negatives=torch.from_numpy(drawn), negative_log_weights=weights).item()
    assert estimate == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize(("repeats", "temperature"), [(True, None), (False, None), (True, 0.2)])
def test_sampled_softmax_is_as_written_down_with_its_gradients(repeats: bool, temperature: float | None) -> None:
    """A wanted item does not count among the drawn ones, and one of the history has its bonus wherever it stands."""
    network, inputs = double_network(repeats, temperature), loss_inputs()
    negatives = torch.tensor([1, 2, 4, 9])
    weights = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
    found = network(**inputs, negatives=negatives, negative_log_weights=weights)
    (3 * found).backward()
    fused = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    states = network.states(network.acts(network.item(inputs["items"]), inputs["events"], inputs["lengths"])).flatten(0, 1)[
        inputs["rows"]
    ]
    logits = nn.functional.linear(network._towards(states), network._lengthless(network.item.weight), network.item_bias)
    logits = logits.scatter_add(1, *network._repeats(states, inputs["rows"], inputs["items"]))
    plain = torch.zeros((), dtype=torch.float64)
    for row, target, weight in zip(inputs["pair_rows"], inputs["pair_targets"], inputs["pair_weights"], strict=True):
        others = (logits[row, negatives] + weights)[negatives != target]
        plain = plain + weight * (torch.logsumexp(torch.cat([logits[row, target][None], others]), 0) - logits[row, target])
    (3 * plain).backward()
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(fused[name], parameter.grad, msg=name)


def test_padding_and_later_acts_change_nothing() -> None:
    network = double_network(True)
    short = pad([np.array([1, 2])], [np.array([0, 1])])
    wide = pad([np.array([1, 2]), np.array([5, 6, 7, 8])], [np.array([0, 1]), np.zeros(4, dtype=np.int64)])
    with torch.inference_mode():
        torch.testing.assert_close(network.scores(**wide)[0], network.scores(**short)[0])
