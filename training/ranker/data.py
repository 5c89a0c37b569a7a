"""Lists of candidates with their features as they were visible, what came of each, and the task that the trainer fits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from features.columns import CATEGORY, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, USER_ID
from features.store import FeatureStore
from features.tables import ARROW_TYPES
from training.metrics.ranking import ndcg_at, num_targets, worst_ranks
from training.ranker.candidates import RETRIEVAL, Floats, Ints, Retrieved
from training.ranker.encoder import (
    CROSS_VIEWS,
    ITEM_VIEWS,
    MAIN_CATEGORY,
    SERVICE,
    TEXTS,
    USER_VIEWS,
    USUAL_PRICE,
    Candidates,
    Crossed,
    Encoder,
    floats,
    in_histories,
    item_values,
    user_values,
)
from training.ranker.model import CART, CLICK, PURCHASE, TASKS, Batch, Config, Network, chances, encode
from training.ranker.retrieval import Sessions, retrieved
from training.recommender.model import Recommender

KINDS = {CART: ("cart", "favourite"), PURCHASE: ("purchase",)}
"""Kinds of act that make a label; any act at all is a click."""
_JOINED = 2_000
"""Lists that are joined at a time."""


@dataclass(frozen=True)
class Lists:
    """One part: lists of candidates, best first as retrieved, with features and what came of them."""

    candidates: Candidates
    labels: NDArray[np.int64]
    """(R, T), in the order of TASKS: whether the session that followed held a click, cart or purchase of the item."""
    price: Floats
    """(R,) what the item cost, 0 where nobody knows."""
    share: Floats
    """(R,) log of the share by which retrieval ordered them; -inf where it gave none."""
    item: Ints
    """(R,) index into the recommender's catalogue."""
    num_wanted: Ints
    """(L,) items of the session, retrieved or not."""
    users: tuple[str, ...]
    at: Ints
    """(L,) microseconds UTC."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def offsets(self) -> Ints:
        """(L + 1,) list l owns the rows [offsets[l], offsets[l + 1])."""
        return np.asarray(np.r_[0, np.cumsum(np.bincount(self.candidates.list, minlength=len(self)))], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """Fingerprint of who is asked what, and what came."""
        digest = hashlib.sha256("\x1f".join(self.users).encode())
        for values in (self.at, self.item, self.labels):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def padded(self, values: Floats) -> Floats:
        """(R,) -> (L, most candidates), `-inf` where a list has fewer."""
        places = np.arange(len(self.item)) - self.offsets[self.candidates.list]
        found = np.full((len(self), int(places.max(initial=0)) + 1), -np.inf)
        found[self.candidates.list, places] = values
        return found

    @cached_property
    def targets(self) -> list[Ints]:
        """Per list, the places of the candidates that were wanted, then -1 for each wanted item that was not retrieved."""
        places = np.arange(len(self.item)) - self.offsets[self.candidates.list]
        found = []
        for number in range(len(self)):
            rows = slice(self.offsets[number], self.offsets[number + 1])
            hits = places[rows][self.labels[rows, 0] == 1]
            found.append(np.r_[hits, np.full(self.num_wanted[number] - len(hits), -1)].astype(np.int64))
        return found

    def ndcg(self, values: Floats) -> Floats:
        """(L,) ndcg_at_10 of ordering by `values` (R,), over all wanted items: one that was not retrieved is a miss."""
        return ndcg_at(worst_ranks(self.padded(values), self.targets), num_targets(self.targets), 10)


def make_lists(sessions: Sessions, recommender: Recommender, store: FeatureStore, chosen: Ints) -> Lists:
    """What would have been retrieved in each of some sessions, with features as they were visible at its instant."""
    parts = [
        _joined(sessions, chosen[start : start + _JOINED], recommender, store, start) for start in range(0, len(chosen), _JOINED)
    ]
    names = ("user", "item", "cross", "category", "list")
    candidates = Candidates(*(np.concatenate([getattr(part[0], name) for part in parts]) for name in names))
    price, share, item, session = (np.concatenate([part[place] for part in parts]) for place in (1, 2, 3, 4))
    wanted = np.array([len(sessions.targets[number]) for number in chosen])
    users = tuple(sessions.users[number] for number in chosen)
    labels = _labels(sessions, session, item, len(recommender.encoder.items))
    return Lists(candidates, labels, price, share, item, wanted, users, sessions.at[chosen])


def _labels(sessions: Sessions, session: Ints, item: Ints, num_items: int) -> NDArray[np.int64]:
    """(R, T) what was done with each candidate in its session."""
    acts = sessions.acts
    keys = np.asarray(acts["session"].to_numpy()) * (num_items + 1) + np.asarray(acts["item"].to_numpy())
    kinds = np.asarray(acts[EVENT_TYPE].to_pylist(), dtype=object)
    asked = session * (num_items + 1) + item
    found = [np.isin(asked, keys)]
    found += [np.isin(asked, keys[np.isin(kinds, KINDS[task])]) for task in TASKS if task != CLICK]
    return np.stack(found, axis=1).astype(np.int64)


def _joined(
    sessions: Sessions, numbers: Ints, recommender: Recommender, store: FeatureStore, first: int
) -> tuple[Candidates, Floats, Floats, Ints, Ints]:
    """Features of the lists of some sessions by the point-in-time join; the lists' numbers begin with `first`."""
    found = retrieved(recommender, sessions, numbers)
    own, at = found.history, sessions.at[numbers]
    users = [sessions.users[number] for number in numbers]
    user_rows = _frame(store, USER_VIEWS, {USER_ID: users}, at)
    names = np.asarray(recommender.encoder.items, dtype=object)[found.item].tolist()
    item_rows = _frame(store, ITEM_VIEWS, {ITEM_ID: names}, at[own])
    category = np.asarray(item_rows.get(CATEGORY, np.full(len(own), None)), dtype=object)
    main = np.asarray(user_rows.get(MAIN_CATEGORY, np.full(len(users), None)), dtype=object)
    price, usual = (
        np.asarray(rows.get(name, np.full(size, np.nan)), dtype=np.float64)
        for rows, name, size in ((item_rows, "price", len(own)), (user_rows, USUAL_PRICE, len(users)))
    )
    crossed = Crossed(
        found.shares,
        found.rank.astype(np.float64),
        _histories(sessions, numbers, recommender, found),
        _affinity(store, users, at, own, category),
        category,
        main[own],
        price,
        usual[own],
    )
    candidates = Candidates(
        user_values(user_rows, at.astype(np.float64)),
        item_values(item_rows, at[own].astype(np.float64)),
        crossed.values(),
        category,
        own + first,
    )
    share = np.nan_to_num(found.shares[RETRIEVAL], nan=-np.inf)
    return candidates, np.nan_to_num(price), share, found.item, numbers[own]


