"""Benchmarks of the recommender on catalogues of 200 k and 1 M items: training steps, answers, and an index; `make bench-large`.

Vectors and histories are drawn, 64 wide; nothing is learned. A step is the trainer's own: 256 histories of 50 acts, softmax over 4,096
drawn negatives. The peer of training is the same step with dense gradients, which move every moment of every item. The peer of
answering is an approximate index of faiss over clustered vectors, in an environment of its own under build/bench/ (peers/faiss.txt) that
the first run makes. It is asked for the 200 best products alone; whole answers, which blend sources by their shares, stand beside.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import sparse

from infra.settings import set_quiet_environment
from report import Figure, alternate, environment, figure, peak_memory_mb, publish
from training.metrics.ranking import top_k
from training.optimizer import AdamW
from training.recommender.data import DataConfig, RecommenderTask, Sequences
from training.recommender.encoder import Encoder
from training.recommender.model import Recommender
from training.recommender.names import NETWORK
from training.recommender.network import Config, Network
from training.recommender.sources import Near
from training.trainer import _clip

SIZES = (200_000, 1_000_000)
SMALL = 20_000
K = 200
NUM_ASKED = 200
NEIGHBOURS = 20
CONFIG = Config(dim=64, max_length=50, num_negatives=4096)
PEER = Path(__file__).parent / "peers" / "faiss_index.py"


def encoder_of(num_items: int) -> Encoder:
    """A catalogue of which nothing is known."""
    return Encoder(tuple(f"i{number}" for number in range(num_items)), ("view",), (1 / num_items,) * num_items)


def task_of(num_items: int, num_users: int = 512) -> RecommenderTask:
    """Histories of 51 acts on items some of which are far more common than others."""
    rng, acts = np.random.default_rng(0), 51 * num_users
    items = np.minimum((num_items * rng.power(0.3, acts)).astype(np.int64), num_items - 1)
    offsets, numbers = np.arange(0, acts + 1, 51), np.arange(acts)
    sequences = Sequences(tuple(map(str, range(num_users))), offsets, items, np.zeros(acts, dtype=np.int64), numbers, numbers)
    return RecommenderTask(CONFIG, DataConfig(objective="next_item"), encoder_of(num_items), sequences, None, 256, 7)


def stepper(num_items: int, *, sparse_rows: bool) -> Callable[[], None]:
    """Something that does one training step each time."""
    task = task_of(num_items)
    network = Network(CONFIG, num_items, 1).train()
    network.item.sparse = sparse_rows
    optimizer = AdamW(network.parameters(), lr=1e-3)
    batches: Iterator[Any] = chain.from_iterable(task.batches(epoch, 0, 1) for epoch in count())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, next(batches)).backward()  # type: ignore[no-untyped-call]
        _clip(network, 5.0)
        optimizer.step()

    return step


def some_steps(num_items: int, sparse_rows: bool) -> None:
    """What a process does whose memory is looked at."""
    step = stepper(num_items, sparse_rows=sparse_rows)
    for _ in range(4):
        step()


def training(say: Callable[[str], None]) -> list[Figure]:
    """Time and memory of a step."""
    figures, what = [], "peer: dense gradients and moments"
    small = stepper(SMALL, sparse_rows=True)
    for size in SIZES:
        say(f"training steps, {size:,} items")
        steps = stepper(size, sparse_rows=True), stepper(size, sparse_rows=False), small
        ours, peer, least = (seconds * 1e3 for seconds in alternate(*steps))
        figures.append(figure(f"training step, {size:,} items, ms; {what}", ours, peer, better="less", least_ratio=1))
        figures.append(
            figure(f"training step, {size:,} items, ms; peer: ours with {SMALL:,}", ours, least, better="less", least_ratio=0.75)
        )
        say(f"memory of training, {size:,} items")
        held = [peak_memory_mb(some_steps, size, rows, every_s=0.1) for rows in (True, False)]
        figures.append(figure(f"most memory held while training, {size:,} items, MB; {what}", *held, better="less"))
    return figures


def recommender_of(num_items: int) -> Recommender:
    """Two of the sources: the network, and what stands near."""
    rng, size = np.random.default_rng(1), num_items * NEIGHBOURS
    ends = np.arange(0, size + 1, NEIGHBOURS, dtype=np.int32)
    parts = rng.random(size, dtype=np.float32), rng.integers(0, num_items, size, dtype=np.int32), ends
    table = sparse.csr_array(parts, shape=(num_items, num_items))
    network = Network(CONFIG, num_items, 1).eval()
    return Recommender(
        CONFIG, encoder_of(num_items), network, {"co_occurrence": Near(table, 0.8)}, {NETWORK: 0.6, "co_occurrence": 0.4}
    )


def answers(num_items: int) -> dict[str, float]:
    """Milliseconds of the K best: `product` of a vector with all items, `filtered` with every thousandth, `answer` of a blend to a history
    of 30 acts, `together` where 32 are asked at once; and `recall`, the share of the K best that the first finds.
    """
    torch.set_num_threads(1)  # as a replica has it
    model, rng = recommender_of(num_items), np.random.default_rng(2)
    vectors = model.network.item.weight.detach()
    some = torch.from_numpy(np.sort(rng.choice(num_items, num_items // 1000, replace=False)))
    times: dict[str, list[float]] = {"product": [], "filtered": [], "answer": [], "together": []}
    found: list[float] = []

    def clock(name: str, work: Callable[[], Any], share: int = 1) -> Any:
        began = time.perf_counter()
        result = work()
        times[name].append((time.perf_counter() - began) * 1e3 / share)
        return result

    for number in range(NUM_ASKED):
        question = torch.from_numpy(rng.normal(size=CONFIG.dim)).float()
        histories = [[model.encoder.items[item] for item in rng.integers(0, num_items, 30)] for _ in range(32)]
        best = clock("product", lambda q=question: top_k(torch.mv(vectors, q).numpy()[None], K)[0])
        clock("filtered", lambda q=question: top_k(torch.mv(vectors[some], q).numpy()[None], K)[0])
        clock("answer", lambda asked=histories[:1]: model.recommend(asked, K))
        if number < 10:
            clock("together", lambda asked=histories: model.recommend(asked, K), share=32)
            exact = top_k(torch.mv(vectors.double(), question.double()).numpy()[None], K)[0]
            found.append(len(np.intersect1d(best, exact)) / K)
    quantiles = {f"{name}_p{q}": float(np.percentile(taken[2:], q)) for name, taken in times.items() for q in (50, 99)}
    return {**quantiles, "recall": float(np.mean(found))}


def answering(say: Callable[[str], None]) -> list[Figure]:
    """Exact products, whole answers, and an index."""
    figures = []
    say("the index's environment")
    python = environment("faiss")
    for size in SIZES:
        say(f"answers, {size:,} items")
        ours, of = answers(size), f"of {size:,} items"
        say(f"an index over {size:,} items: minutes")
        done = subprocess.run([python, PEER, str(size), str(K), str(os.cpu_count())], check=True, capture_output=True, text=True)
        index = json.loads(done.stdout.strip().splitlines()[-1])
        peer = f"peer: faiss HNSW, efSearch {index['ef']}, built in {index['build_s']:.0f} s"
        figures += [
            figure(f"share of the {K} best products {of}; {peer}", ours["recall"], index["recall"], better="more", bound=0.99),
            figure(f"the same of 0.1 % {of}; {peer}", ours["recall"], index["filtered_recall"], better="more", bound=0.99),
            *(
                figure(f"{what} {of}, {q}, ms; {peer}", ours[f"{mine}_{q}"], index[f"{its}{q}"], better="less")
                for what, mine, its in ((f"{K} best products", "product", ""), (f"{K} best of 0.1 %", "filtered", "filtered_"))
                for q in ("p50", "p99")
            ),
            *(
                figure(
                    f"{K} best {of} by the blend, {q}, ms; peer: products alone",
                    ours[f"answer_{q}"],
                    ours[f"product_{q}"],
                    better="less",
                )
                for q in ("p50", "p99")
            ),
            figure(
                "the same, a history, 32 at once, ms; peer: one at a time", ours["together_p50"], ours["answer_p50"], better="less"
            ),
        ]
    return figures


def main() -> None:
    """Run all, print a table, write build/bench/large.json."""
    set_quiet_environment()
    with Console(stderr=True).status("training steps") as status:
        figures = [*training(status.update), *answering(status.update)]
    publish("large", figures)


if __name__ == "__main__":
    main()
