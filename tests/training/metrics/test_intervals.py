import numpy as np
import pytest

from training.metrics.intervals import mean_interval, paired_interval, ratio_interval


def test_mean_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    mean, lo, hi = mean_interval(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert lo == pytest.approx(mean - half, abs=0.15 * half)
    assert hi == pytest.approx(mean + half, abs=0.15 * half)


def test_few_distinct_values_give_the_same_distribution_as_many() -> None:
    few = np.repeat([0.0, 1.0], [1500, 500])
    many = few + np.random.default_rng(0).normal(0, 1e-6, len(few))  # the same numbers, all distinct: the other path
    assert mean_interval(few, seed=1) == pytest.approx(mean_interval(many, seed=1), abs=3e-3)


def test_pairing_finds_a_difference_that_the_spread_between_users_hides() -> None:
    rng = np.random.default_rng(0)
    floor = rng.exponential(1.0, 500)
    model = floor + rng.normal(0.02, 0.05, 500)
    assert mean_interval(model, 1)[1] < mean_interval(floor, 1)[2]  # unpaired intervals overlap
    assert paired_interval(model, floor, 1)[1] > 0


def test_no_difference_gives_an_interval_around_zero() -> None:
    values = np.arange(50.0)
    assert paired_interval(values, values, 1) == (0.0, 0.0, 0.0)


def test_ratio_is_pooled_not_a_mean_of_ratios() -> None:
    ratio, lo, hi = ratio_interval(np.array([1.0, 0.0, 30.0]), np.array([1.0, 10.0, 20.0]), seed=1)
    assert ratio == pytest.approx(31 / 31)
    assert lo <= ratio <= hi


def test_values_of_one_owner_are_drawn_together() -> None:
    own = np.random.default_rng(0).normal(3.0, 2.0, 400)
    owners = np.repeat(np.arange(400) * 2, 25)  # numbers that own nothing are between them
    mean, lo, hi = mean_interval(own, seed=1)
    assert mean_interval(np.repeat(own, 25), 1, owners=owners) == pytest.approx((mean, lo, hi), abs=0.1 * (hi - lo))
    alone = mean_interval(np.repeat(own, 25), 1)
    assert alone[2] - alone[1] < 0.3 * (hi - lo)  # as though each of the 10,000 had told something new
    assert paired_interval(np.repeat(own, 25), np.zeros(10_000), 1, owners=owners)[1:] == pytest.approx(
        (lo, hi), abs=0.1 * (hi - lo)
    )


def test_who_has_more_values_weighs_more_in_the_mean() -> None:
    mean, lo, hi = mean_interval(np.array([1.0, 1.0, 1.0, 5.0]), 1, owners=np.array([0, 0, 0, 7]))
    assert (mean, lo, hi) == pytest.approx((2, 1, 5))
    with pytest.raises(ValueError, match="got 2 and 3"):
        mean_interval(np.zeros(2), 1, owners=np.zeros(3, dtype=np.int64))


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(0).random(100)
    assert mean_interval(values, 3) == mean_interval(values, 3) != mean_interval(values, 4)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [[1.0]]])
def test_values_that_have_no_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite|at least one value"):
        mean_interval(np.array(values), 1)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="same units: got 2 and 3"):
        paired_interval(np.zeros(2), np.zeros(3), 1)
    with pytest.raises(ValueError, match="got 1 and 2"):
        ratio_interval(np.zeros(1), np.ones(2), 1)
    with pytest.raises(ValueError, match="sum to zero"):
        ratio_interval(np.ones(2), np.array([1.0, -1.0]), 1)
