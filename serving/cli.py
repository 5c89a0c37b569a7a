"""Verbs of `serving` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.settings import Settings
from serving import graph_cli, keys_cli

if TYPE_CHECKING:
    from pydantic import ValidationError

    from serving.servers import Status

app = typer.Typer()
app.add_typer(
    graph_cli.app, name="graph", help="Versions of the inference graph: which one answers, canary, promote, rollback, history."
)
app.add_typer(keys_cli.app, name="keys", help="API keys: who may ask the HTTP API what, how often, and until when.")


@app.command()
def up(
    context: typer.Context,
    latest: Annotated[bool, typer.Option("--latest", help="Let the newest registered models answer.")] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Stay until SIGTERM or Ctrl-C, then stop all; for containers and systemd.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Start MLflow, Ray and the HTTP API of this home, and answer with the released graphs.

    The first `up` after training releases a graph per trained model; later ones keep what is released, unless `--latest` is
    given. Run again while it is up, it starts nothing twice. With --stay it ends with an error once a server ends by itself.

    shopgraph up\n
    shopgraph train recommender && shopgraph up --latest
    """
    from infra.progress import steps
    from serving import servers

    settings: Settings = context.obj
    with servers.ended(settings) if stay else nullcontext():
        with steps("looking at what runs") as say:
            is_new = servers.up(settings, latest, say)
        found = servers.status(settings)
        if as_json:
            typer.echo(json.dumps({"started": is_new, **found.to_dict()}))
        else:
            typer.echo("up." if is_new else "already up.")
            _show(found)
        if stay:
            servers.stay(settings)


@app.command()
def status(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False) -> None:
    """What runs for this home: servers, their memory, and the graph versions that answer. Exits 1 unless all of it is up.

    shopgraph status\n
    shopgraph status --json
    """
    from serving import servers

    found = servers.status(context.obj)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _show(found)
    if not found.is_up:
        raise typer.Exit(1)


