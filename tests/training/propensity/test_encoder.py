"""Features are what was known on the day, whatever came later, in local days."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.training.propensity.conftest import START, acts
from training.propensity.encoder import NAMES, NUM_INPUTS, Encoder, Facts, features, words

FIRST = (START.date() - datetime(1970, 1, 1).date()).days


def of(
    rows: list[tuple[str, str, float, float]], day: int, zone: str = "UTC", known_after: float = 0.0
) -> dict[str, dict[str, float]]:
    """User -> feature -> value on the local day so many days after START."""
    facts = Facts.of(acts(rows, known_after), zone)
    users, values = features(facts, FIRST + day)
    return {str(facts.users[u]): dict(zip(NAMES, row.tolist(), strict=True)) for u, row in zip(users, values, strict=True)}


def test_a_history_as_numbers() -> None:
    found = of(
        [
            ("a", "view", 0, 0.5),
            ("a", "purchase", 10, 2.1),
            ("a", "purchase", 30, 2.9),  # the same local day: one decision to buy
            ("a", "purchase", 6, 6.5),
            ("a", "purchase", 8, 12.5),
            ("a", "return", 8, 13.5),
            ("a", "cart", 0, 18.5),
            ("a", "view", 0, 19.5),
        ],
        20,
    )["a"]
    assert {name: found[name] for name in ("purchase_days", "purchase_days_7d", "purchase_days_30d")} == {
        "purchase_days": 3,
        "purchase_days_7d": 0,
        "purchase_days_30d": 3,
    }
    assert (found["days_since_purchase"], found["days_since_first_purchase"], found["days_since_first_act"]) == (8, 18, 20)
    assert (found["gap_mean"], found["gap_last"], found["overdue"]) == (5, 6, 8 / 5)
    assert found["gap_spread"] == pytest.approx(1 / 5)
    assert found["silence_share"] == pytest.approx(8 / 18)
    assert (found["value_mean"], found["value_last"], found["lines_mean"]) == (54 / 3, 8, 4 / 3)
    assert (found["looks_7d"], found["looks_30d"], found["days_since_look"]) == (1, 2, 1)
    assert (found["intents_7d"], found["days_since_intent"], found["returns_365d"]) == (1, 2, 1)


def test_what_was_not_known_before_the_day_does_not_count() -> None:
    rows = [("a", "purchase", 10.0, 2.5), ("a", "purchase", 10.0, 9.5)]
    assert str(of(rows, 9)) == str(of(rows[:1], 9))  # as text: NaN is no equal of itself
    assert of(rows, 5, known_after=4) == {}
    assert of(rows, 7, known_after=4)["a"]["purchase_days"] == 1


def test_days_are_those_of_the_shop() -> None:
    late = [("a", "purchase", 10.0, 2.9)]  # 21:36 UTC: the next day in Shanghai
    assert of(late, 5)["a"]["days_since_purchase"] == 3
    assert of(late, 5, "Asia/Shanghai")["a"]["days_since_purchase"] == 2
    assert of(late, 3, "Asia/Shanghai") == {}


def test_who_never_bought_and_who_bought_once_have_gaps_in_what_is_known() -> None:
    found = of([("looker", "view", 0, 1.5), ("once", "purchase", 9, 1.5)], 5)
    assert found["looker"]["purchase_days"] == 0
    assert np.isnan([found["looker"][name] for name in ("days_since_purchase", "value_mean", "gap_mean", "silence_share")]).all()
    assert found["once"]["days_since_purchase"] == found["once"]["days_since_first_purchase"] == 4
    assert np.isnan([found["once"][name] for name in ("gap_mean", "gap_last", "gap_spread", "overdue")]).all()


def test_visitors_without_a_name_are_left_out() -> None:
    assert set(of([("visitor:1", "purchase", 1, 0.5), ("session:2", "view", 0, 0.5), ("a", "view", 0, 0.5)], 3)) == {"a"}


def test_nobody_gives_no_rows(interactions: pa.Table) -> None:
    users, values = features(Facts.of(interactions, "UTC"), FIRST - 10)
    assert (len(users), values.shape) == (0, (0, len(NAMES)))
    users, values = features(Facts.of(interactions.slice(0, 0), "UTC"), FIRST)
    assert (len(users), values.shape) == (0, (0, len(NAMES)))


def test_a_user_counts_alone_whoever_else_is_there(interactions: pa.Table) -> None:
    facts = Facts.of(interactions, "UTC")
    users, values = features(facts, FIRST + 150)
    ids = facts.users[users]
    half = Facts.of(interactions.filter(pc.ends_with(interactions["user_id"], "3")), "UTC")
    some, theirs = features(half, FIRST + 150)
    np.testing.assert_array_equal(theirs, values[np.isin(ids, half.users[some])])


def test_another_currency_and_a_huge_spend_change_little(facts: Facts) -> None:
    _, values = features(facts, FIRST + 150)
    money = [NAMES.index(name) for name in ("value_mean", "value_last")]
    in_yen = values.copy()
    in_yen[:, money] *= 150
    a, b = (Encoder.fit(one, 30).encode(one) for one in (values, in_yen))
    assert np.abs(a - b).max() < 0.3
    huge = values.copy()
    huge[0, money] = 1e13
    encoded = Encoder.fit(values, 30).encode(huge)
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() < 20


def test_inputs_are_finite_and_tell_what_is_missing(facts: Facts, tmp_path: Path) -> None:
    _, values = features(facts, FIRST + 150)
    encoder = Encoder.fit(values, 30)
    encoded = encoder.encode(values)
    assert encoded.shape == (len(values), NUM_INPUTS)
    assert np.isfinite(encoded).all()
    empty = encoder.encode(np.full((1, len(NAMES)), np.nan))
    assert empty[0, : len(NAMES)].tolist() == [0.0] * len(NAMES)
    assert empty[0, len(NAMES) :].all()
    encoder.save(tmp_path)
    np.testing.assert_array_equal(Encoder.load(tmp_path).encode(values), encoded)


def test_an_encoder_of_other_features_is_refused(facts: Facts, tmp_path: Path) -> None:
    Encoder.fit(features(facts, FIRST + 150)[1], 30).save(tmp_path)
    path = tmp_path / "encoder.json"
    path.write_text(path.read_text().replace("gap_last", "gap_next"))
    with pytest.raises(ValueError, match="train it again"):
        Encoder.load(tmp_path)


def test_habits_are_told_in_words() -> None:
    facts = Facts.of(acts([("a", "purchase", 10, 2.5), ("a", "purchase", 30, 4.5), ("b", "view", 0, 4.5)]), "UTC")
    _, values = features(facts, FIRST + 5)
    assert [words(habit, values[0]) for habit in ("last purchase", "purchases", "rhythm", "spend")] == [
        "bought 1 day ago",
        "2 purchases, 2 of them in 90 days",
        "bought every 2 days",
        "20.00 a purchase",
    ]
    assert [words(habit, values[1]) for habit in ("last purchase", "rhythm", "looks")] == [
        "never bought",
        "no second purchase",
        "1 looks in 30 days",
    ]
