"""The verbs `shopgraph tables ...`; heavy imports happen inside them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import TableContractError
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.lake import Lake
    from spark_jobs.undo import Plan

tables = typer.Typer(
    help="Tables: what happened to them, undo, compaction, retention.\n\n"
    "Every commit is a version that stays readable until a vacuum; what a model or a graph was trained on is pinned and stays.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


@tables.command()
def log(
    context: typer.Context,
    table: Annotated[str | None, typer.Argument(help="A table such as raw/orders; default: the newest version of each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Versions of a table: when, rows, what happened, from which inputs, who holds it.

    shopgraph tables log\n
    shopgraph tables log raw/orders --json
    """
    from infra.history import log as logged

    lake = _lake(context.obj)
    found = {path: logged(lake, path) for path in ([_path(lake, table)] if table else lake.tables())}
    if table is None:
        found = {path: versions[:1] for path, versions in found.items()}
    if as_json:
        rows = [{"table": path, **dataclasses.asdict(entry)} for path, versions in found.items() for entry in versions]
        typer.echo(json.dumps(rows, default=str, ensure_ascii=False))
        return
    from rich.table import Table

    report = Table("table", "version", "time", "rows", "what", "from", "held by", box=None)
    for path, versions in found.items():
        for entry in versions:
            state = "" if entry.stands else ", later taken back"
            state += "" if entry.readable else ", vacuumed"
            report.add_row(
                path,
                f"{entry.version}",
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                "" if entry.num_rows is None else f"{entry.num_rows:,}",
                entry.what + state,
                ", ".join(f"{name} {version}" for name, version in entry.inputs.items()),
                ", ".join(entry.holders),
            )
    _print(report)


