"""How good the answers on a part are: metrics with intervals, gains over the floors, plots, and the tables behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.columns import CATEGORY, LABEL
from training.metrics import classification
from training.metrics.comparison import comparison
from training.metrics.intervals import mean_interval, paired_interval
from training.metrics.names import with_interval
from training.sentiment.data import Reviews

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
MIN_CATEGORY_TEXTS = 30
"""A category with fewer test texts is not shown alone."""
NUM_MISTAKES = 50


def metrics(test: Reviews, probabilities: Floats, seed: int) -> dict[str, float]:
    """Every metric on the test part with its interval."""
    return classification.scores_with_intervals(test.labels, probabilities, seed, "test_")


def gains(test: Reviews, probabilities: Floats, floors: Mapping[str, Floats], seed: int) -> tuple[dict[str, float], str]:
    """Paired gain in accuracy and log loss over the floor that has the best accuracy, and that floor's name; positive: better."""
    best = max(floors, key=lambda name: classification.accuracy(test.labels, floors[name]))
    accuracy = paired_interval(
        classification.correct(test.labels, probabilities), classification.correct(test.labels, floors[best]), seed
    )
    log_loss = paired_interval(
        classification.log_losses(test.labels, floors[best]), classification.log_losses(test.labels, probabilities), seed
    )
    return {**with_interval("test_accuracy_gain", accuracy), **with_interval("test_log_loss_gain", log_loss)}, best


def by_category(test: Reviews, probabilities: Floats, seed: int) -> dict[str, tuple[float, float, float, int]]:
    """Category -> accuracy, lo, hi, texts; the best first."""
    correct = classification.correct(test.labels, probabilities)
    found = {}
    for category in np.unique(test.categories[test.categories != ""]):
        mask = test.categories == category
        if mask.sum() >= MIN_CATEGORY_TEXTS:
            found[str(category)] = (*mean_interval(correct[mask], seed), int(mask.sum()))
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def per_review(test: Reviews, probabilities: Floats, pseudonyms: list[str]) -> pa.Table:
    """One row per test text, without the text: its hashed id, category, label, probability of good, log loss."""
    return pa.table(
        {
            "review": pseudonyms,
            CATEGORY: test.categories.tolist(),
            LABEL: test.labels,
            "probability": probabilities,
            "log_loss": classification.log_losses(test.labels, probabilities),
        }
    )


def mistakes(rows: pa.Table) -> pa.Table:
    """The rows of `per_review` that were answered wrongly, the surest first."""
    wrong = np.flatnonzero(classification.correct(rows[LABEL].to_numpy(), rows["probability"].to_numpy()) == 0)
    surest = wrong[np.argsort(-rows["log_loss"].to_numpy()[wrong], kind="stable")[:NUM_MISTAKES]]
    return rows.take(pa.array(surest))


def confusion_plot(test: Reviews, probabilities: Floats) -> Figure:
    """True class against answered class, counts and shares of the true class."""
    from matplotlib.figure import Figure

    counts = classification.confusion(test.labels, probabilities)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
    names = ("bad", "good")
    axes.set(xticks=(0, 1), yticks=(0, 1), xticklabels=names, yticklabels=names, xlabel="answered", ylabel="true")
    axes.set_title("Confusion, test part")
    return figure


def calibration_plot(test: Reviews, answers: Mapping[str, Floats]) -> Figure:
    """Probability of good against the share that is good, and how many texts get each probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot((0, 1), (0, 1), color="grey", linestyle=":", label="perfect")
    for name, probabilities in answers.items():
        means, shares, _ = classification.reliability(test.labels, probabilities)
        upper.plot(means, shares, marker="o", label=f"{name}, ECE {classification.ece(test.labels, probabilities):.3f}")
        lower.hist(probabilities, bins=30, range=(0, 1), histtype="step")
    upper.set(ylabel="share that is good", title="Calibration, test part")
    upper.legend()
    lower.set(xlabel="probability of good", ylabel="texts", yscale="log")
    return figure


def category_plot(categories: Mapping[str, tuple[float, float, float, int]], title: str) -> Figure:
    """Accuracy of each category with its interval; numbers stand for names that the plot's font may lack."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.2 + 0.32 * len(categories)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(categories))[::-1]
    means, los, his, counts = (np.array(values) for values in zip(*categories.values(), strict=True))
    axes.errorbar(means, places, xerr=(np.maximum(means - los, 0), np.maximum(his - means, 0)), fmt="o", capsize=3)
    labels = [
        f"{_drawable(name, number)} ({count:,})" for number, (name, count) in enumerate(zip(categories, counts, strict=True), 1)
    ]
    axes.set(yticks=places, yticklabels=labels, xlabel="accuracy", title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure


def table(reports: Mapping[str, Mapping[str, float]]) -> str:
    """Model and baselines side by side, in Markdown."""
    return comparison(reports, ("accuracy", "macro_f1", "log_loss", "ece"))


def _drawable(name: str, number: int) -> str:
    """The name, where the font of the plots has its letters, else its rank; the card lists the names in the same order."""
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans"))
    return name if all(font.get_char_index(ord(letter)) for letter in name) else f"category {number}"
