"""Training the ranker: fit its first stage, learn from what that would have retrieved, tune, calibrate, test once, register."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from features.store import FeatureStore
from infra import log
from infra.errors import TableContractError
from training import splits
from training.context import Context
from training.metrics.comparison import cell, signed
from training.metrics.intervals import paired_interval
from training.metrics.names import with_interval
from training.ranker import evaluate
from training.ranker.baselines import BASELINES, Answer
from training.ranker.calibration import Calibration, best_weights
from training.ranker.candidates import NUM_CANDIDATES, SOURCES
from training.ranker.data import Lists, RankerTask, labels_of, make_lists, tasks_of
from training.ranker.encoder import SERVICE, Encoder
from training.ranker.model import PURCHASE, Ranker, chances, encode, value_of
from training.ranker.recipes import Recipe
from training.ranker.retrieval import Sessions
from training.recommender.train import Retrieval, retrieval
from training.tracking import Run
from training.trainer import Trained, Tuning
from training.trainer import train as fit

TASK = "ranker"
BY_REVENUE = "ranker by revenue"
"""The same chances, ordered by the chance of a purchase times the price."""
LEAST = 20
"""Candidates that were taken, for a task to be learned."""


@dataclass(frozen=True)
class Parts:
    """What is learned from, tuned on, and touched once; each begins where the one before ends."""

    train: Lists
    tuning: Lists
    test: Lists
    tasks: tuple[str, ...]
    begins: tuple[int, int, int]
    """Of each, microseconds UTC."""

    @property
    def digest(self) -> str:
        """Fingerprint of all three; equal parts can be compared list by list."""
        return "-".join(part.digest[:16] for part in (self.train, self.tuning, self.test))


def train(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Train, compare with the baselines, register.

    Returns:
        `version` and `run_id` of the model, `metrics` of model and baselines on the test part, `gains` over each baseline,
        `summary` to read.

    Raises:
        TableContractError: `interactions` is missing, or holds too few days, sessions or purchases.
    """
    seed = recipe.fit.seed
    first, inputs = _first_stage(recipe, context)
    parts = _parts(recipe, context, first)
    tags = {"split_digest": parts.digest, "tasks": ", ".join(parts.tasks)}
    name = f"{TASK} {recipe.name}"
    with context.tracking.run(TASK, name=name, role="model", recipe=recipe.model_dump(), inputs=inputs, tags=tags) as run:
        started = time.perf_counter()
        ranker, trained = _fit(recipe, context, parts, inputs, run)
        seconds = time.perf_counter() - started
        answers = _answers(ranker, parts, seed)
        values = {method: evaluate.per_list(parts.test, answer) for method, answer in answers.items()}
        draws = {method: evaluate.resampled(parts.test, answer, parts.tasks, seed) for method, answer in answers.items()}
        reports = {method: evaluate.metrics(values[method], draws[method], seed) for method in answers}
        gains = {
            method: evaluate.gains((values[TASK], draws[TASK]), (values[method], draws[method]), seed)
            for method in answers
            if method != TASK
        }
        if BY_REVENUE in answers:
            ours, theirs = (values[method]["revenue_at_10"] for method in (BY_REVENUE, "retrieval"))
            reports[BY_REVENUE] |= with_interval("test_revenue_at_10_gain", paired_interval(ours, theirs, seed))
        reports[TASK] |= with_interval(f"test_{evaluate.JUDGED}_gain", gains["retrieval"][evaluate.JUDGED])
        run.tags({f"weight_{task}": str(weight) for task, weight in ranker.weights.items()})
        run.metrics(reports[TASK])
        run.table(evaluate.per_user(parts.test, values[TASK], context.home.pseudonym), "per_user.parquet")
        run.figure(evaluate.reliability(parts.test, answers, parts.tasks), "reliability.png")
        run.figure(evaluate.gains_over(gains), "gains_over_baselines.png")
        card = _card(recipe, parts, ranker, reports, gains, trained.tuned.best_epoch + 1, seconds)
        run.note(card)
        with tempfile.TemporaryDirectory() as folder:
            ranker.save(Path(folder))
            version = context.tracking.register(run, TASK, Path(folder), ranker.network.input_spec, card)
    for method in BASELINES:
        with context.tracking.run(TASK, name=method, role="baseline", recipe={"name": method}, inputs=inputs, tags=tags) as floor:
            floor.metrics(reports[method])
            floor.table(evaluate.per_user(parts.test, values[method], context.home.pseudonym), "per_user.parquet")
    return {
        "version": version,
        "run_id": run.id,
        "train_s": seconds,
        "metrics": reports,
        "gains": gains,
        "summary": "\n\n".join([evaluate.table(reports), evaluate.chances_table(reports, parts.tasks)]),
    }


