"""BG/NBD against its own definition and the paper's figures; the others against what they are named after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from training.propensity.baselines import BASELINES, BgNbd, histories
from training.propensity.data import Parts, split
from training.propensity.encoder import NAMES, Encoder, Facts
from training.propensity.recipes import DataConfig

PAPER = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)
"""Fader, Hardie & Lee 2005, table 2: a tenth of CDNOW's customers over 39 weeks, in weeks."""


@pytest.fixture(scope="module")
def parts(facts: Facts) -> Parts:
    return split(facts, DataConfig(num_cutoffs=4), 7)


def lives(model: BgNbd, T: float, ahead: float, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """x, t_x, T of simulated users, and the wait for the next purchase after T (inf: none within `ahead`)."""
    rng = np.random.default_rng(seed)
    x, t_x, wait = np.zeros(n), np.zeros(n), np.full(n, np.inf)
    rates, drops = rng.gamma(model.r, 1 / model.alpha, n), rng.beta(model.a, model.b, n)
    for user, (rate, drop) in enumerate(zip(rates, drops, strict=True)):
        time = 0.0
        while True:
            time += rng.exponential(1 / max(rate, 1e-300))
            if time > T + ahead:
                break
            if time > T:
                wait[user] = time - T
                break
            x[user], t_x[user] = x[user] + 1, time
            if rng.random() < drop:
                break
    return x, t_x, np.full(n, T), wait


def test_bg_nbd_finds_the_parameters_that_histories_were_made_with() -> None:
    true = BgNbd(0.6, 8.0, 0.9, 3.0)
    x, t_x, T, _ = lives(true, 60.0, 0.0, 20_000, seed=1)
    found = BgNbd.fit(x, t_x, T)
    assert found.r == pytest.approx(true.r, rel=0.1)
    assert found.alpha == pytest.approx(true.alpha, rel=0.15)
    assert found.a / (found.a + found.b) == pytest.approx(0.9 / 3.9, rel=0.1)
    assert found.log_likelihoods(x, t_x, T).sum() >= true.log_likelihoods(x, t_x, T).sum()


def test_the_unit_of_time_changes_no_answer() -> None:
    x, t_x, T, _ = lives(PAPER, 39.0, 0.0, 2_000, seed=2)
    weeks, days = BgNbd.fit(x, t_x, T), BgNbd.fit(x, 7 * t_x, 7 * T)
    assert days.alpha == pytest.approx(7 * weeks.alpha, rel=0.02)
    np.testing.assert_allclose(
        days.unbought(x, 7 * t_x, 7 * T, np.array([30.0])), weeks.unbought(x, t_x, T, np.array([30 / 7])), atol=2e-3
    )


def test_what_it_says_is_what_happens_to_users_like_these() -> None:
    x, t_x, T, wait = lives(PAPER, 39.0, 8.0, 60_000, seed=3)
    for horizon in (2.0, 8.0):
        said = 1 - PAPER.unbought(x, t_x, T, np.array([horizon]))[:, 0]
        for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 1.0)):
            some = (said >= low) & (said < high)
            error = 4 * np.sqrt(said[some].mean() / some.sum())
            assert (wait[some] <= horizon).mean() == pytest.approx(said[some].mean(), abs=error)


def test_the_likelihood_is_the_papers() -> None:
    """Equation 6 written out, where the gamma functions are small enough to be multiplied."""
    from scipy.special import beta, gamma

    r, alpha, a, b = PAPER.r, PAPER.alpha, PAPER.a, PAPER.b
    x, t_x, T = np.array([0.0, 2.0, 5.0]), np.array([0.0, 30.43, 20.0]), np.array([38.86, 38.86, 30.0])
    rate = gamma(r + x) * alpha**r / gamma(r)
    alive = beta(a, b + x) / beta(a, b) / (alpha + T) ** (r + x)
    gone = (x > 0) * beta(a + 1, b + np.maximum(x, 1) - 1) / beta(a, b) / (alpha + t_x) ** (r + x)
    np.testing.assert_allclose(PAPER.log_likelihoods(x, t_x, T), np.log(rate * (alive + gone)))
    np.testing.assert_allclose(PAPER.alive(x, t_x, T), alive / (alive + gone))


