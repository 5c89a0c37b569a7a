"""The network of the recommender and its loss; knows nothing of how it is trained.

The network is SASRec (Kang & McAuley 2018) with what later work found to matter: a softmax over the whole catalogue instead of
one negative (Klenitskiy & Vasilev 2023), pre-norm blocks, tied item embeddings, positions counted back from the newest act. A
repeat term lets a purchase of long ago come back, which a dot product alone expresses badly (Ren et al. 2019, RepeatNet).

Shapes: B sequences, L acts, D width, I items, R scored positions, P (position, target) pairs, N negatives.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from training.dropout import Chosen, Dropout
from training.recommender.content import Bags
from training.recommender.losses import CatalogueSoftmax, SampledSoftmax


class Config(BaseModel):
    """Size and shape of the network. The defaults are those that won on the validation parts named in the recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
