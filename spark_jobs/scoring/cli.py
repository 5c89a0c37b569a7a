"""The verb of batch scoring on the command line; heavy imports happen inside it.

A verb of its own beside `build`: feature tables are functions of raw tables alone, scores also of a registered model.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer

from infra.errors import SettingsError

app = typer.Typer()

SCORED = ("propensity",)


@app.command()
def score(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="propensity, with @version, @alias or @run id; alone: its newest version.")
    ] = "propensity",
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Local day that scores are from; default: today by the shop's clock.", formats=["%Y-%m-%d"]),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Let a trained model speak of every known user, into a table: scores/purchase_propensity says whether and when each buys.

    A row names the model version, the time and the table version it was computed from. The same again commits nothing.

    shopgraph score\n
    shopgraph score propensity@3 --json\n
    shopgraph score --as-of 2011-09-01
    """
    from rich.console import Console
    from rich.table import Table

    from infra.lake import Lake
    from infra.progress import steps
    from spark_jobs.scoring import propensity

    name, _, version = model.partition("@")
    if name not in SCORED:
        raise SettingsError(f"there is no batch scoring of {name!r}; there is {', '.join(SCORED)}.")
    with steps("reading") as say:
        made = propensity.score(context.obj, version or None, as_of.date() if as_of else None, say)
    rows = Lake.open(context.obj).read(propensity.TABLE.path, made.commit.version)
    report = {
        "table": propensity.TABLE.path,
        "version": made.commit.version,
        "skipped": made.commit.skipped,
        "users": rows.num_rows,
        "expected_buyers_7d": round(sum(rows["p_buy_7d"].to_pylist()), 1),
        "expected_buyers_30d": round(sum(rows["p_buy_30d"].to_pylist()), 1),
        "as_of": made.as_of.isoformat(),
        "model_version": made.model_version,
        "interactions_version": made.interactions_version,
    }
    if as_json:
        typer.echo(json.dumps(report))
        return
    shown = Table("user", "7 days", "30 days", "expected days", "because of", box=None)
    for row in rows.sort_by([("p_buy_30d", "descending"), ("user_id", "ascending")]).slice(0, 10).to_pylist():
        chances = (f"{row[name]:.1%}" for name in ("p_buy_7d", "p_buy_30d"))
        shown.add_row(row["user_id"], *chances, f"{row['expected_days_to_next']:.1f}", row["drivers"][0])
    out = Console()
    out.print(shown)
    out.print(
        f"{report['table']} version {report['version']}{' (was there)' * made.commit.skipped}: {rows.num_rows:,} users, "
        f"{report['expected_buyers_7d']:,.0f} expected to buy within 7 days, {report['expected_buyers_30d']:,.0f} within 30, "
        f"as of {report['as_of']}; propensity version {made.model_version}, interactions version {made.interactions_version}",
        style="dim",
        highlight=False,
    )
