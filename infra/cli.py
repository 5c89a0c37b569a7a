"""Verbs of `infra` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def doctor(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False) -> None:
    """Check this machine, the settings and every engine they name; exit code 1 where something will not work.

    shopgraph doctor\n
    shopgraph doctor --json
    """
    from infra.doctor import examine

    findings = examine(context.obj)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    else:
        colours = {"ok": "green", "note": "yellow", "fail": "red"}
        for finding in findings:
            typer.echo(f"{typer.style(f'{finding.verdict:5}', fg=colours[finding.verdict])} {finding.what}: {finding.told}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
def backup(
    context: typer.Context, archive: Annotated[Path, typer.Argument(help="File to write, e.g. shop-2026-11-21.tar.gz.")]
) -> None:
    """Write the whole home (tables, registries, models, online store) into one file; servers and writers may run meanwhile.

    shopgraph backup shop-2026-11-21.tar.gz
    """
    from infra import backup as backups
    from infra.home import Home

    size = backups.backup(Home(context.obj), archive)
    typer.echo(f"{archive}: {size / 1e6:.1f} MB. It holds user data and keys; keep it as you keep the home.")


@app.command()
def restore(context: typer.Context, archive: Annotated[Path, typer.Argument(help="A file that `shopgraph backup` wrote.")]) -> None:
    """Unpack a backup into an empty home; afterwards the same request gives the same answer.

    Feast's own command works on it after `shopgraph features apply`.

    shopgraph --home /srv/shop restore shop-2026-11-21.tar.gz
    """
    from infra import backup as backups
    from infra.home import Home

    home = Home(context.obj)
    count = backups.restore(home, archive)
    typer.echo(f"{home.path}: {count} files restored; start it with `shopgraph up`.")


@app.command()
def upgrade(context: typer.Context) -> None:
    """Bring a home of an older version to the format this version reads.

    shopgraph backup before.tar.gz && shopgraph upgrade
    """
    from infra.home import FORMAT, Home

    home = Home(context.obj)
    typer.echo(f"{home.path}: {home.upgrade()}, now format {FORMAT}.")