@tables.command()
def restore(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="Version of the table, or a time such as 2025-11-20T06:00+00:00.")],
    table: Annotated[list[str] | None, typer.Argument(help="Raw tables such as raw/orders; default: all, to a time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be touched, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Undo: take raw tables back, with all that the same loads brought and all that was derived, online rows included.

    What an ingest committed to several tables goes back together, and the next ingest reads its files again: correct them first.
    Rows that others added to those tables meanwhile stay, but not to the tables that are named. Feature tables go back to what they
    were, or are built where that is no version of theirs. Nothing is deleted: a restore is a commit like others. Killed, it is
    finished by the same command.

    shopgraph tables restore raw/orders --to 5 --dry-run\n
    shopgraph tables restore raw/orders --to 5\n
    shopgraph tables restore --to 2025-11-20T06:00+00:00
    """
    from rich.console import Console

    from features.shop import Shop
    from infra.home import Home
    from infra.lake import Lake
    from spark_jobs import undo

    settings: Settings = context.obj
    target = _target(to)
    if dry_run:
        shop = Shop.load(Home(settings))
        done = undo.plan(Lake.open(settings, shop.name), shop, table or [], target)
    else:
        with Console(stderr=True).status("taking back") as spinner:
            done = undo.undo(settings, table or [], target, spinner.update)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **dataclasses.asdict(done)}, ensure_ascii=False))
        return
    _show(done, dry_run)


@tables.command()
def compact(
    context: typer.Context,
    table: Annotated[list[str] | None, typer.Argument(help="Tables such as raw/events; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Join small files of tables into larger ones; every row keeps its place, and lineage sees no change.

    The old files stay until a vacuum lets go of the versions before.

    shopgraph tables compact\n
    shopgraph tables compact raw/events
    """
    from infra import upkeep

    lake = _lake(context.obj)
    paths = [_path(lake, name) for name in table or []] or lake.tables()
    done = []
    with _writing(context.obj, lake):
        for path in paths:
            before = len(lake.file_uris(path))
            if commit := upkeep.compact(lake, path):
                done.append((path, commit.version, before, len(lake.file_uris(path))))
    if as_json:
        typer.echo(json.dumps([dict(zip(("table", "version", "files_before", "files"), row, strict=True)) for row in done]))
        return
    for path, version, before, after in done:
        typer.echo(f"{path} version {version}: {before} files are {after}")
    if not done:
        typer.echo("nothing to join.")


@tables.command()
def vacuum(
    context: typer.Context,
    table: Annotated[list[str] | None, typer.Argument(help="Tables; default: all.")] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", min=0, help="Days since a version was replaced. Default: SHOPGRAPH_TABLE_RETENTION_DAYS."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it only the list is printed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the old versions whose files nobody needs, and who holds the others; with --apply delete those files.

    The log of every version stays: lineage is never deleted. A deleted version cannot be read or restored.

    shopgraph tables vacuum\n
    shopgraph tables vacuum raw/orders --older-than 7 --apply
    """
    from infra import vacuum as cleaner
    from infra.pins import pins

    settings: Settings = context.obj
    lake = _lake(settings)
    paths = [_path(lake, name) for name in table or []] or lake.tables()
    age = timedelta(days=settings.table_retention_days if older_than is None else older_than)
    with _writing(settings, lake) if apply else ExitStack():
        held = pins(lake)
        found = [cleaner.waste(lake, path, age, held) for path in paths]
        for waste in found if apply else ():
            cleaner.vacuum(lake, waste)
    if as_json:
        typer.echo(json.dumps({"applied": apply, "tables": [dataclasses.asdict(waste) for waste in found]}, default=str))
        return
    from rich.table import Table

    report = Table("table", "version", "newest until", "fate", "held by", box=None)
    for waste in found:
        for kept in waste.versions:
            if kept.fate in ("goes", "held"):
                fate = ("deleted" if apply else "would go") if kept.fate == "goes" else "stays"
                report.add_row(waste.path, f"{kept.version}", f"{kept.until:%Y-%m-%d %H:%M}", fate, ", ".join(kept.holders))
    _print(report)
    files, size = sum(len(waste.files) for waste in found), sum(waste.num_bytes for waste in found)
    typer.echo(f"{files:,} files, {size / 1e6:,.1f} MB {'deleted' if apply else 'would be deleted; --apply deletes them'}.")


@tables.command()
def unpin(
    context: typer.Context, holder: Annotated[list[str], typer.Argument(help="As `log` names it: model shop.demand-3.")]
) -> None:
    """Let a vacuum take the versions that one holder pinned: a model that you deleted, a run that was killed.

    shopgraph tables unpin model sample.demand-3
    """
    from infra.pins import pins
    from infra.pins import unpin as let_go

    lake = _lake(context.obj)
    name = " ".join(holder)
    found = next((pin for pin in pins(lake) if pin.holder == name), None)
    if found is None:
        told = ", ".join(pin.holder for pin in pins(lake)) or "nobody"
        raise TableContractError(f"nothing is pinned by {name!r}; pins are held by {told}.")
    let_go(lake, found.kind, found.name)
    typer.echo(f"{name} holds nothing any more.")


def _lake(settings: Settings) -> Lake:
    from features.shop import Shop
    from infra.home import Home
    from infra.lake import Lake

    return Lake.open(settings, Shop.load(Home(settings)).name)


def _path(lake: Lake, name: str) -> str:
    """The path of a table that exists, given with its folder."""
    paths = lake.tables()
    if name not in paths:
        raise TableContractError(f"shop {lake.shop} has no table {name}; there are {', '.join(paths) or 'none'}.")
    return name


@contextmanager
def _writing(settings: Settings, lake: Lake) -> Iterator[None]:
    """The locks of all writers of a shop's tables, with nothing half done among them."""
    from infra.home import Home
    from infra.journal import Journal

    home = Home(settings).create()
    with home.lock(f"build-{lake.shop}"), home.lock(f"ingest-{lake.shop}"):
        Journal(lake, "ingest").recover()
        yield


def _target(text: str) -> int | datetime:
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TableContractError(
            f"--to {text!r}: expected a version such as 5 or an ISO 8601 time such as 2025-11-20T06:00+00:00."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _show(plan: Plan, dry_run: bool) -> None:
    from rich.table import Table

    if not plan.tables and not plan.online:
        typer.echo("nothing to take back: the tables hold these rows.")
        return
    report = Table("table", "from version", "to", "rows", "rows then", box=None)
    for change in plan.tables:
        to = "before the first" if change.to is None else f"{change.to}"
        kept = f" and {', '.join(map(str, change.kept))}" if change.kept else ""
        report.add_row(change.path, f"{change.version}", to + kept, f"{change.rows_before:,}", f"{change.rows_after:,}")
    _print(report)
    would = "would be " if dry_run else ""
    if plan.built:
        typer.echo(f"{would}built: {', '.join(plan.built)}")
    if plan.views:
        typer.echo(f"online rows {would}made anew: {', '.join(plan.views)}")
    if plan.read_again:
        typer.echo(
            "the next ingest reads again, correct it first or set it aside: " + ", ".join(part for _, part in plan.read_again)
        )
    for pin in plan.trained:
        typer.echo(f"trained on what {'would be' if dry_run else 'is'} taken back: {pin.holder}")


def _print(report: object) -> None:
    from rich.console import Console

    Console().print(report)
