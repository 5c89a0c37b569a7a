"""Training the recommender: tune on the validation part, refit up to the test part, score it once, register."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, ITEM_ID, SESSION_ID, USER_ID
from features.revisions import current_rows
from features.tables import INTERACTIONS, ITEM_CATALOG
from infra import log
from infra.errors import TableContractError
from training.checkpoints import rows_digest
from training.context import Context
from training.metrics.comparison import signed
from training.metrics.names import with_interval
from training.metrics.ranking import RankingReport
from training.recommender import evaluate, placements
from training.recommender.baselines import NEIGHBOURS, Baseline, Paired, fitted, floors
from training.recommender.blend import fit_weights
from training.recommender.content import READ, told_before, words_of
from training.recommender.data import (
    Queries,
    RecommenderTask,
    ask,
    make_encoder,
    make_queries,
    make_sequences,
    scorer,
    split,
)
from training.recommender.model import Recommender
from training.recommender.names import CONTENT, PAIRED
from training.recommender.purchases import Purchases
from training.recommender.recipes import Recipe
from training.recommender.sources import Near, Source
from training.splits import Split
from training.tracking import Run
from training.trainer import OnEpoch, Trained, Tuning
from training.trainer import train as fit

TASK = "recommender"


def train(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Train, compare with the floors, register.

    Returns:
        `version` and `run_id` of the model, `metrics` of model and floors on the test part, `gains` over each floor,
        `summary` to read.

    Raises:
        TableContractError: `interactions` is missing, empty, or too short for the recipe.
    """
    parts, catalog, inputs, tags = _read(recipe, context)
    seed = recipe.fit.seed

    title = f"{TASK} {recipe.name}"
    with context.tracking.run(TASK, name=title, role="model", recipe=recipe.model_dump(), inputs=inputs, tags=tags) as run:
        started = time.perf_counter()
        tuning = make_task(recipe, parts, catalog, is_tuning=True)
        # published leave-one-out tables do not fit again
        refit = make_task(recipe, parts, catalog, is_tuning=False) if recipe.data.protocol == "time" else None
        final = refit or tuning
        trained = _fit(recipe, context, parts, inputs, tuning, refit, run.epoch)
        seconds = time.perf_counter() - started
        queries = make_queries(parts.test, final.encoder)
        chosen = choose_floors(tuning, final, context.settings.train_memory_gb)
        _, recommender = blend(trained, tuning, final, chosen)
        answers = {TASK: _ask(scorer(recommender), queries, final)}
        answers |= {name: _ask(floor, queries, final) for name, floor in chosen.late.items()}
        counts = final.sequences.item_counts(len(final.encoder.items))
        reports = {name: evaluate.metrics(answer, queries, counts, seed) for name, answer in answers.items()}
        others = {name: answer for name, answer in answers.items() if name != TASK}
        gains = evaluate.gains(answers[TASK], others, queries, seed)
        hardest, gain = next(iter(gains.items()))
        reports[TASK] |= with_interval("test_ndcg_at_10_gain", gain)

        segments = evaluate.segments(answers[TASK], answers[hardest], queries, counts, seed)
        run.table(segments, "segments.parquet")
        run.tags({f"weight_{name}": str(weight) for name, weight in recommender.weights.items()})
        run.tags({f"not_run_{name}": why for name, why in chosen.not_run.items()})
        run.tags({"hardest_floor": hardest, "num_cold_users": str(queries.num_cold_users)})
        _log_answer(run, TASK, answers, reports, queries, counts, context)
        zone = context.shop.time_zone
        purchases = Purchases.learn(parts.refit if refit else parts.train, final.encoder, zone)
        judged = placements.judge(parts, tuning.encoder, zone, seed) if refit else []
        if judged:
            run.table(pa.Table.from_pylist([row for one in judged for row in one.rows(seed)]), "placements.parquet")
        run.figure(evaluate.gains_over_floors(gains), "gains_over_floors.png")
        card = _card(
            recipe, parts, recommender, queries, reports, gains, segments, chosen.not_run, trained.tuned.best_epoch + 1, seconds
        )
        card += placements.section(judged, seed)
        run.note(card)
        with tempfile.TemporaryDirectory() as folder:
            recommender.save(Path(folder))
            purchases.save(Path(folder))
            registered = context.tracking.register(run, TASK, Path(folder), recommender.network.input_spec, card)
    for name, floor in chosen.late.items():
        content = {"name": name, "settings": floor.settings, "data": recipe.data.model_dump()}
        with context.tracking.run(TASK, name=name, role="baseline", recipe=content, inputs=inputs, tags=tags) as floor_run:
            _log_answer(floor_run, name, answers, reports, queries, counts, context)
    return {
        "version": registered,
        "run_id": run.id,
        "train_s": seconds,
        "metrics": reports,
        "gains": gains,
        "summary": evaluate.table(reports),
    }


