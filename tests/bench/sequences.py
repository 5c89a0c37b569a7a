"""Published sequence sets (Amazon Beauty, Toys) as the platform's tables, without Spark, and the work that RecBole is timed with.

    python sequences.py <folder with sequences.parquet> <threads>
    python sequences.py <folder with sequences.parquet> <threads> whole

One epoch of our network at the size of the peer (peers/recbole_sasrec.py) and full rankings of the validation part, of which the
median counts, in a process of its own; the last line is JSON as the peer's, and how many users were asked. `whole`: the history of the
recipe `sequences` at its own size, the network alone.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from bench_recommender import train_epoch

from spark_jobs.sources import explode
from spark_jobs.sources.arrow_files import parquet_batches
from training.recommender.data import RecommenderTask, ask, make_encoder, make_queries, make_sequences, scorer, split
from training.recommender.model import Recommender
from training.recommender.network import Config
from training.recommender.recipes import Recipe, sequences
from training.recommender.train import make_task
from training.splits import Split
from training.trainer import fit

RANKINGS = 5
_SECOND_US = 1_000_000


def interactions(file: Path) -> pa.Table:
    """Rows like those of `interactions`, one view per item of each sequence; the place in the sequence is the time, in seconds."""
    rows = pa.Table.from_batches(explode.batches(parquet_batches(file), "items", str(file)))
    return pa.table(
        {
            "user_id": rows["user"].cast(pa.string()),
            "item_id": rows["items"].cast(pa.string()),
            "event_type": pa.repeat("view", rows.num_rows),
            "event_timestamp": pc.multiply(rows[explode.POSITION], _SECOND_US).cast(pa.timestamp("us", tz="UTC")),
        }
    )


def whole(parts: Split, recipe: Recipe) -> list[tuple[float, float]]:
    """Seconds until each epoch was trained and ranked, and its ndcg_at_10, all users of the validation part asked.

    The clock starts before what the network starts from is counted.
    """
    began = time.perf_counter()
    data = recipe.data.model_copy(update={"max_val_queries": parts.val.targets.num_rows})
    task = make_task(recipe.model_copy(update={"data": data}), parts, None, is_tuning=True)
    history = []
    fit(task, recipe.fit, lambda _, metrics: history.append((time.perf_counter() - began, metrics["val_ndcg_at_10"])))
    return history


def main() -> None:
    """One epoch and one evaluation, and what they took; or the whole recipe."""
    torch.set_num_threads(int(sys.argv[2]))
    recipe = sequences()
    parts = split(interactions(Path(sys.argv[1]) / "sequences.parquet"), recipe.data)
    if sys.argv[3:] == ["whole"]:
        print(json.dumps({"history": whole(parts, recipe)}))
        return
    encoder = make_encoder(parts.train, recipe.data.popular_days)
    config = Config(dim=64, num_blocks=2, num_heads=2, max_length=50, dropout=0.5, repeats=False)
    acts = make_sequences(parts.train, encoder)
    task = RecommenderTask(config, recipe.data, encoder, acts, None, recipe.fit.batch_size, recipe.fit.seed)
    queries = make_queries(parts.val, encoder)
    targets = sum(len(batch["pair_targets"]) for batch in task.batches(0, 0, 1))
    network = task.build()  # ahead of the clock, as the peer's model is
    began = time.perf_counter()
    train_epoch(network, task, recipe)
    trained = time.perf_counter()
    ranking = []
    for _ in range(RANKINGS):
        start = time.perf_counter()
        ask(scorer(Recommender(config, encoder, network.eval())), queries, len(encoder.items), repeats=False)
        ranking.append(time.perf_counter() - start)
    found = {
        "targets": targets,
        "queries": len(queries),
        "epoch_s": trained - began,
        "evaluate_s": statistics.median(ranking),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
