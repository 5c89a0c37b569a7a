"""`shopgraph graph`: which versions of the inference graph answer, and how one becomes another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.settings import Settings

if TYPE_CHECKING:
    from serving.releases import Bounds, Move, Releases

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the history.")]
Version = Annotated[str, typer.Argument(help="A graph version or the first digits of one: see `graph list`.")]
Product = Annotated[str, typer.Argument(help="recommend, forecast or sentiment.")]


@app.command(name="compile")
def compile_(
    context: typer.Context,
    product: Product,
    model: Annotated[
        list[str] | None, typer.Option(help="name=version, alias or run id of a model it shall have; default: the newest of each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a graph of registered models, and keep it under the digest of what it pins. It answers nobody yet.

    shopgraph graph compile recommend\n
    shopgraph graph compile recommend --model recommender=3 --model ranker=champion
    """
    from features.shop import Shop
    from infra.errors import SettingsError
    from infra.home import Home
    from serving import review
    from serving.compiling import compile_graph, newest
    from training.tracking import Tracking

    settings: Settings = context.obj
    said = dict(_pair(one, "--model") for one in model or [])
    home, tracking = Home(settings), Tracking(settings, settings.shop)
    shop = Shop.load(home, settings.shop)
    models = newest(shop, _product(product), lambda name: tracking.fetch(name, said.pop(name, None)))
    if said:
        raise SettingsError(f"--model: expected {', '.join(models)}, got {', '.join(said)}.")
    manifest = compile_graph(home, shop, _product(product), models)
    version = _releases(context).store(manifest)
    review.keep(tracking, manifest)
    typer.echo(json.dumps({"version": version, "product": product}) if as_json else f"{product} {version}")


