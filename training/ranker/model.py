"""Config, network, and the half that answers; knows nothing of how it is trained.

Two towers and a cross (the split of Covington et al. 2016 and of the towers of YouTube's later rankers): the user's vector is computed
once per request, those of the items once per refresh of their facts, and per candidate there is only a small network over what both
have in common. Their sum passes a trunk that all tasks share, with a head each: click, cart, purchase. The cross features also reach
the heads directly, so that the order of retrieval, a good one, need not be learned through a nonlinearity (Cheng et al. 2016).

Shapes: L lists, R candidates of all lists, U, I, C inputs of user, item and cross, D width, T tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from training.dropout import Dropout
from training.ranker.candidates import Floats, Ints
from training.ranker.encoder import Candidates, Encoder

Batch = dict[str, Tensor]
CLICK, CART, PURCHASE = "click", "cart", "purchase"
TASKS = (CLICK, CART, PURCHASE)
"""What may come of showing an item, in the order in which it happens; a click is any act on it."""
_ROWS = 65_536


class Config(BaseModel):
    """Size and shape of the network. The defaults are those that won on the validation parts named in docs/results.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: PositiveInt = Field(32, description="Width of towers and trunk.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the towers' sum hidden in training.")
    given_click: bool = Field(
        True, description="Cart and purchase are learned as chances given a click, over all that was shown (ESMM, Ma et al. 2018)."
    )


