"""Rows to parts and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import TableContractError
from infra.lake import Lake
from training.sentiment import data
from training.sentiment.data import Reviews, SentimentTask
from training.sentiment.encoder import Encoder, EncoderConfig
from training.sentiment.model import Config


def task(reviews: Reviews, batch_size: int = 16) -> SentimentTask:
    config = Config(encoder=EncoderConfig(min_piece_texts=1), dim=8, filters=8)
    parts = data.split(reviews)
    return SentimentTask.of(parts, Encoder.learn(parts.train.texts, parts.train.labels, config.encoder), config, batch_size, seed=3)


def test_read_gives_labelled_rows_in_order_of_id(full_lake: Lake, reviews: Reviews) -> None:
    found, version = data.read(full_lake)
    assert version == 0
    assert found.ids.tolist() == sorted(reviews.ids.tolist())
    assert found.labels.tolist() == reviews.labels.tolist()
    assert found.texts == reviews.texts


def test_read_without_a_table_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(TableContractError, match="shopgraph build"):
        data.read(lake)


def test_parts_hold_every_text_once_in_the_promised_shares() -> None:
    parts = [data.part_of(f"text number {number}") for number in range(20_000)]
    assert parts.count("test") / len(parts) == pytest.approx(0.2, abs=0.01)
    assert parts.count("val") / len(parts) == pytest.approx(0.1, abs=0.01)


def test_a_text_keeps_its_part_as_the_data_grows(reviews: Reviews) -> None:
    small = data.split(reviews.where(np.arange(len(reviews)) % 3 > 0))
    whole = data.split(reviews)
    for name in ("train", "val", "test"):
        assert set(getattr(small, name).texts) <= set(getattr(whole, name).texts)


@pytest.mark.parametrize("copy", ["很好很好很好！！", "很好", " 很好。。。", "很 好"])
def test_what_differs_in_marks_or_repetition_alone_shares_a_part(copy: str) -> None:
    assert data.core(copy) == "很好"
    assert data.part_of(copy) == data.part_of("很好!")


def test_texts_without_letters_are_told_apart() -> None:
    assert data.core("😀") != data.core("😡")
    assert data.core("") == ""


def test_digest_follows_ids_labels_and_parts_not_order(reviews: Reviews) -> None:
    digest = data.split(reviews).digest
    assert data.split(reviews.where(np.ones(len(reviews), bool))).digest == digest
    assert data.split(replace(reviews, labels=1 - reviews.labels)).digest != digest


def test_too_few_texts_are_refused_with_the_count(reviews: Reviews) -> None:
    with pytest.raises(TableContractError, match=r"\d+ good and \d+ bad texts"):
        data.split(reviews.where(np.arange(len(reviews)) % 5 == 0))
    with pytest.raises(TableContractError, match="0 bad texts"):
        data.split(reviews.where(reviews.labels == 1))


def test_every_training_text_is_in_one_batch_of_an_epoch(reviews: Reviews) -> None:
    made = task(reviews)
    batches = list(made.batches(0, 0, 1))
    assert len(batches) == made.num_steps(0)
    assert sum(len(batch["labels"]) for batch in batches) == len(made.train)
    assert sum(batch["labels"].sum() for batch in batches) == made.train_labels.sum()
    assert sum(len(batch["terms"]) for batch in batches) == len(made.train.terms)


def test_two_workers_share_each_batch_of_one(reviews: Reviews) -> None:
    made = task(reviews)
    for whole, first, second in zip(made.batches(1, 0, 1), made.batches(1, 0, 2), made.batches(1, 1, 2), strict=True):
        together = torch.cat([first["labels"], second["labels"]])
        assert sorted(together.tolist()) == sorted(whole["labels"].tolist())
        assert len(first["terms"]) + len(second["terms"]) == len(whole["terms"])


def test_epochs_differ_and_repeat_exactly(reviews: Reviews) -> None:
    made = task(reviews)
    epochs = [[batch["terms"].tolist() for batch in made.batches(epoch, 0, 1)] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]


def test_texts_of_like_length_go_together(reviews: Reviews) -> None:
    made = task(reviews)
    padded = sum(batch["pieces"][:, :, 0].numel() for batch in made.batches(0, 0, 1))
    assert padded < 1.6 * made.train.lengths.sum()