def tuning(recipe: Recipe, context: Context) -> Tuning:
    """What a search for the recipe's values fits (raises as `train`)."""
    parts, catalog, inputs, tags = _read(recipe, context)
    task = make_task(recipe, parts, catalog, is_tuning=True)
    return Tuning(task, inputs, tags, (inputs, parts.digest, rows_digest(parts.refit)))


def _read(recipe: Recipe, context: Context) -> tuple[Split, pa.Table | None, dict[str, int], dict[str, str]]:
    """The parts, what was said of items, the table versions both came from, and the tags of every run over them."""
    version = context.lake.version(INTERACTIONS.path)
    if version is None:
        raise TableContractError(f"table {INTERACTIONS.path} does not exist; run `shopgraph build interactions` first.")
    columns = ["interaction_id", USER_ID, SESSION_ID, ITEM_ID, EVENT_TYPE, EVENT_TIMESTAMP, CREATED_TIMESTAMP]
    parts = split(current_rows(context.lake, INTERACTIONS, version, columns), recipe.data)
    inputs = {INTERACTIONS.path: version}
    return parts, _catalog(recipe, context, inputs), inputs, {"split_digest": parts.digest, "protocol": recipe.data.protocol}


def _catalog(recipe: Recipe, context: Context, inputs: dict[str, int]) -> pa.Table | None:
    """What was said of items, if it is to be learned and the table was built; its version goes into `inputs`."""
    version = context.lake.version(ITEM_CATALOG.path) if recipe.data.content else None
    if version is None:
        return None
    inputs[ITEM_CATALOG.path] = version
    return current_rows(context.lake, ITEM_CATALOG, version, READ)


def make_task(recipe: Recipe, parts: Split, catalog: pa.Table | None, *, is_tuning: bool) -> RecommenderTask:
    """While tuning: learn from the training part, watch the validation part. Then: learn from all before the test part."""
    rows, asked = (parts.train, parts.val) if is_tuning else (parts.refit, parts.test)
    told = None
    if catalog is not None:
        by_time = recipe.data.protocol == "time"
        ends = [pc.max(part[EVENT_TIMESTAMP]).as_py() if by_time else None for part in (rows, asked.targets)]
        told = told_before(catalog, *ends)
    encoder = make_encoder(rows, recipe.data.popular_days, told or (), collapse=recipe.data.collapse)
    words = None if told is None else [words_of(told.get(item, {})) for item in encoder.items]
    val = make_queries(asked, encoder) if is_tuning else None
    sequences = make_sequences(rows, encoder)
    return RecommenderTask(recipe.model, recipe.data, encoder, sequences, val, recipe.fit.batch_size, recipe.fit.seed, words)


@dataclass(frozen=True)
class Retrieval:
    """The recommender at two instants, without floors or a run of its own: what is built on it learns from its foresight."""

    parts: Split
    inputs: dict[str, int]
    """Table versions it was made of: path -> version."""
    early: Recommender
    """Fitted on what precedes the validation part. Number of epochs and weights of the sources were chosen there."""
    late: Recommender
    """Fitted on what precedes the test part: the one that `train` registers."""


