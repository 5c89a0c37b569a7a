from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.demand.backtest import Answer, Backtest, BacktestConfig, select_series
from training.demand.baselines import FLOORS, gradient_boosting, moving_average, moving_median, seasonal_naive
from training.demand.data import DemandTask, LossConfig, WindowConfig, network_method, posted_price
from training.demand.encoder import Encoder, EncoderConfig
from training.demand.model import Config, Forecaster, Network
from training.demand.panel import Panel
from training.metrics.forecast import pooled
from training.trainer import FitConfig, fit

from .conftest import CALENDAR, NUM_DAYS, simulate

HORIZON = 14
CONFIG = Config(encoder=EncoderConfig(context_length=28, max_horizon=HORIZON), hidden_size=24, dropout=0.0)
RULES = BacktestConfig(horizon=HORIZON, num_origins=2)
END = NUM_DAYS - 3 * HORIZON
ORIGINS = (END, END + HORIZON)


WINDOWS = WindowConfig(windows_per_epoch=640)


def make_task(panel: Panel, windows: WindowConfig = WINDOWS) -> DemandTask:
    encoder = Encoder.fit(CONFIG.encoder, panel.until(END), CALENDAR)
    return DemandTask(
        panel.until(END + 2 * HORIZON), encoder, CONFIG, windows, RULES, LossConfig(hide_history=0), 64, 5, END, ORIGINS
    )


def test_batches_are_a_function_of_seed_and_epoch_and_split_over_ranks(panel: Panel) -> None:
    whole = list(make_task(panel).batches(3, 0, 1))
    again = list(pickle.loads(pickle.dumps(make_task(panel))).batches(3, 0, 1))
    shares = [list(make_task(panel).batches(3, rank, 2)) for rank in range(2)]
    assert len(whole) == 10
    for batch, repeat, one, two in zip(whole, again, *shares, strict=True):
        for name in batch:
            assert torch.equal(batch[name], repeat[name]), name
            if name == "num_observed":
                assert float(batch[name]) == 2 * float(one[name]) == 2 * float(two[name]) == float(batch["weight"].sum())
                continue
            assert torch.equal(batch[name][0::2], one[name]), name
            assert torch.equal(batch[name][1::2], two[name]), name
    other = next(iter(make_task(panel).batches(4, 0, 1)))
    assert not torch.equal(whole[0]["target"], other["target"])


def test_nothing_from_the_validation_part_on_is_learned_from(panel: Panel) -> None:
    units = panel.units.copy()
    units[:, END:] = 10_000
    one, two = (next(iter(make_task(each).batches(0, 0, 1))) for each in (panel, replace(panel, units=units)))
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_censored_and_closed_days_do_not_move_the_loss(panel: Panel) -> None:
    task = make_task(panel)
    network = task.build().eval()
    batch = next(iter(task.batches(0, 0, 1)))
    before = task.loss(network, batch)
    masked = batch["weight"] == 0
    assert masked.any()
    batch["target"] = torch.where(masked, torch.full_like(batch["target"], 1e4), batch["target"])
    assert torch.equal(task.loss(network, batch), before)
    batch["weight"] = torch.zeros_like(batch["weight"])
    assert float(task.loss(network, batch).detach()) == 0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_windows_are_drawn_in_proportion_to_their_scale_as_told(panel: Panel, power: float) -> None:
    task = make_task(panel, windows=WindowConfig(windows_per_epoch=64 * 200, scale_power=power))
    drawn = np.concatenate([batch["scale"].numpy() for batch in task.batches(0, 0, 1)]).astype(float)
    rows, cutoffs = task.cutoffs.T
    scale = task.encoder.scale(task.prepared, rows, cutoffs).astype(float)
    expected = np.average(scale, weights=scale**power)
    assert drawn.mean() == pytest.approx(expected, rel=0.03)


def test_too_few_days_to_learn_from_are_refused(panel: Panel) -> None:
    encoder = Encoder.fit(CONFIG.encoder, panel.until(10), {})
    with pytest.raises(ValueError, match="10 days"):
        DemandTask(panel, encoder, CONFIG, WindowConfig(), BacktestConfig(), LossConfig(), 4, 5, 10, ())


def test_items_that_hardly_sold_are_not_learned_from(panel: Panel) -> None:
    units = panel.units.copy()
    units[4] = 0
    task = make_task(replace(panel, units=units))
    assert task.prepared.panel.item_ids == tuple(item for item in panel.item_ids if item != "item-04")
    with pytest.raises(ValueError, match="expected an item with sales on 3 days"):
        len(make_task(replace(panel, units=units * 0)).cutoffs)


def test_only_items_that_sold_often_and_lately_are_scored() -> None:
    panel = Panel.from_table(simulate(num_items=4, num_days=100))
    units = panel.units.copy()
    units[1, 40:] = 0  # once a seller, now dead
    units[2, :] = 0
    units[2, 90] = 5  # sold once
    panel = replace(panel, units=units)
    assert select_series(panel, BacktestConfig(min_sold_days=10, recent_days=30)).tolist() == [0, 3]
    with pytest.raises(ValueError, match="no item sold on 99 days before 2024-04-10"):
        select_series(panel, BacktestConfig(min_sold_days=99))


