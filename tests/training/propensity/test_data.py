"""Rows of the past: each part ends before the next begins, and nothing of what comes is in what is learned from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.tables import INTERACTIONS
from infra.errors import TableContractError
from infra.lake import Lake
from tests.training.propensity.conftest import acts, simulate
from training.propensity import data
from training.propensity.data import make_rows, plan, split
from training.propensity.encoder import PURCHASE, Facts
from training.propensity.recipes import DataConfig

CONFIG = DataConfig(num_cutoffs=4)


def test_parts_follow_each_other_in_time() -> None:
    made = plan(1000, 1546, 12)
    assert (made.end - made.test, made.test - made.val, made.horizon) == (90, 90, 90)
    assert made.tuning[0] == 1030
    assert made.tuning[-1] == made.val - 30
    assert made.checked == (made.val, made.val + 30, made.val + 60)
    assert made.refit[-1] == made.test - 30
    assert plan(0, 120, 12).tuning == (30,)
    with pytest.raises(ValueError, match="cover 119 days; expected at least 120"):
        plan(0, 119, 12)


def test_the_future_changes_nothing_that_is_learned_from(interactions: pa.Table) -> None:
    facts = Facts.of(interactions, "UTC")
    parts = split(facts, CONFIG, 7)
    later = facts.day >= parts.plan.val
    shaken = Facts(facts.users, facts.user, facts.day, facts.known, np.where(later, PURCHASE, facts.kind), facts.value + 99 * later)
    again = split(shaken, CONFIG, 7)
    for name in ("values", "days", "bought"):
        np.testing.assert_array_equal(getattr(again.train, name), getattr(parts.train, name))
    assert not np.array_equal(again.val.days, parts.val.days)
    np.testing.assert_array_equal(
        again.val.values[again.val.day == parts.plan.val], parts.val.values[parts.val.day == parts.plan.val]
    )


def test_a_watch_ends_where_the_next_part_begins(facts: Facts) -> None:
    parts = split(facts, CONFIG, 7)
    made = parts.plan
    for rows, until in ((parts.train, made.val), (parts.val, made.test), (parts.refit, made.test), (parts.test, made.end)):
        assert (rows.day + rows.days <= until).all()
        assert (rows.day + rows.watched <= until).all()
        assert (rows.watched >= 30).all()
        assert (rows.days >= 1).all()
    assert (parts.test.watched == made.horizon).all()


def test_labels_are_days_until_the_next_purchase() -> None:
    facts = Facts.of(
        acts([("a", "purchase", 1, 0.5), ("a", "purchase", 1, 10.5), ("b", "view", 0, 1.5), ("b", "return", 1, 12.5)]), "UTC"
    )
    first = int(facts.day.min())
    rows = make_rows(facts, [first + 10, first + 11], first + 50, 30)
    assert rows.days.tolist() == [1, 30, 30, 30]
    assert rows.bought.tolist() == [True, False, False, False]
    assert rows.bought_within(7).tolist() == [1, 0, 0, 0]
    cut = make_rows(facts, [first + 5], first + 9, 30)
    assert (cut.days.tolist(), cut.bought.tolist()) == ([4, 4], [False, False])


def test_many_rows_are_drawn_from_the_same_every_time(facts: Facts) -> None:
    few = DataConfig(num_cutoffs=4, max_rows=50)
    parts = split(facts, few, 7)
    assert (len(parts.train), len(parts.test)) == (50, 50)
    assert split(facts, few, 7).digest == parts.digest != split(facts, few, 8).digest


def test_a_missing_table_is_named(lake: Lake) -> None:
    with pytest.raises(TableContractError, match="run `shopgraph build interactions`"):
        data.read(lake, "UTC")


def test_the_table_is_read_in_the_shops_days(lake: Lake, interactions: pa.Table) -> None:
    stored = interactions.append_column("retracted", pa.nulls(len(interactions), pa.string()))
    lake.write(INTERACTIONS.path, stored, "overwrite", digest="x")
    facts, version = data.read(lake, "UTC")
    assert version == 0
    assert len(facts) == len(interactions) - 1  # the visitor


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "view", 0.0, 0.5)], "holds no purchase"),
        ([("a", "purchase", 1.0, 0.5), ("a", "purchase", 1.0, 80.5)], "cover 81 days; expected at least 120"),
        ([("a", "purchase", 1.0, float(day)) for day in range(200)], "has 1 users in the training part; expected at least 30"),
        ([(f"u{n}", "purchase", 1.0, day) for n in range(40) for day in (1.0, 239.0)], "has 0 purchases after the cut-offs"),
    ],
)
def test_what_nothing_can_be_learned_from_is_one_clear_error(rows: list[tuple[str, str, float, float]], told: str) -> None:
    with pytest.raises(TableContractError, match=told):
        split(Facts.of(acts(rows), "UTC"), CONFIG, 7)


def test_no_acts_at_all_is_the_same_error() -> None:
    with pytest.raises(TableContractError, match="holds no purchase"):
        split(Facts.of(simulate().slice(0, 0), "UTC"), CONFIG, 7)
