"""What is expected of the declared tables."""

from __future__ import annotations

import pytest

from features.quality.expectations import BY_HAND, TableExpectation, expectation
from features.tables import FEATURE_TABLES, RAW_TABLES

TABLES = {**RAW_TABLES, **FEATURE_TABLES}


def test_what_is_written_by_hand_speaks_of_declared_tables_and_columns():
    assert set(BY_HAND) <= set(TABLES)
    for name, hand in BY_HAND.items():
        assert set(hand.columns) <= set(TABLES[name].names)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.path)
def test_the_declaration_says_what_is_required_a_share_or_counted(table):
    said = expectation(table, {}).columns
    for column in table.columns:
        if column.required:
            assert said[column.name].max_null_share == 0
        if column.unit == "0-1":
            assert (said[column.name].min, said[column.name].max) == (0, 1)
        if column.unit == "1-5":
            assert (said[column.name].min, said[column.name].max) == (1, 5)
        if column.name.startswith("num_") or "_count_" in column.name or (column.type == "money" and "price" in column.name):
            assert said[column.name].min is not None
            assert said[column.name].min >= 0


def test_the_last_word_is_the_shops_and_only_on_what_it_names():
    orders = RAW_TABLES["orders"]
    plain = expectation(orders, {})
    assert (plain.fresh_days, plain.columns["unit_price"].min, plain.columns["quantity"].min) == (3, 0, None)
    shop = TableExpectation.model_validate({"volume": None, "columns": {"unit_price": {"max": 9}, "channel": {"values": ["web"]}}})
    changed = expectation(orders, {"orders": shop})
    assert (changed.fresh_days, changed.volume) == (3, None)
    price = changed.columns["unit_price"]
    assert (price.min, price.max, price.stable, price.max_null_share) == (0, 9, True, 0)
    assert changed.columns["channel"].values == ("web",)
    assert changed.columns["user_id"] == plain.columns["user_id"]
