from __future__ import annotations

import numpy as np
import pytest

from training.metrics.forecast import WQL_LEVELS, gain, naive_scale, pinball, pooled, series_parts, with_intervals


def parts_of(actual: np.ndarray, quantiles: np.ndarray, point: np.ndarray, mean: np.ndarray, scored: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    counted = np.ones(actual.shape, np.bool_) if scored is None else scored
    return series_parts(actual, counted, quantiles, point, mean, np.ones(len(actual)))


def test_pinball_by_hand() -> None:
    loss = pinball(np.array([10.0, 10.0]), np.array([[8.0, 8.0], [12.0, 12.0]]), (0.1, 0.9))
    np.testing.assert_allclose(loss, [[0.2, 1.8], [1.8, 0.2]])


def test_pinball_is_least_at_the_true_quantile() -> None:
    sample = np.random.default_rng(0).gamma(2.0, 3.0, 20_000)
    for level in WQL_LEVELS:
        grid = np.linspace(0.1, 30, 300)
        losses = [float(pinball(sample, np.full((len(sample), 1), value), (level,)).mean()) for value in grid]
        assert grid[int(np.argmin(losses))] == pytest.approx(np.quantile(sample, level), abs=0.15)


def test_metrics_by_hand() -> None:
    actual = np.array([[10.0, 20.0], [0.0, 10.0]])
    point = np.array([[12.0, 16.0], [1.0, 10.0]])
    quantiles = np.repeat(point[..., None], 9, axis=2)
    found = pooled(parts_of(actual, quantiles, point, point * 1.5))
    assert found["wape"] == pytest.approx(7 / 40)
    assert found["wql"] == pytest.approx(7 / 40)  # equal quantiles: twice the mean pinball is the absolute error
    assert found["bias"] == pytest.approx((58.5 - 40) / 40)
    assert found["interval_coverage_80"] == pytest.approx(1 / 4)
    assert found["mase"] == pytest.approx(np.mean([3.0, 0.5]))


def test_a_perfect_forecast_and_days_that_do_not_count() -> None:
    actual = np.array([[3.0, 100.0], [5.0, 0.0]])
    scored = np.array([[True, False], [True, True]])
    wrong_where_it_does_not_count = np.array([[3.0, 0.0], [5.0, 0.0]])
    quantiles = np.repeat(wrong_where_it_does_not_count[..., None], 9, axis=2)
    found = pooled(parts_of(actual, quantiles, wrong_where_it_does_not_count, wrong_where_it_does_not_count, scored))
    assert found == {"wql": 0.0, "wape": 0.0, "bias": 0.0, "interval_coverage_80": 1.0, "mase": 0.0}


def test_naive_scale_looks_a_week_back_and_skips_unobserved_days() -> None:
    units = np.array([[1.0] * 7 + [3.0] * 7, [5.0] * 14])
    observed = np.ones((2, 14), np.bool_)
    np.testing.assert_allclose(naive_scale(units, observed), [2.0, 0.0])
    observed[0, 7:13] = False
    units[0, 13] = 6.0
    np.testing.assert_allclose(naive_scale(units, observed)[0], 5.0)
    assert np.isnan(naive_scale(units, np.zeros((2, 14), np.bool_))).all()


def test_series_without_a_naive_error_are_left_out_of_mase() -> None:
    actual = np.array([[4.0], [4.0]])
    quantiles = np.zeros((2, 1, 9))
    parts = series_parts(actual, actual > 0, quantiles, actual - 2, actual, np.array([2.0, 0.0]))
    assert pooled(parts)["mase"] == 1.0


def test_intervals_hold_the_value_and_gains_are_paired() -> None:
    rng = np.random.default_rng(1)
    actual = rng.poisson(5, (300, 14)).astype(float)
    good, bad = (np.repeat((actual + rng.normal(0, noise, actual.shape))[..., None], 9, axis=2) for noise in (1.0, 1.5))
    ours, floor = (parts_of(actual, each, each[..., 4], each[..., 4]) for each in (good, bad))
    found = with_intervals(ours, 7, "test_")
    for name in ("wql", "wape", "bias", "mase", "interval_coverage_80"):
        assert found[f"test_{name}_lo"] <= found[f"test_{name}"] <= found[f"test_{name}_hi"], name
    mean, lo, hi = gain(floor, ours, "wape", 7)
    assert lo > 0
    assert mean == pytest.approx(pooled(floor)["wape"] - pooled(ours)["wape"])
    assert gain(ours, ours, "wql", 7) == (0.0, 0.0, 0.0)
    assert lo <= mean <= hi
