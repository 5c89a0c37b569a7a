"""Benchmarks of the recommender on UCI Online Retail against the floors, torch.nn.TransformerEncoder and ItemKNN; `make bench-recommender`.

Everybody is cut at the same two instants. The recipe `full` is tuned and fitted again as `shopgraph train recommender` does, in this
process; the floors learn from the same acts in their best settings on the validation part. The peer in speed is our network made of
stock parts: same weights, same scores, same loss. Times are wall clock of one process, medians of runs in turns.

Shapes as in training/recommender/model.py: B sequences, L acts, D width, I items, R scored positions, P (position, target) pairs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import against_recbole
import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from infra.settings import Settings, set_quiet_environment
from report import Figure, alternate, figure, publish
from retail import interactions, lines
from training.metrics.ranking import top_k
from training.recommender.baselines import Baseline, ItemKNN
from training.recommender.data import (
    Queries,
    RecommenderTask,
    Scorer,
    Sequences,
    ask,
    make_encoder,
    make_queries,
    make_sequences,
    scorer,
    split,
)
from training.recommender.encoder import Encoder
from training.recommender.model import Recommendations, Recommender
from training.recommender.network import Config, Network
from training.recommender.recipes import Recipe, full
from training.recommender.train import choose_floors
from training.splits import Split
from training.trainer import fit

K = 20
NUM_SINGLE = 300
BULK = 256
"""Users asked at once in bulk."""
STOCK = "peer: torch.nn.TransformerEncoder"
STOCK_NAMES = {
    "attention_norm": "norm1",
    "query_key_value.weight": "self_attn.in_proj_weight",
    "query_key_value.bias": "self_attn.in_proj_bias",
    "attention_out": "self_attn.out_proj",
    "feed_norm": "norm2",
    "feed_in": "linear1",
    "feed_out": "linear2",
}
"""A weight of our block -> the same in torch.nn.TransformerEncoderLayer."""


class StockBlocks(nn.Module):
    """All blocks as one torch.nn.TransformerEncoder, (B, L, D) -> (B, L, D), with dropout only where ours has it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            config.dim, config.num_heads, 4 * config.dim, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        layer.self_attn.dropout = layer.dropout.p = 0.0
        self.encoder = nn.TransformerEncoder(layer, config.num_blocks, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True)
        return out

    def last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What `forward` gives at the last act of each, (B, L, D) -> (B, D)."""
        states: Tensor = self(x)[torch.arange(len(x)), lengths - 1]
        return states


class StockNetwork(Network):
    """The same function of the same weights out of stock parts; the (R, I) scores of a batch are left to autograd."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.config, network.item.num_embeddings, network.event.num_embeddings)
        self.blocks = nn.ModuleList([StockBlocks(network.config)])
        self.load_state_dict({_stock_name(name): weight for name, weight in network.state_dict().items()})

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
        """The softmax loss over all items as `Network.forward` defines it; negatives are never drawn here."""
        vectors, biases = self.items()
        states = self.states(self.acts(functional.embedding(items, vectors), events, lengths)).flatten(0, 1)[rows]
        scores = functional.linear(states, vectors, biases).scatter_add(1, *self._repeats(states, rows, items))
        return -(functional.log_softmax(scores, dim=1)[pair_rows, pair_targets] * pair_weights).sum()


def _stock_name(name: str) -> str:
    for ours, stock in STOCK_NAMES.items():
        name = re.sub(rf"^blocks\.(\d+)\.{re.escape(ours)}\b", rf"blocks.0.encoder.layers.\1.{stock}", name)
    return name


@dataclass(frozen=True)
class Fitted:
    """What the parts before the test part gave: the model, its last task, each kind of floor."""

    recommender: Recommender
    task: RecommenderTask
    floors: dict[str, Baseline]


def learn(parts: Split, recipe: Recipe, say: Callable[[str], None]) -> Fitted:
    """Epochs and settings are chosen on the validation part, then all is fitted on everything before the test part."""
    tuning, final = (_task(rows, recipe) for rows in (parts.train, parts.refit))
    val = make_queries(parts.val, tuning.encoder)
    say("choosing epochs")
    epochs = fit(replace(tuning, val=val), recipe.fit).best_epoch + 1
    say(f"fitting again, {epochs} epochs")
    recommender = final.restored(fit(final, recipe.fit.model_copy(update={"epochs": epochs, "patience": None})).state)
    say("fitting the floors")
    chosen = choose_floors(replace(tuning, val=val), final, Settings.load().train_memory_gb).late
    return Fitted(recommender, final, chosen)


