"""Training the sentiment model: learn the tokenizer, fit, calibrate, test once beside the baselines, register."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from features.tables import CLEAN_REVIEWS
from infra import log
from training.context import Context
from training.metrics import classification
from training.metrics.intervals import mean_interval
from training.sentiment import data, evaluate
from training.sentiment.baselines import BASELINES
from training.sentiment.encoder import Encoder
from training.sentiment.leakage import near_copies
from training.sentiment.model import Network, SentimentClassifier, branch_logits
from training.sentiment.recipes import Recipe
from training.tracking import Run
from training.trainer import Tuning
from training.trainer import train as fit

TASK = "sentiment"
_MIX_PENALTY = 1e-3


def train(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Train, compare with the baselines, register.

    Returns:
        `version` and `run_id` of the model, `metrics` of model and baselines on the test part, `near_copies`, `summary` to read.

    Raises:
        TableContractError: `clean_reviews` is missing or holds too few good or bad texts.
    """
    logger = log.get(__name__)
    reviews, version = data.read(context.lake)
    inputs = {CLEAN_REVIEWS.path: version}
    split, copies = without_near_copies(data.split(reviews))
    logger.info("reviews", train=len(split.train), val=len(split.val), test=len(split.test), **copies)
    seed = recipe.fit.seed
    tags = {"split_digest": split.digest[:16]}
    started, title = time.perf_counter(), f"{TASK} {recipe.name}"
    answers, seconds = {}, {}
    for name, baseline in BASELINES.items():
        begun = time.perf_counter()
        answers[name] = baseline(split.train.texts, split.train.labels)(split.test.texts)
        seconds[name] = time.perf_counter() - begun
        logger.info("baseline", name=name, seconds=round(seconds[name], 1))
    with context.tracking.run(TASK, name=title, role="model", recipe=recipe.model_dump(), inputs=inputs, tags=tags) as run:
        classifier = _fit(recipe, context, split, title, run)
        answers = {TASK: classifier.probabilities(split.test.texts), **answers}
        reports = {name: evaluate.metrics(split.test, probabilities, seed) for name, probabilities in answers.items()}
        gains, best = evaluate.gains(split.test, answers[TASK], {name: answers[name] for name in BASELINES}, seed)
        reports[TASK] |= gains
        categories = evaluate.by_category(split.test, answers[TASK], seed)
        left_out = _leave_one_category_out(recipe, context, split) if recipe.data.leave_one_category_out else {}
        card = _card(recipe, split, copies, reports, best, answers[TASK], categories, left_out, time.perf_counter() - started)
        run.metrics(reports[TASK])
        _log_answers(run, context, split.test, answers[TASK])
        run.figure(evaluate.calibration_plot(split.test, {n: answers[n] for n in (TASK, best)}), "calibration.png")
        if categories:
            run.figure(evaluate.category_plot(categories, "Accuracy by category, test part"), "accuracy_by_category.png")
        if left_out:
            run.figure(evaluate.category_plot(left_out, "Accuracy on a category never seen"), "accuracy_on_new_category.png")
        run.note(card)
        with tempfile.TemporaryDirectory() as folder:
            classifier.save(Path(folder))
            number = context.tracking.register(run, TASK, Path(folder), classifier.network.input_spec, card)
    for name in BASELINES:
        with context.tracking.run(TASK, name=name, role="baseline", recipe={"name": name}, inputs=inputs, tags=tags) as floor:
            floor.metrics(reports[name])
            _log_answers(floor, context, split.test, answers[name])
    return {
        "version": number,
        "run_id": run.id,
        "metrics": reports,
        "near_copies": copies,
        "by_category": categories,
        "left_out": left_out,
        "summary": evaluate.table(reports),
    }


def tuning(recipe: Recipe, context: Context) -> Tuning:
    """What a search for the recipe's values fits (raises as `train`)."""
    reviews, version = data.read(context.lake)
    split, _ = without_near_copies(data.split(reviews))
    inputs, tags = {CLEAN_REVIEWS.path: version}, {"split_digest": split.digest[:16]}
    return Tuning(_task(recipe, split)[1], inputs, tags, (split.digest, split.train.texts, split.val.texts))


def _task(recipe: Recipe, split: data.Split) -> tuple[Encoder, data.SentimentTask]:
    """A tokenizer learned from the training part, and what is fitted with it."""
    encoder = Encoder.learn(split.train.texts, split.train.labels, recipe.model.encoder)
    return encoder, data.SentimentTask.of(split, encoder, recipe.model, recipe.fit.batch_size, recipe.fit.seed)


def without_near_copies(split: data.Split) -> tuple[data.Split, dict[str, float]]:
    """The split without those training texts that nearly copy a text of the other parts, and what was found.

    The training text goes, never the test text: the test part stays the same as the data grows.
    """
    train = [data.core(text) for text in split.train.texts]
    in_test, of_test = near_copies([data.core(text) for text in split.test.texts], train)
    _, of_val = near_copies([data.core(text) for text in split.val.texts], train)
    dropped = of_test | of_val
    found = {"leaked_share": float(in_test.mean()), "dropped_from_train": int(dropped.sum())}
    return data.Split(split.train.where(~dropped), split.val, split.test), found


