from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from features.views import ONLINE_DAYS
from tests.model_contract import ModelContract
from training.demand.backtest import BacktestConfig
from training.demand.data import DemandTask, LossConfig, WindowConfig
from training.demand.encoder import Encoder, EncoderConfig
from training.demand.model import Config, Forecast, Forecaster, Network, interpolate
from training.demand.panel import Panel

from .conftest import CALENDAR, NUM_DAYS, START, simulate

HORIZON = 14
SMALL = Config(encoder=EncoderConfig(context_length=28, max_horizon=HORIZON), hidden_size=16, dropout=0.0)
START_AHEAD = START + timedelta(days=NUM_DAYS)


def history(table: pa.Table, item_id: str, last_days: int | None = None) -> dict[str, Any]:
    """One series as serving hands it over."""
    rows = [row for row in table.to_pylist() if row["item_id"] == item_id]
    rows = rows[-last_days:] if last_days else rows
    return {"item_id": item_id, **{name: [row[name] for row in rows] for name in table.column_names if name != "item_id"}}


class TestDemand(ModelContract):
    overfit_to = 0.5  # the counts of a day are noise around their mean

    @pytest.fixture(autouse=True)
    def _rows(self, panel: Panel, table: pa.Table) -> None:
        self.panel, self.table = panel, table

    def config(self) -> Config:
        return SMALL

    def encoder(self) -> Encoder:
        return Encoder.fit(SMALL.encoder, self.panel.until(160), CALENDAR)

    def task(self) -> DemandTask:
        rules = BacktestConfig(horizon=HORIZON)
        loss = LossConfig(hide_history=0, mean_weight=0)
        return DemandTask(self.panel, self.encoder(), SMALL, WindowConfig(windows_per_epoch=16), rules, loss, 4, 3, 160, (160,))

    def model(self, module: nn.Module) -> Forecaster:
        assert isinstance(module, Network)
        return Forecaster(SMALL, self.encoder(), module)

    def load(self, folder: Path) -> Forecaster:
        return Forecaster.load(folder)

    def answer(self, model: Forecaster, request: Any) -> Sequence[Any]:
        forecasts = model.forecast([request], None, 5, (0.1, 0.5, 0.9), START_AHEAD)
        return [(value.mean.tolist(), {level: row.tolist() for level, row in value.quantiles.items()}) for value in forecasts]

    def ordinary(self) -> list[Any]:
        return [history(self.table, "item-03"), history(self.table, "item-07", 40)]

    def odd(self) -> list[Any]:
        nothing: dict[str, Any] = {"item_id": "never seen", "ds": []}
        long_ago = {name: values[:3] for name, values in history(self.table, "item-03").items() if name != "item_id"}
        only_sales = {"ds": [START], "units_sum": [4]}
        return [nothing, {}, {"ds": [], "category": "no such category"}, long_ago, only_sales, history(self.table, "item-03", 1)]


@pytest.fixture(scope="module")
def forecaster(panel: Panel) -> Forecaster:
    torch.manual_seed(0)
    encoder = Encoder.fit(SMALL.encoder, panel, CALENDAR)
    return Forecaster(SMALL, encoder, Network(SMALL, encoder))


def values(forecasts: list[Forecast]) -> np.ndarray:
    return np.array([list(forecast.quantiles.values()) for forecast in forecasts])


def test_quantiles_never_cross_and_are_never_negative(panel: Panel) -> None:
    """By construction, so also with weights that are nonsense."""
    encoder = Encoder.fit(SMALL.encoder, panel, CALENDAR)
    network = Network(SMALL, encoder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 2, generator=torch.Generator().manual_seed(1))
    levels = (0.011, 0.05, 0.3, 0.33, 0.5, 0.77, 0.98)
    longer, _ = encoder.extend(panel, HORIZON)
    found, mean = Forecaster(SMALL, encoder, network).predict_at(longer, np.full(panel.num_items, panel.num_days), HORIZON)
    wanted = interpolate(found, SMALL.levels, levels)
    assert wanted.shape == (panel.num_items, HORIZON, len(levels))
    assert (np.diff(wanted, axis=2) >= 0).all()
    assert (wanted >= 0).all()
    assert (mean >= 0).all()
    assert wanted.max() > 0


