"""Training the propensity model: fit, calibrate, test once beside the baselines, register."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from features.days import day_number, day_of
from features.tables import INTERACTIONS
from infra import clock, log
from training.context import Context
from training.metrics.comparison import signed
from training.propensity import data, evaluate
from training.propensity.baselines import BASELINES
from training.propensity.data import Parts, PropensityTask, Rows
from training.propensity.encoder import Encoder, Facts
from training.propensity.model import Answers, Network, Propensity, negative_log_likelihood
from training.propensity.recipes import Recipe
from training.tracking import Run
from training.trainer import Tuning
from training.trainer import train as fit

TASK = "propensity"
_PENALTY = 1e-3


def train(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Train, compare with the baselines, register.

    Returns:
        `version` and `run_id` of the model, `metrics` of model and baselines on the test part, `gains` over each baseline,
        `summary` to read.

    Raises:
        TableContractError: `interactions` is missing, or holds too few days, users or purchases.
    """
    logger, seed = log.get(__name__), recipe.fit.seed
    facts, parts, inputs, tags = _read(recipe, context)
    logger.info("rows", train=len(parts.train), val=len(parts.val), test=len(parts.test), test_from=str(day_of(parts.plan.test)))
    with context.tracking.run(
        TASK, name=f"{TASK} {recipe.name}", role="model", recipe=recipe.model_dump(), inputs=inputs, tags=tags
    ) as run:
        started = time.perf_counter()
        model, epochs = _fit(recipe, context, parts, run)
        seconds = time.perf_counter() - started
        test = parts.test
        answers: dict[str, Answers] = {TASK: model.answers(test.values, parts.plan.test)}
        for name, baseline in BASELINES.items():
            begun = time.perf_counter()
            answers[name] = baseline(parts, model.encoder, seed)(test)
            logger.info("baseline", name=name, seconds=round(time.perf_counter() - begun, 1))
        draws = {name: evaluate.resampled(test, answer, seed) for name, answer in answers.items()}
        reports = {name: evaluate.metrics(values) for name, values in draws.items()}
        gains = evaluate.gains(draws[TASK], {name: draws[name] for name in BASELINES})
        hardest = evaluate.hardest(gains)
        reports[TASK] |= evaluate.judged(gains[hardest])
        run.tags({"hardest_floor": hardest})
        _log_answers(run, context, facts, test, TASK, answers, reports)
        run.figure(evaluate.waiting(test, 1 - model.unbought(test.values, parts.plan.test).mean(axis=0)), "waiting.png")
        run.figure(evaluate.gains_over(gains), "gains_over_baselines.png")
        card = _card(recipe, parts, model, answers, reports, gains, epochs, seconds)
        run.note(card)
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder))
            number = context.tracking.register(run, TASK, Path(folder), model.network.input_spec, card)
    for name in BASELINES:
        with context.tracking.run(TASK, name=name, role="baseline", recipe={"name": name}, inputs=inputs, tags=tags) as floor:
            _log_answers(floor, context, facts, test, name, answers, reports)
    return {
        "version": number,
        "run_id": run.id,
        "train_s": seconds,
        "metrics": reports,
        "gains": gains,
        "summary": evaluate.table(reports),
    }


def _log_answers(
    run: Run,
    context: Context,
    facts: Facts,
    test: Rows,
    name: str,
    answers: Mapping[str, Answers],
    reports: Mapping[str, Mapping[str, float]],
) -> None:
    """What every run of the experiment shows, model and baseline alike; users as keyed hashes."""
    run.metrics(reports[name])
    run.figure(evaluate.reliability(test, {one: answers[one] for one in dict.fromkeys((name, TASK))}), "reliability.png")
    pseudonyms = [context.home.pseudonym(user) for user in facts.users[test.user].tolist()]
    run.table(evaluate.per_user(test, answers[name], pseudonyms), "per_user.parquet")


def tuning(recipe: Recipe, context: Context) -> Tuning:
    """What a search for the recipe's values fits (raises as `train`)."""
    _, parts, inputs, tags = _read(recipe, context)
    task = _task(recipe, parts.train, parts.val, parts.plan.horizon)
    return Tuning(task, inputs, tags, (inputs, parts.digest, task.encoder.content))


def _read(recipe: Recipe, context: Context) -> tuple[Facts, Parts, dict[str, int], dict[str, str]]:
    """What is known of users, the parts it is learned from and asked about, the table versions it is made of, and tags of a run."""
    shop = context.shop
    facts, version = data.read(context.lake, shop.time_zone)
    today = clock.now(context.settings.now or shop.now, context.lake).astimezone(shop.zone).date()
    facts = facts.before(day_number(today))  # days that are over; what says it is of the future waits for it
    parts = data.split(facts, recipe.data, recipe.fit.seed)
    return facts, parts, {INTERACTIONS.path: version}, {"split_digest": parts.digest[:16]}


