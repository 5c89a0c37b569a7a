"""Verbs of `features` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import FeatureError
from infra.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from features.segments import Segments
    from features.store import FeatureStore

app = typer.Typer()
features = typer.Typer(
    help="Features: register what is declared, load the online store, look a row up.\n\n"
    "What each feature means is in docs/dictionary.md; it is declared in features/tables.py, and everything else follows from there.",
    no_args_is_help=True,
)
app.add_typer(features, name="features")

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


@features.command()
def apply(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Say what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register entities, views and services in Feast's registry, as features/tables.py declares them.

    Run it after an upgrade or after a table declaration changed. A second run changes nothing. What is no longer declared is
    deleted from the registry, with its online rows. Afterwards Feast's own command works on this shop; the line to type is printed.

    shopgraph features apply --check\n
    shopgraph features apply
    """
    from features.repo import feast_command

    store = _store(context.obj)
    report = store.changes() if check else store.apply()
    if as_json:
        typer.echo(json.dumps(report))
        return
    typer.echo(("would be " if check else "") + ", ".join(f"{word} {len(names)}" for word, names in report.items()))
    for word in ("created", "updated", "deleted"):
        for name in report[word]:
            typer.echo(f"  {word} {name}")
    if not check:
        typer.echo(f"Feast itself: {feast_command(store.settings, store.shop.name)} feature-views list")


@features.command(name="list")
def list_views(
    context: typer.Context,
    view: Annotated[list[str] | None, typer.Argument(help="Views whose columns are told; default: all views, a line each.")] = None,
    as_json: AsJson = False,
) -> None:
    """What features there are: shopgraph's and those of the files in the shop's own features/ folder.

    How to add one of your own is in docs/extend/feature.md.

    shopgraph features list\n
    shopgraph features list user_activity
    """
    from rich.table import Table

    from features.dictionary import describe

    store = _store(context.obj)
    found = [describe(store.definitions, name) for name in view or store.definitions.views]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    if not view:
        table = Table("view", "key", "features", "expires", "online", "from", box=None)
        for one in found:
            expires = f"{one['ttl_days']} days" if one["ttl_days"] else "never"
            kept = "yes" if one["online"] else "no"
            table.add_row(one["view"], ", ".join(one["keys"]), str(len(one["columns"])), expires, kept, one["file"] or "shopgraph")
        _stdout().print(table)
    for one in found if view else ():
        table = Table("column", "type", "unit", "mark", "meaning", box=None, title=f"{one['view']}: {one['meaning']}")
        for column in one["columns"]:
            table.add_row(*(column[name] for name in ("name", "type", "unit", "mark", "meaning")))
        _stdout().print(table)