def _frame(store: FeatureStore, views: Sequence[str], keys: Mapping[str, Sequence[str]], at: Ints) -> dict[str, NDArray]:  # type: ignore[type-arg]
    """Columns of some views as they were visible, NaN or None where nothing was; views whose table was never built are left out."""
    built = [view.name for view in SERVICE.views if view.name in views and store.lake.version(view.path) is not None]
    if not built:
        return {}
    labels = {name: pa.array(values, pa.string()) for name, values in keys.items()}
    times = pa.array(at, pa.int64()).cast(ARROW_TYPES["timestamp"])
    frame = store.training_frame(pa.table({**labels, EVENT_TIMESTAMP: times}), SERVICE.name, views=built)
    found = {}
    for name in frame.column_names:
        if name in labels or name == EVENT_TIMESTAMP:
            continue
        column = frame[name]
        if name in TEXTS:
            found[name] = np.asarray(column.to_pylist(), dtype=object)
        elif not (pa.types.is_string(column.type) or pa.types.is_list(column.type)):
            found[name] = floats(column)
    return found


def _affinity(store: FeatureStore, users: Sequence[str], at: Ints, own: Ints, category: NDArray[np.object_]) -> dict[str, Floats]:
    """The user's affinity to the category of each candidate; each pair of list and category is looked up once."""
    codes = pa.array(category, pa.string()).dictionary_encode()
    words = codes.dictionary.to_pylist()
    if not words:
        return {}
    number = codes.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64)
    pairs, place = np.unique(own * (len(words) + 1) + number, return_inverse=True)
    lists, which = np.divmod(pairs, len(words) + 1)
    keys = {USER_ID: [users[one] for one in lists], CATEGORY: [words[one] if one < len(words) else None for one in which]}
    return {name: values[place] for name, values in _frame(store, CROSS_VIEWS, keys, at[lists]).items()}