def calibrate(network: Network, logits: Tensor, labels: NDArray[np.int64], base_rate: float) -> None:
    """Fit the mix of the branches' logits (texts, R) on validation texts by log loss, and store it in the network.

    One temperature per branch and a shift (Guo et al. 2017; Platt 1999), pulled slightly to the plain mean of the branches.
    """
    mix, bias = network.mix.detach().clone().requires_grad_(), network.mix_bias.detach().clone().requires_grad_()
    wanted = torch.from_numpy(labels).float()
    start = network.mix.clone()
    optimizer = torch.optim.LBFGS([mix, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(logits @ mix + bias, wanted)
        loss = loss + _MIX_PENALTY * ((mix - start).square().sum() + bias.square())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    network.mix.copy_(mix.detach())
    network.mix_bias.copy_(bias.detach())
    network.base_rate.fill_(base_rate)


def _fit(recipe: Recipe, context: Context, split: data.Split, title: str, run: Run | None = None) -> SentimentClassifier:
    """Learn the tokenizer and fit the network through Ray Train; with a run, its curve is logged."""
    encoder, task = _task(recipe, split)
    trained = fit(
        task,
        recipe.fit,
        context.settings,
        title=title,
        checkpoint=context.checkpoint(TASK, recipe.model_dump(mode="json"), split.digest, split.train.texts, split.val.texts),
        on_epoch=run.epoch if run else None,
    )
    network = task.build()
    network.load_state_dict(trained.final.state)
    network.eval()
    calibrate(network, branch_logits(network, task.val).clone(), split.val.labels, float(split.train.labels.mean()))
    return SentimentClassifier(recipe.model, encoder, network)


def _leave_one_category_out(recipe: Recipe, context: Context, split: data.Split) -> dict[str, tuple[float, float, float, int]]:
    """Accuracy on the test texts of each category by a model that saw none of its texts; the best first."""
    found = {}
    names, counts = np.unique(split.train.categories[split.train.categories != ""], return_counts=True)
    for category in names[counts >= recipe.data.min_category_texts]:
        kept = data.Split(
            split.train.where(split.train.categories != category), split.val.where(split.val.categories != category), split.test
        )
        asked = split.test.where(split.test.categories == category)
        if not len(asked):
            continue
        probabilities = _fit(recipe, context, kept, f"{TASK} without {category}").probabilities(asked.texts)
        interval = mean_interval(classification.correct(asked.labels, probabilities), recipe.fit.seed)
        found[str(category)] = (*interval, len(asked))
        log.get(__name__).info("left out", category=str(category), accuracy=round(interval[0], 4))
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def _log_answers(run: Run, context: Context, test: data.Reviews, probabilities: NDArray[np.float64]) -> None:
    """Per text its answer, the surest mistakes, the confusion. Texts are personal: they stay in the lake, ids are hashed."""
    rows = evaluate.per_review(test, probabilities, [context.home.pseudonym(review_id) for review_id in test.ids.tolist()])
    run.table(rows, "per_review.parquet")
    run.table(evaluate.mistakes(rows), "mistakes.parquet")
    run.figure(evaluate.confusion_plot(test, probabilities), "confusion.png")


def _card(
    recipe: Recipe,
    split: data.Split,
    copies: dict[str, float],
    reports: dict[str, dict[str, float]],
    best: str,
    probabilities: NDArray[np.float64],
    categories: dict[str, tuple[float, float, float, int]],
    left_out: dict[str, tuple[float, float, float, int]],
    seconds: float,
) -> str:
    """What the model is, what it was judged on, and where it falls short."""
    report = reports[TASK]
    gain, lo, hi = (report[f"test_accuracy_gain{end}"] for end in ("", "_lo", "_hi"))
    sure = classification.accuracy_when_sure(split.test.labels, probabilities, 0.9)
    lines = [
        "# Sentiment",
        "",
        "Whether a review is good or bad, with a calibrated probability. Character n-grams and a convolution over characters, with a "
        "tokenizer learned from the shop's own reviews; no pre-trained weights, no language built in.",
        "",
        f"Learned from {len(split.train):,} texts, tuned and calibrated on {len(split.val):,}, tested once on {len(split.test):,} "
        f"({seconds:.0f} s in all, recipe `{recipe.name}`). A text's part is a hash of its letters.",
        f"Near copies: {copies['leaked_share']:.2%} of the test texts had one among the training texts; "
        f"{copies['dropped_from_train']:,} training texts that nearly copy a test or validation text were left out.",
        "",
        evaluate.table(reports),
        "",
        f"Paired gain in accuracy over `{best}`: {gain:.4f} [{lo:.4f}, {hi:.4f}] (95 % bootstrap over texts), "
        + ("above zero." if lo > 0 else "NOT above zero: the floor stands."),
        f"Accuracy when the least sure tenth goes to a person: {sure:.4f}.",
    ]
    for title, found in (("By category", categories), ("On a category never seen", left_out)):
        if found:
            lines += ["", f"{title}:", "", "| | category | accuracy | texts |", "|---|---|---|---|"]
            lines += [
                f"| {i} | {name} | {a:.4f} [{low:.4f}, {high:.4f}] | {n:,} |"
                for i, (name, (a, low, high, n)) in enumerate(found.items(), 1)
            ]
    lines += [
        "",
        "Falls short: irony, comparisons with another product, texts that praise and blame, kinds of goods it never saw. Only the first "
        f"{recipe.model.encoder.max_chars:,} characters are read.",
    ]
    return "\n".join(lines)
