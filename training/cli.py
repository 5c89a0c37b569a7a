"""Verbs of `training` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from infra import log
from infra.errors import SettingsError, TableContractError
from infra.settings import Settings

app = typer.Typer()


@app.command()
def train(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(help="recommender, demand, sentiment, propensity; none: all with data.")
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
    from importlib import import_module

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
    for model, report in reports.items():
        console.print(f"[bold]{model}[/bold], version {report['version']}, run {report['run_id']}", highlight=False)
        console.print(Markdown(str(report["summary"])))