class Network(nn.Module):
    """Encoded features of lists of candidates to one logit per candidate and task."""

    scale: Tensor
    shift: Tensor
    """(T,) what calibration found: a logit is multiplied and then moved."""

    def __init__(self, config: Config, encoder: Encoder, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.tasks = tasks
        dim = config.dim
        self.user_in, self.user_out = nn.Linear(encoder.user.num_inputs, dim), nn.Linear(dim, dim)
        self.item_in, self.item_out = nn.Linear(encoder.item.num_inputs, dim), nn.Linear(dim, dim)
        self.category = nn.Embedding(len(encoder.categories) + 1, dim)
        self.cross_in, self.cross_out = nn.Linear(encoder.cross.num_inputs, dim), nn.Linear(dim, dim)
        self.dropout = Dropout(config.dropout)
        self.trunk = nn.Linear(dim, dim)
        self.heads = nn.Linear(dim, len(tasks))
        self.direct = nn.Linear(encoder.cross.num_inputs, len(tasks), bias=False)
        self.register_buffer("scale", torch.ones(len(tasks)))
        self.register_buffer("shift", torch.zeros(len(tasks)))
        nn.init.normal_(self.category.weight, std=0.1)
        nn.init.zeros_(self.direct.weight)
        nn.init.constant_(self.heads.bias, -2.0)  # most of what is shown is left alone

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What `forward` takes: name -> (shape, dtype); -1: any size."""
        inputs = {"user": self.user_in, "item": self.item_in, "cross": self.cross_in}
        return {
            **{name: ((-1, layer.in_features), "float32") for name, layer in inputs.items()},
            **dict.fromkeys(("category", "list"), ((-1,), "int64")),
        }

    def users(self, inputs: Tensor) -> Tensor:
        """(L, U) -> (L, D), once per request."""
        vectors: Tensor = self.user_out(functional.silu(self.user_in(inputs)))
        return vectors

    def items(self, inputs: Tensor, category: Tensor) -> Tensor:
        """(R, I), (R,) -> (R, D), which can be computed beforehand."""
        vectors: Tensor = self.item_out(functional.silu(self.item_in(inputs) + self.category(category)))
        return vectors

    def together(self, users: Tensor, items: Tensor, cross: Tensor, kept: Tensor | None = None) -> Tensor:
        """Calibrated logits (R, T) of vectors (R, D) each and cross inputs (R, C).

        Args:
            kept: (R, D) what dropout leaves of the sum; None: all.
        """
        x = users + items + self.cross_out(functional.silu(self.cross_in(cross)))
        x = x if kept is None else x * kept
        x = functional.silu(self.trunk(functional.silu(x)))
        logits = self.heads(x) + self.direct(cross)
        if self.config.given_click and self.tasks[0] == CLICK:
            logits = torch.cat([logits[:, :1], both(logits[:, :1], logits[:, 1:])], dim=1)
        return logits * self.scale + self.shift  # type: ignore[no-any-return]

    def forward(self, user: Tensor, item: Tensor, cross: Tensor, category: Tensor, list: Tensor) -> Tensor:
        """(R, T); `list` (R,) says whose candidates they are. Dropout hides the same of all candidates of a list."""
        users = self.users(user)
        kept = self.dropout(torch.ones_like(users))[list] if self.training else None
        return self.together(users[list], self.items(item, category), cross, kept)


def both(first: Tensor, second: Tensor) -> Tensor:
    """Logit of the product of two chances given by their logits."""
    log_chance = (functional.logsigmoid(first) + functional.logsigmoid(second)).clamp(max=-1e-6)
    return log_chance - torch.log(-torch.expm1(log_chance))


def encode(encoder: Encoder, candidates: Candidates) -> Batch:
    """Candidates as `Network.forward` takes them."""
    arrays = {
        "user": encoder.user.encode(candidates.user),
        "item": encoder.item.encode(candidates.item),
        "cross": encoder.cross.encode(candidates.cross),
        "category": encoder.category_numbers(candidates.category.tolist()),
        "list": candidates.list,
    }
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def chances(network: Network, batch: Batch) -> Floats:
    """(R, T) of everything in a batch, a part of it at a time."""
    with torch.inference_mode():
        users = network.users(batch["user"])
        parts = []
        for start in range(0, len(batch["list"]), _ROWS):
            rows = slice(start, start + _ROWS)
            items = network.items(batch["item"][rows], batch["category"][rows])
            logits = network.together(users[batch["list"][rows]], items, batch["cross"][rows])
            parts.append(torch.sigmoid(logits.double()))
    return np.concatenate([np.empty((0, len(network.tasks))), *(part.numpy() for part in parts)])


@dataclass(frozen=True)
class Ranker:
    """A trained model that answers: calibrated chances of each task, and the value by which candidates are ordered."""

    config: Config
    encoder: Encoder
    network: Network = field(repr=False)
    weights: Mapping[str, float]
    """Task -> how much it counts in the value: chosen on the validation part."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it gives chances of."""
        return self.network.tasks

    def chances(self, candidates: Candidates) -> Floats:
        """(R, T), in the order of `tasks`."""
        return chances(self.network, encode(self.encoder, candidates))

    def vectors(self, items: Floats, category: Sequence[str | None]) -> Tensor:
        """(n, D) of items with these features (n, I) and categories; whoever keeps them asks `chances_of`."""
        with torch.inference_mode():
            inputs, numbers = self.encoder.item.encode(items), self.encoder.category_numbers(category)
            return self.network.items(torch.from_numpy(inputs), torch.from_numpy(numbers))

    def chances_of(self, user: Floats, vectors: Tensor, cross: Floats, list: Ints) -> Floats:
        """(R, T): what `chances` gives, where the vectors (R, D) of the candidates' items are known."""
        with torch.inference_mode():
            users = self.network.users(torch.from_numpy(self.encoder.user.encode(user)))
            inputs = torch.from_numpy(self.encoder.cross.encode(cross))
            logits = self.network.together(users[torch.from_numpy(list)], vectors, inputs)
            found: Floats = torch.sigmoid(logits.double()).numpy()
        return found

    def values(self, candidates: Candidates, weights: Mapping[str, float] | None = None) -> Floats:
        """(R,) what is expected of showing each candidate: chances times weights.

        Args:
            weights: instead of the model's own; a task left out counts nothing.

        Raises:
            ValueError: a weight of what is no task of the model.
        """
        return value_of(self.chances(candidates), self.tasks, self.weights if weights is None else weights)

    def save(self, folder: Path) -> None:
        """Write `config`, `encoder` and `value` as JSON and `weights.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        self.encoder.save(folder / "encoder.json")
        (folder / "value.json").write_text(json.dumps({"tasks": list(self.tasks), "weights": dict(self.weights)}))
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """The model that `save` wrote.

        Raises:
            ValueError: it reads other features than this version computes.
        """
        config = Config.model_validate_json((folder / "config.json").read_text())
        encoder = Encoder.load(folder / "encoder.json")
        value = json.loads((folder / "value.json").read_text())
        network = Network(config, encoder, tuple(value["tasks"]))
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        return cls(config, encoder, network.eval(), value["weights"])


def value_of(
    chances: Floats, tasks: tuple[str, ...], weights: Mapping[str, float], price: NDArray[np.float64] | None = None
) -> Floats:
    """(R,) sum of chances (R, T) times the weights of their tasks, times `price` (R,) where it is given.

    Raises:
        ValueError: a weight of what is no task.
    """
    if strange := sorted(set(weights) - set(tasks)):
        raise ValueError(f"weights: expected {', '.join(tasks)}, got {', '.join(strange)}.")
    value: Floats = chances @ np.array([weights.get(task, 0.0) for task in tasks])
    return value if price is None else value * price
