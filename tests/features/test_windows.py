"""The one definition of windowed features: names, and that the data dictionary declares exactly these."""

from __future__ import annotations

import pytest

from features.columns import ITEM_EVENT_TYPES
from features.tables import INTERACTIONS, ITEM_ACTIVITY, USER_ACTIVITY, USER_CATEGORY_AFFINITY
from features.windows import AFFINITY_SHARE_DAYS, AFFINITY_WINDOWS, ITEM_WINDOWS, USER_WINDOWS, WINDOWS_DAYS

ALL = (*USER_WINDOWS, *ITEM_WINDOWS, *AFFINITY_WINDOWS)


def test_names_say_the_computation():
    assert USER_WINDOWS[0].columns == ("item_views_count_1d", "item_views_count_7d", "item_views_count_30d", "item_views_count_90d")
    assert ITEM_WINDOWS[2].column(30) == "units_sold_sum_30d"
    assert ITEM_WINDOWS[5].column(7) == "buyers_count_7d"


@pytest.mark.parametrize(
    ("table", "features"),
    [(USER_ACTIVITY, USER_WINDOWS), (ITEM_ACTIVITY, ITEM_WINDOWS), (USER_CATEGORY_AFFINITY, AFFINITY_WINDOWS)],
)
def test_the_dictionary_declares_every_window_in_order(table, features):
    columns = [name for feature in features for name in feature.columns]
    assert [name for name in table.names if name.endswith(("_1d", "_7d", "_30d", "_90d")) and "share" not in name] == columns
    assert all(table.column(name).type == ("money" if f.money else "int") for f in features for name in f.columns)


def test_definitions_speak_of_things_that_exist():
    for feature in ALL:
        assert set(feature.event_types) <= set(ITEM_EVENT_TYPES)
        assert set(feature.weights) <= set(feature.event_types)
        assert feature.windows == tuple(sorted(feature.windows)) == WINDOWS_DAYS
        assert (feature.of in INTERACTIONS.names) == (feature.aggregate != "count")
    assert AFFINITY_SHARE_DAYS in WINDOWS_DAYS
    assert "affinity_share_30d" in USER_CATEGORY_AFFINITY.names