@features.command()
def materialize(
    context: typer.Context,
    view: Annotated[list[str] | None, typer.Argument(help="Views to load; default: all that are kept online.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="Load what was visible then, ISO 8601, e.g. 2011-10-01T00:00+00:00. Default: the shop's clock."
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Let go of newer rows too: the tables were restored to an earlier state.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Load the newest visible row of every key into the online store, where serving reads it.

    Reads go on meanwhile and see the old rows; then the new ones of all views replace them at one instant. Rows past their expiry
    are left out, rows that the tables no longer hold go, and rows newer than --as-of stay; a row's expiry and meaning are in
    docs/dictionary.md.

    shopgraph features materialize\n
    shopgraph features materialize user_history --as-of 2025-10-01
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    store = _store(context.obj)
    moment = _moment(as_of) if as_of else store.now()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_stderr(), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        written = store.materialize(moment, view or None, report, {} if rebuild else None)
    if as_json:
        typer.echo(json.dumps({"as_of": moment.isoformat(), "rows": written}))
        return
    typer.echo(f"as of {moment.isoformat()}:")
    for name, rows in written.items():
        typer.echo(f"  {name:24}{rows:>12,} rows")
    if not written:
        typer.echo("  nothing: no feature table was built yet; run `shopgraph build`.")


@features.command()
def verify(
    context: typer.Context,
    view: Annotated[list[str] | None, typer.Argument(help="Views to look at; default: all that are kept online.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Keys of each view, drawn at random.")] = 1_000,
    logged: Annotated[
        bool, typer.Option("--logged", help="Look at what was read while SHOPGRAPH_READ_LOG was above 0, and not at a sample.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold what is served against the tables it was made from; exit code 1 where a row is wrong or missing.

    Of each view a sample of keys is read online and, point in time, from the version of the table that was materialised; with --logged,
    what was read is looked at, one line for each materialisation that answered. Wrong and
    missing must be 0; stale says how far, in event time, rows lie behind the newest tables.

    shopgraph features verify\n
    shopgraph features verify user_history --sample 100000 --json\n
    shopgraph features verify --logged
    """
    import dataclasses

    from rich.table import Table

    store = _store(context.obj)
    found = store.verify_logged(view or None) if logged else store.verify(view or None, sample)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in found], default=str, ensure_ascii=False))
    else:
        names = ("view", "table version", "as of", "keys", "wrong", "missing", "put since", "stale s: median", "95 %", "most")
        table = Table(*names, box=None)
        for one in found:
            counts = (str(count) for count in (one.keys, one.wrong, one.missing, one.newer))
            stale = (f"{seconds:,.0f}" for seconds in one.stale_s)
            table.add_row(one.view, str(one.version), one.as_of.isoformat(timespec="seconds"), *counts, *stale)
        _stdout().print(table)
        for one in found:
            for example in one.examples:
                _stdout().print(f"- {one.view} {example}", markup=False, highlight=False)
        if not found:
            typer.echo(
                "no read was logged; serve with SHOPGRAPH_READ_LOG above 0."
                if logged
                else "nothing is kept online yet; run `shopgraph build` and `shopgraph features materialize`."
            )
    if not all(one.holds for one in found):
        raise typer.Exit(1)


@features.command()
def get(
    context: typer.Context,
    key: Annotated[list[str], typer.Option("--key", help="Key column and value, e.g. user_id=u0000017; repeat for more columns.")],
    service: Annotated[
        str,
        typer.Option(
            "--service", help="A model's features (recommender, demand or sentiment), profile, or a table of the shop's own."
        ),
    ] = "recommender",
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Read history instead: the values as they were visible then, from the lake.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look up one entity: what serving sees now, or, with --as-of, what training sees at that instant.

    shopgraph features get --key user_id=u0000017\n
    shopgraph features get --key user_id=u0000017 --as-of 2025-10-01\n
    shopgraph features get --service profile --key user_id=u0000017\n
    shopgraph features get --service demand --key item_id=i000003 --key ds=2025-10-01
    """
    store = _store(context.obj)
    keys = dict(_pair(text) for text in key)
    values = _history(store, service, keys, _moment(as_of)) if as_of else _online(store, service, keys)
    if as_json:
        typer.echo(json.dumps({**keys, **values}, default=str, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("column", "value", box=None)
    for name, value in {**keys, **values}.items():
        table.add_row(name, "[dim]missing or expired[/dim]" if value is None else Text(_shown(value)))
    _stdout().print(table)


@app.command()
def profiles(
    context: typer.Context,
    as_of: Annotated[str | None, typer.Option("--as-of", help="As they were then, ISO 8601. Default: the shop's clock.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Print cut points of money that part your own customers evenly, for shop.yaml.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """How many users stand in each life-cycle stage, value tier and RFM cell; what each means is in docs/dictionary.md.

    The rules are constants of the shop, under `profile:` in shop.yaml: nobody's tier depends on what others do. Those in money fit
    currencies like EUR, GBP or USD; --fit proposes some from your customers. `shopgraph build` applies what you then write.

    shopgraph profiles\n
    shopgraph profiles --as-of 2025-10-01 --json\n
    shopgraph profiles --fit
    """
    from features.segments import fitting_rules, segments

    store = _store(context.obj)
    moment = _moment(as_of) if as_of else store.now()
    rows = store.latest("user_profile", moment)
    if fit:
        rules = fitting_rules(rows)
        typer.echo(
            json.dumps(rules) if as_json else "\n".join(["profile:", *(f"  {name}: {cuts}" for name, cuts in rules.items())])
        )
        return
    found = segments(rows, moment)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "as_of": moment.isoformat()}))
        return
    for table in _segment_tables(found, store.shop.currency):
        _stdout().print(table)


def _segment_tables(found: Segments, currency: str) -> list[Table]:
    """Stages, tiers, and recency by frequency."""
    from rich.table import Table

    from features.profiles import SCORES, VALUE_DAYS

    tables = []
    for word, parts in (("stage", found.stages), ("value tier", found.tiers)):
        table = Table(word, title=f"{found.users:,} users, {found.as_of.isoformat()}" if word == "stage" else None)
        for heading in ("users", "share", f"{currency} in {VALUE_DAYS} days"):
            table.add_column(heading, justify="right")
        for name, part in parts.items():
            table.add_row(name, f"{part.users:,}", f"{part.users / max(found.users, 1):.1%}", f"{part.net_value:,.0f}")
        tables.append(table)
    grid = Table("recency", title="users by score of recency and of frequency")
    for frequency in SCORES:
        grid.add_column(str(frequency), justify="right")
    for recency in reversed(SCORES):
        counts = [sum(part.users for cell, part in found.rfm.items() if cell[:2] == f"{recency}{score}") for score in SCORES]
        grid.add_row(str(recency), *(f"{count:,}" for count in counts))
    return [*tables, grid]


def _shown(value: Any) -> str:
    """A value as a person reads it: a list as words."""
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


@app.command()
def quality(
    context: typer.Context,
    table: Annotated[list[str] | None, typer.Argument(help="Tables; default: all.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Where the page goes; default: <home>/reports/<shop>/quality.html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was found in the newest version of each table, against what is expected of it; exit code 1 where a hard one is broken.

    Each build looks at the rows it writes; raw tables are looked at when a build begins. What is expected is declared in
    features/quality/expectations.py and in `quality:` of shop.yaml. How far a model's features drifted: `shopgraph drift`.

    shopgraph quality\n
    shopgraph quality orders --json
    """
    from features.quality.overview import standings
    from features.quality.show import broken, write_page
    from features.shop import Shop
    from infra import clock
    from infra.home import Home
    from infra.lake import Lake

    settings: Settings = context.obj
    shop, lake = Shop.load(Home(settings)), Lake.open(settings)
    found = standings(lake, shop, clock.now(settings.now or shop.now, lake), table or ())
    path = write_page(settings, html)
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in found], ensure_ascii=False))
    else:
        _stdout().print(broken(found))
        typer.echo(f"page: {path}")
    if any(one.status == "failed" for one in found):
        raise typer.Exit(1)


@app.command()
def drain(context: typer.Context, as_json: AsJson = False) -> None:
    """Commit to the raw tables what was posted and is not there yet.

    A running gateway does so every few seconds by itself, and a build does when it begins; this is for what was left when the gateway
    was killed.

    shopgraph drain
    """
    from features.fresh.intake import Intake

    store = _store(context.obj)
    rows = Intake.of(store.settings, store.shop, store.lake).drain()
    if as_json:
        typer.echo(json.dumps({"rows": rows}))
    else:
        typer.echo("\n".join(f"{path:24}{count:>12,} rows" for path, count in rows.items()) or "nothing waits.")


def _store(settings: Settings) -> FeatureStore:
    from features.shop import Shop
    from features.store import FeatureStore
    from infra.home import Home
    from infra.lake import Lake

    return FeatureStore(settings, Shop.load(Home(settings)), Lake.open(settings))


def _online(store: FeatureStore, service: str, keys: dict[str, str]) -> dict[str, Any]:
    return {name: values[0] for name, values in store.online_rows(service, {k: [v] for k, v in keys.items()}).items()}


def _history(store: FeatureStore, service: str, keys: dict[str, str], at: datetime) -> dict[str, Any]:
    import pyarrow as pa

    from features.columns import EVENT_TIMESTAMP
    from features.tables import ARROW_TYPES

    time = pa.array([at], ARROW_TYPES["timestamp"])
    frame = store.training_frame(pa.table({**{k: [v] for k, v in keys.items()}, EVENT_TIMESTAMP: time}), service)
    row: dict[str, Any] = frame.to_pylist()[0]
    return {name: value for name, value in row.items() if name not in keys}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise FeatureError(f"--key {text!r}: expected column=value such as user_id=u0000017.")
    return name, value


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise FeatureError(f"--as-of {text!r}: expected an ISO 8601 time such as 2011-10-01T00:00+00:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _stdout() -> Any:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a pipe has no width; 80 columns would cut names
        console.width = max(console.width, 160)
    return console