@app.command(name="list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Every graph version of the shop, and what it does now.

    shopgraph graph list
    """
    releases = _releases(context)
    current = releases.current()
    rows = []
    for version, product, stored_at in releases.stored():
        role = current[product].role(version) if product in current else ""
        rows.append({"version": version, "product": product, "stored_at": stored_at[:19], "role": role})
    _tell(rows, as_json, "none yet: `shopgraph graph compile recommend`, or `shopgraph up` after a training.")


@app.command()
def show(context: typer.Context, version: Version, as_json: Json = False) -> None:
    """A graph version as a Mermaid flow chart, with the models and feature definitions it pins; --json: its manifest.

    shopgraph graph show 3f2a > graph.mmd
    """
    from serving.graph_views import mermaid

    manifest = _releases(context).find(version)
    typer.echo(manifest.model_dump_json(indent=2) if as_json else mermaid(manifest), nl=as_json)


@app.command()
def diff(context: typer.Context, old: Version, new: Version, as_json: Json = False) -> None:
    """What differs between two graph versions, and nothing else.

    shopgraph graph diff 3f2a 91bc
    """
    from serving.graph_views import differences

    releases = _releases(context)
    found = differences(releases.find(old), releases.find(new))
    _tell([{"what": what, "old": before, "new": after} for what, before, after in found], as_json, "they are the same.")


@app.command()
def release(context: typer.Context, version: Version, why: Why = "", as_json: Json = False) -> None:
    """Let a version answer everybody at once, without steps: the first one of a product, on a Ray that `up` did not start.

    shopgraph graph release 3f2a --why "the first"
    """
    releases = _releases(context)
    found = releases.find(version).version
    _moved(context, lambda who: releases.release(found, who, why), as_json)


@app.command()
def deploy(context: typer.Context, version: Version, why: Why = "", as_json: Json = False) -> None:
    """Make a version the candidate of its product: every replica loads it, and it answers nobody yet.

    Before that it is tried in a process of its own: its models must fit beside those that are held (SHOPGRAPH_SERVE_MEMORY_GB), it is
    loaded, warmed, and asked the last 200 recorded requests again, beside the stable version. What fails there is refused.

    shopgraph graph deploy 3f2a --why "more dropout"
    """
    from dataclasses import asdict

    from infra.progress import steps
    from serving.releases import actor
    from serving.trial import held_by, trial

    releases = _releases(context)
    manifest = releases.find(version)
    release = releases.current().get(manifest.product)
    stable = releases.manifest(release.stable) if release else None
    with steps("looking at what is released") as say:
        found = trial(context.obj, manifest, stable, held_by(releases, release), say)
    if not as_json:
        asked = f"{found.replayed} recorded" if found.replayed else f"{found.asked} made up"
        beside = f" (stable {found.stable_median_ms:.1f})" if found.stable_median_ms is not None else ""
        typer.echo(f"{asked} requests: median {found.median_ms:.1f} ms{beside}, p99 {found.p99_ms:.1f} ms.")
        if found.overlap is not None:
            typer.echo(f"its lists hold {found.overlap:.0%} of the items of the stable version's.")
        for name, part in found.differing.items():
            typer.echo(f"{name} differs in {part:.0%} of the answers.")
    move = releases.deploy(manifest.version, actor(), why)
    if as_json:
        typer.echo(json.dumps({**_content(move), "trial": asdict(found)}))
    else:
        _told(move)
    _mirror(context, move)


@app.command()
def shadow(
    context: typer.Context,
    version: Version,
    percent: Annotated[float, typer.Option(min=0, max=100, help="Percent of the requests that it is asked as well.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Ask a version what the running API is asked, in this process, and tell what it answers differently. Nobody is answered by it.

    It follows the request log of this home (SHOPGRAPH_REQUEST_LOG), a second behind, so no answer waits for it or can fail by it.

    shopgraph graph shadow 91bc --percent 20 --seconds 600
    """
    import numpy as np
    from rich.console import Console

    from serving.shadow import shadow as follow

    manifest = _releases(context).find(version)
    with Console(stderr=True).status("loading") as status:
        found, left_out = follow(
            context.obj, manifest, percent, seconds, lambda so_far, _: status.update(f"{so_far.asked:,} requests asked as well")
        )
    median = float(np.median(found.taken_ms)) if found.taken_ms else None
    if as_json:
        about = {"version": manifest.version, "asked": found.asked, "left_out": left_out, "failed": dict(found.failed)}
        typer.echo(json.dumps({**about, "median_ms": median, "overlap": found.overlap, "differing": found.differing}))
        return
    typer.echo(
        f"{manifest.version} was asked {found.asked:,} requests as well, {left_out:,} came too fast; {found.failed.total():,} failed."
    )
    for error, count in found.failed.most_common(5):
        typer.echo(f"{count:,} times: {error}")
    if median is not None:
        typer.echo(f"median {median:.1f} ms alone, where the API took {np.median(found.stable_ms):.1f}.")
    if found.overlap is not None:
        typer.echo(f"its lists hold {found.overlap:.0%} of the items that were answered.")
    for name, part in found.differing.items():
        typer.echo(f"{name} differs in {part:.0%} of the answers.")


@app.command()
def canary(
    context: typer.Context,
    product: Product,
    weight: Annotated[float, typer.Option(help="Percent of the people whom the candidate answers.")],
    bound: Annotated[
        list[str] | None,
        typer.Option(
            help="name=value, how much worse it may be: errors, degraded, slow, slow_ms, clicks, carts, minimum, error_rate."
        ),
    ] = None,
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Let the candidate answer some people. Who was drawn stays while the weight grows; 0 takes all back.

    A candidate out of its bounds is withdrawn by itself: more errors, more degraded or slow answers, fewer clicks or carts per seen list
    than the stable version has over the same minutes. `graph status` shows how it stands; bounds that are not named stay.

    shopgraph graph canary recommend --weight 5\n
    shopgraph graph canary recommend --weight 50 --bound clicks=0.05 --bound slow_ms=20
    """
    releases = _releases(context)
    bounds = _bounds(releases, _product(product), bound or [])
    _moved(context, lambda who: releases.canary(_product(product), weight, who, why, bounds), as_json)


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """What answers now, and how each canary stands against its bounds.

    shopgraph graph status
    """
    from serving.judging import judge
    from serving.observations import Observations, Phase

    releases = _releases(context)
    rows: list[dict[str, Any]] = []
    for product, release in sorted(releases.current().items()):
        candidate = release.candidate
        row: dict[str, Any] = {
            "product": product,
            "stable": release.stable,
            "candidate": "",
            "safe": release.is_safe,
            "measures": [],
        }
        if candidate:
            row["candidate"] = f"{candidate.version} at {candidate.weight:g} %"
            if candidate.weight:
                phase = Phase.of(release.stable, candidate, releases.manifest(release.stable))
                measures = judge(Observations(releases).of(product, phase.name), phase)
                row["measures"] = [
                    {
                        "measure": one.name, "stable": one.stable.value, "candidate": one.candidate.value, "bound": one.bound,
                        "seen": min(one.stable.total, one.candidate.total), "is_enough": one.is_enough,
                        "evidence": max(one.evidence, 0.0) / one.needed,
                    }
                    for one in measures
                ]  # fmt: skip
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    _tell(
        [{name: row[name] for name in ("product", "stable", "candidate", "safe")} for row in rows],
        False,
        "nothing was released yet.",
    )
    for row in rows:
        for one in row["measures"]:
            told = f"{one['candidate']:.2%} against {one['stable']:.2%}, at worst {one['bound']:.2%}; of at least {one['seen']:,}"
            missing = "" if one["is_enough"] else ", too few yet"
            typer.echo(f"{row['product']} {one['measure']:<9}{told}{missing}; evidence against it {one['evidence']:.0%}")


@app.command()
def promote(context: typer.Context, product: Product, why: Why = "", as_json: Json = False) -> None:
    """Let the candidate answer everybody; the stable version stays loaded, so that `rollback` takes no time.

    shopgraph graph promote recommend --why "+2 % carts over a week"
    """
    _moved(context, lambda who: _releases(context).promote(_product(product), who, why), as_json)


@app.command()
def rollback(context: typer.Context, product: Product, why: Why = "", as_json: Json = False) -> None:
    """Withdraw the candidate; where there is none, let the stable version of before answer again. Again: the one before that.

    shopgraph graph rollback recommend --why "empty lists"
    """
    _moved(context, lambda who: _releases(context).rollback(_product(product), who, why), as_json)


@app.command()
def safe(
    context: typer.Context,
    state: Annotated[str, typer.Argument(help="on or off.")],
    product: Product = "recommend",
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Answer everything from the end of the ladder, the version's own fixed list: no model, store or table is asked. For an emergency.

    shopgraph graph safe on --why "the online store is being restored"\n
    shopgraph graph safe off
    """
    from infra.errors import SettingsError

    if state not in ("on", "off"):
        raise SettingsError(f"safe: expected on or off, got {state!r}.")
    _moved(context, lambda who: _releases(context).safe(_product(product), state == "on", who, why), as_json)


@app.command()
def history(
    context: typer.Context,
    product: Annotated[str | None, typer.Argument(help="recommend, forecast or sentiment; default: all.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove that no move was changed or taken out; exits 1 if one was.")
    ] = False,
    head: Annotated[str | None, typer.Option(help="With --verify: the digest of a move as it was noted elsewhere.")] = None,
    as_json: Json = False,
) -> None:
    """Who let which version answer, when and why, newest first.

    shopgraph graph history recommend\n
    shopgraph graph history --verify --head 5d1f...
    """
    from infra.errors import SettingsError

    releases = _releases(context)
    if head is not None and not verify:
        raise SettingsError("--head belongs to --verify.")
    if verify:
        found = releases.verify(head)
        newest = None if found else releases.head()
        if as_json:
            typer.echo(json.dumps({"is_intact": not found, "found": found, "head": newest}))
        else:
            for one in found:
                typer.secho(one, fg="red", err=True)
            if not found:
                typer.echo(f"intact; its head is {newest or 'nothing yet'}: note it elsewhere, and a cut is found by --head.")
        if found:
            raise typer.Exit(1)
        return
    moves = releases.history(_product(product) if product else None)
    if as_json:
        typer.echo(json.dumps([_content(move) for move in moves]))
        return
    rows = [
        {
            "epoch": move.epoch, "product": move.product, "what": move.verb, "stable": move.release.stable,
            "candidate": _candidate(move), "when": move.moved_at[:19], "who": move.who, "why": move.why,
        }
        for move in moves
    ]  # fmt: skip
    _tell(rows, False, "nothing was released yet.")


def _moved(context: typer.Context, move: Callable[[str], Move], as_json: bool) -> None:
    from serving.releases import actor

    made = move(actor())
    if as_json:
        typer.echo(json.dumps(_content(made)))
    else:
        _told(made)
    _mirror(context, made)


def _mirror(context: typer.Context, made: Move) -> None:
    """Show the release in MLflow, once it is told: importing its client alone takes a second."""
    from serving import review
    from training.tracking import Tracking

    review.mirror(Tracking(context.obj, context.obj.shop), made.product, made.release)


def _told(made: Move) -> None:
    candidate = _candidate(made)
    told = f", candidate {candidate}" if candidate else ""
    told += ", all of it from the end of the ladder" if made.release.is_safe else ""
    typer.echo(f"{made.product}: {made.release.stable} answers{told}.")


def _candidate(move: Move) -> str:
    candidate = move.release.candidate
    return f"{candidate.version} at {candidate.weight:g} %" if candidate else ""


def _content(move: Move) -> dict[str, Any]:
    return {**asdict(move), "release": move.release.model_dump(mode="json")}


def _bounds(releases: Releases, product: Any, said: list[str]) -> Bounds | None:
    """The candidate's bounds with these in their place; None: none is named."""
    from pydantic import ValidationError

    from infra.errors import SettingsError
    from serving.releases import Bounds

    if not said:
        return None
    release = releases.current().get(product)
    before = release.candidate.bounds if release and release.candidate else Bounds()
    try:
        return Bounds.model_validate({**before.model_dump(), **dict(_pair(one, "--bound") for one in said)})
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"--bound {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}.") from None


def _releases(context: typer.Context) -> Releases:
    from serving.releases import Releases

    settings: Settings = context.obj
    return Releases(settings, settings.shop)


def _product(name: str) -> Any:
    from infra.errors import SettingsError
    from serving.graph import PRODUCTS

    if name not in PRODUCTS:
        raise SettingsError(f"expected a product ({', '.join(PRODUCTS)}), got {name!r}.")
    return name


def _pair(said: str, option: str) -> tuple[str, str]:
    from infra.errors import SettingsError

    name, is_pair, value = said.partition("=")
    if not is_pair or not value:
        raise SettingsError(f"{option}: expected name=value, got {said!r}.")
    return name, value


def _tell(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    """A table of what all rows have, or what to do where there is none."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo(nothing)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # a log has room for whole versions and reasons
        console = Console(width=200)
    console.print(table, highlight=False)