def test_an_untrained_network_is_a_moving_average(panel: Panel) -> None:
    """It begins between the empirical quantiles of the last 28 and 112 days and at their level, not anywhere."""
    encoder = Encoder.fit(SMALL.encoder, panel, CALENDAR)
    torch.manual_seed(0)
    longer, _ = encoder.extend(panel, HORIZON)
    found, mean = Forecaster(SMALL, encoder, Network(SMALL, encoder)).predict_at(longer, np.full(12, panel.num_days), HORIZON)
    opens = longer.is_open[-HORIZON:]
    for row in (3, 11):
        windows = [panel.units[row, -days:][panel.is_observed[row, -days:]] for days in (28, 112)]
        expected = np.mean([np.quantile(window, SMALL.levels) for window in windows], axis=0)
        level = windows[0].mean()
        np.testing.assert_allclose(found[row, opens], np.tile(expected, (opens.sum(), 1)), atol=0.5 * level)
        np.testing.assert_allclose(mean[row, opens], level, rtol=0.3)


def test_interpolation_is_exact_at_trained_levels_and_linear_between() -> None:
    grid = np.array([[0.0, 10.0, 30.0]], np.float32)
    np.testing.assert_allclose(interpolate(grid, (0.1, 0.5, 0.9), (0.1, 0.3, 0.5, 0.8, 0.9)), [[0, 5, 10, 25, 30]], rtol=1e-6)
    np.testing.assert_allclose(interpolate(grid[:, 1:2], (0.5,), (0.5, 0.5)), [[10, 10]])


def test_a_series_is_answered_the_same_alone_and_among_others(forecaster: Forecaster, table: pa.Table) -> None:
    """Old, young, stale and unknown ones: what else is asked changes nothing, also of days closed or named against the rules."""
    odd = [NUM_DAYS - 15, NUM_DAYS - 20]
    rows = [
        {**row, **({"is_open": False, "holiday": "Fire"} if (row["ds"] - START).days in odd else {})} for row in table.to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=table.schema)
    series = [history(table, f"item-{number:02d}") for number in range(6)]
    series += [{"ds": []}, history(table, "item-08", 10), known_until(table, START_AHEAD - timedelta(days=8))]
    together = forecaster.forecast(series, None, HORIZON, start=START_AHEAD)
    alone = [forecaster.forecast([each], None, HORIZON, start=START_AHEAD)[0] for each in series]
    np.testing.assert_allclose(values(together), values(alone), rtol=1e-4, atol=1e-5)


def test_an_item_never_seen_looks_as_training_showed_one(forecaster: Forecaster, panel: Panel) -> None:
    """As any item of its category whose whole history is hidden, and said to be."""
    encoder, levels = forecaster.encoder, SMALL.levels
    longer, _ = encoder.extend(panel, HORIZON)
    known, yes = np.array([3]), np.array([True])
    cutoff = np.array([panel.num_days])
    arrays = encoder.encode(encoder.prepare(longer), known, cutoff, HORIZON, is_price_known=~yes, is_history_hidden=yes)
    with torch.inference_mode():
        quantiles, _ = forecaster.network({name: torch.from_numpy(array) for name, array in arrays.items()})
    expected = np.maximum(quantiles.numpy(), 0) * arrays["scale"] * longer.is_open[panel.num_days :, None]
    found = forecaster.forecast([{"ds": []}], None, HORIZON, levels, START_AHEAD)[0]
    np.testing.assert_allclose(np.array(list(found.quantiles.values())).T, expected[0], rtol=1e-4, atol=1e-5)


def test_history_days_are_all_that_is_needed(forecaster: Forecaster, table: pa.Table) -> None:
    whole, cut = (
        forecaster.forecast([history(table, "item-05", days)], None, HORIZON, start=START_AHEAD)
        for days in (None, forecaster.history_days)
    )
    np.testing.assert_allclose(values(whole), values(cut), rtol=1e-4, atol=1e-5)