def _histories(sessions: Sessions, numbers: Ints, recommender: Recommender, found: Retrieved) -> dict[str, Floats]:
    """What the histories say of each list's candidates."""
    words = recommender.encoder.event_types
    histories = [
        (items, [words[event] for event in events]) for items, events in zip(*sessions.history.served(numbers), strict=True)
    ]
    return in_histories(histories, found.history, found.item)


def tasks_of(labels: NDArray[np.int64], least: int) -> tuple[str, ...]:
    """The tasks that can be learned: those with so many candidates that were taken, and as many that were taken otherwise only.

    A shop that logs purchases alone has one task: each click is a purchase.
    """
    counts = labels.sum(axis=0)
    known = [task for task, count in zip(TASKS, counts, strict=True) if count >= least]
    if CLICK in known and any(counts[0] - count < least for count in counts[1:] if count):
        known.remove(CLICK)
    return tuple(known)


@dataclass
class RankerTask:
    """What the trainer fits: see `training.trainer.Task`."""

    config: Config
    encoder: Encoder
    tasks: tuple[str, ...]
    train: Lists
    val: Lists | None
    batch_size: int
    seed: int
    mode: Literal["max", "min"] = "min"

    @property
    def monitor(self) -> str | None:
        """The mean log loss over all tasks: it sees order and calibration alike, and noise moves it less than a list's first ten."""
        return "val_loss" if self.val else None

    def build(self) -> Network:
        """A fresh network."""
        return Network(self.config, self.encoder, self.tasks)

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002 - every epoch has as many
        """Batches of about `batch_size` lists, at least one."""
        return max(1, round(len(self.train) / self.batch_size))

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Lists in another random order each epoch; `weight` makes the mean of all ranks' losses one over the candidates of all."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
        for lists in np.array_split(order, self.num_steps(epoch)):
            batch = self._batch(lists[rank::world_size])
            if world_size > 1:
                batch["num_rows"] = torch.tensor(len(lists))
            yield batch | {"weight": torch.tensor(world_size / np.diff(self.train.offsets)[lists].sum(), dtype=torch.float32)}

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy per candidate, summed over the tasks, nats."""
        inputs = {name: batch[name] for name in ("user", "item", "cross", "category", "list")}
        loss: Tensor = functional.binary_cross_entropy_with_logits(module(**inputs), batch["labels"], reduction="sum")
        return loss * batch["weight"]

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Mean log loss over tasks and candidates of the tuning part, and ndcg_at_10 of ordering by the first task."""
        if self.val is None:
            return {}
        assert isinstance(module, Network)
        network = module.to("cpu")
        found = chances(network, self._val)
        wanted = labels_of(self.val, self.tasks)
        likelihood = np.where(wanted == 1, found, 1 - found).clip(1e-9)
        return {"val_loss": float(-np.log(likelihood).mean()), "val_ndcg_at_10": float(self.val.ndcg(found[:, 0]).mean())}

    @cached_property
    def _inputs(self) -> Batch:
        return encode(self.encoder, self.train.candidates)

    @cached_property
    def _val(self) -> Batch:
        assert self.val is not None
        return encode(self.encoder, self.val.candidates)

    @cached_property
    def _labels(self) -> Tensor:
        return torch.from_numpy(labels_of(self.train, self.tasks).astype(np.float32))

    def _batch(self, lists: Ints) -> Batch:
        offsets = self.train.offsets
        counts = offsets[lists + 1] - offsets[lists]
        rows = torch.from_numpy(np.repeat(offsets[lists] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum()))
        batch = {name: self._inputs[name][rows] for name in ("item", "cross", "category")}
        own = torch.from_numpy(np.repeat(np.arange(len(lists)), counts))
        return batch | {"user": self._inputs["user"][torch.from_numpy(lists)], "list": own, "labels": self._labels[rows]}


def labels_of(lists: Lists, tasks: Sequence[str]) -> NDArray[np.int64]:
    """(R, tasks) labels of some of TASKS."""
    return lists.labels[:, [TASKS.index(task) for task in tasks]]
