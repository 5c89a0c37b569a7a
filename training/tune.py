"""Searching a recipe's fields for what is best on the validation part; the test part is not asked."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Sequence
from functools import reduce
from importlib import import_module
from operator import getitem
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from infra import log
from infra.errors import DivergedError, EngineError, SettingsError
from infra.lake import digest_of
from training import recipe as recipes
from training.checkpoints import task_digest
from training.context import Context
from training.search import Search, Trial, Tried
from training.space import Range, Space, text, told
from training.tracking import Run
from training.trainer import Tuning
from training.trainer import train as fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check(model: str, name: str, changes: tuple[str, ...], space: Space) -> None:
    """Each value of a space must fit the recipe.

    Raises:
        SettingsError: a field does not exist, is set already, or cannot have such a value.
    """
    fixed = {change.partition("=")[0] for change in changes} & space.keys()
    if fixed:
        raise SettingsError(f"{fixed.pop()} is both searched and set; leave out one of the two.")
    for field, values in space.items():
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            recipes.load(model, name, (*changes, f"{field}={text(value)}"))


def tune(model: str, name: str, changes: tuple[str, ...], space: Space, trials: int, context: Context) -> dict[str, Any]:
    """Try values of a recipe's fields until `trials` have been tried; the same call goes on after a kill.

    Each trial is a fit on the training part, judged on the validation part by the metric that chooses the epoch. One that is
    worse than the median of the others at the same epoch is stopped.

    Returns:
        `best`: its value, the metric's name and `changes` as `--set` takes them; `trials`, `run_id` of the parent run, `summary`.

    Raises:
        EngineError: no trial went to its end.
        TableContractError: the tables do not allow the training.
    """
    check(model, name, changes, space)
    module, recipe = import_module(f"training.{model}.train"), recipes.load(model, name, changes)
    begun: Tuning = module.tuning(recipe, context)
    content = recipe.model_dump(mode="json")
    known = digest_of(task_digest(model), content, told(space), *begun.parts)[:16]
    metric = str(begun.task.monitor)
    search = Search(
        context.home.sql / "searches.db",
        f"{context.shop.name}/{model}/{recipe.name}/{known}",
        space,
        begun.task.mode,
        recipe.fit.seed,
        {field: _at(content, field) for field in space},
    )
    tags = {**begun.tags, "search": known}
    with context.tracking.run(
        model,
        name=f"{model} {recipe.name}, search",
        role="search",
        recipe={**recipe.model_dump(), "search": {field: told({field: values}) for field, values in space.items()}},
        inputs=begun.inputs,
        tags=tags,
        goes_on=True,
    ) as run:
        for trial in search.trials(trials):
            _try(trial, trials, model, name, changes, metric, run, context)
        tried, best = search.tried, search.best
        if best is None:
            raise EngineError(f"none of {len(tried)} trials went to its end; narrow the search, or give more --trials.")
        arguments = (*changes, *best.changes)
        sets = [part for change in arguments for part in ("--set", change)]
        command = shlex.join(["shopgraph", "train", model, "--recipe", name, *sets])
        run.figure(_plot(tried, best, metric), "trials.png")
        run.table(_table(tried), "trials.parquet")
        run.tags({"best_trial": str(best.number), "best": command})
        summary = f"best of {len(tried)} trials: number {best.number}, {metric} {best.value:.4f}\n{command}"
        run.note(summary)
    return {
        "best": {"trial": best.number, "metric": metric, "value": best.value, "changes": arguments},
        "trials": len(tried),
        "run_id": run.id,
        "summary": summary,
    }


def _try(
    trial: Trial, total: int, model: str, name: str, changes: tuple[str, ...], metric: str, parent: Run, context: Context
) -> None:
    """One trial: a nested run, and its outcome told to the search."""
    logger = log.get(__name__)
    try:
        recipe = recipes.load(model, name, (*changes, *trial.changes))
    except SettingsError as error:  # values that do not go together
        logger.warning("trial left out", trial=trial.number, why=str(error))
        trial.prune()
        return
    found: Tuning = import_module(f"training.{model}.train").tuning(recipe, context)
    title = f"{model} {name}, trial {trial.number + 1} of {total}"
    checkpoint = context.checkpoint(model, "trial", recipe.model_dump(mode="json"), *found.parts)
    with context.tracking.run(
        model, name=title, role="trial", recipe=recipe.model_dump(), inputs=found.inputs, tags=found.tags, parent=parent
    ) as run:
        hopeless_at: list[int] = []

        def judge(epoch: int, metrics: dict[str, float]) -> bool:
            if not hopeless_at:  # workers may be an epoch ahead of the verdict
                run.epoch(epoch, metrics)
                if trial.is_hopeless(epoch, metrics[metric]) and epoch + 1 < recipe.fit.epochs:
                    hopeless_at.append(epoch)
            return bool(hopeless_at)

        try:
            fit(found.task, recipe.fit, context.settings, title=title, checkpoint=checkpoint, on_epoch=judge)
        except DivergedError as error:
            logger.warning("trial diverged", trial=trial.number, why=str(error))
            outcome = "diverged"
        else:
            outcome = "pruned" if hopeless_at else "complete"
        run.tags({"outcome": outcome, "changes": " ".join(trial.changes)})
    trial.finish() if outcome == "complete" else trial.prune()
    logger.info("trial", number=trial.number, outcome=outcome, changes=" ".join(trial.changes))
    for folder in (checkpoint, checkpoint.with_name(f"{checkpoint.name}-ray")):
        shutil.rmtree(folder, ignore_errors=True)


def _at(content: Any, field: str) -> Any:
    """The value of `group.key` in nested mappings."""
    return reduce(getitem, field.split("."), content)


def _table(tried: Sequence[Tried]) -> pa.Table:
    return pa.table(
        {
            "trial": [one.number for one in tried],
            "value": pa.array([one.value for one in tried], pa.float64()),
            "epochs": [one.epochs for one in tried],
            "is_pruned": [one.is_pruned for one in tried],
            "changes": [" ".join(one.changes) for one in tried],
        }
    )


def _plot(tried: Sequence[Tried], best: Tried, metric: str) -> Figure:
    """Each trial's value, and against each searched field; the best one ringed."""
    from matplotlib.figure import Figure

    shown = [one for one in tried if one.value is not None]
    fields = [change.partition("=")[0] for change in best.changes]
    figure = Figure(figsize=(3.2 * (1 + len(fields)), 3.2), layout="constrained")
    for axes, field in zip(figure.subplots(1, 1 + len(fields), sharey=True, squeeze=False)[0], ["trial", *fields], strict=True):
        at: list[Any] = [one.number if field == "trial" else _value(one, field) for one in shown]
        if not all(isinstance(value, int | float) for value in at):
            at = [str(value) for value in at]
        for is_pruned, colour, label in ((False, "C0", "to its end"), (True, "C7", "pruned")):
            kept = [place for place, one in enumerate(shown) if one.is_pruned == is_pruned]
            axes.scatter([at[place] for place in kept], [shown[place].value for place in kept], color=colour, label=label, s=18)
        axes.scatter([at[shown.index(best)]], [best.value], facecolors="none", edgecolors="C3", s=90, label="best")
        axes.set_xlabel(field)
    figure.axes[0].set_ylabel(metric)
    figure.axes[0].legend(fontsize="small")
    return figure


def _value(one: Tried, field: str) -> Any:
    import yaml

    written = dict(change.split("=", 1) for change in one.changes)[field]
    try:
        return float(written)
    except ValueError:
        return yaml.safe_load(io.StringIO(written))
