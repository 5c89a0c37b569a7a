"""Metrics and gains over the same users, and plots of them."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.names import PROPENSITY
from training.propensity import evaluate
from training.propensity.data import Rows
from training.propensity.encoder import NAMES
from training.propensity.model import Answers


@pytest.fixture
def rows() -> Rows:
    rng = np.random.default_rng(0)
    days = rng.integers(1, 61, 400)
    bought = days < 60
    return Rows(np.full(400, 9), np.arange(400), np.zeros((400, len(NAMES))), days, bought, np.full(400, 60))


def knowing(rows: Rows, share: float) -> Answers:
    """Answers that know the truth in part."""
    labels = [rows.bought_within(days) for days in (7, 30)]
    given = [(1 - share) * label.mean() + share * label for label in labels]
    return Answers(*given, (1 - share) * rows.days.mean() + share * rows.days)


def test_the_truth_beats_the_mean_in_every_metric(rows: Rows) -> None:
    draws = {name: evaluate.resampled(rows, knowing(rows, share), 1) for name, share in (("model", 0.9), ("mean", 0.0))}
    reports = {name: evaluate.metrics(values) for name, values in draws.items()}
    assert set(reports["model"]) == {f"test_{name}{end}" for name in PROPENSITY for end in ("", "_lo", "_hi")}
    assert reports["mean"]["test_auc_30d"] == 0.5
    assert reports["model"]["test_auc_30d"] == 1.0
    assert reports["model"]["test_mae_days"] == pytest.approx(0.1 * np.abs(rows.days - rows.days.mean()).mean())
    gains = evaluate.gains(draws["model"], {"mean": draws["mean"]})
    assert evaluate.hardest(gains) == "mean"
    for metric in ("auc_7d", "auc_30d", "log_loss_7d", "log_loss_30d", "mae_days"):
        gain, lo, hi = gains["mean"][metric]
        assert 0 < lo <= gain <= hi
    assert set(evaluate.judged(gains["mean"])) == {f"test_log_loss_30d_gain{end}" for end in ("", "_lo", "_hi")}


def test_nobody_who_buys_leaves_the_auc_undefined_and_the_rest_told(rows: Rows) -> None:
    idle = Rows(rows.day, rows.user, rows.values, np.full(400, 60), np.zeros(400, dtype=bool), rows.watched)
    draws = evaluate.resampled(idle, knowing(rows, 0.1), 1)
    report = evaluate.metrics(draws)
    assert "test_auc_7d" not in report
    assert report["test_log_loss_7d"] > 0
    assert "| - |" in evaluate.table({"model": report})
    assert evaluate.gains_over(evaluate.gains(draws, {"other": draws})).axes


def test_rows_and_plots_tell_each_user(rows: Rows) -> None:
    answers = knowing(rows, 0.5)
    told = evaluate.per_user(rows, answers, [f"h{user}" for user in rows.user])
    assert told.num_rows == 400
    assert told["bought_7d"].to_pylist() == (rows.days <= 7).astype(int).tolist()
    assert len(evaluate.reliability(rows, {"model": answers}).axes) == 2
    assert evaluate.waiting(rows, np.linspace(0, 1, 60)).axes[0].get_lines()
