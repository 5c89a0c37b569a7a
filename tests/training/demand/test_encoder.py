from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from training.demand.encoder import Encoder, EncoderConfig, Future
from training.demand.panel import Panel

from .conftest import CALENDAR

HORIZON = 14


@pytest.fixture(scope="module")
def encoder(panel: Panel) -> Encoder:
    return Encoder.fit(EncoderConfig(context_length=56, max_horizon=HORIZON), panel, CALENDAR)


def encode(encoder: Encoder, panel: Panel, rows: list[int], cutoffs: list[int]) -> dict[str, np.ndarray]:
    return encoder.encode(encoder.prepare(panel), np.array(rows), np.array(cutoffs), HORIZON)


def test_arrays_are_what_input_spec_says(encoder: Encoder, panel: Panel) -> None:
    arrays = encode(encoder, panel, [0, 5, 5], [3, 100, 150])
    assert arrays.keys() == encoder.input_spec.keys()
    for name, (shape, dtype) in encoder.input_spec.items():
        assert arrays[name].shape == (3, *shape[1:]), name
        assert str(arrays[name].dtype) == dtype, name
        assert np.isfinite(arrays[name]).all(), name


def test_no_window_knows_its_own_future(encoder: Encoder, panel: Panel) -> None:
    """Whatever sales, stock-outs and paid prices come after the cutoff, the arrays stay the same."""
    cutoff = 120
    rng = np.random.default_rng(1)
    units, stock_out, price = panel.units.copy(), panel.is_stock_out.copy(), panel.price.copy()
    units[:, cutoff:] = rng.integers(0, 1000, units[:, cutoff:].shape)
    stock_out[:, cutoff:] = True
    price[:, cutoff:] *= 3
    other = replace(panel, units=units, is_stock_out=stock_out, price=price)
    every = np.arange(panel.num_items)
    known = {"is_price_known": np.zeros(panel.num_items, np.bool_)}
    one, two = (
        encoder.encode(encoder.prepare(each), every, np.full(panel.num_items, cutoff), HORIZON, **known) for each in (panel, other)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_history_older_than_history_days_changes_nothing(encoder: Encoder, panel: Panel) -> None:
    begin = 180 - encoder.history_days
    assert begin > 0
    recent = replace(
        panel,
        start=panel.start + timedelta(days=begin),
        holidays=panel.holidays[begin:],
        **{
            name: getattr(panel, name)[..., begin:]
            for name in ("units", "price", "promotion_depth", "is_promotion", "is_on_sale", "is_stock_out", "is_open")
        },
    )
    whole, cut = encode(encoder, panel, [0, 7], [180, 180]), encode(encoder, recent, [0, 7], [180 - begin] * 2)
    for name in whole:
        np.testing.assert_allclose(whole[name], cut[name], rtol=1e-6, err_msg=name)


def test_scaling_sales_scales_only_the_scale(encoder: Encoder, panel: Panel) -> None:
    tenfold = replace(panel, units=panel.units * 10)
    big = replace(
        encoder, mean_demand=encoder.mean_demand * 10, category_mean_demand={"even": encoder.category_mean_demand["even"] * 10}
    )
    one, ten = encode(encoder, panel, [4], [150]), encode(big, tenfold, [4], [150])
    np.testing.assert_allclose(one["scale"] * 10, ten["scale"], rtol=1e-5)
    np.testing.assert_allclose(one["context"], ten["context"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one["future"], ten["future"], rtol=1e-4, atol=1e-5)


def test_stock_out_days_are_hidden_from_scale_and_context(encoder: Encoder, panel: Panel) -> None:
    stock_out, units = panel.is_stock_out.copy(), panel.units.copy()
    stock_out[6, 130:140] = True
    units[6, 130:140] = 0
    censored = encode(encoder, replace(panel, units=units, is_stock_out=stock_out), [6], [150])
    plain = encode(encoder, panel, [6], [150])
    naive = encode(encoder, replace(panel, units=units), [6], [150])
    assert naive["scale"][0] < 0.9 * plain["scale"][0]
    assert abs(censored["scale"][0] / plain["scale"][0] - 1) < 0.05
    days = slice(56 - 20, 56 - 10)
    assert (censored["context"][0, days, 0] == 0).all()
    assert (censored["context"][0, days, 1] == 0).all()
    assert (censored["context"][0, days, 3] == 1).all()


def test_opening_days_are_learned(encoder: Encoder) -> None:
    assert encoder.is_open_weekday == (True, True, True, True, True, False, True)
    assert encoder.closed_holidays == {"Labour Day"}
    assert not encoder.will_open(date(2030, 6, 1), None)  # a Saturday
    assert encoder.will_open(date(2030, 6, 3), None)
    assert not encoder.will_open(date(2030, 6, 3), "Labour Day")
    assert not encoder.will_open(date(2030, 6, 3), "a holiday never seen")
    assert encoder.will_open(date(2030, 11, 11), "11.11")  # never seen either, but people shop


def test_days_ahead_are_filled_by_rule_or_planned(encoder: Encoder, panel: Panel) -> None:
    longer, filled = encoder.extend(panel, HORIZON)
    assert filled == ["holiday", "is_open", "price", "promotion_depth"]
    np.testing.assert_array_equal(longer.price[:, -HORIZON:], np.repeat(panel.price[:, -1:], HORIZON, axis=1))
    assert not longer.is_promotion[:, -HORIZON:].any()
    days = [longer.day(panel.num_days + step) for step in range(HORIZON)]
    assert longer.holidays[-HORIZON:] == tuple(CALENDAR.get(day) for day in days)
    assert "Labour Day" in longer.holidays[-HORIZON:]
    assert longer.is_open[-HORIZON:].tolist() == [day.weekday() != 5 and day not in CALENDAR for day in days]

    depth = np.full((panel.num_items, HORIZON), 0.3, np.float32)
    price = np.full((panel.num_items, HORIZON), np.nan, np.float32)
    price[:, 5] = 7.0
    planned = Future(price, depth, (None,) * HORIZON, np.ones(HORIZON, np.bool_))
    longer, filled = encoder.extend(panel, HORIZON, planned)
    assert filled == ["price"]
    assert longer.is_promotion[:, -HORIZON:].all()
    assert longer.is_open[-HORIZON:].all()
    np.testing.assert_array_equal(longer.price[:, -HORIZON + 5 :], 7.0)
    np.testing.assert_array_equal(longer.price[:, -HORIZON], panel.price[:, -1])


def test_an_unknown_item_gets_the_level_of_its_category(encoder: Encoder, panel: Panel) -> None:
    def unknown(category: str | None) -> Panel:
        return replace(panel, is_on_sale=np.zeros_like(panel.is_on_sale), categories=(category,) * panel.num_items)

    even, other = (encode(encoder, unknown(category), [0], [150])["scale"][0] for category in ("even", "no such category"))
    assert even == pytest.approx(encoder.category_mean_demand["even"], rel=1e-5)
    assert other == pytest.approx(encoder.mean_demand, rel=1e-5)


def test_a_hidden_history_looks_like_an_unknown_item(encoder: Encoder, panel: Panel) -> None:
    hidden = encoder.encode(
        encoder.prepare(panel),
        np.array([2]),
        np.array([150]),
        HORIZON,
        is_history_hidden=np.array([True]),
        is_price_known=np.array([False]),
    )
    unknown = encode(encoder, replace(panel, is_on_sale=np.zeros_like(panel.is_on_sale), price=panel.price * np.nan), [2], [150])
    for name in ("scale", "context", "future"):
        np.testing.assert_allclose(hidden[name], unknown[name], atol=1e-6, err_msg=name)


def test_empirical_quantiles_are_those_of_the_observed_days(encoder: Encoder, panel: Panel) -> None:
    cutoff, arrays = 150, encode(encoder, panel, [6, 0], [150, 3])
    for number, days in enumerate((28, 112)):
        window = slice(cutoff - days, cutoff)
        seen = panel.units[6, window][panel.is_observed[6, window]]
        expected = np.quantile(seen, encoder.config.levels) / arrays["scale"][0]
        np.testing.assert_allclose(arrays["empirical"][0, number], expected, rtol=1e-5, atol=1e-6)
    unseen = encode(encoder, replace(panel, is_on_sale=np.zeros_like(panel.is_on_sale)), [6], [150])
    assert (unseen["empirical"] == 0).all()


def test_last_year_is_read_where_there_is_one(panel: Panel) -> None:
    repeats = 4
    long = Panel(
        panel.item_ids,
        panel.start,
        *(
            np.tile(getattr(panel, name), (1, repeats))
            for name in ("units", "price", "promotion_depth", "is_promotion", "is_on_sale", "is_stock_out")
        ),
        np.tile(panel.is_open, repeats),
        panel.holidays * repeats,
        panel.categories,
    )
    encoder = Encoder.fit(EncoderConfig(context_length=56, max_horizon=HORIZON), long, {})
    assert encoder.has_year
    assert encoder.history_days == 367
    cutoff = 700
    arrays = encode(encoder, long, [3], [cutoff])
    around = slice(cutoff - 364 - 3, cutoff - 364 + 4)
    seen = long.is_observed[3, around]
    expected = long.units[3, around][seen].mean()
    assert arrays["future"][0, 0, 6] == 1
    assert arrays["future"][0, 0, 5] == pytest.approx(np.log1p(expected / arrays["scale"][0]), rel=1e-5)
    young = encode(encoder, long, [3], [200])
    assert young["future"][0, :, 6].sum() == 0


def test_json_round_trip(encoder: Encoder) -> None:
    assert Encoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
