"""Config, network, and the half that answers; knows nothing of how it is trained.

Two branches read a text, each giving a logit of its own. `terms` is a bag of n-grams whose weights start from their
log-count ratios (NBSVM, Wang & Manning 2012). `pieces` is a convolution over the sequence of characters with pooling over time
(Kim 2014). Each learns from its own loss: with one loss for both, the bag, which fits the training texts within two epochs,
would leave the sequence nothing to learn. Their logits are mixed by weights fitted on the validation part, which also
calibrates the probability (temperature scaling, Guo et al. 2017, with one temperature per branch).

Shapes: B texts, T terms of all of them, L characters of the longest, C channels of pieces, R branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from training.sentiment.encoder import NUM_CHANNELS, PAD, Encoded, Encoder, EncoderConfig

Batch = dict[str, Tensor]
NUM_BRANCHES = 2
_BATCH = 256


class Answer(TypedDict):
    """What is said of one text."""

    label: Literal["good", "bad"]
    probability: float
    """Of that label, so at least one half."""
    degraded: list[str]
    """`truncated`: only the first `max_chars` characters were read. `empty`: nothing to read. `unknown`: nothing in it was
    seen in training. In the last two cases the answer is the share of good reviews the model learned from."""


class Config(BaseModel):
    """Size and shape of tokenizer and network. The defaults are those that won on the validation part of `full`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    encoder: EncoderConfig = Field(EncoderConfig(), description="The tokenizer.")
    dim: PositiveInt = Field(64, description="Width of a piece's embedding.")
    filters: PositiveInt = Field(128, description="Filters per convolution width.")
    widths: tuple[PositiveInt, ...] = Field((3,), min_length=1, description="Convolution widths in characters, odd.")
    piece_dropout: float = Field(0.1, ge=0, lt=1, description="Share of a text's pieces hidden in training.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of each character's embedding hidden in training.")
    pooled_dropout: float = Field(0.5, ge=0, lt=1, description="Share of the pooled filters hidden in training.")
    term_dropout: float = Field(0.1, ge=0, lt=1, description="Share of a text's terms hidden in training.")
    term_start: float = Field(0.25, ge=0, description="Share of their log-count ratios that the weights of terms start from.")
    term_scale: float = Field(8.0, gt=0, description="How far a step of the optimizer moves the logit of terms.")

    @field_validator("widths")
    @classmethod
    def _odd(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if any(width % 2 == 0 for width in widths):
            raise ValueError(f"convolution widths must be odd, so that a window has a middle; got {widths}")
        return widths


class Network(nn.Module):
    """Texts to one logit of "good" per branch."""

    mix: Tensor
    mix_bias: Tensor
    base_rate: Tensor
    ratios: Tensor

    def __init__(self, config: Config, ratios: NDArray[np.float32], num_pieces: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("ratios", torch.from_numpy(np.array(ratios)))
        self.register_buffer("mix", torch.full((NUM_BRANCHES,), 1 / NUM_BRANCHES))
        self.register_buffer("mix_bias", torch.zeros(()))
        self.register_buffer("base_rate", torch.tensor(0.5))
        self.term_weights = nn.EmbeddingBag(len(ratios), 1, mode="sum")
        nn.init.constant_(self.term_weights.weight, config.term_start / config.term_scale)
        self.term_bias = nn.Parameter(torch.zeros(()))
        self.piece_embedding = nn.EmbeddingBag(num_pieces, config.dim, mode="sum", padding_idx=PAD)
        nn.init.normal_(self.piece_embedding.weight, std=0.1)
        # A linear layer over windows is the same convolution, and on a CPU twice as fast as Conv1d.
        self.convolutions = nn.ModuleList(nn.Linear(width * config.dim, config.filters) for width in config.widths)
        self.out = nn.Linear(len(config.widths) * config.filters, 1)

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What `forward` takes: name -> (shape, dtype); -1: any size."""
        return {"terms": ((-1,), "int64"), "term_begins": ((-1,), "int64"), "pieces": ((-1, -1, NUM_CHANNELS), "int64")}

    def forward(self, terms: Tensor, term_begins: Tensor, pieces: Tensor) -> Tensor:
        """Logits (B, R).

        Args:
            terms: (T,) term ids of all texts, one text after the other.
            term_begins: (B,) where each text's terms begin.
            pieces: (B, L, C) piece ids, PAD after the end.
        """
        return torch.stack([self._term_logits(terms, term_begins), self._piece_logits(pieces)], dim=1)

    def mixed(self, logits: Tensor) -> Tensor:
        """Branch logits (B, R) as one calibrated logit (B,)."""
        return logits @ self.mix + self.mix_bias

    def _term_logits(self, terms: Tensor, begins: Tensor) -> Tensor:
        counts = torch.diff(begins, append=begins.new_tensor([len(terms)]))
        values = (
            self.ratios[terms] * torch.repeat_interleave(counts.clamp(min=1).rsqrt(), counts, output_size=len(terms))
            if len(terms)
            else self.ratios[:0]
        )
        values = functional.dropout(values, self.config.term_dropout, self.training)
        summed = self.term_weights(terms, begins, per_sample_weights=values)[:, 0]
        return self.config.term_scale * summed + self.term_bias  # type: ignore[no-any-return]

    def _piece_logits(self, pieces: Tensor) -> Tensor:
        hidden = pieces[:, :, 0] == PAD
        shown = functional.dropout(
            torch.ones(pieces.shape, device=pieces.device).flatten(0, 1), self.config.piece_dropout, self.training
        )
        embedded = self.piece_embedding(pieces.flatten(0, 1), per_sample_weights=shown).view(*hidden.shape, -1)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        x = embedded.masked_fill(hidden[:, :, None], 0)
        pooled = [
            convolve(_windows(x, width)).masked_fill(hidden[:, :, None], 0).amax(dim=1).relu()
            for width, convolve in zip(self.config.widths, self.convolutions, strict=True)
        ]
        return self.out(functional.dropout(torch.cat(pooled, dim=1), self.config.pooled_dropout, self.training))[:, 0]  # type: ignore[no-any-return]


def _windows(x: Tensor, width: int) -> Tensor:
    """Each position of (B, L, D) with its neighbours, (B, L, width * D); zeros beyond the ends."""
    padded = functional.pad(x, (0, 0, width // 2, width // 2))
    return torch.cat([padded[:, shift : shift + x.shape[1]] for shift in range(width)], dim=2)


def collate(encoded: Encoded, rows: NDArray[np.int64]) -> Batch:
    """The network's input for some rows of encoded texts: `terms` (T,), `term_begins` (B,), `pieces` (B, L, C)."""
    counts = encoded.num_terms[rows]
    lengths = encoded.lengths[rows]
    filled = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
    pieces = np.full((*filled.shape, NUM_CHANNELS), PAD, dtype=np.int64)
    pieces[filled] = encoded.pieces[_ragged(encoded.piece_ends[rows] - lengths, lengths)]
    return {
        "terms": torch.from_numpy(encoded.terms[_ragged(encoded.term_ends[rows] - counts, counts)].astype(np.int64)),
        "term_begins": torch.from_numpy(np.cumsum(counts) - counts),
        "pieces": torch.from_numpy(pieces),
    }


def _ragged(begins: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """begin, begin + 1 ... `count` places from each begin, one after the other."""
    return np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def branch_logits(network: Network, encoded: Encoded) -> Tensor:
    """Logits of every branch for all encoded texts (texts, R), in their order; texts of like length go together."""
    order = np.argsort(encoded.lengths, kind="stable")
    logits = torch.zeros(len(encoded), NUM_BRANCHES)
    device = network.mix.device
    with torch.inference_mode():
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            batch = {name: tensor.to(device) for name, tensor in collate(encoded, rows).items()}
            logits[torch.from_numpy(rows)] = network(**batch).cpu()
    return logits


@dataclass(frozen=True)
class SentimentClassifier:
    """A trained model that answers."""

    config: Config
    encoder: Encoder
    network: Network = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> SentimentClassifier:
        """The model that `save` wrote."""
        config = Config.model_validate_json((folder / "config.json").read_text())
        encoder = Encoder.load(folder)
        network = Network(config, encoder.ratios, encoder.num_pieces)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        return cls(config, encoder, network.eval())

    def save(self, folder: Path) -> None:
        """Write `config.json`, `encoder.json`, `encoder.safetensors` and `weights.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        self.encoder.save(folder)
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "weights.safetensors")

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability that each text is good, (texts,).

        Raises:
            TypeError: something that is no string.
        """
        return self._probabilities(self._encode(texts))

    def classify(self, texts: Sequence[str]) -> list[Answer]:
        """One answer per text, in order.

        Raises:
            TypeError: something that is no string.
        """
        encoded = self._encode(texts)
        answers: list[Answer] = []
        for text, good, known, length in zip(
            texts, self._probabilities(encoded).tolist(), encoded.num_terms.tolist(), encoded.lengths.tolist(), strict=True
        ):
            degraded = ["truncated"] if len(text) > self.config.encoder.max_chars else []
            if not known:
                degraded.append("unknown" if length else "empty")
            answers.append({"label": "good" if good >= 0.5 else "bad", "probability": max(good, 1 - good), "degraded": degraded})
        return answers

    def _encode(self, texts: Sequence[str]) -> Encoded:
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{place}]: expected a string, got {type(text).__name__}")
        return self.encoder.encode(texts)

    def _probabilities(self, encoded: Encoded) -> NDArray[np.float64]:
        logits = self.network.mixed(branch_logits(self.network, encoded)).double()
        unknown = torch.from_numpy(encoded.num_terms == 0)
        return np.asarray(torch.where(unknown, self.network.base_rate.double(), logits.sigmoid()).numpy())
