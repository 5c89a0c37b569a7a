"""Training the demand model: tune on rolling origins, refit up to the test part, score it once, register."""

from __future__ import annotations

import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.calendars import special_days
from features.columns import CATEGORY, CREATED_TIMESTAMP, EVENT_TIMESTAMP, ITEM_ID
from features.revisions import current_rows
from features.tables import CALENDAR, DAILY_DEMAND, ITEM_CATALOG
from infra.errors import TableContractError
from infra.lake import digest_of
from training.context import Context
from training.demand import evaluate
from training.demand.backtest import Answer, Backtest, select_series
from training.demand.baselines import FLOORS, gradient_boosting
from training.demand.data import DemandTask, network_method
from training.demand.encoder import Encoder
from training.demand.model import Forecaster
from training.demand.panel import COLUMNS, Panel
from training.demand.recipes import Recipe
from training.metrics.comparison import signed
from training.metrics.names import with_interval
from training.splits import rolling_origins
from training.trainer import Tuning
from training.trainer import train as fit

TASK = "demand"
CALENDAR_DAYS = 2 * 366
"""How far beyond the newest row the model's calendar reaches."""


def train(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Train, compare with the baselines, register.

    Returns:
        `version` and `run_id` of the model, `metrics` of model and baselines on the test part, `gains` over each baseline,
        `summary` to read.

    Raises:
        TableContractError: `daily_demand` is missing, empty, or too short for the recipe.
    """
    panel, calendar, inputs, origins, test_origin = _read(recipe, context)
    tags = {"split_digest": _split_digest(recipe, panel, origins, test_origin)}
    seed = recipe.fit.seed
    title = f"{TASK} {recipe.name}"
    with context.tracking.run(TASK, name=title, role="model", recipe=recipe.model_dump(), inputs=inputs, tags=tags) as run:
        started = time.perf_counter()
        tuning = _task(recipe, panel, calendar, origins[0], origins)
        final = _task(recipe, panel, calendar, test_origin)
        trained = fit(
            tuning,
            recipe.fit,
            context.settings,
            title=title,
            checkpoint=context.checkpoint(
                TASK, recipe.model_dump(mode="json"), inputs, tags["split_digest"], panel.digest, sorted(calendar.items())
            ),
            refit=final,
            on_epoch=run.epoch,
        )
        network = final.build()
        network.load_state_dict(trained.final.state)
        forecaster = Forecaster(recipe.model, final.encoder, network)
        epochs = trained.tuned.best_epoch + 1
        seconds = time.perf_counter() - started

        test = Backtest.at(panel, test_origin, forecaster.encoder, recipe.backtest)
        methods = {TASK: network_method(forecaster), **FLOORS}
        if recipe.peers:
            known = panel.until(test_origin)
            methods["gradient_boosting"] = gradient_boosting(known, forecaster.encoder, seed=seed)
        answers = {name: method(test.panel, test.origin) for name, method in methods.items()}
        parts = {name: test.score(answer) for name, answer in answers.items()}
        reports = {name: evaluate.metrics(part, seed) for name, part in parts.items()}
        gains = evaluate.gains({name: part for name, part in parts.items() if name != TASK}, parts[TASK], seed)
        for metric in evaluate.JUDGED:
            floor = evaluate.hardest({name: gains[name] for name in FLOORS}, metric)
            reports[TASK] |= with_interval(f"test_{metric}_gain", gains[floor][metric])
            run.tags({f"hardest_floor_{metric}": floor})

        run.metrics(reports[TASK])
        run.figure(evaluate.fan(test, answers[TASK]), "forecast_fan.png")
        run.figure(evaluate.calibration(test, answers[TASK]), "calibration.png")
        run.figure(evaluate.gains_over_floors(gains), "gains_over_floors.png")
        run.figure(evaluate.error_by_horizon(test, answers), "error_by_horizon.png")
        run.table(evaluate.per_series(test, parts[TASK]), "per_series.parquet")
        card = _card(recipe, panel, test, reports, gains, epochs, seconds)
        run.note(card)
        with tempfile.TemporaryDirectory() as folder:
            forecaster.save(Path(folder))
            version = context.tracking.register(run, TASK, Path(folder), forecaster.input_spec, card)
    for name in methods:
        if name != TASK:
            _track_baseline(name, recipe, context, inputs, tags, test, answers[name], reports[name], parts[name])
    return {
        "version": version,
        "run_id": run.id,
        "train_s": seconds,
        "metrics": reports,
        "gains": gains,
        "summary": evaluate.table(reports),
    }


def tuning(recipe: Recipe, context: Context) -> Tuning:
    """What a search for the recipe's values fits (raises as `train`)."""
    panel, calendar, inputs, origins, test_origin = _read(recipe, context)
    digest = _split_digest(recipe, panel, origins, test_origin)
    task = _task(recipe, panel, calendar, origins[0], origins)
    return Tuning(task, inputs, {"split_digest": digest}, (inputs, digest, panel.digest, sorted(calendar.items())))


def _read(recipe: Recipe, context: Context) -> tuple[Panel, dict[date, str], dict[str, int], tuple[int, ...], int]:
    """As `read`, with the origins that are tuned on and that of the test part."""
    panel, calendar, inputs = read(context)
    try:
        origins, test_origin = rolling_origins(panel.num_days, recipe.backtest.horizon, recipe.backtest.num_origins)
        for origin in (*origins, test_origin):
            select_series(panel.until(origin), recipe.backtest)
    except ValueError as error:
        raise TableContractError(f"table {DAILY_DEMAND.path}: {error} (recipe group `backtest`).") from None
    return panel, calendar, inputs, origins, test_origin


def _split_digest(recipe: Recipe, panel: Panel, origins: tuple[int, ...], test_origin: int) -> str:
    return digest_of(panel.item_ids, panel.start, origins, test_origin, recipe.backtest.model_dump())[:16]


def read(context: Context) -> tuple[Panel, dict[date, str], dict[str, int]]:
    """The panel, the calendar the model will carry, and the table versions both came from.

    Raises:
        TableContractError: `daily_demand` was not built, or no panel can be made of it.
        SettingsError: the shop names a calendar that is unknown.
    """
    lake = context.lake
    version = lake.version(DAILY_DEMAND.path)
    if version is None:
        raise TableContractError(f"table {DAILY_DEMAND.path} does not exist; run `shopgraph build daily_demand` first.")
    inputs = {DAILY_DEMAND.path: version}
    categories: dict[str, str | None] = {}
    catalog_version = lake.version(ITEM_CATALOG.path)
    if catalog_version is not None:
        inputs[ITEM_CATALOG.path] = catalog_version
        catalog = current_rows(lake, ITEM_CATALOG, catalog_version, [ITEM_ID, CATEGORY, EVENT_TIMESTAMP, CREATED_TIMESTAMP])
        catalog = catalog.sort_by([(EVENT_TIMESTAMP, "ascending"), (CREATED_TIMESTAMP, "ascending")])
        categories = dict(zip(catalog[ITEM_ID].to_pylist(), catalog[CATEGORY].to_pylist(), strict=True))
    table = current_rows(lake, DAILY_DEMAND, version, [*COLUMNS, CREATED_TIMESTAMP])
    panel = Panel.from_table(table, categories)
    until = panel.day(panel.num_days + CALENDAR_DAYS)
    calendar = special_days(context.shop.calendars, panel.start, until)
    calendar_version = lake.version(CALENDAR.path)
    if calendar_version is not None:
        inputs[CALENDAR.path] = calendar_version
        calendar |= special_days_of(lake.read(CALENDAR.path, calendar_version))
    return panel, calendar, inputs


def special_days_of(rows: pa.Table) -> dict[date, str]:
    """The special days that rows of `raw/calendar` name; of several versions of a row, and of several names, the newest counts."""
    kinds: dict[tuple[date, str], str | None] = {}
    for row in rows.select(["date", "name", "kind", CREATED_TIMESTAMP]).sort_by(CREATED_TIMESTAMP).to_pylist():
        day = (row["date"], row["name"])
        kinds.pop(day, None)  # a newer version moves to the end
        kinds[day] = row["kind"]
    return {when: name for (when, name), kind in kinds.items() if kind in (None, "holiday", "shopping_day")}


def _task(recipe: Recipe, panel: Panel, calendar: dict[date, str], end: int, origins: tuple[int, ...] = ()) -> DemandTask:
    """Learn from the days before `end`; with origins, watch the error of forecasts from each of them."""
    encoder = Encoder.fit(recipe.model.encoder, panel.until(end), calendar)
    known = panel.until(origins[-1] + recipe.backtest.horizon if origins else end)
    return DemandTask(
        known,
        encoder,
        recipe.model,
        recipe.windows,
        recipe.backtest,
        recipe.loss,
        recipe.fit.batch_size,
        recipe.fit.seed,
        end,
        origins,
    )


def _track_baseline(
    name: str,
    recipe: Recipe,
    context: Context,
    inputs: dict[str, int],
    tags: dict[str, str],
    test: Backtest,
    answer: Answer,
    report: dict[str, float],
    parts: evaluate.Parts,
) -> None:
    """One run per baseline, over the same tables and series."""
    content = {"name": name, "backtest": recipe.backtest.model_dump()}
    with context.tracking.run(TASK, name=name, role="baseline", recipe=content, inputs=inputs, tags=tags) as run:
        run.metrics(report)
        run.figure(evaluate.fan(test, answer), "forecast_fan.png")
        run.figure(evaluate.calibration(test, answer), "calibration.png")
        run.table(evaluate.per_series(test, parts), "per_series.parquet")


def _card(
    recipe: Recipe,
    panel: Panel,
    test: Backtest,
    reports: dict[str, dict[str, float]],
    gains: dict[str, dict[str, evaluate.Interval]],
    epochs: int,
    seconds: float,
) -> str:
    """What the model is, what it was judged on, and where it falls short."""
    first, last = panel.day(test.origin), panel.day(test.origin + test.actual.shape[1] - 1)
    verdicts = [
        f"- {metric.upper()} over `{name}`: {signed(mean, lo, hi)}" + ("" if lo > 0 else ", NOT above zero: it stands")
        for name, intervals in gains.items()
        for metric, (mean, lo, hi) in intervals.items()
    ]
    rules = recipe.backtest
    return "\n".join(
        [
            "# Demand",
            "",
            "Units per item and local day, up to "
            f"{recipe.model.encoder.max_horizon} days ahead: quantiles {recipe.model.levels[0]}..{recipe.model.levels[-1]} and the mean.",
            "A global LSTM over all items with direct multi-horizon quantiles; calendar, price and promotion are known ahead.",
            "",
            f"Test part: {first} to {last}, touched once. {epochs} epochs were chosen on {rules.num_origins} rolling origins, then the "
            f"network was fitted again on all {test.origin} days before the test part ({seconds:.0f} s in all).",
            f"Scored: {test.panel.num_items} of {panel.num_items} items, those sold on at least {rules.min_sold_days} days before the "
            f"test part and in its last {rules.recent_days}. Days with stock-outs or a foreseen closure do not count.",
            "",
            evaluate.table(reports),
            "",
            "Error saved against each floor and peer (paired, 95 % bootstrap over series):",
            *verdicts,
            "",
            "WAPE and MASE judge the median, bias the mean forecast. Medians of sparse items add up to less than the demand: order by the",
            "mean or by a quantile, never by the sum of medians. Units of counts make the 80 % interval cover more than 80 %.",
            "Prices ahead are unknown in the test and taken as the last ones; planned prices can be given when asking.",
            "Days before a cutoff are read as the table tells them now: sales, stock-outs and promotions that became known late are in",
            "them already, which flatters every method where a shop learns of its sales late.",
        ]
    )
