"""What time it is in a shop."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from infra import clock
from infra.errors import SettingsError
from infra.lake import Lake


def put(lake: Lake, path: str, event: datetime, created: datetime) -> None:
    """Append one row that became true and known then."""
    row = {"event_timestamp": [event], "created_timestamp": [created]}
    schema = pa.schema([(name, pa.timestamp("us", "UTC")) for name in row])
    lake.write(path, pa.table(row, schema=schema), "append", digest=f"{event} {created}")


def day(number: int) -> datetime:
    return datetime(2025, 1, number, tzinfo=UTC)


def test_the_data_clock_is_just_after_the_newest_fact_when_all_facts_are_known(lake: Lake) -> None:
    put(lake, "raw/orders", day(3), day(3))
    put(lake, "raw/orders", day(2), day(2))
    put(lake, "raw/items", day(9), day(9))  # no fact
    assert clock.now("data", lake) == day(3) + clock.INSTANT
    put(lake, "raw/reviews", day(1), day(4))  # known late
    assert clock.newest_fact(lake) == day(4)
    assert clock.now("data", lake) == day(4) + clock.INSTANT


def test_other_clocks(lake: Lake) -> None:
    assert clock.newest_fact(lake) is None
    for mode in ("data", "wall"):  # without a fact both are the machine's
        assert abs((clock.now(mode, lake) - datetime.now(UTC)).total_seconds()) < 5
    assert clock.now("2020-02-02T00:00:00+01:00", lake) == datetime(2020, 2, 1, 23, tzinfo=UTC)
    with pytest.raises(SettingsError, match="yesterday"):
        clock.now("yesterday", lake)
