"""Interactions -> sequences -> batches: what the network learns from and what it is asked.

Batches hold sequences of like length, so little is computed for padding, and the loss takes all positions of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from scipy import sparse
from scipy.sparse.linalg import eigsh, svds
from torch import Tensor, nn

from features.columns import EVENT_TIMESTAMP, EVENT_TYPE, HISTORY_STEPS, ITEM_ID, NO_TASTE, USER_ID
from infra.errors import TableContractError
from training import splits
from training.metrics import ranking
from training.recommender.content import Vocabulary
from training.recommender.encoder import Encoder, pad
from training.recommender.model import Recommender
from training.recommender.network import Config, Network, Said
from training.recommender.sources import Content, Floats, row_shares

Ints = NDArray[np.int64]
Scores = NDArray[np.floating]
Start = Literal["users", "near"]


class DataConfig(BaseModel):
    """What is learned from and how it is split."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: Literal["time", "leave_one_out"] = Field("time", description="How acts are parted; see training/splits.py.")
    val_days: PositiveFloat = Field(28, le=36_500, description="Length of the validation part (protocol `time`).")
    test_days: PositiveFloat = Field(28, le=36_500, description="Length of the test part (protocol `time`).")
    target: splits.Target = Field(
        "session",
        description="What is asked (protocol `time`): all items of the next session, its first, or each act after another.",
    )
    collapse: bool = Field(True, description="A run of acts on one item is one step; false: an item may follow itself.")
    event_types: tuple[str, ...] | None = Field(
        ("click", "view", "favourite", "cart", "purchase"), description="Acts that count; null: all but those of NO_TASTE."
    )
    objective: Literal["next_item", "next_session", "both"] = Field(
        "both", description="What follows a position: the next act, each item of the next session, or either."
    )
    half_life_days: PositiveFloat | None = Field(
        None, description="Days after which what followed an act counts half in what is learned; null: all counts alike."
    )
    start: Start = Field("users", description="What items are alike by before training: who takes them, or what they are near to.")
    content: bool = Field(True, description="Learn what the words of `item_catalog` say of an item, so that new ones are known.")
    popular_days: PositiveFloat = Field(28, le=36_500, description="Window of the popular list that answers an empty history.")
    max_val_queries: PositiveInt = Field(
        5000, description="Questions of the validation part by which epochs, floors and weights are chosen, at most."
    )


@dataclass(frozen=True)
class Sequences:
    """Acts of users, one user after another, each in time order; runs on one item are already one act."""

    users: tuple[str, ...]
    offsets: Ints
    """(users + 1,) user u owns `items[offsets[u]:offsets[u + 1]]`."""
    items: Ints
    """Index into the catalogue, -1 where the item is not in it."""
    events: Ints
    """Kind of act, -1 where the encoder does not know it."""
    sessions: Ints
    """A number per session, ascending over the acts."""
    time: Ints
    """Microseconds UTC."""

    def __len__(self) -> int:
        return len(self.users)

    def of(self, user: int) -> slice:
        """Where the acts of a user lie in `items` and the other columns."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    @property
    def owners(self) -> Ints:
        """(acts,) the user of each act."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def item_counts(self, num_items: int) -> Ints:
        """(items,) acts on each item; there must be no -1 among them."""
        return np.bincount(self.items, minlength=num_items)

    def served(self, users: Ints) -> tuple[list[Ints], list[Ints]]:
        """Items and kinds of what serving reads of each of some users: the newest `HISTORY_STEPS` acts, oldest first."""
        parts = [self.newest(user, HISTORY_STEPS) for user in users]
        return [self.items[part] for part in parts], [self.events[part] for part in parts]

    def newest(self, user: int, count: int) -> slice:
        """Where the last `count` acts of a user lie."""
        part = self.of(user)
        return slice(max(part.start, part.stop - count), part.stop)


@dataclass(frozen=True)
class Queries:
    """What a holdout part asks: after `history`, which of the items is one of `targets`?"""

    history: Sequences
    targets: tuple[Ints, ...]
    """Per user, distinct catalogue indices, -1 for each target that is not in the catalogue."""
    num_cold_users: int
    askers: tuple[str, ...]
    """Who asks each question; of one user there may be several."""

    @cached_property
    def owners(self) -> Ints:
        """(questions,) number of the one who asks."""
        return np.unique(np.array(self.askers), return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.targets)