def tuning(recipe: Recipe, context: Context) -> Tuning:
    """What a search for the recipe's values fits (raises as `train`)."""
    first, inputs = _first_stage(recipe, context)
    parts = _parts(recipe, context, first, with_test=False)
    task = _task(recipe, parts)
    return Tuning(task, inputs, {"split_digest": parts.digest}, (inputs, parts.digest, task.encoder.content))


def _first_stage(recipe: Recipe, context: Context) -> tuple[Retrieval, dict[str, int]]:
    """The recommender of two instants, and the versions of all tables that are read."""
    first = retrieval(recipe.retrieval, context)
    versions = {view.path: context.lake.version(view.path) for view in SERVICE.views}
    missing = sorted(path for path, version in versions.items() if version is None)
    if missing:
        log.get(__name__).warning("tables not built, their features are null", tables=missing)
    return first, first.inputs | {path: version for path, version in versions.items() if version is not None}


def _parts(recipe: Recipe, context: Context, first: Retrieval, *, with_test: bool = True) -> Parts:
    assert first.parts.cutoffs is not None  # retrieval at an instant has them
    begin, end = first.parts.cutoffs
    tuned_from = end - int((end - begin) * recipe.data.tuning_share)
    store = FeatureStore(context.settings, context.shop, context.lake)

    def lists(sessions: Sessions, recommender: Any) -> Lists:
        chosen = np.arange(0, len(sessions), -(-len(sessions) // recipe.data.max_lists))
        return make_lists(sessions, recommender, store, chosen)

    def window(start: int, until: int) -> Lists:
        return lists(Sessions.of(splits.every_session(first.parts.refit, start, until), first.early), first.early)

    try:
        learned, tuned = window(begin, tuned_from), window(tuned_from, end)
    except ValueError as error:
        raise TableContractError(f"nothing can be learned of what comes of showing an item: {error}.") from None
    tasks = tasks_of(learned.labels, LEAST)
    if not tasks or not all(task in tasks_of(tuned.labels, 1) for task in tasks):
        counts = ", ".join(map(str, learned.labels.sum(axis=0)))
        raise TableContractError(
            f"of {len(learned)} sessions too few items were retrieved and then taken (clicks, carts, purchases: {counts}); expected at "
            f"least {LEAST} of one kind. Give retrieval.data.val_days more days."
        )
    test = lists(Sessions.of(first.parts.test, first.late), first.late) if with_test else tuned
    log.get(__name__).info(
        "lists", train=len(learned), tuning=len(tuned), test=len(test) if with_test else 0, tasks=", ".join(tasks)
    )
    return Parts(learned, tuned, test, tasks, (begin, tuned_from, end))


def _task(recipe: Recipe, parts: Parts) -> RankerTask:
    encoder = Encoder.fit(parts.train.candidates, SOURCES)
    return RankerTask(recipe.model, encoder, parts.tasks, parts.train, parts.tuning, recipe.fit.batch_size, recipe.fit.seed)


def _fit(recipe: Recipe, context: Context, parts: Parts, inputs: Mapping[str, int], run: Run) -> tuple[Ranker, Trained]:
    """The ranker, calibrated and weighed on the tuning part."""
    task = _task(recipe, parts)
    trained = fit(
        task,
        recipe.fit,
        context.settings,
        title=f"{TASK} {recipe.name}",
        checkpoint=context.checkpoint(TASK, recipe.model_dump(mode="json"), dict(inputs), parts.digest, task.encoder.content),
        on_epoch=run.epoch,
    )
    network = task.build()
    network.load_state_dict(trained.final.state)
    network.eval()
    asked = encode(task.encoder, parts.tuning.candidates)
    found = chances(network, asked)
    calibration = Calibration.fit(np.log(found) - np.log1p(-found), labels_of(parts.tuning, parts.tasks))
    network.scale.copy_(torch.from_numpy(calibration.scale))
    network.shift.copy_(torch.from_numpy(calibration.shift))
    weights = best_weights(parts.tuning, chances(network, asked), parts.tasks)
    return Ranker(recipe.model, task.encoder, network, weights), trained


def _answers(ranker: Ranker, parts: Parts, seed: int) -> dict[str, Answer]:
    """What the ranker and each baseline say of the test part; every baseline is fitted and tuned on the same parts."""
    test, given = parts.test, ranker.chances(parts.test.candidates)
    answers = {TASK: Answer(value_of(given, ranker.tasks, ranker.weights), given)}
    if PURCHASE in ranker.tasks:
        answers[BY_REVENUE] = Answer(value_of(given, ranker.tasks, {PURCHASE: 1.0}, test.price))
    for name, baseline in BASELINES.items():
        begun = time.perf_counter()
        answers[name] = baseline(parts.train, parts.tuning, ranker.encoder, parts.tasks, seed)(test)
        log.get(__name__).info("baseline", name=name, seconds=round(time.perf_counter() - begun, 1))
    return answers


def _day(instant: int) -> str:
    return f"{datetime.fromtimestamp(instant / 1e6, UTC):%Y-%m-%d}"


def _card(
    recipe: Recipe,
    parts: Parts,
    ranker: Ranker,
    reports: Mapping[str, Mapping[str, float]],
    gains: Mapping[str, Mapping[str, evaluate.Interval]],
    epochs: int,
    seconds: float,
) -> str:
    """What the model is, what it was judged on, and where it falls short."""
    begin, tuned_from, end = (_day(instant) for instant in parts.begins)
    found = parts.test.labels[:, 0].sum() / parts.test.num_wanted.sum()
    verdicts = [
        f"- {metric} over `{name}`: {signed(mean, lo, hi)}" + ("" if lo > 0 else ", NOT above zero")
        for name, one in gains.items()
        for metric in evaluate.PER_LIST
        for mean, lo, hi in [one[metric]]
    ]
    return "\n".join(
        [
            "# Ranker",
            "",
            f"Orders the {NUM_CANDIDATES} items that the recommender gives the largest shares by what is likely to come of showing them: "
            f"calibrated chances of {', '.join(ranker.tasks)}, weighed "
            + ", ".join(f"{task} {weight:g}" for task, weight in ranker.weights.items())
            + ".",
            "A tower for the user, one for the item, a small network for what both have in common, on Feast features as they were "
            "visible at the instant; "
            + ("cart and purchase are chances given a click." if recipe.model.given_click else "one head per task."),
            "",
            f"Learned from {len(parts.train):,} sessions from {begin} on, {epochs} epochs, calibration and weights chosen on "
            f"{len(parts.tuning):,} from {tuned_from} on, tested once on {len(parts.test):,}, each user's first from {end} on "
            f"({seconds:.0f} s, recipe `{recipe.name}`). Split {parts.digest}.",
            f"Candidates of the first two are by a recommender fitted on what precedes {begin}, those of the test part by one fitted on "
            f"what precedes {end}. They hold {found:.1%} of what was wanted in the test part: what is missing counts as a miss for all.",
            "",
            evaluate.table(reports),
            "",
            evaluate.chances_table(reports, parts.tasks),
            "",
            "Gains (paired, 95 % bootstrap over users; above zero the model is better):",
            *verdicts,
            *(
                f"- revenue_at_10 of `{BY_REVENUE}` over `retrieval`: {cell(report, 'test_revenue_at_10_gain')}"
                for name, report in reports.items()
                if name == BY_REVENUE
            ),
            "",
            f"`{BY_REVENUE}` orders by the chance of a purchase times the price. `revenue_at_10` is the price of the items that the "
            "session bought, of those among the first ten; prices as told at the time.",
            "Falls short: no impressions are known, so a candidate that was never seen counts as one that was not wanted; what the "
            "first stage does not retrieve cannot be ranked; the recommender's number of epochs and blend were chosen on the days that "
            "the ranker learns and is tuned on.",
        ]
    )
