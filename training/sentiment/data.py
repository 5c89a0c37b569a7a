"""From the rows of `clean_reviews` to encoded parts and the task that the trainer fits.

The part of a text is a hash of what it says, letters and digits alone, so that a text keeps its part as the data grows and
its near copies ("很好!!!", "很好很好") come with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from features.columns import CATEGORY, LABEL, REVIEW_ID, REVIEW_TEXT
from features.revisions import current_rows
from features.tables import CLEAN_REVIEWS
from infra.errors import TableContractError
from infra.lake import Lake
from training.metrics import classification
from training.sentiment.encoder import Encoded, Encoder, normalised
from training.sentiment.model import Batch, Config, Network, branch_logits, collate

Part = Literal["train", "val", "test"]

TEST_SHARE, VAL_SHARE = 0.2, 0.1
MIN_TEXTS = 50
"""Fewer good or bad texts than this in the training part teach nothing."""
_REPEATED = re.compile(r"(.{1,8}?)\1+")
_NO_WORD = re.compile(r"[\W_]+")
_LENGTH_NOISE = 0.25
"""How far lengths are shaken before texts of like length are put together: enough that batches differ between epochs."""


@dataclass(frozen=True)
class Reviews:
    """Labelled texts of one part, row by row."""

    ids: NDArray[np.str_]
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    categories: NDArray[np.str_]
    """Empty string where none is known."""

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, mask: NDArray[np.bool_]) -> Reviews:
        """The rows where `mask` (n,) is True."""
        texts = tuple(text for text, kept in zip(self.texts, mask, strict=True) if kept)
        return Reviews(self.ids[mask], texts, self.labels[mask], self.categories[mask])


@dataclass(frozen=True)
class Split:
    """What is learned from, tuned on, and touched once."""

    train: Reviews
    val: Reviews
    test: Reviews

    @cached_property
    def digest(self) -> str:
        """Fingerprint of who is in which part with what label; equal splits can be compared text by text."""
        digest = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            for review_id, label in sorted(zip(part.ids.tolist(), part.labels.tolist(), strict=True)):
                digest.update(f"{review_id}\x1f{label}\x1e".encode())
            digest.update(b"\x1d")
        return digest.hexdigest()


def read(lake: Lake) -> tuple[Reviews, int]:
    """All labelled reviews of the shop and the version of the table they came from.

    Raises:
        TableContractError: there is no such table.
    """
    version = lake.version(CLEAN_REVIEWS.path)
    if version is None:
        raise TableContractError(f"table {CLEAN_REVIEWS.path} of shop {lake.shop} does not exist; run `shopgraph build`.")
    return reviews_of(current_rows(lake, CLEAN_REVIEWS, version, [REVIEW_ID, REVIEW_TEXT, LABEL, CATEGORY])), version


def reviews_of(rows: pa.Table) -> Reviews:
    """Rows with `review_id`, `review_text`, `label` and `category`, in order of id."""
    rows = rows.filter(pc.is_valid(rows[LABEL])).sort_by(REVIEW_ID)
    return Reviews(
        ids=np.array(rows[REVIEW_ID].to_pylist(), dtype=np.str_),
        texts=tuple(rows[REVIEW_TEXT].to_pylist()),
        labels=np.asarray(rows[LABEL].to_numpy(), dtype=np.int64),
        categories=np.array([category or "" for category in rows[CATEGORY].to_pylist()], dtype=np.str_),
    )


def split(reviews: Reviews) -> Split:
    """A fifth of the texts to test on, a tenth to tune on, the rest to learn from.

    Raises:
        TableContractError: too few good or bad texts to learn from, or a part without both.
    """
    parts = np.array([part_of(text) for text in reviews.texts])
    made = Split(*(reviews.where(parts == part) for part in ("train", "val", "test")))
    good = int(made.train.labels.sum())
    if min(good, len(made.train) - good) < MIN_TEXTS or any(len(set(part.labels.tolist())) < 2 for part in (made.val, made.test)):
        raise TableContractError(
            f"{CLEAN_REVIEWS.path} gives {good} good and {len(made.train) - good} bad texts to learn from; expected at least "
            f"{MIN_TEXTS} of each: ingest more reviews with a rating or a label, then `shopgraph build`."
        )
    return made


def part_of(text: str) -> Part:
    """The part a text belongs to: a function of what it says, whatever else is in the data."""
    said = core(text)
    place = int.from_bytes(hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=8).digest(), "big") / 2**64
    return "test" if place < TEST_SHARE else "val" if place < TEST_SHARE + VAL_SHARE else "train"


def core(text: str) -> str:
    """Letters and digits of a text in one case, what is said several times in a row said once; all of it where it has none."""
    folded = normalised(text, len(text))
    return _REPEATED.sub(r"\1", _NO_WORD.sub("", folded)) or folded


@dataclass
class SentimentTask:
    """What the trainer fits: encoded training and validation texts."""

    config: Config
    ratios: NDArray[np.float32]
    num_pieces: int
    train: Encoded
    train_labels: NDArray[np.int64]
    val: Encoded
    val_labels: NDArray[np.int64]
    batch_size: int
    seed: int
    monitor: str = "val_log_loss"
    mode: Literal["max", "min"] = "min"

    @classmethod
    def of(cls, split: Split, encoder: Encoder, config: Config, batch_size: int, seed: int) -> SentimentTask:
        """Encode the training and the validation part."""
        return cls(
            config,
            encoder.ratios,
            encoder.num_pieces,
            encoder.encode(split.train.texts),
            split.train.labels,
            encoder.encode(split.val.texts),
            split.val.labels,
            batch_size,
            seed,
        )

    def build(self) -> Network:
        """A fresh network."""
        return Network(self.config, self.ratios, self.num_pieces)

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002  # every epoch has as many
        """Batches of about `batch_size` texts, at least one, the same for every epoch."""
        return max(1, round(len(self.train) / self.batch_size))

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Texts of like length together, batches in random order, another order each epoch.

        `num_texts` is what a rank's share of the texts of the global batch would be. Which terms are hidden each rank draws for itself.
        """
        rng = np.random.default_rng((self.seed, epoch))
        shaken = self.train.lengths * rng.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, len(self.train)) + rng.uniform(
            0, 4, len(self.train)
        )
        batches = np.array_split(np.argsort(shaken), self.num_steps(epoch))
        for place in rng.permutation(len(batches)):
            rows = batches[place][rank::world_size]
            labels = torch.from_numpy(self.train_labels[rows].astype(np.float32))
            yield collate(self.train, rows) | {"labels": labels, "num_texts": torch.tensor(len(batches[place]) / world_size)}

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of each branch, averaged over branches and texts: every branch learns alone."""
        logits = module(*(batch[name] for name in ("terms", "term_begins", "pieces")))
        if not len(logits):  # fewer texts than ranks; the mean of none is no number
            return logits.sum()  # type: ignore[no-any-return]
        mean = functional.binary_cross_entropy_with_logits(logits, batch["labels"][:, None].expand_as(logits))
        return mean * (len(logits) / batch["num_texts"])

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Every metric on the validation texts, of the branches' mix, names with prefix `val_`."""
        assert isinstance(module, Network)
        logits = module.mixed(branch_logits(module, self.val).to(module.mix.device)).cpu().double()
        return {f"val_{name}": value for name, value in classification.scores(self.val_labels, logits.sigmoid().numpy()).items()}
