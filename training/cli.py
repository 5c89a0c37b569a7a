"""Verbs of `training` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from infra import log
from infra.errors import SettingsError, TableContractError
from infra.settings import Settings

app = typer.Typer()

_TUNE = """Search a recipe's fields for the values that are best on the validation part; the test part is not asked.

The first trial is the recipe as it is; one that falls behind the median of the others is stopped. Trials are runs below one run in
MLflow, which gets their plot. A search that was killed goes on where it stopped: give the same command again; with more --trials it
goes on from its end. The last line says what to hand to `shopgraph train`.

shopgraph tune recommender --recipe demo --trials 20\n
shopgraph tune demand --recipe full --search search.yaml --set fit.epochs=5

A search file names fields and their values, one a line: `model.dim: [32, 64]`, `model.dropout: {low: 0.1, high: 0.5}`, with `log:
true` where the order of magnitude is searched. Without one:

"""


def _tune_help() -> str:
    """What `tune` does, and each recipe's space; these modules are light."""
    from training.recipe import MODELS
    from training.space import told

    spaces = (
        (model, name, told(space)) for model in MODELS for name, space in import_module(f"training.{model}.search").SPACES.items()
    )
    return _TUNE + "\n\n".join(f"{model} {name}: {fields}." for model, name, fields in spaces)


@app.command()
def train(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(help="recommender, demand, sentiment, propensity, ranker; none: all with data.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Named configuration; `--list` shows them.")] = "demo",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one field, e.g. fit.epochs=3; may repeat.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray dashboard to submit to; its token in SHOPGRAPH_RAY_AUTH_TOKEN."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Train models on the shop's feature tables, compare them with their baselines, register them in MLflow.

    Without names every model is trained that the shop has data for; the others are told. The recipe `demo` suits the sample shop,
    `full` your own. A run that was killed continues where it stopped: give the same command again.

    shopgraph train\n
    shopgraph train recommender --recipe demo --set fit.epochs=3\n
    shopgraph train --address http://ray.example:8265
    """
    from features.shop import Shop
    from infra.home import Home
    from training import recipe as recipes

    settings: Settings = context.obj
    chosen = models or list(recipes.MODELS)
    unknown = [model for model in chosen if model not in recipes.MODELS]
    if unknown:
        raise SettingsError(f"there is no model {unknown[0]!r}; there are {', '.join(recipes.MODELS)}.")
    if list_:
        for model in chosen:
            for name, about in recipes.names(model).items():
                typer.echo(f"{model:12} {name:10} {about}")
        return
    Shop.load(Home(settings).create(), settings.shop)  # a wrong name is told before anything heavy starts
    loaded = {model: recipes.load(model, recipe, tuple(set_ or ())) for model in chosen}
    if address:
        from training.submit import submit

        changes = [part for change in set_ or () for part in ("--set", change)]
        submit(settings, address, ["train", *(models or ()), "--recipe", recipe, *changes, *(["--json"] if as_json else [])])
        return

    from contextlib import ExitStack

    from training.context import Context
    from training.trainer import ray_session

    opened = Context.open(settings)
    reports = {}
    with ExitStack() as held:
        for model in loaded:
            held.enter_context(opened.home.lock(f"train-{opened.shop.name}-{model}"))
        held.enter_context(ray_session(settings))  # ends before the locks: until then a fit that is interrupted still writes
        for model, content in loaded.items():
            opened.tracking.close_abandoned(model)
            try:
                reports[model] = import_module(f"training.{model}.train").train(content, opened)
            except TableContractError as error:
                if models:
                    raise
                log.get(__name__).warning("not trained", model=model, reason=str(error))
    if not reports:
        raise TableContractError(f"shop {opened.shop.name} has no data for any model; the lines above say what each lacks.")
    if as_json:
        typer.echo(json.dumps(reports, default=str))
    else:
        _show(reports)


@app.command(help=_tune_help())
def tune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="recommender, demand, sentiment, propensity or ranker.")],
    recipe: Annotated[str, typer.Option(help="Named configuration to start from; `shopgraph train --list` shows them.")] = "demo",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of an earlier call included.")] = 20,
    search: Annotated[Path | None, typer.Option(help="YAML file with the fields to search instead of the recipe's own.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Fix one field for all trials, e.g. fit.epochs=3; may repeat.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    from features.shop import Shop
    from infra.home import Home
    from training import recipe as recipes
    from training import space as spaces

    settings: Settings = context.obj
    if model not in recipes.MODELS:
        raise SettingsError(f"there is no model {model!r}; there are {', '.join(recipes.MODELS)}.")
    Shop.load(Home(settings).create(), settings.shop)
    changes = tuple(set_ or ())
    recipes.load(model, recipe, changes)
    space = spaces.read(search) if search else import_module(f"training.{model}.search").SPACES.get(recipe)
    if space is None:
        raise SettingsError(f"recipe {model}/{recipe} declares nothing to search; give --search search.yaml.")

    from training import tune as tuning
    from training.context import Context
    from training.trainer import ray_session

    tuning.check(model, recipe, changes, space)
    opened = Context.open(settings)
    with opened.home.lock(f"train-{opened.shop.name}-{model}"), ray_session(settings):
        opened.tracking.close_abandoned(model)
        report = tuning.tune(model, recipe, changes, space, trials, opened)
    typer.echo(json.dumps(report) if as_json else report["summary"])


@app.command()
def drift(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models, each alone or with @version or @alias; none: all there are."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """How far each feature moved since a model was trained: its table versions of then against the newest ones.

    The population stability index over the last 28 event days of each version: from 0.1 on a feature moved, from 0.25 on it is
    another population. It is read from the quality reports that builds keep; the quality page shows the newest version of each model.

    shopgraph drift\n
    shopgraph drift recommender@3 demand --json
    """
    import dataclasses

    from features.quality.models import model_drift, trained_on
    from features.quality.show import write_page
    from infra.errors import ModelNotFoundError
    from training import recipe as recipes
    from training.context import Context

    opened = Context.open(context.obj)
    found = []
    for asked in models or recipes.MODELS:
        model, _, version = asked.partition("@")
        if model not in recipes.MODELS:
            raise SettingsError(f"there is no model {model!r}; there are {', '.join(recipes.MODELS)}.")
        try:
            origin = opened.tracking.origin(model, version or None)
        except ModelNotFoundError:
            if models:
                raise
            continue
        found.append(model_drift(opened.lake, trained_on(opened.lake, model, origin.version, origin.inputs, origin.began)))
    path = write_page(context.obj)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], ensure_ascii=False))
        return
    from rich.console import Console

    from features.quality.show import drift_table

    for one in found:
        Console().print(drift_table(one))
    typer.echo(f"page: {path}" if found else "no model is registered yet; run `shopgraph train`.")


def _show(reports: dict[str, dict[str, object]]) -> None:
    """Model and baselines side by side, as each model's report gives them."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if not console.is_terminal:  # a log has room for whole names and intervals
        lines = [line for report in reports.values() for line in str(report["summary"]).splitlines()]
        console.width = max([console.width, *map(len, lines)])
    for model, report in reports.items():
        console.print(f"[bold]{model}[/bold], version {report['version']}, run {report['run_id']}", highlight=False)
        console.print(Markdown(str(report["summary"])))