def _task(recipe: Recipe, rows: Rows, val: Rows | None, horizon: int) -> PropensityTask:
    return PropensityTask.of(rows, val, Encoder.fit(rows.values, horizon), recipe.model, recipe.fit.batch_size, recipe.fit.seed)


def _fit(recipe: Recipe, context: Context, parts: Parts, run: Run) -> tuple[Propensity, int]:
    """The calibrated model, and how many epochs were kept.

    What is learned again on all rows before the test part is calibrated by what the first fit missed on the validation part, which
    it saw for the first time, as the second one will the test part; measured in infra/decisions.md.
    """
    task, final = (_task(recipe, rows, val, parts.plan.horizon) for rows, val in ((parts.train, parts.val), (parts.refit, None)))
    trained = fit(
        task,
        recipe.fit,
        context.settings,
        title=f"{TASK} {recipe.name}",
        checkpoint=context.checkpoint(TASK, recipe.model_dump(mode="json"), run.tables, parts.digest, task.encoder.content),
        refit=final,
        on_epoch=run.epoch,
    )
    tuned, network = task.build(), final.build()
    tuned.load_state_dict(trained.tuned.state)
    network.load_state_dict(trained.final.state)
    logits = Propensity(recipe.model, task.encoder, tuned.eval()).logits(parts.val.values, parts.val.day).clone()
    calibrate(network, logits, parts.val)
    return Propensity(recipe.model, final.encoder, network.eval()), trained.tuned.best_epoch + 1


def calibrate(network: Network, logits: Tensor, rows: Rows) -> None:
    """Fit the shift of the hazards' logits (rows, H) by what the rows saw, and store it in the network.

    One number: how much more or less everybody buys than before. A scale beside it did worse on one past of two.
    """
    shift = torch.zeros((), requires_grad=True)
    days, bought = torch.from_numpy(rows.days), torch.from_numpy(rows.bought)
    optimizer = torch.optim.LBFGS([shift], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = negative_log_likelihood(logits + shift, days, bought).mean() + _PENALTY * shift.square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    network.shift.copy_(shift.detach())


def _card(
    recipe: Recipe,
    parts: Parts,
    model: Propensity,
    answers: Mapping[str, Answers],
    reports: Mapping[str, Mapping[str, float]],
    gains: Mapping[str, Mapping[str, evaluate.Interval]],
    epochs: int,
    seconds: float,
) -> str:
    """What the model is, what it was judged on, and where it falls short."""
    plan, test = parts.plan, parts.test
    expected = [
        f"- within {days} days: {evaluate.probabilities(answers[TASK], days).sum():,.0f} expected, {test.bought_within(days).sum():,} did"
        for days in evaluate.WITHIN
    ]
    verdicts = [
        f"- {metric} over `{name}`: {signed(mean, lo, hi)}" + ("" if lo > 0 else ", NOT above zero: it stands")
        for name, found in gains.items()
        for metric, (mean, lo, hi) in found.items()
    ]
    return "\n".join(
        [
            "# Propensity",
            "",
            "Whether and when each known user buys next: p_buy_7d, p_buy_30d and the expected days, from one curve of daily hazards",
            f"over {plan.horizon} days. A small network on features of the user's acts, as they were known on the day; the weekday moves",
            "the hazard for all. A purchase is a local day with at least one line bought.",
            "",
            f"Learned from {len(parts.refit):,} rows on {len(plan.refit)} cut-off days, {day_of(plan.refit[0])} to "
            f"{day_of(plan.refit[-1])}, watched until {day_of(plan.test)} ({seconds:.0f} s in all, recipe `{recipe.name}`).",
            f"Before, {epochs} epochs and the calibration (hazards' logits {float(model.network.shift):+.3f}) were chosen on "
            f"{len(parts.val):,} rows from {day_of(plan.val)} on, after learning from {len(parts.train):,} rows watched until then.",
            f"Test part: {len(test):,} users known on {day_of(plan.test)}, watched for {plan.horizon} days, touched once. "
            f"Split {parts.digest[:12]}.",
            "",
            evaluate.table(reports),
            "",
            "Buyers of the test part:",
            *expected,
            "",
            "Gains (paired, 95 % bootstrap over users; above zero the model is better):",
            *verdicts,
            "",
            f"Who does not buy within {plan.horizon} days counts with {plan.horizon} in `mae_days` and in the expected days. These are",
            "means, and it is medians that make a mean error least. `ece` has ten bins of equally many users; noise pushes it up.",
            "Falls short: what all users do at once and the past did not show (a sale, Christmas, a closed shop) is not foreseen; who is",
            "not known by an act has no row; an act counts from the next local day on.",
        ]
    )
