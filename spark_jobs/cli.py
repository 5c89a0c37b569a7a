"""Verbs of `spark_jobs` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from spark_jobs.tables_cli import tables as tables_app

app = typer.Typer()
app.add_typer(tables_app, name="tables")

_DAY = {"formats": ["%Y-%m-%d"]}


@app.command()
def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new shop: lower-case letters, digits, underscores.")],
    origins: Annotated[
        list[str], typer.Option("--from", help="File, folder, Delta table or postgresql://...; repeat for several.")
    ],
    currency: Annotated[str | None, typer.Option(help="ISO 4217 currency; default: guessed.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="IANA time zone; default: guessed.")] = None,
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="BCP 47 tag of a language users write in; repeat.")
    ] = None,
    now: Annotated[str | None, typer.Option(help="Clock: wall, data or an ISO time.")] = None,
) -> None:
    """Write the project folder of a new shop: shop.yaml with a commented mapping guessed from headers and samples.

    shopgraph init myshop --from orders.csv --from reviews.parquet\n
    shopgraph init myshop --from exports/ --currency EUR --time-zone Europe/Berlin\n
    shopgraph init myshop --from postgresql://reader@db.example:5432/shop
    """
    from infra.home import Home
    from spark_jobs.init_shop import init_shop

    path = init_shop(Home(context.obj), name, origins, currency, time_zone, languages or [], now)
    typer.echo(f"{path}\nLook through it, then: shopgraph --shop {name} ingest --check")


@app.command()
def ingest(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Read and validate everything, commit nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Read what is new in the shop's sources into its raw tables; bad rows go to quarantine/ with their reason.

    A second run reads only new files and rows: rows with a known id are duplicates or corrections.

    shopgraph --shop myshop ingest --check\n
    shopgraph --shop myshop ingest --json
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from features.shop import Shop
    from infra.home import Home
    from spark_jobs.ingest import ingest as run
    from spark_jobs.session import session

    settings = context.obj
    shop = Shop.load(Home(settings).create(), settings.shop)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        report = run(settings, shop, lambda: session(settings, "ingest"), check=check, progress=progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
        return
    console = Console()
    if report.lines:
        console.print(report.table())
    for remark in report.remarks():
        console.print(f"- {remark}", highlight=False, markup=False)
    versions = ", ".join(f"{path} version {version}" for path, version in report.versions.items())
    console.print(versions or ("nothing was committed (check only)" if check and report.lines else "nothing new"), highlight=False)


@app.command()
def sample(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="tiny, small, medium or large.")] = "small",
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed makes another shop. Default: SHOPGRAPH_SEED.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Make the sample shop: two years of a simulated shop, in raw tables, with the truth behind it under truth/.

    tiny: 300 users, 200 items, 20 thousand events; small: 5 thousand, 2 thousand, 400 thousand; medium: 100 thousand, 20
    thousand, 8 million; large: 1 million, 200 thousand, 100 million. The same size and seed always give the same rows.

    shopgraph sample --size tiny\n
    shopgraph --shop other sample --size small --seed 11
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from infra.errors import SettingsError
    from spark_jobs import sample_shop
    from spark_jobs.sample.catalogue import SIZES

    if size not in SIZES:
        raise SettingsError(f"--size {size!r}: expected one of {', '.join(SIZES)}.")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting Spark", total=len(sample_shop.PATHS))
        written = sample_shop.sample(
            context.obj,
            SIZES[size],
            context.obj.seed if seed is None else seed,
            lambda path: progress.update(task, description=path, advance=1),
        )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(table) for table in written]))
        return
    report = Table("table", "rows", "version")
    for table in written:
        report.add_row(table.table, f"{table.num_rows:,}", f"{table.version}{' (was there)' if table.skipped else ''}")
    Console().print(report)


@app.command()
def stream(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Files with one JSON object per line. Default: SHOPGRAPH_KAFKA.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C; else end once all that is there was read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Take events from files that arrive in a folder, by Spark Structured Streaming, as POST /v1/events takes them.

    Each event counts once, also after a kill. Put files into the folder whole: write them elsewhere and rename. An event enters by one
    path: what is streamed is neither posted nor ingested from files.

    shopgraph stream arrivals/\n
    shopgraph stream arrivals/ --follow
    """
    from features.shop import Shop
    from infra.home import Home
    from spark_jobs.session import session
    from spark_jobs.stream import stream as run

    settings = context.obj
    shop = Shop.load(Home(settings).create(), settings.shop)
    counts = run(settings, shop, lambda: session(settings, "stream"), folder, follow)
    typer.echo(json.dumps(counts) if as_json else ", ".join(f"{word} {count:,}" for word, count in counts.items()))