def check_interactions(rows: pa.Table) -> pa.Table:
    """`rows`, if they can be learned from.

    Raises:
        TableContractError: a column is missing, or there is no row.
    """
    missing = [name for name in (USER_ID, ITEM_ID, EVENT_TYPE, EVENT_TIMESTAMP) if name not in rows.column_names]
    if missing:
        raise TableContractError(f"interactions lack column(s) {', '.join(missing)}; they have {', '.join(rows.column_names)}.")
    if not rows.num_rows:
        raise TableContractError("interactions hold no row; ingest events or orders, then `shopgraph build interactions`.")
    return rows


def split(interactions: pa.Table, config: DataConfig) -> splits.Split:
    """The parts that `config` names.

    Raises:
        TableContractError: the rows do not allow the split; the message says why.
    """
    rows = check_interactions(interactions)
    rows = rows.filter(pc.invert(pc.is_in(rows[EVENT_TYPE], pa.array(NO_TASTE))))
    if config.event_types is not None:
        rows = rows.filter(pc.is_in(rows[EVENT_TYPE], pa.array(config.event_types)))
    try:
        if config.protocol == "leave_one_out":
            return splits.leave_one_out(rows)
        return splits.time_split(rows, config.val_days, config.test_days, config.target)
    except ValueError as error:
        raise TableContractError(f"interactions cannot be split: {error}.") from None


def make_encoder(rows: pa.Table, popular_days: float, listed: Collection[str] = (), *, collapse: bool = True) -> Encoder:
    """Catalogue, kinds of act and recent popularity of the rows that are learned from; `listed` are items besides."""
    counts = rows.group_by(ITEM_ID).aggregate([([], "count_all")]).sort_by(ITEM_ID)
    kinds = (
        rows.group_by(EVENT_TYPE).aggregate([([], "count_all")]).sort_by([("count_all", "descending"), (EVENT_TYPE, "ascending")])
    )
    since = pc.subtract(pc.max(rows[EVENT_TIMESTAMP]), pa.scalar(int(popular_days * splits.DAY_US), pa.duration("us")))
    recent = rows.filter(pc.greater(rows[EVENT_TIMESTAMP], since)).group_by(ITEM_ID).aggregate([([], "count_all")])
    shares = dict(zip(recent[ITEM_ID].to_pylist(), recent["count_all"].to_pylist(), strict=True))
    taken = counts[ITEM_ID].to_pylist()
    items = (*taken, *sorted(set(listed).difference(taken)))
    total = sum(shares.values())
    popularity = tuple(shares.get(item, 0) / total for item in items)
    return Encoder(items, tuple(kinds[EVENT_TYPE].to_pylist()), popularity, collapse)


def make_sequences(rows: pa.Table, encoder: Encoder, *, collapse: bool = True) -> Sequences:
    """Rows in the order of `splits.in_order` as sequences: the acts that the encoder reads, or (no `collapse`) all of them."""
    items = np.asarray(pc.index_in(rows[ITEM_ID], pa.array(encoder.items)).fill_null(-1).to_numpy()).astype(np.int64)
    events = np.asarray(pc.index_in(rows[EVENT_TYPE], pa.array(encoder.event_types)).fill_null(-1).to_numpy()).astype(np.int64)
    time, sessions = splits.microseconds(rows), splits.session_codes(rows)
    names = rows[USER_ID].combine_chunks().dictionary_encode()
    users = np.asarray(names.indices.to_numpy(zero_copy_only=False)).astype(np.int64)
    if collapse:
        kept = encoder.steps(items, events, users)
        items, events, time, sessions, users = (column[kept] for column in (items, events, time, sessions, users))
    offsets = np.r_[0, np.cumsum(np.bincount(users, minlength=len(names.dictionary)))]
    return Sequences(tuple(names.dictionary.to_pylist()), offsets, items, events, sessions, time)


