"""Benchmarks of the sentiment model against TF-IDF with logistic regression on online_shopping_10_cats; `make bench-sentiment`.

The peer is the best known on this set without pre-trained weights. Both learn from the same training part and answer the same
test part; times are wall clock of one process, medians of runs in turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from infra.settings import Settings, set_quiet_environment
from training.metrics import classification
from training.sentiment.baselines import tfidf_regression
from training.sentiment.data import Reviews, SentimentTask, Split, reviews_of, split
from training.sentiment.encoder import Encoder
from training.sentiment.model import SentimentClassifier, branch_logits
from training.sentiment.recipes import full
from training.sentiment.train import calibrate, without_near_copies
from training.trainer import fit

REPEATS = 5
ROOT = Path(__file__).parents[2]
NUM_SINGLE = 300


def read() -> Reviews:
    """The labelled reviews, equal texts once."""
    folder = Settings.load().data or ROOT.parent / "shared" / "data"
    path = folder / "online_shopping_10_cats" / "reviews.parquet"
    if not path.is_file():
        sys.exit(f"no {path}; set SHOPGRAPH_DATA to the folder of the public data sets")
    rows = pq.read_table(path).filter(pc.field("review").is_valid())
    rows = rows.group_by("review", use_threads=False).aggregate([("label", "first"), ("cat", "first")])
    ids = [f"r{place:06}" for place in range(rows.num_rows)]
    columns = {"review_id": ids, "review_text": rows["review"], "label": rows["label_first"], "category": rows["cat_first"]}
    return reviews_of(pa.table(columns))


def learn(parts: Split) -> SentimentClassifier:
    """The recipe `full`, fitted in this process."""
    recipe = full()
    encoder = Encoder.learn(parts.train.texts, parts.train.labels, recipe.model.encoder)
    task = SentimentTask.of(parts, encoder, recipe.model, recipe.fit.batch_size, recipe.fit.seed)
    network = task.build()
    network.load_state_dict(fit(task, recipe.fit).state)
    network.eval()
    calibrate(network, branch_logits(network, task.val).clone(), parts.val.labels, float(parts.train.labels.mean()))
    return SentimentClassifier(recipe.model, encoder, network)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(*works: Callable[[], Any]) -> list[float]:
    """Median seconds of each, run in turns after one warm-up."""
    for work in works:
        work()
    times = [[clocked(work) for work in works] for _ in range(REPEATS)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def figure(what: str, mine: float, peer: float, ratio: float, goal: str | None, met: bool) -> dict[str, Any]:
    return {"what": what, "ours": round(mine, 4), "peer": round(peer, 4), "ratio": round(ratio, 2), "goal": goal, "met": met}


def main() -> None:
    """Run all, print a table, write build/bench/sentiment.json."""
    set_quiet_environment()
    with Console(stderr=True).status("reading") as status:
        parts, _ = without_near_copies(split(read()))
        test = parts.test
        status.update("fitting ours and the peer, once each")
        begun = time.perf_counter()
        model = learn(parts)
        fitted = time.perf_counter()
        peer = tfidf_regression(parts.train.texts, parts.train.labels)
        peer_fitted = time.perf_counter()
        status.update("answering: in bulk and one by one")
        bulk, peer_bulk = alternate(lambda: model.classify(test.texts), lambda: peer(test.texts))
        some = test.texts[:NUM_SINGLE]
        single, peer_single = alternate(lambda: [model.classify([text]) for text in some], lambda: [peer([text]) for text in some])
        ours, theirs = model.probabilities(test.texts), peer(test.texts)
    accuracy, peer_accuracy = (classification.accuracy(test.labels, found) for found in (ours, theirs))
    ece, peer_ece = (classification.ece(test.labels, found) for found in (ours, theirs))
    rates = [len(test) / seconds for seconds in (bulk, peer_bulk)]
    waits = [seconds / NUM_SINGLE * 1e3 for seconds in (single, peer_single)]
    seconds = (fitted - begun, peer_fitted - fitted)
    figures = [
        figure(f"accuracy on {len(test):,} held-out reviews", accuracy, peer_accuracy, (1 - peer_accuracy) / (1 - accuracy),
               "ours >= 0.945", accuracy >= 0.945),
        figure("calibration error (ECE, 15 bins)", ece, peer_ece, peer_ece / ece, "ours <= 0.01", ece <= 0.01),
        figure("raw text to answer in bulk, texts/s", *rates, rates[0] / rates[1], "ours >= 5000", rates[0] >= 5000),
        figure("one text, ms", *waits, waits[1] / waits[0], "ours <= 2", waits[0] <= 2),
        figure(f"learning from {len(parts.train):,} reviews, s", *seconds, seconds[1] / seconds[0], None, True),
    ]  # fmt: skip
    table = Table("what", "ours", "peer", "ratio", "goal", "met")
    for f in figures:
        table.add_row(
            f["what"], f"{f['ours']:g}", f"{f['peer']:g}", f"{f['ratio']:g}", f["goal"] or "", "yes" if f["met"] else "NO"
        )
    Console(width=140).print(table)
    out = ROOT / "build" / "bench" / "sentiment.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(f["met"] for f in figures) else 1)


if __name__ == "__main__":
    main()