@pytest.mark.parametrize(
    ("x", "t_x", "T"), [([], [], []), ([1.0], [3.0], [2.0]), ([-1.0], [0.0], [2.0])], ids=["nobody", "after the end", "negative"]
)
def test_what_is_no_history_is_refused(x: list[float], t_x: list[float], T: list[float]) -> None:
    with pytest.raises(ValueError, match="BG/NBD needs"):
        BgNbd.fit(np.array(x), np.array(t_x), np.array(T))


def test_one_user_and_users_with_one_purchase_each_are_answered() -> None:
    for x, t_x, T in (([3.0], [20.0], [40.0]), ([0.0] * 50, [0.0] * 50, list(range(1, 51)))):
        history = np.array(x), np.array(t_x), np.array(T, dtype=float)
        found = BgNbd.fit(*history).unbought(*history, np.array([7.0, 30.0]))
        assert ((found >= 0) & (found <= 1)).all()
        assert (found[:, 1] <= found[:, 0]).all()


def test_histories_are_repeat_purchases_their_last_and_the_watch() -> None:
    values = np.zeros((1, len(NAMES)))
    for name, value in (("purchase_days", 4), ("days_since_purchase", 10), ("days_since_first_purchase", 50)):
        values[0, NAMES.index(name)] = value
    assert [part.tolist() for part in histories(values)] == [[3.0], [40.0], [50.0]]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_answers_every_row(parts: Parts, name: str) -> None:
    answers = BASELINES[name](parts, Encoder.fit(parts.refit.values, parts.plan.horizon), 7)(parts.test)
    for given in (answers.p_buy_7d, answers.p_buy_30d):
        assert given.shape == (len(parts.test),)
        assert ((given >= 0) & (given <= 1)).all()
    assert ((answers.expected_days >= 1) & (answers.expected_days <= parts.plan.horizon)).all()


def test_the_base_rate_is_the_share_that_bought(parts: Parts) -> None:
    answers = BASELINES["base_rate"](parts, Encoder.fit(parts.refit.values, parts.plan.horizon), 7)(parts.test)
    assert len(set(answers.p_buy_30d.tolist())) == 1
    assert answers.p_buy_30d[0] == pytest.approx(parts.refit.bought_within(30).mean(), abs=1e-9)  # nobody's watch ends earlier


def test_the_published_parameters_fit_cdnow_as_well_as_ours_do(data_folder: Path) -> None:
    """Which tenth of the customers the paper took is not told; each tenth is as likely under its parameters, within a few nats."""
    rows = pq.read_table(data_folder / "cdnow" / "transactions.parquet", columns=["customer_id", "date"])
    customer = np.asarray(rows["customer_id"].to_numpy())
    day = pc.strptime(rows["date"].cast(pa.string()), "%Y%m%d", "s").to_numpy().astype("datetime64[D]").astype(np.int64)
    end = int(np.datetime64("1997-09-30").astype(np.int64))  # 39 weeks
    first = np.full(customer.max() + 1, end)
    np.minimum.at(first, customer, day)
    last = np.zeros(customer.max() + 1, dtype=np.int64)
    kept = np.unique(np.stack([customer, day], axis=1)[day <= end], axis=0)
    np.maximum.at(last, kept[:, 0], kept[:, 1])
    times = np.bincount(kept[:, 0])
    for offset in (0, 5):
        ids = np.unique(customer)[offset::10]
        history = times[ids] - 1.0, (last[ids] - first[ids]) / 7, (end - first[ids]) / 7
        found = BgNbd.fit(*history)
        assert len(ids) == 2357  # as in the paper
        gain = found.log_likelihoods(*history).sum() - PAPER.log_likelihoods(*history).sum()
        assert 0 <= gain < 2
        assert found.r == pytest.approx(PAPER.r, abs=0.02)
        assert found.alpha == pytest.approx(PAPER.alpha, abs=0.4)
