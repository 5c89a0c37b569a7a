"""The whole run on a simulated shop: lake -> panel -> Ray Train -> floors -> MLflow -> registered model."""

from __future__ import annotations

import pickle
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.shop import Shop
from features.tables import CALENDAR, DAILY_DEMAND
from infra.errors import SettingsError, TableContractError
from infra.lake import Lake
from infra.settings import Settings
from training import recipe as recipes
from training.context import Context
from training.demand.backtest import BacktestConfig
from training.demand.data import LossConfig, WindowConfig
from training.demand.encoder import EncoderConfig
from training.demand.model import Config, Forecaster
from training.demand.recipes import Recipe, demo, full
from training.demand.train import read, special_days_of, train, tuning
from training.tracking import Tracking
from training.trainer import FitConfig

from .conftest import HOLIDAY, NUM_DAYS, START, simulate
from .test_model import history

HORIZON = 14
RECIPE = Recipe(
    name="tiny",
    backtest=BacktestConfig(horizon=HORIZON, num_origins=2),
    windows=WindowConfig(windows_per_epoch=640),
    model=Config(encoder=EncoderConfig(context_length=28, max_horizon=HORIZON), hidden_size=24, dropout=0.0),
    loss=LossConfig(),
    fit=FitConfig(epochs=10, batch_size=64, learning_rate=1e-2, schedule="cosine", clip_norm=1.0),
    peers=False,
)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", calendars=("DE",))


def write(lake: Lake, rows: pa.Table) -> None:
    """Rows of the simulation as the table that Spark writes."""
    zone = ZoneInfo(SHOP.time_zone)
    stamps = [datetime.combine(day + timedelta(days=1), datetime.min.time(), zone) for day in rows["ds"].to_pylist()]
    known = {
        **{name: rows[name] for name in rows.column_names},
        "returned_units_sum": pa.array([0] * rows.num_rows),
        "event_timestamp": pa.array(stamps),
        "created_timestamp": pa.array(stamps),
    }
    columns = [known[field.name].cast(field.type) for field in DAILY_DEMAND.schema]
    lake.write(DAILY_DEMAND.path, pa.table(columns, schema=DAILY_DEMAND.schema), "overwrite", digest="simulated")


@pytest.fixture
def context(settings: Settings, lake: Lake) -> Context:
    return Context(settings, SHOP, lake, Tracking(settings, SHOP.name))


def test_a_missing_table_is_named(context: Context) -> None:
    with pytest.raises(TableContractError, match="shopgraph build daily_demand"):
        train(RECIPE, context)


def test_a_table_too_short_for_the_recipe_is_refused_in_words(context: Context) -> None:
    write(context.lake, simulate(num_items=2, num_days=40))
    with pytest.raises(TableContractError, match="40 days leave -2 .* fewer origins"):
        train(RECIPE, context)


def test_what_is_tuned_ends_where_the_test_part_begins(settings: Settings) -> None:
    """Other units in the last horizon, the very same task."""
    tasks = []
    for shop, units in (("a", None), ("b", 77)):
        lake, rows = Lake.open(settings, shop), simulate(num_items=3)
        last = pc.greater_equal(rows["ds"], pa.scalar(START + timedelta(days=NUM_DAYS - HORIZON)))
        sold = rows["units_sum"] if units is None else pc.if_else(last, units, rows["units_sum"])
        write(lake, rows.set_column(rows.column_names.index("units_sum"), "units_sum", sold))
        tasks.append(tuning(RECIPE, Context(settings, SHOP, lake, Tracking(settings, shop))).task)
    assert pickle.dumps(tasks[0]) == pickle.dumps(tasks[1])
    assert tasks[0].monitor == "val_wql"


