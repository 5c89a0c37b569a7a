"""Config, network, and the half that answers; knows nothing of how it is trained.

A discrete-time hazard network (Gensheimer & Narasimhan 2019): of each coming day the probability that the user buys on it, given
no purchase before. Both probabilities and the expected wait come from this one curve, so p(7 days) <= p(30 days) always, and who
was watched for a short time only still teaches what was seen. The network says the hazard's logit at a few knots, denser where the
days are near; between them it is linear in log(1 + days). A weekday moves it for all users alike.

Shapes: B users, F + O inputs, K knots, H days of the horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.dropout import Dropout
from training.propensity.encoder import FEATURES, HABITS, NUM_INPUTS, Encoder, Facts, Floats, Ints, features, words

Batch = dict[str, Tensor]
_KNOTS = (1, 2, 4, 7, 14, 30, 60, 90)
"""Days ahead, from 1, at which the network says the hazard."""
_BATCH = 4096
NUM_DRIVERS = 3


class Config(BaseModel):
    """Size and shape of the network. No value but calibration, cut-offs and weighting was searched."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: PositiveInt = Field(64, description="Width of the hidden layers.")
    layers: PositiveInt = Field(2, description="Hidden layers.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of each hidden layer hidden in training.")


class Network(nn.Module):
    """Inputs of a user to the logit of the hazard of each coming day."""

    spread: Tensor
    shift: Tensor
    """Of all hazards' logits: what calibration found missing."""

    def __init__(self, config: Config, horizon: int) -> None:
        super().__init__()
        spread = spread_of(horizon)
        self.register_buffer("spread", torch.from_numpy(spread))
        self.register_buffer("shift", torch.zeros(()))
        widths = [NUM_INPUTS, *[config.dim] * config.layers]
        hidden: list[nn.Module] = []
        for before, after in pairwise(widths):
            hidden += [nn.Linear(before, after), nn.SiLU(), Dropout(config.dropout)]
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(widths[-1], len(spread))
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, -4.0)  # about one purchase in 50 days
        self.weekdays = nn.Parameter(torch.zeros(7))

    @property
    def input_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """What `forward` takes: name -> (shape, dtype); -1: any size."""
        return {"inputs": ((-1, NUM_INPUTS), "float32"), "weekday": ((-1,), "int64")}

    def forward(self, inputs: Tensor, weekday: Tensor) -> Tensor:
        """Logits of the hazards (B, H).

        Args:
            inputs: (B, F + O) as `Encoder.encode` gives them.
            weekday: (B,) of the first coming day, Monday is 0.
        """
        ahead = torch.arange(self.spread.shape[1], device=weekday.device)
        logits = self.out(self.hidden(inputs)) @ self.spread + self.weekdays[(weekday[:, None] + ahead) % 7]
        return logits + self.shift  # type: ignore[no-any-return]


def spread_of(horizon: int) -> NDArray[np.float32]:
    """(K, H) how much each knot counts on each coming day; the columns sum to 1."""
    knots = np.log1p([knot - 1 for knot in _KNOTS if knot < horizon] + [horizon - 1])
    days = np.log1p(np.arange(horizon))
    return np.stack([np.interp(days, knots, one) for one in np.eye(len(knots))]).astype(np.float32)


def negative_log_likelihood(logits: Tensor, days: Tensor, bought: Tensor) -> Tensor:
    """(B,) of what was seen of each user, nats.

    Args:
        logits: (B, H).
        days: (B,) days watched until the purchase, that day included, or until the watch ended; 1 to H.
        bought: (B,) whether it ended with a purchase.
    """
    watched = torch.arange(logits.shape[1], device=logits.device) < days[:, None]
    survived = (nn.functional.softplus(logits) * watched).sum(dim=1)
    return survived - torch.where(bought, logits.gather(1, days[:, None] - 1)[:, 0], 0.0)


@dataclass(frozen=True)
class Answers:
    """What is said of each user, (R,) each."""

    p_buy_7d: Floats
    p_buy_30d: Floats
    expected_days: Floats
    """Mean days to the next purchase, that day included; who does not buy within the horizon counts with the horizon (restricted
    mean survival time, Royston & Parmar 2013)."""


@dataclass(frozen=True)
class Propensity:
    """A trained model that answers."""

    config: Config
    encoder: Encoder
    network: Network = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> Propensity:
        """The model that `save` wrote."""
        config, encoder = Config.model_validate_json((folder / "config.json").read_text()), Encoder.load(folder)
        network = Network(config, encoder.horizon)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        return cls(config, encoder, network.eval())

    def save(self, folder: Path) -> None:
        """Write `config.json`, `encoder.json` and `weights.safetensors` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2))
        self.encoder.save(folder)
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, folder / "weights.safetensors")

    def logits(self, values: Floats, day: int | Ints) -> Tensor:
        """Logits of the hazards (R, H) from features (R, F) on a day, or a day each."""
        inputs = torch.from_numpy(self.encoder.encode(values))
        weekday = torch.from_numpy(np.broadcast_to((np.asarray(day) + 3) % 7, len(values)).copy())  # 1970-01-01 was a Thursday
        with torch.inference_mode():
            parts = zip(torch.split(inputs, _BATCH), torch.split(weekday, _BATCH), strict=True)
            return torch.cat([self.network(*part) for part in parts])

    def unbought(self, values: Floats, day: int) -> Floats:
        """Probability of no purchase by the end of each coming day (R, H), of users with these features (R, F) on a day."""
        return np.asarray(torch.cumsum(-nn.functional.softplus(self.logits(values, day).double()), dim=1).exp().numpy())

    def answers(self, values: Floats, day: int) -> Answers:
        """What is said of users with these features (R, F) on a day."""
        return answers_of(self.unbought(values, day))

    def drivers(self, values: Floats, day: int) -> list[list[str]]:
        """The NUM_DRIVERS habits that move each user's p_buy_30d most, the strongest first: `+12.3 points: bought 3 days ago`.

        Size and sign are exact: the probability less that of the same user with the features of this habit as most users have them.
        Habits that go together share their effect, so sizes do not add up.
        """
        whole = self.answers(values, day).p_buy_30d
        effects = np.empty((len(values), len(HABITS)))
        for place, habit in enumerate(HABITS):
            without = values.copy()
            own = [feature.habit == habit for feature in FEATURES]
            without[:, own] = self.encoder.typical[own]
            effects[:, place] = whole - self.answers(without, day).p_buy_30d
        strongest = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :NUM_DRIVERS]
        return [
            [f"{100 * effects[row, place]:+.1f} points: {words(HABITS[place], values[row])}" for place in places]
            for row, places in enumerate(strongest.tolist())
        ]

    def score(self, facts: Facts, day: int) -> tuple[Ints, Answers, list[list[str]]]:
        """Users known before a local day, as indices, what is said of each, and why."""
        users, values = features(facts, day)
        return users, self.answers(values, day), self.drivers(values, day)


def answers_of(unbought: Floats) -> Answers:
    """Answers from the probability that a user has not bought by the end of each coming day, (R, H), H >= 30."""
    expected = 1 + unbought[:, :-1].sum(axis=1)
    return Answers(1 - unbought[:, 6], 1 - unbought[:, 29], expected)