def test_last_year_is_read_and_the_online_store_holds_it() -> None:
    """What a request can see is what the backtest saw, for the longest context that a recipe may ask for, too."""
    rows = simulate(num_items=2, num_days=760)
    encoder = Encoder.fit(SMALL.encoder, Panel.from_table(rows), CALENDAR)
    assert encoder.has_year
    model = Forecaster(SMALL, encoder, Network(SMALL, encoder))
    start = START + timedelta(days=760)
    whole, cut, recent = (
        values(model.forecast([history(rows, "item-01", days)], None, HORIZON, start=start))
        for days in (None, model.history_days, 120)
    )
    np.testing.assert_allclose(whole, cut, rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, recent, rtol=1e-3)
    held = ONLINE_DAYS["daily_demand"]
    assert model.history_days <= held
    longest = EncoderConfig(context_length=held)
    assert replace(encoder, config=longest).history_days <= held
    with pytest.raises(ValidationError, match=f"less than or equal to {held}"):
        EncoderConfig(context_length=held + 1)


def test_rows_from_the_start_on_are_not_looked_at(forecaster: Forecaster, table: pa.Table) -> None:
    start = START + timedelta(days=150)
    known = history(table, "item-05")
    before = {name: column[: known["ds"].index(start)] for name, column in known.items() if name != "item_id"}
    one, two = (forecaster.forecast([series], None, HORIZON, start=start) for series in (known, before))
    np.testing.assert_array_equal(values(one), values(two))
    assert one[0].days[0] == start


def test_days_follow_the_newest_row_unless_told(forecaster: Forecaster, table: pa.Table) -> None:
    answer = forecaster.forecast([history(table, "item-05")], None, 3)[0]
    assert answer.days == tuple(START_AHEAD + timedelta(days=step) for step in range(3))
    with pytest.raises(ValueError, match="start"):
        forecaster.forecast([{"ds": []}], None, 3)


def test_closed_days_are_zero_and_a_plan_can_open_them(forecaster: Forecaster, table: pa.Table) -> None:
    series = [history(table, "item-05")]
    usual = forecaster.forecast(series, None, HORIZON)[0]
    closed = [day.weekday() == 5 or day in CALENDAR for day in usual.days]
    assert sum(closed) == 3  # two Saturdays and the holiday
    assert [bool(value == 0) for value in usual.mean] == closed
    opened = forecaster.forecast(series, [{"is_open": [True] * HORIZON}], HORIZON)[0]
    assert (opened.mean > 0).all()
    assert usual.filled == ("holiday", "is_open", "price", "promotion_depth")
    assert opened.filled == ("holiday", "price", "promotion_depth")


def test_what_was_filled_is_said_per_series(forecaster: Forecaster, table: pa.Table) -> None:
    plans = [{"promotion_depth": [0.3] * 4, "price_mean": [8.0, None, 8.0, 8.0]}, {"price_mean": [8.0] * 4}]
    one, two = forecaster.forecast([history(table, "item-05"), history(table, "item-06")], plans, 4)
    assert one.filled == ("holiday", "is_open", "price")
    assert two.filled == ("holiday", "is_open", "promotion_depth")


def test_an_item_nothing_is_known_of_is_flagged_and_gets_the_level_of_its_category(forecaster: Forecaster, table: pa.Table) -> None:
    known, cold, even = forecaster.forecast(
        [history(table, "item-05"), {"ds": []}, {"ds": [], "category": "even"}], None, 3, start=START_AHEAD
    )
    assert (known.is_cold, cold.is_cold, even.is_cold) == (False, True, True)
    assert cold.mean.sum() > 0
    assert cold.mean.tolist() != even.mean.tolist()


def test_an_item_whose_rows_ended_sold_nothing_since(forecaster: Forecaster, table: pa.Table) -> None:
    """Alone in a request nobody else's rows tell that the shop was open; the rules do."""
    rows = {name: column[:120] for name, column in history(table, "item-09").items() if name != "item_id"}
    dead, alive = forecaster.forecast([rows], None, 5, start=START_AHEAD)[0], forecaster.forecast([rows], None, 5)[0]
    assert dead.mean.sum() < 0.5 * alive.mean.sum()


def known_until(table: pa.Table, last: date) -> dict[str, Any]:
    """item-09 up to a day, as serving hands it over while later days are not built."""
    series = history(table, "item-09")
    position = series["ds"].index(last) + 1
    return {name: values[:position] for name, values in series.items() if name != "item_id"} | {"known_until": last}


