"""Reports for people: the page under the home, and the table of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from features.quality.models import ModelDrift, model_drift, newest_models
from features.quality.overview import Standing, standings
from features.quality.page import number_text, page
from features.shop import Shop
from infra import clock
from infra.errors import HomeError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

_COLOURS = {"passed": "green", "warned": "yellow", "failed": "red", None: "dim"}


def write_page(settings: Settings, file: Path | None = None) -> Path:
    """Write the page of the settings' shop; where it lies, by default `<home>/reports/<shop>/quality.html`.

    Raises:
        HomeError: it cannot be written.
    """
    home = Home(settings)
    shop, lake = Shop.load(home), Lake.open(settings)
    now = clock.now(settings.now or shop.now, lake)
    path = file or home.reports / shop.name / "quality.html"
    text = page(shop, now, standings(lake, shop, now), [model_drift(lake, one) for one in newest_models(lake)])
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise HomeError(f"the quality page {path} cannot be written ({error.strerror}); give another place with --html.") from None
    return path


def broken(found: Sequence[Standing]) -> Table:
    """The state of each table, and a line for each expectation that is broken."""
    shown = Table("table", "version", "state", "broken", box=None)
    for one in found:
        last = one.refused or one.report
        said = (
            [f"{check.name} {check.column}: expected {check.expected}, got {check.got}" for check in (*last.failed, *last.warned)]
            if last
            else []
        )
        version = "refused" if one.refused else str(one.report.version) if one.report else ""
        state = one.status or "not looked at"
        shown.add_row(one.table.path, version, f"[{_COLOURS[one.status]}]{state}[/]", escape("\n".join(said)))
    return shown


def drift_table(one: ModelDrift) -> Table:
    """The features of a model, the farthest first; what no report speaks of below them."""
    shown = Table(box=None)
    for heading in ("table", "feature", "PSI", "verdict", "mean then", "mean now", "rows then", "rows now"):
        shown.add_column(heading, no_wrap=heading in ("table", "feature", "PSI"))
    shown.title = f"{one.trained.model} version {one.trained.version}"
    for feature in one.features:
        psi = "" if feature.psi is None else f"{feature.psi:.3f}"
        means = [number_text(mean) for mean in (feature.mean_then, feature.mean_now)]
        shown.add_row(
            feature.table, feature.column, psi, feature.verdict, *means, f"{feature.rows_then:,}", f"{feature.rows_now:,}"
        )
    for path, why in one.unknown.items():
        shown.add_row(path, "", "", escape(why))
    return shown
