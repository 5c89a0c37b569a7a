"""What purchases say: what is bought together, what comes again and when, and what both are worth beside counting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.days import day_number
from infra.errors import ModelNotFoundError
from training.recommender import placements
from training.recommender.again import HORIZON_DAYS, Again, Habits, learn
from training.recommender.bought import Bought, Pairs, bought_of
from training.recommender.data import DataConfig, make_encoder, split
from training.recommender.purchases import Purchases, count_together, wilson_bound
from training.splits import in_order

START = datetime(2024, 1, 1, 12, tzinfo=UTC)
ZONE = "Europe/Berlin"


def pairs(*rows: tuple[int, int, int, int]) -> Pairs:
    """Of (item, count, first, last), each of a person of its own."""
    items, counts, first, last = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Pairs(np.arange(len(rows)), items, counts, first, last)


def habits(bought: list[tuple[int, int, int]], num_items: int, day: int = 400) -> Habits:
    users, items, days = (np.array(column, dtype=np.int64) for column in zip(*bought, strict=True))
    return Habits.of(Bought.of(users, items, days), day, num_items)


def purchase_rows() -> Iterator[dict[str, Any]]:
    """Half a year: milk each 7 days or so, soap each 40, sofas once; wine with cheese, and bread with whatever."""
    rng = np.random.default_rng(0)
    for user in range(150):
        for item, gap in (("milk", 7.0), ("soap", 40.0)):
            day = float(rng.uniform(0, gap))
            while day < 180:
                yield {"user_id": f"u{user}", "item_id": f"{item}{user % 3}", "day": day}
                day += gap * float(rng.uniform(0.8, 1.2))
        for sofa in range(15):
            yield {"user_id": f"u{user}", "item_id": f"sofa{(user + sofa) % 40}", "day": float(rng.uniform(0, 180))}
        for _ in range(3):
            day = float(rng.uniform(0, 180))
            kind = int(rng.integers(5))
            for item in (f"wine{kind}", f"cheese{kind}", "bread"):
                yield {"user_id": f"u{user}", "item_id": item, "day": day}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    found = sorted(purchase_rows(), key=lambda row: (row["user_id"], row["day"]))
    times = [START + timedelta(days=row["day"]) for row in found]
    return in_order(
        pa.table(
            {
                "user_id": [row["user_id"] for row in found],
                "item_id": [row["item_id"] for row in found],
                "event_type": ["purchase"] * len(found),
                "session_id": [f"{row['user_id']}-{row['day']:.4f}" for row in found],
                "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            }
        )
    )


def test_a_purchase_counts_once_a_local_day(rows: pa.Table) -> None:
    late = [
        datetime(2024, 3, 30, 22, 30, tzinfo=UTC),
        datetime(2024, 3, 30, 23, 30, tzinfo=UTC),
        datetime(2024, 3, 31, 8, tzinfo=UTC),
    ]
    table = pa.table({"user_id": ["u"] * 4, "item_id": ["a", "a", "a", "strange"], "event_timestamp": [*late, late[0]]})
    found = bought_of(table, make_encoder(rows.slice(0, 1).set_column(1, "item_id", pa.array(["a"])), 28), ZONE)
    assert found.days.tolist() == [day_number(date(2024, 3, 30)), day_number(date(2024, 3, 31))]
    assert [values.tolist() for values in vars(found.pairs).values()] == [[0], [0], [2], [19812], [19813]]


def test_a_small_sample_weighs_less_than_a_large_one_of_the_same_share() -> None:
    bounds = wilson_bound(np.array([2.0, 50.0, 500.0, 0.0]), np.array([2.0, 60.0, 600.0, 5.0]))
    assert bounds[0] < bounds[1] < bounds[2] < 500 / 600
    assert bounds[3] == 0
    assert wilson_bound(np.array([50.0]), np.array([60.0]))[0] == pytest.approx(0.7196, abs=1e-4)  # of a table of the interval


def test_what_belongs_together_comes_before_what_is_in_every_basket() -> None:
    baskets = [(0, 1, 4)] * 30 + [(2, 3, 4)] * 30 + [(4,)] * 200
    flat = np.array([(number, item) for number, of in enumerate(baskets) for item in of]).T
    near = count_together(flat[0], flat[1], 6)
    scores = near.scores([np.array([0]), np.array([1]), np.array([5])])
    assert scores[0].argsort()[::-1][:2].tolist() == [1, 4]
    assert scores[1].argmax() == 0  # both directions
    assert not scores[2].any()
    assert near.table.diagonal().tolist() == [0] * 6


def test_a_large_basket_says_less_of_each_pair() -> None:
    baskets = [(0, 1)] * 5 + [(0, 2)] * 5
    large = [(number, item) for number, of in enumerate(baskets) for item in of]
    large += [(number, item) for number in range(5, 10) for item in range(3, 60)]
    flat = np.array(sorted(large)).T
    scores = count_together(flat[0], flat[1], 60).scores([np.array([0])])[0]
    assert scores[1] > scores[2] > 0


def test_habits_are_shrunk_to_the_shop() -> None:
    often = [(user, 0, day) for user in range(50) for day in range(0, 350, 7)]
    once = [(user, 1, 10) for user in range(50)]
    found = habits([*often, *once, (0, 2, 5), (0, 2, 305)], 4)
    assert np.exp(found.gap[0]) == pytest.approx(7, rel=0.01)
    assert 7 < np.exp(found.gap[2]) < 300  # one gap of 300 days says little
    assert np.exp(found.gap[3]) == pytest.approx(7, rel=0.1)
    assert found.offered.tolist() == [True, False, True, True, True]  # of 50 who had the time none came again
    assert habits([(user, 0, 380) for user in range(50)], 1).offered[0]  # they had not
    assert found.rate[0] > found.rate[3] > found.rate[1]
    assert found.repeats[0] > found.repeats[1]


def test_what_is_due_comes_first_and_what_nobody_buys_twice_never(rows: pa.Table) -> None:
    encoder = make_encoder(rows, 28)
    again = Purchases.learn(rows, encoder, ZONE).again
    milk, soap, sofa = (encoder.index[item] for item in ("milk0", "soap0", "sofa0"))
    day = day_number(date(2024, 6, 28))
    chances = again.chances(
        pairs((milk, 20, day - 150, day - 6), (soap, 4, day - 160, day - 35), (soap, 4, day - 130, day - 5)), day
    )
    assert chances[0] > 0.9
    assert chances[1] > chances[2]  # just bought, it waits
    never = Again(Habits(**{**vars(again.habits), "offered": np.zeros(len(encoder.items) + 1, dtype=np.bool_)}), again.weights)
    assert never.chances(pairs((sofa, 1, day - 9, day - 9), (sofa, 2, day - 90, day - 9)), day).tolist()[0] == 0
    assert never.chances(pairs((sofa, 2, day - 90, day - 9)), day)[0] > 0


def test_chances_are_as_frequent_as_they_say(rows: pa.Table) -> None:
    encoder = make_encoder(rows, 28)
    bought = bought_of(rows, encoder, ZONE)
    day = int(bought.days.max()) + 1 - HORIZON_DAYS
    again = learn(bought.before(day), len(encoder.items))
    asked = bought.before(day).pairs
    came = asked.in_(bought.within(day, day + HORIZON_DAYS))
    chances = again.chances(asked, day)
    for part in (chances > 0.8, (chances > 0) & (chances < 0.2)):
        assert part.sum() > 50
        assert chances[part].mean() == pytest.approx(came[part].mean(), abs=0.1)


def test_without_examples_the_weights_are_those_known_before() -> None:
    few = Bought.of(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([100, 107, 107]))
    nothing = Bought.of(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    assert learn(few, 2).weights.tolist() == learn(nothing, 2).weights.tolist()
    assert learn(few, 2).chances(pairs((0, 2, 100, 107)), 114)[0] > 0


def test_both_halves_come_back_as_they_were_saved(rows: pa.Table, tmp_path: Path) -> None:
    encoder = make_encoder(rows, 28)
    learned = Purchases.learn(rows, encoder, ZONE)
    learned.save(tmp_path)
    back = Purchases.load(tmp_path)
    assert np.array_equal(back.together.table.toarray(), learned.together.table.toarray())
    asked = pairs((0, 3, 10, 90), (1, 1, 50, 50))
    assert np.array_equal(back.again.chances(asked, 100), learned.again.chances(asked, 100))
    (tmp_path / "again.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="shopgraph train recommender"):
        Purchases.load(tmp_path)


def test_of_items_that_came_later_nothing_was_bought_yet(rows: pa.Table) -> None:
    encoder = make_encoder(rows, 28)
    learned, size = Purchases.learn(rows, encoder, ZONE), len(encoder.items)
    grown = learned.resized(size + 3)
    asked = pairs((0, 3, 10, 90), (1, 1, 50, 50))
    assert np.array_equal(grown.again.chances(asked, 100), learned.again.chances(asked, 100))
    new, unknown = grown.again.chances(pairs((size + 2, 1, 90, 90), (size + 1, 1, 90, 90)), 100)
    assert new == unknown > 0
    assert 0 < grown.again.chances(pairs((size + 2, 2, 60, 90)), 100)[0] < 1
    scores = grown.together.scores([np.array([0]), np.array([size + 1])])
    assert np.array_equal(scores[0, :size], learned.together.scores([np.array([0])])[0])
    assert not scores[1].any()
    assert np.array_equal(grown.resized(size + 3).again.habits.gap, grown.again.habits.gap)


def test_learning_twice_gives_the_same(rows: pa.Table) -> None:
    encoder = make_encoder(rows, 28)
    first, second = (Purchases.learn(rows, encoder, ZONE) for _ in range(2))
    assert np.array_equal(first.again.weights, second.again.weights)
    assert np.array_equal(first.together.table.toarray(), second.together.table.toarray())


def test_the_rules_are_judged_beside_floors_on_the_validation_part(rows: pa.Table) -> None:
    parts = split(rows, DataConfig())
    judged = placements.judge(parts, make_encoder(parts.train, 28), ZONE, 7)
    found = {(row["placement"], row["rule"]): row for one in judged for row in one.rows(7)}
    assert found["buy_again", "rule"]["ndcg_at_10"] > 0.9
    assert float(found["buy_again", "recency"]["gain_lo"]) > 0
    assert found["bought_together", "rule"]["ndcg_at_10"] > found["bought_together", "popularity"]["ndcg_at_10"]
    assert "| buy_again | 1" in placements.section(judged, 7)
    views = rows.set_column(rows.column_names.index("event_type"), "event_type", pa.array(["view"] * rows.num_rows))
    assert placements.judge(split(views, DataConfig()), make_encoder(parts.train, 28), ZONE, 7) == []
