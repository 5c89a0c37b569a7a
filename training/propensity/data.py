"""From `interactions` to rows of the past, each with what the user did next, and the task that the trainer fits.

Rows are taken on several cut-off days. Of the days after a cut-off only those are watched that lie before the next part begins: a
row's watch is cut there, never looked beyond. So nothing that decides on the validation or test part was learned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.revisions import current_rows
from features.tables import INTERACTIONS
from infra.errors import TableContractError
from infra.lake import Lake
from training.propensity.encoder import FACT_COLUMNS, Encoder, Facts, Floats, Ints, features
from training.propensity.model import Batch, Config, Network, negative_log_likelihood
from training.propensity.recipes import DataConfig

SHORTEST, LONGEST = 30, 90
"""Days of the validation and the test part, and so of the horizon: at least what `p_buy_30d` asks for."""
NUM_CHECKED = 3
"""Cut-off days of the validation part: of a single one the calibration would also learn what was special about its weeks."""
MIN_USERS = 30
MIN_BUYERS = 20


@dataclass(frozen=True)
class Rows:
    """Users on cut-off days, with their past as features and what was seen afterwards."""

    day: Ints
    """(R,) the cut-off's local day."""
    user: Ints
    """(R,) index into the facts' users."""
    values: Floats
    """(R, F)."""
    days: Ints
    """(R,) days watched until the purchase, that day included, or until the watch ended."""
    bought: NDArray[np.bool_]
    """(R,) whether the watch ended with a purchase."""
    watched: Ints
    """(R,) days that the watch of a user who does not buy lasts."""

    def __len__(self) -> int:
        return len(self.day)

    def bought_within(self, days: int) -> Ints:
        """(R,) 1 where the user bought within so many days, else 0; only of rows watched that long can it be told."""
        return (self.bought & (self.days <= days)).astype(np.int64)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Rows:
        """The chosen rows, by mask or place."""
        return Rows(*(getattr(self, name)[chosen] for name in ("day", "user", "values", "days", "bought", "watched")))


@dataclass(frozen=True)
class Plan:
    """The cut-off days, counted from 1970-01-01. What is tuned on begins on `val`, what is tested on `test`; all ends before `end`."""

    tuning: tuple[int, ...]
    """Before `val`."""
    checked: tuple[int, ...]
    """From `val` to a month before `test`."""
    refit: tuple[int, ...]
    """Before `test`."""
    val: int
    test: int
    end: int

    @property
    def horizon(self) -> int:
        """Days of each of the two parts that decide."""
        return self.end - self.test


@dataclass(frozen=True)
class Parts:
    """What is learned from, tuned on, fitted again on, and touched once."""

    plan: Plan
    train: Rows
    val: Rows
    refit: Rows
    test: Rows

    @cached_property
    def digest(self) -> str:
        """Fingerprint of who is asked when and what came; equal parts can be compared user by user."""
        digest = hashlib.sha256()
        for rows in (self.train, self.val, self.refit, self.test):
            for values in (rows.day, rows.user, rows.days, rows.bought):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def read(lake: Lake, time_zone: str) -> tuple[Facts, int]:
    """All acts of the shop's users and the version of the table they came from.

    Raises:
        TableContractError: there is no such table.
    """
    version = lake.version(INTERACTIONS.path)
    if version is None:
        raise TableContractError(
            f"table {INTERACTIONS.path} of shop {lake.shop} does not exist; run `shopgraph build interactions`."
        )
    return Facts.of(current_rows(lake, INTERACTIONS, version, FACT_COLUMNS), time_zone), version


