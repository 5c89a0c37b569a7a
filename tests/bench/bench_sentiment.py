"""Benchmarks of the sentiment model against TF-IDF with logistic regression on online_shopping_10_cats; `make bench-sentiment`.

The peer is the best known on this set without pre-trained weights. Both learn from the same training part and answer the same
test part; times are wall clock of one process, medians of runs in turns; what takes over a minute is run once.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from infra.settings import set_quiet_environment
from report import alternate, figure, public_set, publish
from training.metrics import classification
from training.sentiment.baselines import tfidf_regression
from training.sentiment.data import Reviews, SentimentTask, Split, reviews_of, split
from training.sentiment.encoder import Encoder
from training.sentiment.model import SentimentClassifier, branch_logits
from training.sentiment.recipes import full
from training.sentiment.train import calibrate, without_near_copies
from training.trainer import fit

NUM_SINGLE = 300


def read() -> Reviews:
    """The labelled reviews, equal texts once."""
    rows = pq.read_table(public_set("online_shopping_10_cats/reviews.parquet")).filter(pc.field("review").is_valid())
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


def main() -> None:
    """Run all, print a table, write build/bench/sentiment.json."""
    set_quiet_environment()
    with Console(stderr=True).status("reading") as status:
        parts, _ = without_near_copies(split(read()))
        test = parts.test
        status.update("fitting ours and the peer")
        models: dict[str, Any] = {}
        fits = alternate(
            lambda: models.update(ours=learn(parts)),
            lambda: models.update(peer=tfidf_regression(parts.train.texts, parts.train.labels)),
        )
        model: SentimentClassifier = models["ours"]
        peer = models["peer"]
        status.update("answering: in bulk and one by one")
        bulk, peer_bulk = alternate(lambda: model.classify(test.texts), lambda: peer(test.texts))
        some = test.texts[:NUM_SINGLE]
        single, peer_single = alternate(lambda: [model.classify([text]) for text in some], lambda: [peer([text]) for text in some])
        ours, theirs = model.probabilities(test.texts), peer(test.texts)
    accuracy, peer_accuracy = (classification.accuracy(test.labels, found) for found in (ours, theirs))
    ece, peer_ece = (classification.ece(test.labels, found) for found in (ours, theirs))
    rates = [len(test) / seconds for seconds in (bulk, peer_bulk)]
    waits = [seconds / NUM_SINGLE * 1e3 for seconds in (single, peer_single)]
    publish(
        "sentiment",
        [
            figure(
                f"share of {len(test):,} held-out reviews told wrong", 1 - accuracy, 1 - peer_accuracy, better="less", bound=0.055
            ),
            figure("calibration error (ECE, 15 bins)", ece, peer_ece, better="less", bound=0.01),
            figure("raw text to answer in bulk, texts/s", *rates, better="more", bound=5000),
            figure("one text, ms", *waits, better="less", bound=2),
            figure(f"learning from {len(parts.train):,} reviews, s", *fits, better="less"),
        ],
    )


if __name__ == "__main__":
    main()
