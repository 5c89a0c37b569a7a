"""Floors of the demand model; each answers a backtest as the network does and closes on the days the shop will be closed."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from training.demand.backtest import Answer, Method
from training.demand.encoder import Arrays, Encoder
from training.demand.panel import Floats, Panel
from training.metrics.forecast import WQL_LEVELS


def seasonal_naive(panel: Panel, origin: int) -> Answer:
    """Each day repeats the same weekday of the last week; all quantiles are the point."""
    steps = np.arange(panel.num_days - origin)
    point = panel.units[:, origin - 7 + steps % 7] * panel.is_open[origin:]
    return Answer(np.repeat(point[..., None], len(WQL_LEVELS), axis=2), point, point)


def moving_average(panel: Panel, origin: int, days: int = 28) -> Answer:
    """Mean and empirical quantiles of the last `days` days on which demand was observed; the mean is the point."""
    mean, quantiles = _window(panel, origin, days)
    return Answer(quantiles, mean, mean)


def moving_median(panel: Panel, origin: int, days: int = 28) -> Answer:
    """As the moving average with the empirical median as the point: the better floor in absolute error on sparse series."""
    mean, quantiles = _window(panel, origin, days)
    return Answer(quantiles, quantiles[..., WQL_LEVELS.index(0.5)], mean)


FLOORS: dict[str, Method] = {
    "seasonal_naive": seasonal_naive,
    "moving_average": moving_average,
    "moving_median": moving_median,
}


def gradient_boosting(
    panel: Panel, encoder: Encoder, *, num_rows: int = 200_000, scale_power: float = 0.5, iterations: int = 150, seed: int = 7
) -> Method:
    """The strong peer: histogram gradient boosting (Ke et al. 2017) on the network's own inputs, one model per quantile.

    Args:
        panel: the days before the origin; learned from at random windows, as the network does.
        num_rows: sampled targets.
    """
    prepared, horizon = encoder.prepare(panel), encoder.config.max_horizon
    rng = np.random.default_rng(seed)
    first = panel.is_on_sale.argmax(axis=1) + 1
    rows, cutoffs = np.nonzero(np.arange(panel.num_days - horizon + 1)[None, :] >= first[:, None])
    chosen = rng.choice(len(rows), size=min(len(rows), num_rows // 4))
    rows, cutoffs = rows[chosen], cutoffs[chosen]
    arrays = encoder.encode(prepared, rows, cutoffs, horizon, is_price_known=np.zeros(len(rows), np.bool_))
    steps = rng.integers(0, horizon, (len(rows), 4))
    ahead = cutoffs[:, None] + steps
    kept = prepared.observed[rows[:, None], ahead]
    features = _boosting_features(arrays)[np.arange(len(rows))[:, None], steps][kept]
    target = (panel.units[rows[:, None], ahead] / arrays["scale"][:, None])[kept]
    weight = np.broadcast_to(arrays["scale"][:, None] ** scale_power, kept.shape)[kept]
    drawn = rng.choice(
        len(target), size=len(target), p=weight.astype(np.float64) / weight.sum(dtype=np.float64)
    )  # weights themselves cost it 20 times the time
    features, target = features[drawn], target[drawn]
    shape = {"max_iter": iterations, "learning_rate": 0.08, "max_leaf_nodes": 31, "min_samples_leaf": 100, "random_state": seed}
    models = [HistGradientBoostingRegressor(loss="quantile", quantile=level, **shape).fit(features, target) for level in WQL_LEVELS]
    mean_model = HistGradientBoostingRegressor(loss="poisson", **shape).fit(features, target)

    def answer(panel: Panel, origin: int) -> Answer:
        days = panel.num_days - origin
        items = np.arange(panel.num_items)
        arrays = encoder.encode(encoder.prepare(panel), items, np.full(panel.num_items, origin), days)
        flat = _boosting_features(arrays).reshape(panel.num_items * days, -1)
        scale = arrays["scale"][:, None] * panel.is_open[origin:]
        values = np.stack([model.predict(flat).reshape(-1, days) for model in models], axis=2)
        quantiles = np.maximum(np.sort(values, axis=2), 0) * scale[..., None]
        mean = mean_model.predict(flat).reshape(-1, days) * scale
        return Answer(quantiles, quantiles[..., WQL_LEVELS.index(0.5)], mean)

    return answer


def _boosting_features(arrays: Arrays) -> Floats:
    """(B, H, F) static inputs beside those of each day ahead; the last two weeks of the context as they are."""
    static = np.concatenate(
        [
            arrays["static"],
            arrays["empirical"].reshape(len(arrays["scale"]), -1),
            arrays["context"][:, -14:, 0],
            arrays["category"][:, None],
        ],
        axis=1,
    )
    future = np.concatenate([arrays["future"], arrays["future_holiday"][..., None]], axis=2)
    repeated = np.broadcast_to(static[:, None], (*future.shape[:2], static.shape[1]))
    features: Floats = np.concatenate([repeated, future], axis=2).astype(np.float32)
    return features


def _window(panel: Panel, origin: int, days: int) -> tuple[Floats, Floats]:
    """Mean (N, H) and quantiles (N, H, 9) of the last observed days before the origin; zero without one."""
    begin = max(0, origin - days)
    observed = panel.is_observed[:, begin:origin]
    units = np.where(observed, panel.units[:, begin:origin], np.nan)
    units[~observed.any(axis=1), -1] = 0.0
    is_open = panel.is_open[origin:]
    quantiles = np.nanquantile(units, WQL_LEVELS, axis=1).T.astype(np.float32)
    mean = np.nanmean(units, axis=1)
    return mean[:, None] * is_open, quantiles[:, None, :] * is_open[:, None]