@app.command()
def down(
    context: typer.Context,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the home folder with all data, models and runs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop every server of this home, and of no other one.

    shopgraph down\n
    shopgraph --home /tmp/trial down --purge
    """
    from serving import servers

    settings: Settings = context.obj
    if purge and not yes:
        typer.confirm(f"Delete {settings.home_path} with all tables, models and runs?", abort=True)
    stopped = servers.down(settings)
    typer.echo(f"stopped {' and '.join(stopped)}." if stopped else "nothing was up.")
    if purge:
        servers.purge(settings)
        typer.echo(f"deleted {settings.home_path}.")


@app.command()
def recommend(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Version number, alias or run id of a recommender; default: the newest.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="A user of the shop.")] = None,
    visitor: Annotated[str | None, typer.Option(help="A visitor who is not logged in.")] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="Items somebody looked at, oldest first: a,b,c. With --user they come on top. For `similar` the one item, for "
            "`bought_together` the basket, for `buy_again` what was bought today."
        ),
    ] = None,
    placement: Annotated[
        str, typer.Option(help="for_you, similar, bought_together, buy_again or trending: see the API's docs.")
    ] = "for_you",
    k: Annotated[int, typer.Option("-k", "--k", help="How many items.")] = 10,
    all_users: Annotated[bool, typer.Option("--all", help="The lists of every user with a history, put where --to says.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            help="With --all: recommendations (the table scores/recommendations of the lake), s3://bucket/prefix (the same table in a lake "
            "there) or postgresql://user@host:port/database (a table recommendations)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as the API gives it; with --all a report.")] = False,
) -> None:
    """The list that a trained model gives, and why: the same as `POST /v1/recommend` where that model is released.

    The newest ranker orders it, where one was trained. It needs no running API. Known users are read from the online store, new
    ones are known by `--items` alone.

    With --all every user with a history is scored, by what the tables say. A run that was killed goes on where it stopped; the lists
    replace those of the destination in one step when all are there; run twice, they are there once. The password of a database comes
    from the shop's file `pgpass`, ~/.pgpass or PGPASSWORD, the keys of S3 from the settings.

    shopgraph recommend --user u0000001\n
    shopgraph recommend --model 3 --items i000012,i000077 -k 5\n
    shopgraph recommend --placement bought_together --items i000012,i000077\n
    shopgraph recommend --placement buy_again --user u0000001\n
    shopgraph recommend --model 0f3c...e1 --user u0000001 --json\n
    shopgraph recommend --all --to recommendations -k 20\n
    shopgraph recommend --all --to postgresql://shop@db.example/marketing
    """
    from pydantic import ValidationError

    from infra.errors import SettingsError
    from serving.recommend import Asked
    from serving.recommend import recommend as answer_of

    if all_users != (to is not None):
        raise SettingsError("--all and --to go together: the lists of every user, and where they go.")
    if to is not None:
        if user or visitor or items or placement != "for_you":
            raise SettingsError("--all is for_you of every user: leave out --user, --visitor, --items and --placement.")
        _recommend_all(context.obj, to, k, model, as_json)
        return
    named = tuple(item for item in (items or "").split(",") if item)
    if items is not None and not named:
        raise SettingsError(f"--items: expected a,b,c, got {items!r}.")
    if placement == "similar" and len(named) > 1:
        raise SettingsError(f"--placement similar takes one item, got {len(named)}; bought_together takes several.")
    asked = Asked(user, visitor, named, placement)
    try:
        answer = answer_of(context.obj, asked, k, model)
    except ValidationError as error:
        raise _refused(error) from None
    if as_json:
        typer.echo(json.dumps(answer, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    is_ranked = any("chances" in item for item in answer["items"])
    table = Table("", "item", "score", *(["chances"] if is_ranked else []), "because of", box=None)
    for place, item in enumerate(answer["items"], 1):
        chances = [", ".join(f"{task} {chance:.2%}" for task, chance in item["chances"].items())] if is_ranked else []
        table.add_row(str(place), item["item_id"], f"{item['score']:.4f}", *chances, _because(item))
    console = Console()
    console.print(table)
    versions = ", ".join(f"{name} version {version}" for name, version in answer["model_versions"].items())
    console.print(f"{versions}, {answer['catalogue']:,} items, as of {answer['as_of']}", style="dim", highlight=False)
    if answer["degraded"]:
        console.print(f"not used: {', '.join(answer['degraded'])}", style="yellow", highlight=False)


@app.command()
def explain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A request_id or list_id, as an answer gave it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Where an answer came from: graph version, models, their runs, feature rows with their times, table versions, source files.

    shopgraph explain 0f3c9a...\n
    shopgraph explain 0f3c9a... --json
    """
    from dataclasses import asdict

    from serving.lineage import lineage

    found = lineage(context.obj, name)
    if as_json:
        manifest = {"version": found.manifest.version, **found.manifest.model_dump(mode="json")}
        typer.echo(json.dumps({**asdict(found), "manifest": manifest}, default=str))
        return
    from rich.console import Console
    from rich.tree import Tree

    row = found.request
    took = f"answered {row['answered_at']} in {row['seconds'] * 1000:.1f} ms, as of {row['as_of']}"
    tree = Tree(f"{row['product']} {row['request_id']}, {took}")
    tree.add(f"asked {row['request']}")
    tree.add(f"answered {row['answer'][:300]}")
    graph = tree.add(f"graph {row['graph_version']}, {row['variant']}; went without: {', '.join(row['degraded']) or 'nothing'}")
    for model in found.models:
        branch = graph.add(f"{model.name} version {model.version}, {model.digest[:12]}")
        began = f"{model.began:%Y-%m-%d %H:%M:%S}" if model.began else model.missing
        branch.add(f"run {model.run_name} {model.run_id}, {began}, code {model.git_commit[:12]}")
        branch.add(f"learned from {', '.join(f'{path} version {version}' for path, version in model.tables.items())}")
    features = tree.add(f"features of {row['person'] or 'nobody'}")
    for read in found.features:
        told = f"true since {read.became_true}, known since {read.known_since}" if read.became_true else "none"
        features.add(f"{read.view}: {told}")
    tables = tree.add("tables")
    for table in found.tables:
        made = ", ".join(f"{path} version {version}" for path, version in table.inputs.items()) or ", ".join(table.sources)
        tables.add(f"{table.path} version {table.version}, {table.committed_at}" + (f"; from {made}" if made else ""))
    files = tree.add("files")
    for file in found.files:
        files.add(f"{file['source']}: {file['part']}, {file['num_rows']} rows, {file['digest'][:12]}")
    Console().print(tree, highlight=False, soft_wrap=True)


def _recommend_all(settings: Settings, to: str, k: int, model: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from pydantic import ValidationError
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from serving.bulk import recommend_all

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("reading", total=None)
        try:
            report = recommend_all(
                settings, to, k, model,
                say=lambda what: bars.update(bar, description=what),
                progress=lambda done, total: bars.update(bar, description="users", completed=done, total=total),
            )  # fmt: skip
        except ValidationError as error:
            raise _refused(error) from None
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str))
        return
    about = f"recommender version {report.model_version}, as of {report.as_of.isoformat()}"
    if report.skipped:
        typer.echo(f"{report.address} holds these lists already: {about}.")
        return
    again = f", {report.found:,} of them by a run that had not ended" if report.found else ""
    typer.echo(f"{report.address}: lists of {report.users:,} users{again}; {about}.")


def _refused(error: ValidationError) -> Exception:
    """What a request that the API would not take lacks, in one sentence."""
    from infra.errors import SettingsError

    first = error.errors()[0]
    if not first["loc"]:  # what is wrong with the whole: a placement without its items
        return SettingsError(f"{first['msg']}; name items with --items.")
    return SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}.")


def _because(item: Mapping[str, Any]) -> str:
    """What speaks for an item, in words."""
    if bought := item.get("bought"):
        return f"bought on {bought['times']} day(s), last on {bought['last_on']}, usually every {bought['usual_gap_days']:.0f} days"
    if item["source"] == "trending":
        return f"rises {item['rise']:.1f}-fold"
    items = ", ".join(f"{one['item_id']} ({one['weight']:.2f})" for one in item["reasons"])
    return items if items and item["source"] == "history" else f"{item['source']} {items}".strip()


def _show(found: Status) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("server", "state", "address", "pid", "memory", box=None)
    notes = [f"{server.name}: {server.told}" for server in found.servers if server.told]
    for server in found.servers:
        memory = f"{server.memory_mb} MB" if server.memory_mb else ""
        state = "[green]up[/green]" if server.is_up else "[red]down[/red]"
        table.add_row(server.name, state, server.address, str(server.pid or ""), memory)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    for product, version in found.graphs.items():
        console.print(f"graph {product} {version}", highlight=False)
    for product, version in found.candidates.items():
        console.print(f"graph {product} {version} answers some people, as the candidate", highlight=False)
    for product, why in (*found.waiting.items(), *found.held_back.items()):
        console.print(f"graph {product}: {why}", style="yellow", highlight=False)
    if found.is_up and not found.graphs and not found.waiting:
        console.print("no graph is released: `shopgraph train`, then `shopgraph up --latest`.")