def test_the_calendar_holds_public_and_own_days_beyond_the_table(context: Context) -> None:
    write(context.lake, simulate(num_items=2, num_days=40))
    stamp = datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))
    own = {"date": START + timedelta(days=60), "name": "Anniversary", "kind": "shopping_day"}
    plain = {"date": START + timedelta(days=61), "name": "open Sunday", "kind": "open"}
    rows = [{**row, "event_timestamp": stamp, "created_timestamp": stamp} for row in (own, plain)]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in CALENDAR.schema]
    context.lake.write(CALENDAR.path, pa.table(columns, schema=CALENDAR.schema), "append", digest="own")
    panel, calendar, inputs = read(context)
    assert inputs == {DAILY_DEMAND.path: 0, CALENDAR.path: 0}
    assert panel.num_items == 2
    assert calendar[own["date"]] == "Anniversary"
    assert plain["date"] not in calendar
    assert HOLIDAY in calendar  # May Day of the German calendar
    assert max(calendar) > START + timedelta(days=365)


def test_the_newest_version_of_a_special_day_wins() -> None:
    def row(day: int, name: str, kind: str | None, seen: int) -> dict[str, object]:
        return {"date": date(2026, 5, day), "name": name, "kind": kind, "created_timestamp": datetime(2026, 1, seen)}

    rows = [
        row(1, "Fair (renamed)", None, 2),
        row(1, "Fair", "shopping_day", 1),
        row(2, "Feast", "closed", 2),
        row(2, "Feast", "holiday", 1),
        row(3, "Market", "shopping_day", 2),
        row(3, "Market", "closed", 1),
    ]
    assert special_days_of(pa.Table.from_pylist(rows)) == {date(2026, 5, 1): "Fair (renamed)", date(2026, 5, 3): "Market"}


def test_recipes_are_frozen_and_whole() -> None:
    for recipe in (demo(), full()):
        assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe
        assert recipe.model.encoder.max_horizon == recipe.backtest.horizon == 28


@pytest.mark.parametrize("field", ["backtest.horizon", "model.encoder.max_horizon"])
def test_days_that_are_scored_are_those_that_are_answered(field: str) -> None:
    with pytest.raises(SettingsError, match=r"demand/demo: Value error, .* equal to model.encoder.max_horizon, got .*; set both$"):
        recipes.load("demand", "demo", (f"{field}=14",))
    both = recipes.load("demand", "demo", ("backtest.horizon=14", "model.encoder.max_horizon=14"))
    assert isinstance(both, Recipe)
    assert both.backtest.horizon == 14


@pytest.mark.e2e
@pytest.mark.usefixtures("ray")
def test_train_registers_a_model_that_beats_its_floors(settings: Settings, lake: Lake, mlflow_uri: str) -> None:
    settings = settings.model_copy(update={"mlflow_uri": mlflow_uri})
    context = Context(settings, SHOP, lake, Tracking(settings, SHOP.name))
    rows = simulate()
    write(context.lake, rows)
    report = train(RECIPE, context)
    metrics = report["metrics"]
    assert set(metrics) == {"demand", "seasonal_naive", "moving_average", "moving_median"}
    assert metrics["demand"]["test_wql_gain_lo"] > 0
    assert metrics["demand"]["test_wape_gain_lo"] > 0
    assert abs(metrics["demand"]["test_bias"]) < 0.15
    assert "moving_median" in report["summary"]
    saved = context.tracking.fetch("demand")
    assert (saved.version, saved.inputs) == (report["version"], {DAILY_DEMAND.path: 0})
    answer = Forecaster.load(saved.folder).forecast([history(rows, "item-05")], None, HORIZON)[0]
    assert answer.days[0] == START + timedelta(days=NUM_DAYS)
    assert answer.mean.sum() > 0
    client = context.tracking.client
    runs = client.search_runs([client.get_experiment_by_name("sample/demand").experiment_id])
    assert len({run.data.tags["data_digest"] for run in runs}) == len({run.data.tags["split_digest"] for run in runs}) == 1
    assert {run.info.run_name: run.data.tags["role"] for run in runs} == {
        "demand tiny": "model", **dict.fromkeys(set(metrics) - {"demand"}, "baseline"),
    }  # fmt: skip
    plots = {item.path for item in client.list_artifacts(report["run_id"], "plots")}
    assert {"plots/forecast_fan.png", "plots/calibration.png", "plots/error_by_horizon.png"} <= plots