def retrieval(recipe: Recipe, context: Context) -> Retrieval:
    """Fit it, or take from the checkpoints what `train` fitted by the same recipe on the same rows (raises as `train`).

    Raises:
        TableContractError: the recipe's protocol is not `time`, which has one instant for all.
    """
    if recipe.data.protocol != "time":
        raise TableContractError(f"retrieval at an instant needs the protocol time, got {recipe.data.protocol}.")
    parts, catalog, inputs, _ = _read(recipe, context)
    tuning, final = (make_task(recipe, parts, catalog, is_tuning=is_tuning) for is_tuning in (True, False))
    trained = _fit(recipe, context, parts, inputs, tuning, final)
    chosen = choose_floors(tuning, final, context.settings.train_memory_gb, PAIRED)
    early, late = blend(trained, tuning, final, chosen)
    return Retrieval(parts, inputs, early, late)


def _fit(
    recipe: Recipe,
    context: Context,
    parts: Split,
    inputs: dict[str, int],
    tuning: RecommenderTask,
    refit: RecommenderTask | None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    return fit(
        tuning,
        recipe.fit,
        context.settings,
        title=f"{TASK} {recipe.name}",
        checkpoint=context.checkpoint(TASK, recipe.model_dump(mode="json"), inputs, parts.digest, rows_digest(parts.refit)),
        refit=refit,
        on_epoch=on_epoch,
    )


@dataclass(frozen=True)
class Floors:
    """Each kind of floor that fits the memory, in its setting that is best on the validation part."""

    early: dict[str, Near]
    """Of those that can be sources, what they knew before the validation part."""
    late: dict[str, Baseline]
    """All of them, fitted on what the final network was fitted on."""
    not_run: dict[str, str]
    """Name -> why, of those that do not fit."""


def blend(trained: Trained, tuning: RecommenderTask, final: RecommenderTask, ran: Floors) -> tuple[Recommender, Recommender]:
    """The networks of both fits beside what was counted, weighed as the tuned ones rank best on the validation part."""
    late = {name: floor.source().strongest(NEIGHBOURS) for name, floor in ran.late.items() if isinstance(floor, Paired)}
    assert tuning.val is not None
    early = replace(tuning.restored(trained.tuned.state), counted=_beside(tuning, ran.early))
    weights = fit_weights(early, tuning.val, tuning.val_users)
    return replace(early, weights=weights), replace(
        final.restored(trained.final.state), counted=_beside(final, late), weights=weights
    )


def _beside(task: RecommenderTask, paired: Mapping[str, Near]) -> dict[str, Source]:
    """The sources beside a network of the task."""
    return {**paired, **({CONTENT: content} if (content := task.content) else {})}


def choose_floors(tuning: RecommenderTask, final: RecommenderTask, memory_gb: float, only: Collection[str] | None = None) -> Floors:
    """The floors (or `only` some), chosen and fitted; those that need more memory than that are not run."""
    val = tuning.val
    assert val is not None
    ran = Floors({}, {}, {})
    for name, candidates in floors().items():
        if only is not None and name not in only:
            continue
        needed = max(floor.memory(final.sequences, len(final.encoder.items)) for floor in candidates) / 1e9
        if needed > memory_gb:
            ran.not_run[name] = f"needs about {needed:,.1f} GB, SHOPGRAPH_TRAIN_MEMORY_GB is {memory_gb:g}"
            log.get(__name__).warning("baseline not run", baseline=name, why=ran.not_run[name])
            continue
        asked = fitted(candidates, tuning.sequences, len(tuning.encoder.items))
        if len(candidates) == 1:
            best = next(asked)
        else:
            best = max(asked, key=lambda floor: _ask(floor, val, tuning, tuning.val_users).means["ndcg_at_10"])
        if isinstance(best, Paired):
            ran.early[name] = best.source().strongest(NEIGHBOURS)
        if final is not tuning:
            best.fit(final.sequences, len(final.encoder.items))
        ran.late[name] = best
    return ran


def _ask(scorer: Any, queries: Queries, task: RecommenderTask, users: evaluate.Ints | None = None) -> RankingReport:
    return ask(scorer, queries, len(task.encoder.items), task.config.repeats, users)


def _log_answer(
    run: Run,
    name: str,
    answers: Mapping[str, RankingReport],
    reports: Mapping[str, Mapping[str, float]],
    queries: Queries,
    counts: evaluate.Ints,
    context: Context,
) -> None:
    """What every run of the experiment shows, model and floor alike."""
    run.metrics(reports[name])
    shown = answers if name == TASK else {name: answers[name], TASK: answers[TASK]}
    run.figure(evaluate.recall_by_popularity(shown, counts), "recall_by_popularity.png")
    run.figure(evaluate.ndcg_by_history(shown, queries), "ndcg_by_history.png")
    run.table(evaluate.per_user(answers[name], queries, context.home.pseudonym), "per_user.parquet")


def _card(
    recipe: Recipe,
    parts: Split,
    recommender: Recommender,
    queries: Queries,
    reports: Mapping[str, Mapping[str, float]],
    gains: Mapping[str, evaluate.Interval],
    segments: pa.Table,
    too_large: Mapping[str, str],
    epochs: int,
    seconds: float,
) -> str:
    """What the model is, what it was judged on, and where it falls short."""
    targets = parts.test.targets
    times = targets[EVENT_TIMESTAMP].to_pylist()
    unknown = sum(int((wanted < 0).sum()) for wanted in queries.targets) / sum(len(wanted) for wanted in queries.targets)
    by_time = recipe.data.protocol == "time"
    asked = {
        "session": "all items of the next session",
        "item": "the first item of the next session",
        "act": "each act after another of its user",
    }[recipe.data.target]
    return "\n".join(
        [
            "# Recommender",
            "",
            f"What a user takes next, out of {len(recommender.encoder.items)} items, from the newest {recipe.model.max_length} acts of "
            "the history.",
            "A causal transformer with a softmax over the catalogue and tied item embeddings, blended with what was counted: "
            f"{', '.join(f'{name} {weight:g}' for name, weight in recommender.weights.items() if weight)}.",
            "",
            f"Protocol `{recipe.data.protocol}`; asked: {asked if by_time else 'the last act of each user'}. Test part: "
            f"{min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}, touched once; split {parts.digest[:12]}.",
            f"{len(set(queries.askers))} users with a history were asked {len(queries)} times, for {targets.num_rows} acts; "
            f"{queries.num_cold_users} {'acts' if recipe.data.target == 'act' else 'users'} without one were not asked for.",
            f"{unknown:.1%} of the wanted items are new to the catalogue: nobody can hit them, they count as misses for all.",
            f"{epochs} epochs were chosen on the validation part"
            + (", then the network was fitted again on all that precedes the test part" if by_time else "")
            + f" ({seconds:.0f} s in all).",
            "Ranked: the whole catalogue; items of the own history "
            + ("may come again." if recipe.model.repeats else "are left out.")
            + " Ties count against whoever made them. Floors: same rows, same candidates, settings chosen on the validation part.",
            "",
            evaluate.table(reports),
            "",
            "Paired gain in ndcg_at_10 (95 % bootstrap over users):",
            *(
                f"- over `{name}`: {signed(mean, lo, hi)}, " + ("above zero" if lo > 0 else "NOT above zero: the floor stands")
                for name, (mean, lo, hi) in gains.items()
            ),
            *(f"- `{name}` was not run: {why}" for name, why in too_large.items()),
            "",
            f"Parts of the questions, gain over `{next(iter(gains))}`:",
            "",
            evaluate.segments_table(segments),
            "",
            f"Limits: what nobody took yet is known {_new_items(recommender)};",
            "when acts happened and what an item costs that day is not seen;",
            "who has no history gets the popular list. Scores are logs of shares and not calibrated.",
        ]
    )


def _new_items(recommender: Recommender) -> str:
    if len(recommender.vocabulary):
        return "by the words of its category, brand, title and price alone"
    return "only after a training that comes after it was taken"