@app.command()
def build(
    context: typer.Context,
    tables: Annotated[
        list[str] | None, typer.Argument(help="Feature tables; what they are built from comes along. Default: all.")
    ] = None,
    since: Annotated[datetime | None, typer.Option("--from", help="First local day to rebuild.", **_DAY)] = None,
    until: Annotated[datetime | None, typer.Option("--to", help="Last local day to rebuild; default: no end.", **_DAY)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Build the feature tables from the raw ones, each after what it reads; what is up to date is left alone.

    With --from or --to only rows stamped on those local days are replaced (a daily row of a day is stamped with the first
    instant of the next one), as a full build would write them; the other rows stay.

    shopgraph build\n
    shopgraph build daily_demand\n
    shopgraph build user_activity item_activity --from 2025-11-01 --to 2025-11-30
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from features.quality.show import write_page
    from features.shop import Shop
    from infra.home import Home
    from spark_jobs import build as builder
    from spark_jobs.jobs import in_order, jobs_of

    asked, jobs = tables or [], jobs_of(Shop.load(Home(context.obj)))
    days = {name: day.date() for name, day in (("first", since), ("last", until)) if day}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting Spark", total=len(in_order(asked, jobs)))

        def told(built: builder.Built) -> None:
            did = "up to date" if built.skipped else f"{built.num_rows:,} rows{' added' * built.added} in {built.seconds:.1f} s"
            progress.console.print(f"{built.table} version {built.version}: {did}", highlight=False)
            progress.advance(task)

        results = builder.build(
            context.obj, asked, builder.Range(**days) if days else None, lambda name: progress.update(task, description=name), told
        )
    told_at = write_page(context.obj)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(built) for built in results]))
        return
    typer.echo(f"quality page: {told_at}")


@app.command()
def frame(
    context: typer.Context,
    service: Annotated[str, typer.Option("--service", help="A model's features: recommender, demand or sentiment.")],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", help="Parquet file, folder of them, or Delta table: key columns, event_timestamp, and whatever else."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; the frame's Parquet files come there.")],
    engine: Annotated[
        str, typer.Option("--engine", help="embedded: in this process. spark: for labels or tables that do not fit its memory.")
    ] = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Write a training frame: each label with every feature as it was true and known at the label's own time.

    A label is a row with a time, event_timestamp (UTC where it names no zone), and the keys of what it speaks of, such as
    user_id; whatever else it has stays. The frame has the labels' rows in their order, the features of all views whose keys the
    labels have, and per view when its row became true and was known: <view>__event_timestamp, <view>__created_timestamp. A frame
    with a feature from the future of its label is refused. Both engines write the same rows.

    shopgraph frame --service recommender --labels labels.parquet --out frame\n
    shopgraph frame --service demand --labels labels/ --out frame --engine spark
    """
    from rich.console import Console

    from spark_jobs.frame import frame as make

    with Console(stderr=True).status(f"making the frame ({engine})"):
        made = make(context.obj, service, labels, out, engine)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(made)))
        return
    typer.echo(f"{made.out}: {made.num_rows:,} labels, {len(made.columns)} columns, {made.seconds:.1f} s ({made.engine})")
