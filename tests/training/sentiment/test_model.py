"""The network and the half that answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.model_contract import ModelContract
from training.sentiment.data import SentimentTask
from training.sentiment.encoder import Encoder, EncoderConfig
from training.sentiment.model import NUM_BRANCHES, Config, Network, SentimentClassifier, branch_logits
from training.sentiment.train import calibrate

TEXTS = ("质量很好", "非常喜欢", "great quality", "I love it", "质量太差", "非常失望", "poor quality", "I hate it")
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0])
CONFIG = Config(
    encoder=EncoderConfig(max_chars=40, min_texts=1, min_piece_texts=1),
    dim=8,
    filters=8,
    piece_dropout=0,
    dropout=0,
    pooled_dropout=0,
    term_dropout=0,
)
ENCODER = Encoder.learn(TEXTS, LABELS, CONFIG.encoder)


def made() -> SentimentClassifier:
    """A model of the pieces above with weights as they are drawn."""
    torch.manual_seed(0)
    return SentimentClassifier(CONFIG, ENCODER, Network(CONFIG, ENCODER.ratios, ENCODER.num_pieces).eval())


class TestContract(ModelContract):
    def config(self) -> Config:
        return CONFIG

    def task(self) -> SentimentTask:
        encoded = ENCODER.encode(TEXTS)
        return SentimentTask(CONFIG, ENCODER.ratios, ENCODER.num_pieces, encoded, LABELS, encoded, LABELS, batch_size=4, seed=3)

    def model(self, module: nn.Module) -> SentimentClassifier:
        assert isinstance(module, Network)
        return SentimentClassifier(CONFIG, ENCODER, module)

    def load(self, folder: Path) -> SentimentClassifier:
        return SentimentClassifier.load(folder)

    def answer(self, model: SentimentClassifier, request: list[str]) -> Sequence[Any]:
        return model.classify(request)

    def ordinary(self) -> list[Any]:
        return [list(TEXTS), ["质量很好"]]

    def odd(self) -> list[Any]:
        return [[""], ["😀"], ["\ufeff \t"], ["好" * 1_000_000], ["\ud83d"], ["\x00"], ["a" * 39 + "好b"]]


@pytest.mark.parametrize(
    ("text", "degraded"),
    [
        ("质量很好", []),
        ("", ["empty"]),
        (" \n\ufeff", ["empty"]),
        ("Ⱦ", ["unknown"]),
        ("😀", ["unknown"]),
        ("质量很好" * 11, ["truncated"]),
        ("质" * 1_000_000, ["truncated"]),
        (" " * 1_000_000, ["truncated", "empty"]),
    ],
)
def test_odd_texts_are_answered_and_the_answer_says_so(text: str, degraded: list[str]) -> None:
    answer = made().classify([text])[0]
    assert answer["degraded"] == degraded
    assert answer["label"] in ("good", "bad")
    assert 0.5 <= answer["probability"] <= 1


def test_nothing_to_go_by_is_answered_with_the_base_rate() -> None:
    model = made()
    model.network.base_rate.fill_(0.2)
    assert model.classify(["", "😀"]) == [
        {"label": "bad", "probability": pytest.approx(0.8), "degraded": ["empty"]},
        {"label": "bad", "probability": pytest.approx(0.8), "degraded": ["unknown"]},
    ]


@pytest.mark.parametrize(("texts", "told"), [([None], r"texts\[0\].*NoneType"), (["a", 3], r"texts\[1\].*int"), ([b"a"], "bytes")])
def test_what_is_no_string_is_refused_by_place(texts: list[Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        made().classify(texts)


def test_no_texts_no_answers() -> None:
    assert made().classify([]) == []
    assert made().probabilities([]).shape == (0,)


def test_only_the_first_characters_are_read() -> None:
    head = "质量很好" * 10
    assert made().probabilities([head])[0] == made().probabilities([head + "质量太差" * 100])[0]


def test_an_answer_is_the_same_alone_and_in_a_batch() -> None:
    model = made()
    texts = [TEXTS[place % len(TEXTS)] + "x" * (place % 30) for place in range(600)]
    together = model.probabilities(texts)
    alone = np.array([model.probabilities([text])[0] for text in texts[:40]])
    np.testing.assert_allclose(together[:40], alone, atol=1e-6)


def test_padding_changes_nothing() -> None:
    network = made().network
    short, both = ENCODER.encode(["质量很好"]), ENCODER.encode(["质量很好", "x" * 40])
    torch.testing.assert_close(branch_logits(network, short)[0], branch_logits(network, both)[0], atol=1e-6, rtol=0)


def test_terms_alone_start_as_naive_bayes() -> None:
    """Before any training the bag of terms already points the right way."""
    logits = branch_logits(made().network, ENCODER.encode(TEXTS))
    assert ((logits[:, 0] > 0).numpy() == (LABELS == 1)).all()


def test_calibrated_logits_have_the_likelihood_of_the_best_temperature() -> None:
    """Branch logits that are twice too sure, around a shift, are pulled back."""
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.normal(0, 2, 20_000)).float()
    labels = (rng.uniform(0, 1, 20_000) < truth.sigmoid().numpy()).astype(np.int64)
    network = made().network
    calibrate(network, torch.stack([2 * truth + 1, 2 * truth + 1], dim=1), labels, base_rate=0.3)
    torch.testing.assert_close(network.mixed(torch.stack([2 * truth + 1] * 2, dim=1)), truth, atol=0.15, rtol=0.05)
    assert network.base_rate == pytest.approx(0.3)


def test_calibration_trusts_the_branch_that_knows() -> None:
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.normal(0, 2, 5_000)).float()
    labels = (rng.uniform(0, 1, 5_000) < truth.sigmoid().numpy()).astype(np.int64)
    network = made().network
    calibrate(network, torch.stack([truth, torch.randn(5_000)], dim=1), labels, base_rate=0.5)
    assert network.mix.shape == (NUM_BRANCHES,)
    assert network.mix[0] > 0.8
    assert abs(network.mix[1]) < 0.1
