from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import TableContractError
from training.demand.panel import COLUMNS, Panel, carry_forward


def row(item_id: str, ds: date, units: int, **values: object) -> dict[str, object]:
    usual = {
        "price_mean": 2.0, "promotion_depth": 0.0, "is_promotion": False, "holiday": None, "is_open": True, "is_stock_out": False,
    }  # fmt: skip
    return {"item_id": item_id, "ds": ds, "units_sum": units, **usual, **values}


def rows(*content: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(content))


def test_rows_land_on_their_item_and_day_whatever_their_order() -> None:
    panel = Panel.from_table(
        rows(
            row("b", date(2024, 1, 3), 5),
            row("a", date(2024, 1, 1), 1, holiday="New Year", is_open=False),
            row("a", date(2024, 1, 3), 3, is_stock_out=True),
        )
    )
    assert panel.item_ids == ("a", "b")
    assert panel.start == date(2024, 1, 1)
    assert panel.units.tolist() == [[1, 0, 3], [0, 0, 5]]
    assert panel.holidays == ("New Year", None, None)
    assert panel.is_open.tolist() == [False, False, True]  # no row at all: nobody sold anything
    assert panel.is_on_sale.tolist() == [[True, True, True], [False, False, True]]
    assert panel.is_observed.tolist() == [[False, False, False], [False, False, True]]
    assert panel.day(2) == date(2024, 1, 3)
    assert panel.index(date(2024, 1, 5)) == 4


def test_an_item_whose_rows_end_sold_nothing_afterwards() -> None:
    panel = Panel.from_table(rows(row("a", date(2024, 1, 1), 4), row("b", date(2024, 1, 1), 1), row("b", date(2024, 1, 2), 1)))
    assert panel.is_observed[0].tolist() == [True, True]
    assert panel.units[0].tolist() == [4, 0]


def test_a_day_whose_row_is_missing_between_others_is_not_observed() -> None:
    days = [date(2024, 1, day) for day in range(1, 6)]
    panel = Panel.from_table(rows(row("a", days[1], 4), row("a", days[3], 2), *(row("b", day, 1) for day in days)))
    assert panel.is_observed.tolist() == [[False, True, False, True, True], [True] * 5]


def test_of_a_corrected_day_the_value_known_last_counts() -> None:
    first, later = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)
    panel = Panel.from_table(
        rows(row("a", date(2024, 1, 1), 9, created_timestamp=later), row("a", date(2024, 1, 1), 4, created_timestamp=first))
    )
    assert panel.units.tolist() == [[9]]


def test_prices_are_carried_forward_and_unknown_before_the_first() -> None:
    values = np.array([[np.nan, 1, np.nan, 3], [np.nan, np.nan, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(carry_forward(values), [[np.nan, 1, 1, 3], [np.nan] * 4])


def test_until_and_select_cut_every_array(panel: Panel) -> None:
    cut = panel.until(20).select(np.array([3, 1]))
    assert cut.item_ids == ("item-03", "item-01")
    assert cut.categories == (None, None)
    assert cut.num_days == 20
    for name in ("units", "price", "promotion_depth", "is_promotion", "is_on_sale", "is_stock_out"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(panel, name)[[3, 1], :20])


def test_asked_items_without_a_row_are_there_and_not_on_sale() -> None:
    panel = Panel.from_table(rows(row("a", date(2024, 1, 1), 4)), item_ids=["new", "a"], last=date(2024, 1, 3))
    assert panel.units.tolist() == [[0, 0, 0], [4, 0, 0]]
    assert not panel.is_on_sale[0].any()


def test_a_panel_reaches_back_as_far_as_asked_and_to_its_oldest_row() -> None:
    table = rows(row("a", date(2024, 1, 3), 4), row("a", date(2024, 1, 5), 1))
    for min_days, start in ((1, 3), (3, 3), (5, 1)):
        panel = Panel.from_table(table, min_days=min_days)
        assert (panel.start, panel.day(panel.num_days - 1)) == (date(2024, 1, start), date(2024, 1, 5))
        assert panel.units[0, -3:].tolist() == [4, 0, 1]
        assert panel.is_on_sale.sum() == 3
    assert Panel.from_table(table.slice(0, 0), item_ids=["a"], last=date(2024, 1, 5), min_days=4).start == date(2024, 1, 2)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(TableContractError, match=name):
        Panel.from_table(rows(row("a", date(2024, 1, 1), 1)).drop_columns([name]))


def test_no_row_and_negative_units_are_refused_in_words() -> None:
    table = rows(row("a", date(2024, 1, 1), -2))
    with pytest.raises(TableContractError, match="-2 for item a"):
        Panel.from_table(table)
    with pytest.raises(TableContractError, match="got none"):
        Panel.from_table(table.slice(0, 0))
