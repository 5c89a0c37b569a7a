"""Config, encoder, network with its loss, and the half that answers; knows nothing of how it is trained.

The network is SASRec (Kang & McAuley 2018) with what later work found to matter: a softmax over the whole catalogue instead of
one negative (Klenitskiy & Vasilev 2023), pre-norm blocks, tied item embeddings, positions counted back from the newest act. A
repeat term lets a purchase of long ago come back, which a dot product alone expresses badly (Ren et al. 2019, RepeatNet).

Shapes: B sequences, L acts, D width, I items, R scored positions, P (position, target) pairs, N negatives.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import ModelNotFoundError
from training.dropout import Chosen, Dropout
from training.metrics.ranking import top_k
from training.recommender.content import Bags, Row, Vocabulary, words_of
from training.recommender.names import CONTENT, NETWORK, PAIRED, POPULAR, SOURCES
from training.recommender.sources import Content, Near, Source, blended, shares_of, softmax

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Recommendations = list[tuple[str, float]]
"""(item_id, score), best first."""

_SCORES = 4_000_000
"""Scores that are there at once: with those of 32 histories and a million items an answer takes half as long again, and gigabytes."""
_ROWS = 256
"""Histories that pass through the network together."""
_TINY = np.finfo(np.float32).tiny
_LEAST = -25.0
"""What the log of a share counts as where it is less, or nothing, so that a fall from it can be told."""


class Config(BaseModel):
    """Size and shape of the network. The defaults are those that won on the validation parts named in the recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: PositiveInt = Field(64, description="Width of embeddings and blocks.")
    num_blocks: PositiveInt = Field(2, description="Transformer blocks.")
    num_heads: PositiveInt = Field(2, description="Attention heads per block; divides `dim`.")
    max_length: PositiveInt = Field(50, description="Newest acts of a history that are read.")
    dropout: float = Field(0.2, ge=0, lt=1, description="On embeddings, attention output and feed-forward output.")
    temperature: PositiveFloat | None = Field(
        None, description="Scores are cosines over this temperature (0.05 to 0.1), so length says nothing; null: plain products."
    )
    num_negatives: PositiveInt | None = Field(
        None, description="Sampled softmax over this many shared negatives, for catalogues too large for the full one."
    )
    new_share: float = Field(
        0.1, ge=0, lt=1, description="Share of the items that each step takes for new, so that their words learn to speak for them."
    )
    repeats: bool = Field(
        True, description="An item of the history may come again, and how likely is learned; false: it is never recommended again."
    )

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Config:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide dim {self.dim}")
        return self