def test_days_that_are_not_known_yet_are_not_days_without_a_sale(forecaster: Forecaster, table: pa.Table) -> None:
    """The answer is the later part of the one that could be given on the morning after the last known day."""
    last = START_AHEAD - timedelta(days=4)
    series = known_until(table, last)
    fresh = history(table, "item-05")
    late, other = forecaster.forecast([series, fresh], None, 7, start=START_AHEAD)
    early = forecaster.forecast([series], None, 10, start=last + timedelta(days=1))[0]
    np.testing.assert_allclose(values([late]), values([early])[..., 3:], rtol=1e-4)
    np.testing.assert_allclose(late.mean, early.mean[3:], rtol=1e-4)
    assert (late.is_stale, other.is_stale, early.is_stale) == (True, False, False)
    np.testing.assert_allclose(values([other]), values(forecaster.forecast([fresh], None, 7, start=START_AHEAD)), rtol=1e-4)


def test_closed_days_after_the_last_known_one_are_known(forecaster: Forecaster, table: pa.Table) -> None:
    friday = next(START + timedelta(days=day) for day in range(120, 130) if (START + timedelta(days=day)).weekday() == 4)
    sunday = friday + timedelta(days=2)
    told, untold = known_until(table, friday + timedelta(days=1)), known_until(table, friday)
    one, two = (forecaster.forecast([series], None, 7, start=sunday)[0] for series in (told, untold))
    assert (one.is_stale, two.is_stale) == (False, False)
    np.testing.assert_allclose(two.mean, one.mean, rtol=1e-4)
    assert forecaster.forecast([untold], None, 7, start=sunday + timedelta(days=1))[0].is_stale


@pytest.mark.parametrize("gap", [HORIZON, 60, 150])
def test_a_history_that_ended_long_ago_still_tells_the_level(forecaster: Forecaster, table: pa.Table, gap: int) -> None:
    series = known_until(table, START_AHEAD - timedelta(days=gap + 1))
    answer = forecaster.forecast([series], None, 7, start=START_AHEAD)[0]
    level = np.mean(series["units_sum"][-28:])
    assert answer.is_stale
    assert 0.5 * level < answer.mean.mean() < 2 * level


@pytest.mark.parametrize("horizon", [0, HORIZON + 1, 10_000])
def test_a_horizon_out_of_reach_is_refused(forecaster: Forecaster, table: pa.Table, horizon: int) -> None:
    with pytest.raises(ValueError, match=f"1..{HORIZON} days, got {horizon}"):
        forecaster.forecast([history(table, "item-05")], None, horizon)


@pytest.mark.parametrize("quantiles", [(0.5, 0.999), (0.0,), (-1.0,), (), (float("nan"),)])
def test_quantiles_out_of_reach_are_refused(forecaster: Forecaster, table: pa.Table, quantiles: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"0\.01\.\.0\.99"):
        forecaster.forecast([history(table, "item-05")], None, 3, quantiles)


def test_lists_that_disagree_are_refused_in_words(forecaster: Forecaster, table: pa.Table) -> None:
    series = history(table, "item-05")
    with pytest.raises(ValueError, match="price_mean has 2 values for a horizon of 3"):
        forecaster.forecast([series], [{"price_mean": [1.0, 2.0]}], 3)
    with pytest.raises(ValueError, match="1 series and 2 futures"):
        forecaster.forecast([series], [{}, {}], 3)
    with pytest.raises(ValueError, match="units_sum has 1 values for"):
        forecaster.forecast([{**series, "units_sum": [1]}], None, 3)
    with pytest.raises(ValueError, match="is_open differs between series"):
        forecaster.forecast([series, series], [{"is_open": [True] * 3}, {"is_open": [False] * 3}], 3)
    assert forecaster.forecast([], None, 3) == []


@pytest.mark.parametrize("levels", [(), (0.5, 0.1), (0.1, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_levels_must_ascend_inside_the_unit_interval(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="ascend"):
        EncoderConfig(levels=levels)


def test_the_calendar_reaches_the_network(forecaster: Forecaster, table: pa.Table) -> None:
    named = ["Labour Day", *[None] * 4]
    series = [history(table, "item-05")]
    opened = {"is_open": [True] * 5}
    plain, holiday = (forecaster.forecast(series, [{**opened, "holiday": names}], 5)[0] for names in ([None] * 5, named))
    assert plain.mean.tolist() != holiday.mean.tolist()
    assert isinstance(plain.days[0], date)