def make_queries(holdout: splits.Holdout, encoder: Encoder) -> Queries:
    """A holdout part, encoded; the users of history and targets are the same, in the same order."""
    targets = make_sequences(holdout.targets, encoder, collapse=False)
    names = holdout.targets[ITEM_ID].to_pylist()
    wanted = []
    for user in range(len(targets)):
        part = targets.of(user)
        strangers = {names[row] for row in range(part.start, part.stop) if targets.items[row] < 0}
        known = np.unique(targets.items[part])
        wanted.append(np.r_[known[known >= 0], np.full(len(strangers), -1, dtype=np.int64)])
    history = make_sequences(holdout.history, encoder)
    return Queries(history, tuple(wanted), holdout.num_cold_users, holdout.askers or history.users)


Scorer = Callable[[Sequences, Ints], Scores]
"""(histories, which users of them) -> one score per user and item of the catalogue."""


def ask(scorer: Scorer, queries: Queries, num_items: int, repeats: bool, users: Ints | None = None) -> ranking.RankingReport:
    """Put the questions (or those of some users) to a scorer, a few at a time: memory is bounded by some times 4 M scores.

    Without `repeats` nobody is offered an item of the own history again, as far back as serving knows it.

    Raises:
        ValueError: there is no question, or a score is NaN.
    """
    users = np.arange(len(queries)) if users is None else users
    order = np.argsort(np.diff(queries.history.offsets)[users], kind="stable")  # of like length together: little padding
    step = max(1, 4_000_000 // num_items)

    def answers() -> Iterator[tuple[Scores, list[Ints]]]:
        for start in range(0, len(users), step):
            some = users[order[start : start + step]]
            scores = scorer(queries.history, some)
            if not repeats:
                for row, user in enumerate(some):
                    scores[row, queries.history.items[queries.history.newest(user, HISTORY_STEPS)]] = -np.inf
            yield scores, [queries.targets[user] for user in some]

    return ranking.report(answers(), num_items).reordered(np.argsort(order))


def scorer(recommender: Recommender) -> Scorer:
    """A model as a scorer: by shares, of the popular list where a history is empty."""

    def shares(history: Sequences, users: Ints) -> Scores:
        return recommender.shares(*history.served(users))

    return shares


@dataclass(frozen=True)
class Pairs:
    """What follows each position: position p is paired with `targets[offsets[p]:offsets[p + 1]]`."""

    offsets: Ints
    targets: Ints

    @classmethod
    def of(cls, sequences: Sequences, objective: str) -> Pairs:
        """The next act of the user; or, where a session ends, each item of the user's next session.

        `objective` is `next_item` for the first kind of pair, `next_session` for the second, `both` for both.

        Raises:
            TableContractError: nothing follows anything.
        """
        positions, targets = [], []
        ends = np.zeros(len(sequences.items), dtype=bool)
        ends[sequences.offsets[1:][np.diff(sequences.offsets) > 0] - 1] = True
        if objective in ("next_item", "both"):
            before = np.flatnonzero(~ends)
            positions.append(before)
            targets.append(sequences.items[before + 1])
        if objective in ("next_session", "both"):
            for user in range(len(sequences)):
                part = sequences.of(user)
                last = np.flatnonzero(np.diff(sequences.sessions[part], append=-1))
                for index in range(len(last) - 1):
                    following = np.unique(sequences.items[part][last[index] + 1 : last[index + 1] + 1])
                    positions.append(np.full(len(following), part.start + last[index]))
                    targets.append(following)
        if not positions or not sum(map(len, positions)):
            raise TableContractError("no user of the training part has anything that follows; give it more days.")
        position, target = np.concatenate(positions), np.concatenate(targets)
        order = np.argsort(position, kind="stable")
        counts = np.bincount(position, minlength=len(sequences.items))
        return cls(np.r_[0, np.cumsum(counts)], target[order])


def start_from_counts(network: Network, sequences: Sequences, start: Start) -> None:
    """Set item embeddings to the leading directions of what was counted, and item biases to log popularity.

    `users`: of the normalised user-item matrix, as PureSVD has it (Cremonesi et al. 2010): items are alike whom the same people take,
    whenever. `near`: of associations between neighbouring acts, in the manner of word vectors (Levy & Goldberg 2014): log(1 + lift)
    times log(1 + count), a pair weighing less the further its acts are apart. There the blocks add nothing at first and items speak
    alone, so that the network begins by ranking what is near to the last act, better than many a trained one (docs/results.md); who
    buys baskets is better known by all of the history, which blocks of noise average.
    """
    num_items, dim = network.item.weight.shape
    counts = sequences.item_counts(num_items) + 1.0
    matrix = _near_association(sequences, num_items) if start == "near" else _user_association(sequences, num_items)
    rank = min(dim, *(size - 1 for size in matrix.shape))
    with torch.no_grad():
        # Cosines over a temperature lie within a few units of each other, and so must what popularity adds.
        if network.config.temperature is None:
            network.item_bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        if rank > 0 and matrix.nnz:
            if start == "near":
                network.quieten()
                # What is negative in the symmetric matrix no product of a vector with itself can say
                values, directions = eigsh(matrix, k=rank, which="LA", v0=np.ones(num_items))
            else:
                _, values, directions = svds(matrix, k=rank, v0=np.ones(min(matrix.shape)))
                directions = directions.T
            leading = directions * np.sqrt(np.maximum(values, 0))
            scale = np.sqrt((leading**2).sum(axis=1, keepdims=True)) + 1e-9
            # Of the length that the noise has, so that the other parts of the sum stay in proportion.
            network.item.weight[:, :rank] = torch.from_numpy(leading / scale / 2).to(network.item.weight)
        if network.said is not None:
            network.new_bias.fill_(network.item_bias.median())
            _start_words(network.word.weight, network.item.weight, network.said)


def _start_words(words: Tensor, items: Tensor, said: Said) -> None:
    """Let each word begin as the mean of the items it is said of, and the items as what their words leave unsaid, in place."""
    bags, offsets, is_new = (part.numpy() for part in said.of(None, items.device))
    shape = (len(items), len(words))
    table = sparse.csr_array((np.ones(len(bags), dtype=np.float32), bags, offsets), shape=shape)
    taken = sparse.diags_array((~is_new).astype(np.float32)) @ table
    words.copy_(torch.from_numpy(row_shares(sparse.csr_array(taken.T)) @ items.numpy()))
    items.sub_(torch.from_numpy(row_shares(table) @ words.numpy()))


def _user_association(sequences: Sequences, num_items: int) -> sparse.csr_array:
    """(users, items) log counts, divided by the roots of the sums of both."""
    shape = (len(sequences), num_items)
    acts = sparse.csr_array((np.ones(len(sequences.items)), (sequences.owners, sequences.items)), shape=shape)
    acts.sum_duplicates()
    acts.data = np.log1p(acts.data)
    by_user, by_item = (sparse.diags_array(1 / np.sqrt(acts.sum(axis=axis) + 1e-9)) for axis in (1, 0))
    return sparse.csr_array(by_user @ acts @ by_item)


def _near_association(sequences: Sequences, num_items: int) -> sparse.csr_array:
    """(items, items) log(1 + lift) times log(1 + count) of neighbouring acts, in either order."""
    near = near_counts(sequences, num_items, window=20, distance=0.7)
    both = (near + near.T).tocoo()
    sums = np.asarray(both.sum(axis=1)).ravel()
    lift = both.data * sums.sum() / (sums[both.row] * sums[both.col])
    return sparse.csr_array((np.log1p(lift) * np.log1p(both.data), (both.row, both.col)), shape=both.shape)


def near_counts(sequences: Sequences, num_items: int, window: int, distance: float) -> sparse.csr_array:
    """(items, items) how often the second stands after the first in a history, up to `window` acts later, as 1 / gap ** distance."""
    users = sequences.owners
    earlier, later, weights = [], [], []
    for gap in range(1, min(window, int(np.diff(sequences.offsets).max(initial=1)) - 1) + 1):
        same = users[:-gap] == users[gap:]
        earlier.append(sequences.items[:-gap][same])
        later.append(sequences.items[gap:][same])
        weights.append(np.full(len(later[-1]), gap**-distance, dtype=np.float32))
    flat = [
        np.concatenate([np.empty(0, dtype=kind), *parts])
        for kind, parts in ((np.int64, earlier), (np.int64, later), (np.float32, weights))
    ]
    found = sparse.csr_array((flat[2], (flat[0], flat[1])), shape=(num_items, num_items))
    found.sum_duplicates()
    return found


@dataclass
class RecommenderTask:
    """What the trainer fits: see `training.trainer.Task`."""

    config: Config
    data: DataConfig
    encoder: Encoder
    sequences: Sequences
    val: Queries | None
    """None: nothing is held back, every epoch is trained."""
    batch_size: int
    seed: int
    told: Sequence[Sequence[str]] | None = None
    """The words of each item of the catalogue; None: nothing is said of any."""
    mode: Literal["max", "min"] = "max"
    monitor: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = "val_ndcg_at_10" if self.val else None

    def build(self) -> Network:
        """A fresh network that starts from what counting knows (see `start_from_counts`)."""
        network = self._network()
        start_from_counts(network, self.sequences, self.data.start)
        return network

    def restored(self, state: Mapping[str, Tensor]) -> Recommender:
        """The network of a fit as a model that answers; nothing is counted."""
        network = self._network()
        network.load_state_dict(state)
        return Recommender(self.config, self.encoder, network.fused(), vocabulary=self.vocabulary)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of items that somebody took; what is said of others alone cannot be learned."""
        is_new = self._is_new
        return Vocabulary.of(words for words, new in zip(self.told or (), is_new, strict=False) if not new)

    @property
    def content(self) -> Content | None:
        """What is said of the items, counted; None where nothing is."""
        if self.told is None or not len(self.vocabulary):
            return None
        bags = self.vocabulary.bags(self.told)
        return Content.of(bags.offsets, bags.words, len(self.vocabulary), self.sequences.item_counts(len(self.encoder.items)))

    @property
    def _is_new(self) -> NDArray[np.bool_]:
        return np.asarray(self.sequences.item_counts(len(self.encoder.items)) == 0)

    def _network(self) -> Network:
        network = Network(self.config, len(self.encoder.items), len(self.encoder.event_types), len(self.vocabulary))
        if self.told is not None and len(self.vocabulary):
            network.tell(self.vocabulary.bags(self.told), self._is_new)
        return network

    def num_steps(self, epoch: int) -> int:  # noqa: ARG002 - every epoch has as many
        """Batches that hold every window once, the same for every epoch."""
        return -(-len(self._windows) // self.batch_size)

    def batches(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
        """Windows of like length together, batches in random order, another order each epoch.

        Each is what `Network.forward` takes; its pair weights make the mean of all ranks' losses the mean over the global batch.
        """
        rng = np.random.default_rng((self.seed, epoch))
        lengths = self._windows[:, 1] - self._windows[:, 0]
        by_length = np.argsort(lengths + rng.uniform(0, 2, len(lengths)))
        starts = np.arange(0, len(by_length), self.batch_size)
        for start in rng.permutation(starts):
            windows = self._windows[by_length[start : start + self.batch_size]]
            pairs = self._pairs.offsets[windows[:, 1]] - self._pairs.offsets[windows[:, 2]]
            width = int((windows[:, 1] - windows[:, 0]).max())
            batch = self._collate(windows[rank::world_size], world_size / pairs.sum(), width)
            if world_size > 1:
                batch["num_rows"] = torch.tensor(len(windows))
            if self.config.num_negatives:
                uniform = rng.random(self.config.num_negatives)
                drawn, times = np.unique(self._proposal_sums.searchsorted(uniform, side="right"), return_counts=True)
                batch["negatives"] = torch.from_numpy(drawn)
                batch["negative_log_weights"] = torch.from_numpy(np.log(times / (self._proposal[drawn] * len(uniform)))).float()
            yield batch

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Softmax loss of what follows; see `Network.forward`."""
        loss: Tensor = module(**{name: tensor for name, tensor in batch.items() if name != "num_rows"})
        return loss

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Metrics on the validation part, over the same fixed users after each epoch."""
        if self.val is None:
            return {}
        assert isinstance(module, Network)
        asked = scorer(Recommender(self.config, self.encoder, module.fused()))
        found = ask(asked, self.val, len(self.encoder.items), self.config.repeats, self.val_users)
        return {f"val_{name}": value for name, value in found.means.items()}

    @property
    def val_users(self) -> Ints:
        """Users of the validation part who are asked, spread evenly."""
        return (
            np.arange(0, len(self.val), -(-len(self.val) // self.data.max_val_queries)) if self.val else np.zeros(0, dtype=np.int64)
        )

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs.of(self.sequences, self.data.objective)

    @cached_property
    def _fading(self) -> Floats:
        """(pairs,) how much each pair counts for its age, 1 on average."""
        if self.data.half_life_days is None:
            return np.ones(len(self._pairs.targets), dtype=np.float32)
        time = np.repeat(self.sequences.time, np.diff(self._pairs.offsets))
        weights = 0.5 ** ((time.max() - time) / (self.data.half_life_days * splits.DAY_US))
        return np.asarray(weights / weights.mean(), dtype=np.float32)

    @cached_property
    def _windows(self) -> Ints:
        """(windows, 3): positions [start, stop) that are read, and the first that is scored.

        A history longer than the network reads is cut into overlapping windows, so that each position is scored exactly once,
        with at least half a window before it.
        """
        longest, stride = self.config.max_length, max(1, self.config.max_length // 2)
        windows = []
        for user in range(len(self.sequences)):
            part = self.sequences.of(user)
            paired = np.flatnonzero(np.diff(self._pairs.offsets[part.start : part.stop + 1]))
            if not len(paired):
                continue
            stop = part.start + int(paired[-1]) + 1
            end = min(stop, part.start + longest)
            windows.append((part.start, end, part.start))
            while end < stop:
                scored_from, end = end, min(stop, end + stride)
                windows.append((end - longest, end, scored_from))
        return np.array([window for window in windows if self._pairs.offsets[window[1]] > self._pairs.offsets[window[2]]])

    @cached_property
    def _proposal(self) -> NDArray[np.float64]:
        """Half of the negatives are drawn evenly, half as often as the items occur."""
        counts = self.sequences.item_counts(len(self.encoder.items))
        proposal: NDArray[np.float64] = 0.5 / len(counts) + 0.5 * counts / counts.sum()
        return proposal

    @cached_property
    def _proposal_sums(self) -> NDArray[np.float64]:
        sums = self._proposal.cumsum()
        return np.asarray(sums / sums[-1])

    def _collate(self, windows: Ints, weight: float, width: int) -> dict[str, Tensor]:
        """One batch; a pair weighs `weight` on average, so that the losses of all ranks average to the mean over the global batch."""
        sequences, pairs = self.sequences, self._pairs
        batch = pad([sequences.items[a:b] for a, b, _ in windows], [sequences.events[a:b] for a, b, _ in windows], width)
        width = batch["items"].shape[1]
        rows, pair_rows, targets, weights = [], [], [], []
        num_rows = 0
        for index, (start, stop, scored_from) in enumerate(windows):
            counts = np.diff(pairs.offsets[scored_from : stop + 1])
            scored = np.flatnonzero(counts)
            rows.append(index * width + scored_from - start + scored)
            pair_rows.append(num_rows + np.repeat(np.arange(len(scored)), counts[scored]))
            targets.append(pairs.targets[pairs.offsets[scored_from] : pairs.offsets[stop]])
            weights.append(self._fading[pairs.offsets[scored_from] : pairs.offsets[stop]])
            num_rows += len(scored)
        flat = [np.concatenate([np.empty(0, dtype=np.int64), *parts]) for parts in (rows, pair_rows, targets)]
        batch |= dict(zip(("rows", "pair_rows", "pair_targets"), map(torch.from_numpy, flat), strict=True))
        fading = np.concatenate([np.empty(0, dtype=np.float32), *weights])
        batch["pair_weights"] = torch.from_numpy(fading) * weight
        return batch
