"""The command line: composes the Typer app that each package keeps in its cli.py; heavy imports happen inside the verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

if sys.version_info[:2] != (3, 11):
    sys.exit(f"error: shopgraph needs Python 3.11, this is {sys.version.split()[0]}; `make setup` makes the right environment.")

import typer

import features.cli
import infra.cli
import serving.cli
import spark_jobs.cli
import spark_jobs.scoring.cli
import training.cli
from infra import log
from infra.errors import HomeError, ShopgraphError, disk_trouble
from infra.settings import Settings, set_quiet_environment

app = typer.Typer(
    name="shopgraph",
    help="From raw shop tables to served models: ingest, build, train, serve.\n\n"
    "A first walk: `shopgraph sample --size tiny`, `shopgraph build`, `shopgraph features apply`, "
    "`shopgraph features materialize`, `shopgraph train`, `shopgraph up`. "
    "Settings are SHOPGRAPH_ variables, see docs/settings.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for package in (spark_jobs, spark_jobs.scoring, features, training, serving, infra):
    app.add_typer(package.cli.app)


@app.callback()
def _settings(
    context: typer.Context,
    shop: Annotated[str | None, typer.Option(help="Shop to work on; default: SHOPGRAPH_SHOP, then `sample`.")] = None,
    home: Annotated[Path | None, typer.Option(help="Home folder; default: SHOPGRAPH_HOME, then ./.shopgraph.")] = None,
) -> None:
    settings = Settings.load(shop=shop, home=home)
    log.set_up(settings.log_level, settings.log_json)
    context.obj = settings


@app.command(hidden=True)
def docs() -> None:
    """Regenerate the pages that are made from code: settings, data dictionary, OpenAPI."""
    root = Path(__file__).parent
    for path, content in generated().items():
        (root / path).write_text(content, encoding="utf-8")
        typer.echo(path)


def generated() -> dict[str, str]:
    """Every generated page: path -> content."""
    from features.dictionary import dictionary_page
    from infra.reference import settings_page
    from serving.openapi import committed_text

    return {"docs/settings.md": settings_page(), "docs/dictionary.md": dictionary_page(), "serving/openapi.json": committed_text()}


def main() -> None:
    """Run the command line; an error meant for the user is one line on stderr and an exit code."""
    set_quiet_environment()
    try:
        app()
    except ShopgraphError as error:
        typer.secho(f"error: {log.hide_secrets(str(error))}", err=True, fg="red")
        sys.exit(error.exit_code)
    except Exception as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        typer.secho(
            f"error: {trouble}; what was committed before stands. Make room or give access, then run it again.", err=True, fg="red"
        )
        sys.exit(HomeError.exit_code)


if __name__ == "__main__":
    main()
