"""Diginetica as its published tables have it (the split of SR-GNN): all sessions before the tests are learned from, every prefix of a
test session is asked for its next item, all items are ranked. GOALS are above the best found in print (GCE-GNN:
54.2 and 19.0).

Epochs, floors and weights are chosen on the last nine days (of 130) before the tests, then all is fitted again on everything before
them, as `shopgraph train recommender --recipe sessions --set data.val_days=9` does, in this process. `--val` tells the validation part
and leaves the tests alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from infra.settings import Settings, set_quiet_environment
from report import Figure, figure, public_set, publish
from training.metrics.comparison import signed
from training.metrics.intervals import mean_interval, paired_interval
from training.recommender.data import RecommenderTask, ask, make_queries, scorer, split
from training.recommender.recipes import Recipe, sessions
from training.recommender.train import blend, choose_floors, make_task
from training.splits import DAY_US
from training.trainer import FitResult, Trained, fit

_SESSION_US = 60_000_000
"""Sessions are numbered in time order and have no times: a minute for each, a millisecond for each act, as our reader has it."""
VAL_DAYS = 9
"""Days before the tests."""
GOALS = {"recall_at_20": 0.55, "mrr_at_20": 0.195}


def interactions(every: list[list[int]]) -> pa.Table:
    """Rows like those of `interactions`, a session being a user of its own."""
    counts = np.array([len(items) for items in every])
    session = np.repeat(np.arange(len(every)), counts)
    place = np.arange(len(session)) - np.repeat(np.cumsum(counts) - counts, counts)
    names = pa.array(session).cast(pa.string())
    return pa.table(
        {
            "user_id": names,
            "session_id": names,
            "item_id": pa.array(np.concatenate(every)).cast(pa.string()),
            "event_type": pa.repeat("view", len(session)),
            "event_timestamp": pa.array(session * _SESSION_US + place * 1000, pa.timestamp("us", tz="UTC")),
        }
    )


def tested() -> Iterator[list[int]]:
    """The sessions that the tests were made of: there each comes once for every prefix, the longest first."""
    rows = pq.read_table(public_set("diginetica/test_prefix_target.parquet")).to_pylist()
    before: list[int] = []
    for row in rows:
        if row["prefix"] != before[:-1] or not row["prefix"]:
            yield [*row["prefix"], row["target"]]
        before = row["prefix"]


def bench(recipe: Recipe, say: Callable[[str], None], *, is_test: bool) -> list[Figure]:
    """Learn, then ask the tests, or the validation part."""
    learned = pq.read_table(public_set("diginetica/train_sessions.parquet"))["items"].to_pylist()
    asked = list(tested())
    days = (len(asked) - 0.5) * _SESSION_US / DAY_US
    data = recipe.data.model_copy(update={"val_days": VAL_DAYS, "test_days": days})
    recipe = recipe.model_copy(update={"data": data})
    parts = split(interactions([*learned, *asked]), data)
    tuning = make_task(recipe, parts, None, is_tuning=True)
    final = make_task(recipe, parts, None, is_tuning=False) if is_test else tuning

    def learn(task: RecommenderTask, epochs: int) -> FitResult:
        def tell(epoch: int, metrics: Mapping[str, float]) -> None:
            told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            print(f"epoch {epoch + 1} of {epochs}: {told}", file=sys.stderr, flush=True)

        config = recipe.fit.model_copy(update={"epochs": epochs, "patience": recipe.fit.patience if task.val else None})
        return fit(task, config, tell)

    say("choosing epochs")
    tuned = learn(tuning, recipe.fit.epochs)
    say("fitting again")
    again = learn(final, tuned.best_epoch + 1) if is_test else tuned
    say("fitting the floors")
    floors = choose_floors(tuning, final, Settings.load().train_memory_gb)
    _, late = blend(Trained(tuned, again), tuning, final, floors)
    print(f"weights: {late.weights}; not run: {floors.not_run}", file=sys.stderr)
    queries = make_queries(parts.test, final.encoder) if is_test else tuning.val
    assert queries is not None
    say(f"asking {len(queries):,} questions")
    answers = {
        name: ask(one, queries, len(final.encoder.items), repeats=True).per_query
        for name, one in {"recommender": scorer(late), **floors.late}.items()
    }
    figures = []
    for metric, goal in GOALS.items():
        means = {name: float(values[metric].mean()) for name, values in answers.items()}
        hardest = max((name for name in means if name != "recommender"), key=lambda name: means[name])
        for name, mean in sorted(means.items(), key=lambda item: -item[1]):
            gain = paired_interval(answers["recommender"][metric], answers[name][metric], 7, owners=queries.owners)
            print(f"{metric} {name}: {mean:.4f}; gain over it {signed(*gain)}", file=sys.stderr)
        _, low, high = mean_interval(answers["recommender"][metric], 7, owners=queries.owners)
        what = f"Diginetica, {metric} of {len(queries):,} prefixes [{low:.4f}, {high:.4f}]; peer: {hardest}"
        figures.append(figure(what, means["recommender"], means[hardest], better="more", bound=goal))
    return figures


def main() -> None:
    """Run, print a table, write build/bench/sessions.json; `--val`: the validation part instead of the tests."""
    set_quiet_environment()
    with Console(stderr=True).status("reading") as status:
        figures = bench(sessions(), status.update, is_test="--val" not in sys.argv[1:])
    publish("sessions", figures)


if __name__ == "__main__":
    main()
