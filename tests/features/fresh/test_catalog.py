"""What was told of an item since the last build reads as one row with what the table says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.fresh.catalog import CATALOG, MOST_STATES, STATES, State, states_of, worth_keeping
from features.fresh.facts import ITEM_CONTRACT
from features.fresh.intake import Intake
from features.online.packing import key_texts, pack_rows, to_microseconds
from features.online.rows import Rows
from features.shop import Shop
from features.store import FeatureStore
from infra.lake import Lake
from infra.settings import Settings

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
SHOP = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", now=(NOW + HOUR).isoformat())


class TheShop:
    """A shop whose clock stands until it is moved, with its online rows."""

    def __init__(self, settings: Settings, lake: Lake, rows: Rows) -> None:
        self.rows, self.now = rows, NOW
        self.intake = Intake(settings, SHOP, lake, rows, "wall", lambda: self.now)
        self.store = FeatureStore(settings, SHOP, lake)
        self.store.rows = rows

    def tell(self, **said: Any) -> None:
        (receipt,) = self.intake.take([ITEM_CONTRACT.read([{"item_id": "i1", **said}], "http", "r", self.now)])
        assert receipt.quarantined == ()

    def materialised(self, event: datetime, created: datetime | None = None, **columns: Any) -> None:
        row = {"item_id": "i1", **columns, EVENT_TIMESTAMP: event, CREATED_TIMESTAMP: created or event}
        with self.rows.rebuild([CATALOG], self.now) as put:
            put(CATALOG, pack_rows(CATALOG, pa.Table.from_pylist([row], schema=CATALOG.schema)))

    def read(self, now: datetime | None = None, item: str = "i1") -> dict[str, Any]:
        found = self.store.online_rows("recommender", {"item_id": [item]}, now or self.now)
        return {name: found[name][0] for name in (*CATALOG.column_names, CATALOG.time_column)}


@pytest.fixture
def the(settings: Settings, lake: Lake, rows: Rows) -> TheShop:
    return TheShop(settings, lake, rows)


BUILT = {"title": "Shoe", "category": "shoes", "brand": "b", "price": 10.0, "created_at": NOW - 9 * HOUR}


def test_what_is_told_is_in_the_row_that_is_read_next(the: TheShop) -> None:
    the.materialised(NOW - HOUR, **BUILT)
    nothing = {"withdrawn_at": None, CATALOG.time_column: NOW - HOUR}
    assert the.read() == BUILT | nothing
    the.tell(title="Shoe", category="shoes", price=19.9)
    assert the.read() == BUILT | {"brand": None, "price": 19.9, "withdrawn_at": None, CATALOG.time_column: NOW}
    the.now += SECOND
    the.tell(withdrawn_at=NOW.isoformat())
    assert (the.read()["price"], the.read()["withdrawn_at"], the.read()[CATALOG.time_column]) == (19.9, NOW, NOW + SECOND)
    assert the.read(NOW)["withdrawn_at"] is None  # as of a second ago
    assert the.read(item="i2")[CATALOG.time_column] is None


def test_an_item_that_no_table_knows_is_there_with_what_is_told(the: TheShop) -> None:
    the.tell(title="新", price=0.1)
    the.now += SECOND
    the.tell(brand="b")
    said = {"title": "新", "category": None, "brand": "b", "price": 0.1, "created_at": NOW, "withdrawn_at": None}
    assert the.read() == said | {CATALOG.time_column: NOW + SECOND}
    the.now += SECOND
    the.tell(price=0.1)  # nothing new: the row is as old as what it says
    assert the.read()[CATALOG.time_column] == NOW + SECOND


def test_stock_alone_says_nothing_of_the_catalogue(the: TheShop) -> None:
    the.materialised(NOW - HOUR, **BUILT)
    the.tell(on_hand=3)
    assert the.read()[CATALOG.time_column] == NOW - HOUR


def test_a_materialisation_takes_away_neither_what_it_lacks_nor_what_is_newer(the: TheShop) -> None:
    the.tell(**{"title": "Shoe", "price": 5})
    the.now += SECOND
    the.tell(price=6)
    the.materialised(NOW, price=5.0, title="Shoe", created_at=NOW)  # built between the two
    assert (the.read()["price"], the.read()["title"]) == (6.0, "Shoe")
    the.materialised(NOW + SECOND, price=6.0, title="Shoe", created_at=NOW)
    assert (the.read()["price"], the.read()[CATALOG.time_column]) == (6.0, NOW + SECOND)
    the.now += HOUR
    the.materialised(NOW + HOUR, price=7.0)  # from a file, later than all that was told
    assert (the.read()["price"], the.read()["title"]) == (7.0, None)


def test_what_is_told_late_counts_though_the_built_row_is_of_a_later_time(the: TheShop) -> None:
    """The table knew of the item because somebody looked at it, an hour ago."""
    the.materialised(NOW - HOUR, created_at=NOW - HOUR)
    the.tell(title="Shoe", price=5, event_timestamp=(NOW - 2 * HOUR).isoformat())
    said = the.read()
    assert (said["title"], said["price"], said["created_at"]) == ("Shoe", 5.0, NOW - 2 * HOUR)
    assert said[CATALOG.time_column] == NOW - 2 * HOUR


def test_the_last_price_paid_stands_where_none_is_told(the: TheShop) -> None:
    the.materialised(NOW - HOUR, price=3.0, created_at=NOW - 9 * HOUR)
    the.tell(title="Shoe", event_timestamp=(NOW - 2 * HOUR).isoformat())
    assert (the.read()["price"], the.read()["title"], the.read()[CATALOG.time_column]) == (3.0, "Shoe", NOW - HOUR)
    the.tell(title="Boot")
    assert (the.read()["price"], the.read()["title"], the.read()[CATALOG.time_column]) == (3.0, "Boot", NOW)


def test_a_correction_of_an_instant_replaces_what_was_told_of_it(the: TheShop) -> None:
    the.tell(price=5, event_timestamp=NOW.isoformat())
    the.now += SECOND
    the.tell(price=4, event_timestamp=NOW.isoformat())
    assert (the.read()["price"], the.read()[CATALOG.time_column]) == (4.0, NOW)
    assert the.read(NOW)["price"] == 5.0
    the.materialised(NOW, the.now, price=4.0, created_at=NOW)
    assert the.read()["price"] == 4.0


def test_it_is_applied_once_and_only_what_no_built_row_says_is_kept(the: TheShop) -> None:
    the.tell(price=1)
    the.intake.catch_up()
    the.now += SECOND
    the.materialised(NOW, price=1.0, created_at=NOW)
    the.tell(price=2)
    layout, (row,) = the.rows.read({STATES: key_texts([["i1"]])})[STATES]
    assert row is not None
    (state,) = states_of(layout.unpack([row[2]])["states"][0])
    assert state == State.of(to_microseconds(the.now), to_microseconds(the.now), {"price": "2.0000"})


def test_of_many_states_the_first_and_the_newest_are_kept() -> None:
    states = [State.of(number, number, {"title": f"{number}"}) for number in range(100)]
    kept = [state.time for state in worth_keeping(states, 9, 9)]
    assert kept == [10, *range(101 - MOST_STATES, 100)]