def plan(first: int, end: int, num_cutoffs: int) -> Plan:
    """Cut-off days for facts from local day `first` to before `end`: a sixth of the days, 30 to 90, for each part that decides.

    Raises:
        ValueError: fewer than 120 days.
    """
    span = end - first
    if span < 4 * SHORTEST:
        raise ValueError(f"the acts cover {span} days; expected at least {4 * SHORTEST}")
    part = min(LONGEST, max(SHORTEST, span // 6))
    test, val = end - part, end - 2 * part

    def cutoffs(begin: int, until: int, number: int) -> tuple[int, ...]:
        """Evenly, each watched for a month at least."""
        return tuple(np.unique(np.linspace(begin, until - SHORTEST, number).round().astype(int)).tolist())

    early = first + SHORTEST  # a month of history
    return Plan(
        cutoffs(early, val, num_cutoffs), cutoffs(val, test, NUM_CHECKED), cutoffs(early, test, num_cutoffs), val, test, end
    )


def make_rows(facts: Facts, cutoffs: Sequence[int], until: int, horizon: int) -> Rows:
    """One row per cut-off and user known by then, watched for `horizon` days or until the local day `until`, whichever is first."""
    buyer, bought_on = facts.before(until).purchases()
    parts = [_rows(facts, cutoff, min(horizon, until - cutoff), buyer, bought_on) for cutoff in cutoffs]
    return Rows(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("day", "user", "values", "days", "bought", "watched")
        )
    )


def _rows(facts: Facts, cutoff: int, watched: int, buyer: Ints, bought_on: Ints) -> Rows:
    users, values = features(facts, cutoff)
    later = (bought_on >= cutoff) & (bought_on < cutoff + watched)
    ahead = np.full(len(facts.users), np.iinfo(np.int64).max)
    np.minimum.at(ahead, buyer[later], bought_on[later] - cutoff + 1)
    ahead = ahead[users]
    bought = ahead <= watched
    days = np.where(bought, ahead, watched)
    return Rows(np.full(len(users), cutoff), users, values, days, bought, np.full(len(users), watched))


def split(facts: Facts, config: DataConfig, seed: int) -> Parts:
    """Rows to learn from and two parts to be scored on, in time order.

    Raises:
        TableContractError: too few days, users or purchases to learn from.
    """
    buyer, bought_on = facts.purchases()
    if not len(buyer):
        raise _too_little("holds no purchase of a named user")
    # The acts before the first purchase teach nothing of purchases; what is known later than the last lies in the future
    try:
        made = plan(int(bought_on.min()), int(facts.day.max()) + 1, config.num_cutoffs)
    except ValueError as error:
        raise _too_little(f"is too short: {error}") from None

    def rows(cutoffs: Sequence[int], until: int) -> Rows:
        found = make_rows(facts, cutoffs, until, made.horizon)
        if len(found) <= config.max_rows:
            return found
        return found.take(np.sort(np.random.default_rng(seed).choice(len(found), config.max_rows, replace=False)))

    parts = Parts(
        made, rows(made.tuning, made.val), rows(made.checked, made.test), rows(made.refit, made.test), rows((made.test,), made.end)
    )
    for name, part in (("training", parts.train), ("validation", parts.val), ("test", parts.test)):
        if len(np.unique(part.user)) < MIN_USERS:
            raise _too_little(f"has {len(np.unique(part.user))} users in the {name} part; expected at least {MIN_USERS}")
    if (num := int(parts.train.bought.sum())) < MIN_BUYERS:
        raise _too_little(f"has {num} purchases after the cut-offs of the training part; expected at least {MIN_BUYERS}")
    return parts


def _too_little(what: str) -> TableContractError:
    return TableContractError(
        f"table {INTERACTIONS.path} {what}: nothing can be learned of who buys when; ingest more, then build it."
    )


@dataclass
class PropensityTask:
    """What the trainer fits: encoded rows to learn from, and rows to be watched."""

    config: Config
    encoder: Encoder
    train: Batch
    val: Batch | None
    batch_size: int
    seed: int
    mode: Literal["max", "min"] = "min"

    @classmethod
    def of(cls, train: Rows, val: Rows | None, encoder: Encoder, config: Config, batch_size: int, seed: int) -> PropensityTask:
        """Encode the rows; without `val` nothing is held back and the last epoch is kept."""
        return cls(config, encoder, batch_of(train, encoder), None if val is None else batch_of(val, encoder), batch_size, seed)

    @property
    def monitor(self) -> str | None:
        """What decides which epoch is kept."""
        return None if self.val is None else "val_loss"

    def build(self) -> Network:
        """A fresh network."""
        return Network(self.config, self.encoder.horizon)

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002  # every epoch has as many
        """Batches of about `batch_size` rows, at least one."""
        return max(1, round(len(self.train["days"]) / self.batch_size))

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Rows in another random order each epoch."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train["days"]))
        for places in np.array_split(order, self.num_steps(epoch)):
            chosen = torch.from_numpy(places[rank::world_size])
            batch = {name: tensor[chosen] for name, tensor in self.train.items()}
            if world_size > 1:
                batch["num_rows"] = torch.tensor(len(places))
            yield batch | {"weight": torch.tensor(world_size / len(places))}

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Negative log likelihood of the watched days, nats, times the weight of a row."""
        logits = module(batch["inputs"], batch["weekday"])
        return negative_log_likelihood(logits, batch["days"], batch["bought"]).sum() * batch["weight"]

    def validate(self, module: nn.Module) -> dict[str, float]:
        """The same loss on the validation rows."""
        if self.val is None:
            return {}
        device = next(module.parameters()).device
        whole = torch.tensor(1.0)
        total = sum(
            float(self.loss(module, {name: tensor.to(device) for name, tensor in (part | {"weight": whole}).items()}))
            for part in _portions(self.val, 4096)
        )
        return {"val_loss": total / len(self.val["days"])}


def batch_of(rows: Rows, encoder: Encoder) -> Batch:
    """The network's inputs and what it is to say: `inputs` (R, F + O), `weekday`, `days` and `bought` (R,)."""
    return {
        "inputs": torch.from_numpy(encoder.encode(rows.values)),
        "weekday": torch.from_numpy((rows.day + 3) % 7),
        "days": torch.from_numpy(rows.days),
        "bought": torch.from_numpy(rows.bought),
    }


def _portions(batch: Batch, size: int) -> Iterator[Batch]:
    for begin in range(0, len(batch["days"]), size):
        yield {name: tensor[begin : begin + size] for name, tensor in batch.items()}