def _task(rows: pa.Table, recipe: Recipe) -> RecommenderTask:
    encoder = make_encoder(rows, recipe.data.popular_days)
    sequences = make_sequences(rows, encoder)
    return RecommenderTask(recipe.model, recipe.data, encoder, sequences, None, recipe.fit.batch_size, recipe.fit.seed)


def ndcg(scorer: Scorer, queries: Queries, task: RecommenderTask) -> float:
    """Mean ndcg_at_10 over the questions, against the whole catalogue."""
    return ask(scorer, queries, len(task.encoder.items), task.config.repeats).means["ndcg_at_10"]


def train_epoch(network: Network, task: RecommenderTask, recipe: Recipe) -> None:
    """One pass over the training targets, step by step as the trainer takes it."""
    optimizer = torch.optim.AdamW(network.parameters(), recipe.fit.learning_rate)
    network.train()
    for batch in task.batches(0, 0, 1):
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), recipe.fit.clip_norm or np.inf)
        optimizer.step()


def neighbours_of(knn: ItemKNN, encoder: Encoder, history: list[str]) -> Recommendations:
    """What `Recommender.recommend` answers to one history (acts oldest first), asked of ItemKNN."""
    items = np.array([encoder.index[item] for item in history])
    none = np.zeros(len(items), dtype=np.int64)
    scores = knn(Sequences(("",), np.array([0, len(items)]), items, none, none, none), np.array([0]))
    return [(encoder.items[item], float(scores[0, item])) for item in top_k(scores, K)[0]]


def bench(rows: pa.Table, recipe: Recipe, say: Callable[[str], None]) -> list[Figure]:
    """Every figure; `rows` are shaped like `interactions`."""
    parts = split(rows, recipe.data)
    found = learn(parts, recipe, say)
    ours, task = found.recommender, found.task
    encoder = ours.encoder
    queries = make_queries(parts.test, encoder)
    quality = {name: ndcg(floor, queries, task) for name, floor in found.floors.items()}
    strongest = max(quality, key=lambda name: quality[name])
    mine = ndcg(scorer(ours), queries, task)

    stock = Recommender(ours.config, encoder, StockNetwork(ours.network).eval())
    users = [queries.history.of(user) for user in range(len(queries))]
    histories = [[encoder.items[item] for item in queries.history.items[user]] for user in users]
    kinds = [[encoder.event_types[event] for event in queries.history.events[user]] for user in users]
    np.testing.assert_allclose(stock.scores(histories[:BULK]), ours.scores(histories[:BULK]), rtol=1e-3, atol=1e-3)

    say("training epochs: ours and torch.nn.TransformerEncoder")
    learners = [copy.deepcopy(model.network) for model in (ours, stock)]
    epochs = alternate(*(lambda network=network: train_epoch(network, task, recipe) for network in learners))
    say("answering one by one: ours and ItemKNN")
    knn = found.floors["item_knn"]
    assert isinstance(knn, ItemKNN)
    some = range(min(NUM_SINGLE, len(users)))
    single = alternate(
        lambda: [ours.recommend([histories[user]], K, event_types=[kinds[user]]) for user in some],
        lambda: [neighbours_of(knn, encoder, histories[user]) for user in some],
    )

    def answer_all(model: Recommender) -> None:
        for start in range(0, len(users), BULK):
            model.recommend(histories[start : start + BULK], K, event_types=kinds[start : start + BULK])

    say("answering in bulk: ours and torch.nn.TransformerEncoder")
    bulk = alternate(lambda: answer_all(ours), lambda: answer_all(stock))
    size = f"{len(encoder.items):,} items"
    asked = f"ndcg_at_10 of {len(queries):,} users' next session, {size}"
    pairs = sum(len(batch["pair_targets"]) for batch in task.batches(0, 0, 1))
    waits = [seconds / len(some) * 1e3 for seconds in single]
    rates = [len(users) / seconds for seconds in bulk]
    return [
        figure(f"{asked}; peer: the strongest floor, {strongest}", mine, quality[strongest], better="more", least_ratio=1.0),
        figure(f"training epoch of {pairs:,} targets, s; {STOCK}, same loss", *epochs, better="less"),
        figure(f"one user's {K} best of {size}, ms; peer: ItemKNN", *waits, better="less"),
        figure(f"users answered in bulk, {BULK} a call, 1/s; {STOCK}, same weights", *rates, better="more"),
    ]


def main() -> None:
    """Run all, print a table, write build/bench/recommender.json."""
    set_quiet_environment()
    with Console(stderr=True).status("reading") as status:
        figures = [*bench(interactions(lines()), full(), status.update), *against_recbole.short(status.update)]
    publish("recommender", figures)


if __name__ == "__main__":
    main()
