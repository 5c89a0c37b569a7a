"""Epochs of RecBole's SASRec, each with a full ranking of the validation part, in RecBole's own environment, without shopgraph.

    python recbole_sasrec.py <folder with sequences.parquet> <scratch folder> <threads> <most epochs>

It stops where ten epochs brought nothing better, RecBole's default.

Cross-entropy over all items, width 64, two blocks of two heads, 50 acts: RecBole's defaults but for the inner size, which is four
times the width as in ours. The last line is JSON: targets, epoch_s of the first epoch, evaluate_s (the median of five), peak_mb, and
the history: seconds until an epoch was ranked, and its ndcg_at_10.
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAME = "sequences"
PATIENCE = 10
RANKINGS = 5


def write_atomic(source: Path, folder: Path) -> None:
    """The sequences as RecBole's atomic file; the place in the sequence is the time."""
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    table = pq.read_table(source / "sequences.parquet")
    with (folder / NAME / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in zip(table["user"].to_pylist(), table["items"].to_pylist(), strict=True):
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def main() -> None:
    source, scratch = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    threads, most = int(sys.argv[3]), int(sys.argv[4])
    os.chdir(scratch)  # RecBole writes logs where it runs
    torch.set_num_threads(threads)
    write_atomic(source, scratch)
    config = Config(
        model="SASRec",
        dataset=NAME,
        config_dict={
            "data_path": str(scratch),
            "checkpoint_dir": str(scratch / "checkpoints"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "hidden_size": 64,
            "inner_size": 256,
            "MAX_ITEM_LIST_LENGTH": 50,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "metrics": ["Recall", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "epochs": most,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    began = time.perf_counter()
    history, epochs, rankings = [], [], []
    for epoch in range(most):
        start = time.perf_counter()
        trainer._train_epoch(train, epoch, show_progress=False)
        epochs.append(time.perf_counter() - start)
        metrics = trainer.evaluate(valid, load_best_model=False, show_progress=False)
        history.append((time.perf_counter() - began, float(metrics["ndcg@10"])))
        print(f"{epoch + 1} epochs, {history[-1][0]:.0f} s, ndcg_at_10 {history[-1][1]:.4f}", file=sys.stderr, flush=True)
        best = max(range(len(history)), key=lambda place: history[place][1])
        if epoch - best >= PATIENCE:
            break
    for _ in range(RANKINGS):
        start = time.perf_counter()
        trainer.evaluate(valid, load_best_model=False, show_progress=False)
        rankings.append(time.perf_counter() - start)
    found = {
        "targets": len(train.dataset),
        "epoch_s": epochs[0],
        "evaluate_s": statistics.median(rankings),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "history": history,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