def test_a_backtest_shows_methods_nothing_of_the_days_ahead(panel: Panel) -> None:
    encoder = Encoder.fit(CONFIG.encoder, panel.until(END), CALENDAR)
    test = Backtest.at(panel, END, encoder, RULES)
    assert (test.panel.units[:, END:] == 0).all()
    assert (test.panel.price[:, END:] == panel.price[:, [END - 1]]).all()
    np.testing.assert_array_equal(test.panel.promotion_depth, panel.promotion_depth[:, : END + HORIZON])
    np.testing.assert_array_equal(test.actual, panel.units[:, END : END + HORIZON])


def test_an_unforeseen_closure_counts_and_a_stock_out_does_not(panel: Panel) -> None:
    is_open, stock_out = panel.is_open.copy(), panel.is_stock_out.copy()
    encoder = Encoder.fit(CONFIG.encoder, panel.until(END), CALENDAR)
    ordinary = next(day for day in range(END, END + HORIZON) if is_open[day])
    is_open[ordinary] = False
    stock_out[0, END : END + HORIZON] = True
    test = Backtest.at(replace(panel, is_open=is_open, is_stock_out=stock_out), END, encoder, RULES)
    assert test.scored[1, ordinary - END]
    assert not test.scored[0].any()
    saturdays = [day for day in range(END, END + HORIZON) if panel.day(day).weekday() == 5]
    assert not test.scored[:, np.array(saturdays) - END].any()


def test_posted_prices_do_not_tell_on_which_day_an_item_sold(panel: Panel) -> None:
    posted = posted_price(panel, days=28)
    assert posted.shape == panel.price.shape
    for begin in range(0, NUM_DAYS, 28):
        block = posted[3, begin : begin + 28]
        assert (block == block[0]).all()
    unsold = replace(panel, units=np.where(np.arange(NUM_DAYS) < 56, panel.units, 0).astype(np.float32))
    assert (posted_price(unsold)[3, 56:] == posted_price(unsold)[3, 55]).all()


def test_floors_by_hand() -> None:
    panel = Panel.from_table(simulate(num_items=1, num_days=70))
    units = panel.units.copy()
    units[0, 42:70] = np.arange(28) * panel.is_open[42:70]
    panel = replace(panel, units=units)
    longer, _ = Encoder.fit(CONFIG.encoder, panel, {}).extend(panel, HORIZON)
    seen = units[0, 42:70][panel.is_open[42:70]]
    opens = longer.is_open[70:]
    naive = seasonal_naive(longer, 70)
    np.testing.assert_array_equal(naive.point[0], np.tile(units[0, 63:70], 2) * opens)
    average, median = moving_average(longer, 70), moving_median(longer, 70)
    np.testing.assert_allclose(average.point[0], seen.mean() * opens, rtol=1e-6)
    np.testing.assert_allclose(median.point[0], np.median(seen) * opens, rtol=1e-6)
    np.testing.assert_allclose(
        median.quantiles[0, opens], np.tile(np.quantile(seen, np.arange(1, 10) / 10), (opens.sum(), 1)), rtol=1e-6
    )
    empty = replace(longer, is_on_sale=np.zeros_like(longer.is_on_sale))
    assert (moving_median(empty, 70).point == 0).all()


def test_without_a_validation_part_no_metric_chooses_the_epoch(panel: Panel) -> None:
    task = replace(make_task(panel), origins=())
    result = fit(task, FitConfig(epochs=2, batch_size=64, seed=5))
    assert (task.monitor, result.best_epoch) == (None, 1)
    assert result.history[1].keys() == {"train_loss"}


def test_the_network_learns_rhythm_and_promotions(panel: Panel) -> None:
    """After some seconds it beats every floor on the simulated shop, and its mean is not far off."""
    task = make_task(panel)
    result = fit(task, FitConfig(epochs=14, batch_size=64, learning_rate=1e-2, schedule="cosine", clip_norm=1.0, seed=5))
    network = Network(CONFIG, task.encoder)
    network.load_state_dict(result.state)
    method = network_method(Forecaster(CONFIG, task.encoder, network))
    test = Backtest.at(panel, NUM_DAYS - HORIZON, task.encoder, RULES)

    def scores(answer: Answer) -> dict[str, float]:
        return pooled(test.score(answer))

    ours = scores(method(test.panel, test.origin))
    floors = {name: scores(floor(test.panel, test.origin)) for name, floor in FLOORS.items()}
    for name, floor in floors.items():
        assert ours["wql"] < 0.9 * floor["wql"], name
        assert ours["wape"] < floor["wape"], name
    assert abs(ours["bias"]) < 0.1
    assert 0.65 < ours["interval_coverage_80"] < 0.95


def test_gradient_boosting_beats_the_plain_floors(panel: Panel) -> None:
    encoder = Encoder.fit(CONFIG.encoder, panel.until(END), CALENDAR)
    method = gradient_boosting(panel.until(END), encoder, num_rows=6_000, iterations=12)
    test = Backtest.at(panel, END, encoder, RULES)
    answer = method(test.panel, test.origin)
    assert (np.diff(answer.quantiles, axis=2) >= 0).all()
    floor = pooled(test.score(moving_average(test.panel, test.origin)))
    assert pooled(test.score(answer))["wql"] < floor["wql"]
