"""`shopgraph keys`: who may ask the HTTP API what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.settings import Settings

if TYPE_CHECKING:
    from datetime import datetime

    from serving.keys import Key, Keys

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will use it, such as web, till or prometheus.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="What it allows, again for each: recommend, forecast, sentiment, events:write, items:write, metrics:read, or * for all."
        ),
    ],
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A page that may use it, such as https://shop.example; again for each. It may then hold events:write only."
        ),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Requests a second, shared among the replicas; default: as many as there are.")
    ] = None,
    quota: Annotated[int | None, typer.Option(help="Requests a day (UTC); default: as many as there are.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: 90d, 12h, or a time such as 2027-01-31.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is printed once and kept nowhere: what is stored is its digest.

    Send it as `Authorization: Bearer <key>` or `X-Api-Key: <key>`. A key without --origin is for the shop's own servers and must be kept
    secret. One with --origin stands in a page, where everybody reads it, so it may only tell events; browsers use it on those pages alone,
    and whoever copies it is held by --rate and --quota.

    KEY=$(shopgraph keys create shop-server --scope recommend --scope events:write --expires 365d)\n
    curl -s http://127.0.0.1:8000/v1/recommend -H "x-api-key: $KEY" -H 'content-type: application/json' -d '{"user_id": "u0000001"}'\n
    shopgraph keys create web --scope events:write --origin https://shop.example --rate 50 --quota 100000\n
    shopgraph keys create prometheus --scope metrics:read
    """
    from datetime import UTC, datetime

    from infra.home import Home
    from serving.keys import expiry
    from serving.releases import actor

    Home(context.obj).create()
    now = datetime.now(UTC)
    ends = expiry(expires, now) if expires is not None else None
    key, whole = _keys(context).create(name, scope, actor(), origin or (), rate, quota, ends)
    if as_json:
        typer.echo(json.dumps({**_content(key, now), "key": whole}))
        return
    typer.echo(whole)
    typer.echo(f"Keep it now: it is not shown again. `shopgraph keys revoke {key.name}` ends it.", err=True)
    if key.origins and not (key.rate and key.quota):
        typer.echo(
            "Everybody who opens the page reads it: without --rate and --quota they may post as much as they like.", err=True
        )


@app.command(name="list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Every key of the shop: what it allows, its limits, what it asked today (UTC), and whether it holds. Never the key itself.

    shopgraph keys list
    """
    from datetime import UTC, datetime

    from serving.keys import DAY_S

    now = datetime.now(UTC)
    keys = _keys(context)
    used = keys.used(int(now.timestamp()) // DAY_S)
    found = [{**_content(key, now), "requests_today": used.get(key.id, 0)} for key in keys.all()]
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found:
        typer.echo("none yet: `shopgraph keys create shop-server --scope recommend`.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "state", "scopes", "origins", "rate", "quota", "today", "expires", "created", "by", box=None)
    for one in found:
        limits = [str(one[name] or "") for name in ("rate", "quota")]
        row = [one["id"], one["name"], one["state"], " ".join(one["scopes"]), " ".join(one["origins"]), *limits]
        table.add_row(*row, str(one["requests_today"]), (one["expires_at"] or "")[:16], one["created_at"][:16], one["created_by"])
    console = Console()
    if not console.is_terminal:  # a log has room for whole origins
        console = Console(width=200)
    console.print(table, highlight=False)


@app.command()
def revoke(
    context: typer.Context,
    which: Annotated[str, typer.Argument(help="Name or id of the key: see `keys list`.")],
    as_json: Json = False,
) -> None:
    """End a key for good: every replica refuses it within 2 seconds. To replace one, make the new key first, under another name.

    shopgraph keys revoke web
    """
    from datetime import UTC, datetime

    from serving.releases import actor

    key = _keys(context).revoke(which, actor())
    content = _content(key, datetime.now(UTC))
    typer.echo(json.dumps(content) if as_json else f"{key.name} ({key.id}) is revoked; every replica refuses it within 2 s.")


def _keys(context: typer.Context) -> Keys:
    from serving.keys import Keys

    settings: Settings = context.obj
    return Keys(settings, settings.shop)


def _content(key: Key, now: datetime) -> dict[str, Any]:
    """What may be told of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(now),
        "scopes": list(key.scopes),
        "origins": list(key.origins),
        "rate": key.rate,
        "quota": key.quota,
        "created_at": key.created_at.isoformat(),
        "created_by": key.created_by,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "revoked_by": key.revoked_by,
    }