@dataclass(frozen=True)
class Encoder:
    """Ids to indices and back; part of every model version, so training and serving read a history alike."""

    items: tuple[str, ...]
    """The catalogue, in index order."""
    event_types: tuple[str, ...]
    """Known kinds of act, the commonest first; an act of unsaid kind is read as that one."""
    popularity: tuple[float, ...]
    """Per item, its share of the recent acts: the answer for who has no history."""
    collapse: bool = True
    """A run of acts on one item is read as its last act; false: each act is a step."""

    @cached_property
    def index(self) -> dict[str, int]:
        """Item -> its place in the catalogue."""
        return {item: position for position, item in enumerate(self.items)}

    @cached_property
    def event_index(self) -> dict[str, int]:
        """Kind of act -> its number."""
        return {event_type: position for position, event_type in enumerate(self.event_types)}

    def steps(self, items: Ints, events: Ints, users: Ints | int = 0) -> Ints:
        """Positions of the acts that are read of (n,) acts in time order, one user after another; training and serving ask it alike.

        Items and kinds of act that are not known (-1) are skipped; where runs collapse, one of a user's acts on one item counts as its
        last act.
        """
        known = np.flatnonzero((items >= 0) & (events >= 0))
        if not self.collapse:
            return known
        places = items + users * (len(self.items) + 1)  # a user's first act never continues a run of the user before
        kept: Ints = known[last_of_runs(places[known])]
        return kept

    def read(self, history: Sequence[str], event_types: Sequence[str] | None) -> tuple[Ints, Ints]:
        """Items and kinds of the acts that are read of one history, oldest first; see `steps`."""
        items = np.array([self.index.get(item, -1) for item in history], dtype=np.int64)
        if event_types is None:
            events = np.zeros(len(history), dtype=np.int64)
        else:
            events = np.array([self.event_index.get(kind, -1) for kind in event_types], dtype=np.int64)
        kept = self.steps(items, events)
        return items[kept], events[kept]

    def encode(
        self, histories: Sequence[Sequence[str]], event_types: Sequence[Sequence[str]] | None, max_length: int
    ) -> dict[str, Tensor]:
        """Histories, oldest act first, as `items` (B, L), `events` (B, L) and `lengths` (B,), padded at the end with 0.

        What `read` leaves out is skipped; the newest `max_length` acts stay.
        """
        kinds = [None] * len(histories) if event_types is None else event_types
        read = [self.read(history, its_kinds) for history, its_kinds in zip(histories, kinds, strict=True)]
        return pad([items[-max_length:] for items, _ in read], [events[-max_length:] for _, events in read])

    def save(self, path: Path) -> None:
        """Write it as one JSON file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """The encoder that `save` wrote."""
        content = json.loads(path.read_text())
        items, event_types, popularity = (tuple(content[name]) for name in ("items", "event_types", "popularity"))
        return cls(items, event_types, popularity, content["collapse"])


def last_of_runs(items: Ints) -> NDArray[np.bool_]:
    """(n,) True where the next act is on another item: a view, cart and purchase of one thing in a row is one step of taste."""
    ends = np.ones(len(items), dtype=np.bool_)
    ends[:-1] = items[1:] != items[:-1]
    return ends


def pad(items: Sequence[Ints], events: Sequence[Ints], width: int = 1) -> dict[str, Tensor]:
    """Ragged rows as `items` (B, L), `events` (B, L), `lengths` (B,); L is the longest row, at least `width`."""
    lengths = np.fromiter((len(row) for row in items), np.int64, len(items))
    filled = np.arange(max(width, lengths.max(initial=0))) < lengths[:, None]
    padded = np.zeros((2, *filled.shape), dtype=np.int64)
    if lengths.any():
        padded[0][filled] = np.concatenate(list(items))
        padded[1][filled] = np.concatenate(list(events))
    return {"items": torch.from_numpy(padded[0]), "events": torch.from_numpy(padded[1]), "lengths": torch.from_numpy(lengths)}


class Block(nn.Module):
    """Pre-norm causal self-attention and feed-forward, (B, L, D) -> (B, L, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.attention_out = nn.Linear(config.dim, config.dim)
        self.feed_norm = nn.LayerNorm(config.dim)
        self.feed_in = nn.Linear(config.dim, 4 * config.dim)
        self.feed_out = nn.Linear(4 * config.dim, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D); padding must be at the end, where no act can look."""
        q, k, v = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        # Padding is at the end, so the causal mask alone keeps it from every real position.
        return self._after(x, self._mixed(q, k, v, is_causal=True))

    def last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What `forward` gives at the last act of each, (B, L, D) -> (B, D), at a fraction of the work."""
        normed = self.attention_norm(x)
        rows = torch.arange(len(x), device=x.device)
        weight, bias, D = self.query_key_value.weight, self.query_key_value.bias, x.shape[2]
        k, v = functional.linear(normed, weight[D:], bias[D:]).chunk(2, dim=-1)
        q = functional.linear(normed[rows, lengths - 1], weight[:D], bias[:D])[:, None]
        is_act = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return self._after(x[rows, lengths - 1], self._mixed(q, k, v, attn_mask=is_act[:, None, None])[:, 0])

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, **mask: Any) -> Tensor:
        """Values (B, L, D) mixed as each of the queries (B, Q, D) attends to the keys (B, L, D) -> (B, Q, D)."""
        q, k, v = (
            part.view(*part.shape[:2], self.num_heads, part.shape[2] // self.num_heads).transpose(1, 2) for part in (q, k, v)
        )
        return functional.scaled_dot_product_attention(q, k, v, **mask).transpose(1, 2).flatten(2)

    def _after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention, act by act."""
        x = x + self.dropout(self.attention_out(mixed))
        out: Tensor = x + self.dropout(self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x)))))
        return out


class _Blocks:
    """Scores of some rows at a time, and the gradients that come back through them; arguments as of `CatalogueSoftmax`."""

    def __init__(self, states: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, bonus: Tensor, pair_rows: Tensor) -> None:
        self.inputs = states, weight, bias, seen, bonus
        self.pair_rows = pair_rows
        self.gradients = [torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias), torch.empty_like(bonus)]
        """Of states, weight, bias and bonus."""

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Rows, pairs that belong to them, the row of each pair within them, and the scores of the rows."""
        states, weight, bias, seen, bonus = self.inputs
        step = max(1, 2**20 // len(weight))
        starts = torch.arange(0, len(states), step, device=states.device)
        edges = [*torch.searchsorted(self.pair_rows, starts).tolist(), len(self.pair_rows)]
        for index, start in enumerate(starts.tolist()):
            block, part = slice(start, start + step), slice(edges[index], edges[index + 1])
            scores = torch.addmm(bias, states[block], weight.T).scatter_add_(1, seen[block], bonus[block])
            yield block, part, self.pair_rows[part] - start, scores

    def back(self, block: slice, scores: Tensor) -> None:
        """Take up the gradient of the scores of some rows."""
        states, weight, _, seen, _ = self.inputs
        torch.mm(scores, weight, out=self.gradients[0][block])
        self.gradients[1].addmm_(scores.T, states[block])
        self.gradients[2] += scores.sum(dim=0)
        torch.gather(scores, 1, seen[block], out=self.gradients[3][block])


class CatalogueSoftmax(torch.autograd.Function):
    """Softmax loss over all items, with its gradient, a few rows at a time: the (R, I) scores never exist as a whole.

    Each block of scores stays in the processor's cache and becomes its own gradient in place, which is several times faster
    than letting autograd keep the scores (the idea of the fused linear cross-entropy of Hsu et al. 2024, Liger kernels).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        bonus: Tensor,
        pair_rows: Tensor,
        pair_targets: Tensor,
        pair_weights: Tensor,
    ) -> Tensor:
        """As `Network.forward`; `seen` (R, S) are items whose score gets `bonus` (R, S); `pair_rows` ascend."""
        loss, blocks = states.new_zeros(()), _Blocks(states, weight, bias, seen, bonus, pair_rows)
        for block, part, rows, scores in blocks:
            targets, weights = pair_targets[part], pair_weights[part]
            log_sums = torch.logsumexp(scores, dim=1)
            loss += ((log_sums[rows] - scores[rows, targets]) * weights).sum()
            row_weights = torch.zeros_like(log_sums).index_add_(0, rows, weights)
            scores.sub_(log_sums[:, None]).exp_().mul_(row_weights[:, None])
            scores.index_put_((rows, targets), -weights, accumulate=True)
            blocks.back(block, scores)
        ctx.save_for_backward(*blocks.gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` left, times that of the loss; None for what is not learned."""
        states, weight, bias, bonus = (gradient * grad_outputs[0] for gradient in ctx.saved_tensors)
        return states, weight, bias, None, bonus, None, None, None


class SampledSoftmax(torch.autograd.Function):
    """Softmax loss over the wanted item and drawn ones, with its gradient, a few rows at a time, as `CatalogueSoftmax` has it."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        bonus: Tensor,
        pair_rows: Tensor,
        pair_places: Tensor,
        wanted: Tensor,
        pair_weights: Tensor,
    ) -> Tensor:
        """Scores of the drawn items follow from `states` (R, D), `weight` (N, D) and `bias` (N,).

        Args:
            seen: (R, S) places among the drawn items whose score gets `bonus` (R, S).
            pair_rows: (P,) ascending.
            pair_places: (P,) place of the wanted item among the drawn ones, which is left out of them; N: it is not there.
            wanted: (P,) score of the wanted item.
        """
        loss, blocks = states.new_zeros(()), _Blocks(states, weight, bias, seen, bonus, pair_rows)
        gradient_wanted = torch.empty_like(wanted)
        for block, part, rows, scores in blocks:
            weights = pair_weights[part]
            others = scores[rows]
            drawn = torch.nonzero(pair_places[part] < len(weight)).flatten()
            others[drawn, pair_places[part][drawn]] = -torch.inf
            log_sums = torch.logaddexp(torch.logsumexp(others, dim=1), wanted[part])
            loss += ((log_sums - wanted[part]) * weights).sum()
            gradient_wanted[part] = ((wanted[part] - log_sums).exp() - 1) * weights
            others.sub_(log_sums[:, None]).exp_().mul_(weights[:, None])
            scores.zero_().index_add_(0, rows, others)
            blocks.back(block, scores)
        ctx.save_for_backward(*blocks.gradients, gradient_wanted)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` left, times that of the loss; None for what is not learned."""
        states, weight, bias, bonus, wanted = (gradient * grad_outputs[0] for gradient in ctx.saved_tensors)
        return states, weight, bias, None, bonus, None, None, wanted, None


class Said:
    """What is said of the items of a network, on the device where it is asked."""

    def __init__(self, bags: Bags, is_new: NDArray[np.bool_]) -> None:
        self.words, self.offsets, self.is_new = (torch.from_numpy(part) for part in (bags.words, bags.offsets, is_new))

    def of(self, ids: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Words and offsets (n + 1,) of the bags of some items, or of all, and which of them nobody took yet (n,)."""
        if self.words.device != device:
            self.words, self.offsets, self.is_new = (part.to(device) for part in (self.words, self.offsets, self.is_new))
        if ids is None:
            return self.words, self.offsets, self.is_new
        starts = self.offsets[ids]
        lengths = self.offsets[ids + 1] - starts
        offsets = functional.pad(torch.cumsum(lengths, 0), (1, 0))
        flat = torch.arange(int(offsets[-1]), device=device) + torch.repeat_interleave(starts - offsets[:-1], lengths)
        return self.words[flat], offsets, self.is_new[ids]


class Network(nn.Module):
    """Histories to one score per item of the catalogue."""

    def __init__(self, config: Config, num_items: int, num_event_types: int, num_words: int = 0) -> None:
        super().__init__()
        self.config = config
        self.said: Said | None = None
        is_sampled = config.num_negatives is not None
        self.item = nn.Embedding(num_items, config.dim, sparse=is_sampled)  # a step then costs what the items it names cost
        self.event = nn.Embedding(num_event_types, config.dim)
        self.position = nn.Embedding(config.max_length, config.dim)
        self.item_bias = nn.Parameter(torch.zeros(num_items))
        if num_words:
            self.word = nn.Embedding(num_words, config.dim, sparse=is_sampled)
            self.new_bias = nn.Parameter(torch.zeros(()))
            self.taken_for_new = Chosen(config.new_share)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        if config.repeats:
            self.repeat = nn.Linear(config.dim, 1)
            self.repeat_lag = nn.Parameter(torch.zeros(config.max_length))
        for embedding in (self.item, self.event, self.position):
            nn.init.normal_(embedding.weight, std=config.dim**-0.5 / 2)

    def tell(self, bags: Bags, is_new: NDArray[np.bool_]) -> None:
        """Learn words as well: an item is what it is by itself plus the mean of its words, a new one its words alone.

        Args:
            bags: the words of each item.
            is_new: (items,) True for items that nobody took yet.
        """
        self.said = Said(bags, is_new)

    def items(self, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors (n, D) and biases (n,) of items; of all where none are named.

        While training, a share of the items is taken for new, so that words learn to speak for them (Volkovs et al. 2017, DropoutNet).
        """
        own, bias = (self.item.weight, self.item_bias) if ids is None else (self.item(ids), self.item_bias[ids])
        if self.said is None:
            return own, bias
        words, offsets, is_new = self.said.of(ids, own.device)
        if self.training:
            drawn = self.taken_for_new(len(self.item_bias), own.device)  # for all items: which are named differs between workers
            is_new = is_new | (drawn if ids is None else drawn[ids])
        said = functional.embedding_bag(
            words, self.word.weight, offsets, mode="mean", include_last_offset=True, sparse=self.word.sparse
        )
        return torch.where(is_new[:, None], 0.0, own) + said, torch.where(is_new, self.new_bias, bias)

    @torch.no_grad()
    def fused(self) -> Network:
        """The same network to answer with: what words say of the known items is part of their vectors."""
        network = copy.deepcopy(self).eval()
        vectors, biases = network.items()
        network.said = None
        network.item.weight.copy_(vectors)
        network.item_bias.copy_(biases)
        return network

    @torch.no_grad()
    def quieten(self) -> None:
        """Let the blocks add nothing, as ReZero begins (Bachlechner et al. 2021), and kinds and positions next to nothing."""
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.attention_out, block.feed_out):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        for embedding in (self.event, self.position):
            embedding.weight.mul_(0.1)

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What `scores` takes: name -> (shape, dtype); -1: any size."""
        return {"items": ((-1, -1), "int64"), "events": ((-1, -1), "int64"), "lengths": ((-1,), "int64")}

    def states(self, acts: Tensor) -> Tensor:
        """What is known after each act, (B, L, D) -> (B, L, D)."""
        for block in self.blocks:
            acts = block(acts)
        states: Tensor = self.norm(acts)
        return states

    def acts(self, vectors: Tensor, events: Tensor, lengths: Tensor) -> Tensor:
        """What each act says alone: the vectors of its item (B, L, D), its kind and its age -> (B, L, D)."""
        age = (lengths[:, None] - 1 - torch.arange(events.shape[1], device=events.device)).clamp(0, self.config.max_length - 1)
        acts: Tensor = self.dropout(vectors + self.event(events) + self.position(age))
        return acts

    def scores(self, items: Tensor, events: Tensor, lengths: Tensor) -> Tensor:
        """Score of every item after each whole history, (B, I); a history must not be empty."""
        vectors, biases = self.items()
        x = self.acts(functional.embedding(items, vectors), events, lengths)
        *others, last = (cast("Block", block) for block in self.blocks)
        for block in others:
            x = block(x)
        states = self.norm(last.last(x, lengths))
        scores: Tensor = functional.linear(self._towards(states), self._lengthless(vectors), biases)
        rows = torch.arange(len(items), device=items.device) * items.shape[1] + lengths - 1
        return scores.scatter_add(1, *self._repeats(states, rows, items)) if self.config.repeats else scores

    def forward(
        self,
        items: Tensor,
        events: Tensor,
        lengths: Tensor,
        rows: Tensor,
        pair_rows: Tensor,
        pair_targets: Tensor,
        pair_weights: Tensor,
        negatives: Tensor | None = None,
        negative_log_weights: Tensor | None = None,
    ) -> Tensor:
        """Softmax loss, summed over pairs with their weights.

        Args:
            rows: (R,) positions to score, as indices into the flattened (B, L).
            pair_rows: (P,) indices into `rows`.
            pair_targets: (P,) the item that follows.
            pair_weights: (P,) weight of each pair; they say what the sum is a mean of.
            negatives: (N,) distinct items, ascending, drawn for the whole batch; None: all items.
            negative_log_weights: (N,) log of how often each was drawn, less that of how often it was expected (Bengio & Senecal 2008).
        """
        if negatives is None or negative_log_weights is None:
            vectors, biases = self.items()
            places = items
        else:
            named = torch.cat([items.flatten(), pair_targets, negatives])
            ids, inverse = torch.unique(named, return_inverse=True)
            vectors, biases = self.items(ids)
            places, wanted_at, drawn_at = inverse.split([items.numel(), len(pair_targets), len(negatives)])
            places = places.view_as(items)
        states = self.states(self.acts(functional.embedding(places, vectors), events, lengths)).flatten(0, 1)[rows]
        seen, bonus = self._repeats(states, rows, items)
        states, vectors = self._towards(states), self._lengthless(vectors)
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 would lose the end of so long a sum
            states = states.to(vectors.dtype)
            if negatives is None or negative_log_weights is None:
                return CatalogueSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
                    states, vectors, biases, seen, bonus, pair_rows, pair_targets, pair_weights
                )
            wanted = (states[pair_rows] * vectors[wanted_at]).sum(dim=1) + biases[wanted_at]
            wanted = wanted + (bonus[pair_rows] * (seen[pair_rows] == pair_targets[:, None])).sum(dim=1)
            seen_at, is_drawn = _places(negatives, seen)
            wanted_place, is_drawn_too = _places(negatives, pair_targets)
            wanted_place = torch.where(is_drawn_too, wanted_place, len(negatives))
            return SampledSoftmax.apply(  # type: ignore[no-any-return, no-untyped-call]
                states, vectors[drawn_at], biases[drawn_at] + negative_log_weights, seen_at, bonus * is_drawn,
                pair_rows, wanted_place, wanted, pair_weights,
            )  # fmt: skip

    def _towards(self, states: Tensor) -> Tensor:
        """States as scores are made of them: directions over the temperature, where there is one."""
        return states if self.config.temperature is None else functional.normalize(states, dim=-1) / self.config.temperature

    def _lengthless(self, items: Tensor) -> Tensor:
        """Item embeddings as scores are made of them: directions, where there is a temperature."""
        return items if self.config.temperature is None else functional.normalize(items, dim=-1)

    def _repeats(self, states: Tensor, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Per scored position, its history (R, S) and what each act adds to the score of its own item (R, S); S is L or 0."""
        L = items.shape[1]
        if not self.config.repeats:
            return items.new_empty(len(rows), 0), states.new_empty(len(rows), 0)
        seen = items[rows // L]
        lag = (rows % L)[:, None] - torch.arange(L, device=items.device)
        bonus = self.repeat(states) + self.repeat_lag[lag.clamp(0, self.config.max_length - 1)]
        return seen, bonus * (lag >= 0)


def _places(ascending: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands in distinct ascending ones, and whether it does; where not, some place."""
    places = torch.searchsorted(ascending, values).clamp_(max=len(ascending) - 1)
    return places, ascending[places] == values


def network_scores(network: Network, items: Sequence[Ints], events: Sequence[Ints]) -> Floats:
    """Score of every item after each history, (histories, items); none may be empty."""
    longest = network.config.max_length
    found = torch.empty(len(items), network.item.num_embeddings)
    device = network.item_bias.device
    for start in range(0, len(items), _ROWS):
        rows = slice(start, start + _ROWS)
        batch = pad([row[-longest:] for row in items[rows]], [row[-longest:] for row in events[rows]])
        with torch.inference_mode():
            found[rows] = network.scores(**{name: value.to(device) for name, value in batch.items()})
    return found.numpy()


@dataclass(frozen=True)
class Recommender:
    """A trained model that answers. Scores are logs of shares: how likely an item is the next one, as the blend of sources says."""

    config: Config
    encoder: Encoder
    network: Network = field(repr=False)
    counted: Mapping[str, Source] = field(default_factory=dict, repr=False)
    """Sources beside the network and what is popular, by name."""
    weights: Mapping[str, float] = field(default_factory=lambda: {NETWORK: 1.0})
    """Source (see `training.recommender.sources`) -> its weight in the blend."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary, repr=False)
    """The words by which the network knows what it never saw."""

    def with_items(self, told: Mapping[str, Row]) -> Recommender:
        """The same model with more items in its catalogue, known by what is said of them alone (see `content`).

        Args:
            told: item -> its row; those it knows, and those of which nothing is said that it knows, are left out.
        """
        words = {item: words_of(row) for item, row in told.items() if item not in self.encoder.index}
        new = [item for item, its_words in words.items() if any(word in self.vocabulary.index for word in its_words)]
        if not new:
            return self
        old, size = len(self.encoder.items), len(self.encoder.items) + len(new)
        bags = self.vocabulary.bags([[]] * old + [words[item] for item in new])
        network = Network(self.config, size, len(self.encoder.event_types), len(self.vocabulary))
        state = self.network.state_dict()
        state["item.weight"] = functional.pad(state["item.weight"], (0, 0, 0, len(new)))
        state["item_bias"] = functional.pad(state["item_bias"], (0, len(new)))
        network.load_state_dict(state)
        network.tell(bags, np.arange(size) >= old)
        popularity = (*self.encoder.popularity, *([0.0] * len(new)))
        encoder = replace(self.encoder, items=(*self.encoder.items, *new), popularity=popularity)
        counted: dict[str, Source] = {}
        for name, source in self.counted.items():
            if isinstance(source, Near):
                counted[name] = source.resized(size)
            elif isinstance(source, Content):
                counted[name] = source.told(bags.offsets[old:], bags.words)
        return replace(self, encoder=encoder, network=network.fused(), counted=counted)

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """The model that `save` wrote.

        Raises:
            ModelNotFoundError: an earlier version of shopgraph wrote it, whose networks are others.
        """
        weights = json.loads((folder / "blend.json").read_text())
        if not (folder / "vocabulary.json").exists() or not set(weights) <= set(SOURCES):
            raise ModelNotFoundError(
                f"the recommender in {folder} is of an earlier shopgraph; run `shopgraph train recommender` again."
            )
        config = Config.model_validate_json((folder / "config.json").read_text())
        encoder = Encoder.load(folder / "encoder.json")
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        network = Network(config, len(encoder.items), len(encoder.event_types), len(vocabulary))
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        counted: dict[str, Source] = {}
        for name in (*PAIRED, CONTENT):
            if (file := folder / f"{name}.safetensors").exists():
                counted[name] = Content.load(file) if name == CONTENT else Near.load(file)
        return cls(config, encoder, network.eval(), counted, weights, vocabulary)

    def save(self, folder: Path) -> None:
        """Write `config`, `encoder`, `vocabulary` and `blend` as JSON, `weights` and what is counted as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        self.encoder.save(folder / "encoder.json")
        (folder / "blend.json").write_text(json.dumps(dict(self.weights)))
        for name, source in self.counted.items():
            source.save(folder / f"{name}.safetensors")
        self.vocabulary.save(folder / "vocabulary.json")
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "weights.safetensors")

    def knows(self, item_id: str) -> bool:
        """Whether the item was in the catalogue the model learned."""
        return item_id in self.encoder.index

    def reads(self, event_types: Sequence[str]) -> bool:
        """Whether any of these is a kind of act that the model learned from."""
        return any(kind in self.encoder.event_index for kind in event_types)

    def is_personal(self, history: Sequence[str], event_types: Sequence[str] | None = None) -> bool:
        """Whether an answer to this history is about it; else it is the popular list."""
        return len(self.encoder.read(history, event_types)[0]) > 0

    def sources(self, items: Sequence[Ints], events: Sequence[Ints]) -> dict[str, Floats]:
        """What each source of weight says comes next: source -> share of every item, (histories, items).

        Args:
            items, events: per history, oldest first, what `Encoder.read` gives; none may be empty.
        """
        found = {}
        if self.weights.get(NETWORK):
            scores = network_scores(self.network, items, events)
            self._ban_seen(scores, items, -np.inf)
            found[NETWORK] = softmax(scores)
        others = {name: source.scores(items) for name, source in self.counted.items() if self.weights.get(name)}
        if self.weights.get(POPULAR):
            others[POPULAR] = np.tile(np.asarray(self.encoder.popularity, dtype=np.float32), (len(items), 1))
        for name, scores in others.items():
            self._ban_seen(scores, items, 0.0)
            found[name] = shares_of(scores)
        return found

    def shares(self, items: Sequence[Ints], events: Sequence[Ints]) -> Floats:
        """Share of every item in what comes next, (histories, items), as the blend says; popularity where a history is empty.

        Arguments as of `sources`.
        """
        known = [row for row, history in enumerate(items) if len(history)]
        if len(known) == len(items):
            return blended(self.sources(items, events), self.weights)
        shares = np.tile(np.asarray(self.encoder.popularity, dtype=np.float32), (len(items), 1))
        if known:
            shares[known] = self.shares([items[row] for row in known], [events[row] for row in known])
        return shares

    def scores(self, histories: Sequence[Sequence[str]], event_types: Sequence[Sequence[str]] | None = None) -> Floats:
        """Log of the share of every item of the catalogue, (histories, items), acts oldest first; popularity where nothing is read.

        Items that no source gives a share come last, all alike.
        """
        kinds = [None] * len(histories) if event_types is None else event_types
        read = [self.encoder.read(history, its_kinds) for history, its_kinds in zip(histories, kinds, strict=True)]
        return np.log(np.maximum(self.shares([items for items, _ in read], [events for _, events in read]), _TINY))

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        exclude: Sequence[Collection[str]] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        event_types: Sequence[Sequence[str]] | None = None,
    ) -> list[Recommendations]:
        """The k best items for each history (acts oldest first); fewer where fewer are allowed.

        Args:
            exclude: per history, items not to be shown.
            allowed: (items,) of the catalogue, False: shown to nobody.
            event_types: per history, the kind of each act; unsaid: the commonest kind.

        Raises:
            ValueError: k is negative, or the arguments differ in length.
        """
        for name, value in (("exclude", exclude), ("event_types", event_types)):
            if value is not None and len(value) != len(histories):
                raise ValueError(f"{len(histories)} histories but {len(value)} of {name}")
        step = max(1, _SCORES // len(self.encoder.items))
        found = []
        for start in range(0, len(histories), step):
            rows = slice(start, start + step)
            kinds = None if event_types is None else event_types[rows]
            scores = self.scores(histories[rows], kinds)
            for row, history in enumerate(histories[rows]):
                self._ban(scores[row], exclude[start + row] if exclude is not None else (), allowed)
                if not self.config.repeats:
                    scores[row, self.encoder.read(history, kinds[row] if kinds is not None else None)[0]] = -np.inf
            found += [self._named(row, best) for row, best in zip(scores, top_k(scores, k), strict=True)]
        return found

    def reasons(
        self, history: Sequence[str], event_types: Sequence[str] | None, items: Sequence[str], most: int = 3
    ) -> list[Recommendations]:
        """Per recommended item, the items of the history that speak for it, the strongest first: `(item_id, weight)`.

        The weight is how far the log of the item's share falls when every act on that item is left out of the history
        (leave-one-out attribution, which holds for any model); only what speaks for it is named, at most `most`.

        Raises:
            KeyError: a recommended item is not in the catalogue.
        """
        read, events = (part[-self.config.max_length :] for part in self.encoder.read(history, event_types))
        names = [self.encoder.items[item] for item in read]
        kinds = [self.encoder.event_types[event] for event in events]
        others = list(dict.fromkeys(names))
        keeps = [[name != other for name in names] for other in (None, *others)]
        scores = self.scores(
            [[name for name, is_kept in zip(names, keep, strict=True) if is_kept] for keep in keeps],
            [[kind for kind, is_kept in zip(kinds, keep, strict=True) if is_kept] for keep in keeps],
        )
        columns = [self.encoder.index[item] for item in items]
        scores = np.maximum(scores[:, columns], _LEAST)
        falls = scores[0] - scores[1:]
        found = []
        for column in range(len(items)):
            order = np.argsort(-falls[:, column], kind="stable")[:most]
            found.append([(others[row], float(falls[row, column])) for row in order if falls[row, column] > 0])
        return found

    def popular(self, k: int) -> Recommendations:
        """The k most popular items of late."""
        return self.recommend([[]], k)[0]

    def similar(
        self, item_id: str, k: int, exclude: Collection[str] = (), allowed: NDArray[np.bool_] | None = None
    ) -> Recommendations:
        """The k items whose embeddings point most nearly the same way (cosine), without the item itself.

        Raises:
            KeyError: the item is not in the catalogue.
            ValueError: k is negative.
        """
        cosines = self.cosines([item_id])
        self._ban(cosines, [item_id, *exclude], allowed)
        return self._named(cosines, top_k(cosines[None], k)[0])

    def cosines(self, item_ids: Sequence[str]) -> Floats:
        """(items,) how nearly the embedding of each item of the catalogue points the way of these items' mean direction.

        Raises:
            KeyError: one of them is not in the catalogue.
        """
        mean = self._directions[[self.encoder.index[item] for item in item_ids]].mean(axis=0)
        return np.asarray(self._directions @ (mean / max(float(np.linalg.norm(mean)), _TINY)), dtype=np.float32)

    def _ban_seen(self, scores: Floats, items: Sequence[Ints], least: float) -> None:
        """Where nothing comes again, set the items of each history to `least`, in place."""
        if not self.config.repeats:
            for row, history in enumerate(items):
                scores[row, history] = least

    @cached_property
    def _directions(self) -> Floats:
        return np.asarray(functional.normalize(self.network.item.weight.detach(), dim=1).numpy())

    def _ban(self, scores: Floats, items: Iterable[str], allowed: NDArray[np.bool_] | None) -> None:
        """Set what may not be shown to -inf, in place."""
        scores[[self.encoder.index[item] for item in items if item in self.encoder.index]] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf

    def _named(self, scores: Floats, best: Ints) -> Recommendations:
        return [(self.encoder.items[item], float(scores[item])) for item in best if scores[item] > -np.inf]
