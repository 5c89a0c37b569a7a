"""Packed online rows: what is written is what is read, on SQLite and on Redis, by many at once."""

from __future__ import annotations

import math
import multiprocessing
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.online.embedded import EmbeddedRows
from features.online.packing import Layout, Packed, key_texts, pack_rows
from features.online.read import read_columns
from features.online.redis import RedisRows
from features.online.rows import Rows
from features.views import View
from infra.errors import EngineError, FeatureError
from tests.ports import free_port

VIEW = View(
    "profile",
    "features/profile",
    keys=(("user_id", "string"), ("ds", "date")),
    columns=(
        ("name", "string"), ("items", "strings"), ("visits", "int"), ("spent", "float"), ("is_new", "bool"),
        ("born", "date"), ("seen", "timestamp"),
    ),
)  # fmt: skip
T0 = datetime(2024, 5, 1, tzinfo=UTC)
US = timedelta(microseconds=1)


def table(rows: list[dict[str, Any]], view: View = VIEW) -> pa.Table:
    defaults = {"user_id": "u", "ds": date(2024, 5, 1), EVENT_TIMESTAMP: T0}
    full = [{**defaults, **row} for row in rows]
    return pa.Table.from_pylist([{CREATED_TIMESTAMP: row[EVENT_TIMESTAMP], **row} for row in full], schema=view.schema)


def get(rows: Rows, view: View = VIEW, *keys: tuple[str, str]) -> dict[str, list[Any]]:
    keys = keys or (("u", "2024-05-01"),)
    return read_columns(rows, {view: key_texts(list(zip(*keys, strict=True)))})[view][1]


def rebuild(rows: Rows, view: View, packed: list[Packed], as_of: datetime, back_to: Mapping[str, int] | None = None) -> None:
    with rows.rebuild([view], as_of, back_to) as put:
        put(view, packed)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.engines)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Rows]]:
    """Opens the same empty store, again and again, as other processes would."""
    if request.param == "embedded":
        yield lambda: EmbeddedRows(tmp_path / "online.db")
        return
    url = request.getfixturevalue("redis_url")
    shop = f"s{random.randrange(10**9)}"
    yield lambda: RedisRows(url, shop)


values = st.fixed_dictionaries({
    "name": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    "items": st.none() | st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))),
    "visits": st.none() | st.integers(-(2**63), 2**63 - 1),
    "spent": st.none() | st.floats(allow_nan=False),
    "is_new": st.none() | st.booleans(),
    "born": st.none() | st.dates(),
    "seen": st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
})  # fmt: skip


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=12))
def test_unpacking_gives_back_every_value_to_the_bit(rows: list[dict[str, Any]]) -> None:
    layout = Layout(VIEW.columns)
    unpacked = layout.unpack(layout.pack(table(rows)))
    assert unpacked == {name: [row[name] for row in rows] for name, _ in VIEW.columns}


def test_not_a_number_is_not_null() -> None:
    layout = Layout((("spent", "float"),))
    kept = layout.unpack(layout.pack(pa.table({"spent": pa.array([math.nan, None, -0.0, math.inf])})))["spent"]
    assert math.isnan(kept[0])
    assert kept[1] is None
    assert math.copysign(1, kept[2]) == -1
    assert kept[3] == math.inf


def test_keys_do_not_run_into_each_other() -> None:
    assert len(set(key_texts([["1", "12", "", '1","23'], ["23", "3", "123", ""]]))) == 4
    assert key_texts([["a", None, "\ud800"], ["b", "b", "b"]]) == ['["a","b"]', None, None]


def test_rows_come_back_in_key_order_and_missing_ones_are_none(open_store: Callable[[], Rows]) -> None:
    rows = open_store()
    rows.write(VIEW, pack_rows(VIEW, table([{"user_id": "u", "visits": 1}, {"user_id": "v", "visits": 2, "items": ["a", None]}])))
    found = get(
        open_store(), VIEW, ("v", "2024-05-01"), ("x", "2024-05-01"), ("u", "2024-05-02"), ("u", "2024-05-01"), ("v", "2024-05-01")
    )
    assert found["visits"] == [2, None, None, 1, 2]
    assert found["items"] == [["a", None], None, None, None, ["a", None]]


def test_an_older_row_changes_nothing_and_a_correction_of_the_same_event_counts(open_store: Callable[[], Rows]) -> None:
    rows = open_store()
    for visits, event, created in ((1, T0, T0), (2, T0 - US, T0 + 9 * US), (3, T0, T0 - US), (4, T0, T0 + US), (5, T0, T0)):
        rows.write(VIEW, pack_rows(VIEW, table([{"visits": visits, EVENT_TIMESTAMP: event, CREATED_TIMESTAMP: created}])))
        assert get(rows)["visits"] == [4 if visits > 3 else 1]


def test_a_row_written_before_a_column_was_added_gives_null_for_it(open_store: Callable[[], Rows]) -> None:
    old, new = open_store(), open_store()
    rebuild(old, VIEW, pack_rows(VIEW, table([{"name": "Ada", "visits": 7, "spent": 1.5}])), T0)
    wider = replace(VIEW, columns=(("added", "int"), *VIEW.columns[:2], ("visits", "string"), *VIEW.columns[3:]))
    found = get(new, wider)
    assert (found["added"], found["name"], found["spent"]) == ([None], ["Ada"], [1.5])
    assert found["visits"] == [None], "a column that changed its type is another column"

    rows = pack_rows(wider, table([{"added": 1, "name": "Ada L."}], wider))
    new.write(wider, rows)
    assert get(old, wider)["added"] == [None], "half a definition is not read"
    rebuild(new, wider, rows, T0)
    assert get(old, wider)["added"] == [1]
    assert get(new)["name"] == ["Ada"], "the old definition still answers who needs it"


def test_replacing_takes_away_what_is_no_longer_there_and_leaves_what_is_newer(open_store: Callable[[], Rows]) -> None:
    def row(user: str, visits: int, event: datetime, created: datetime | None = None) -> dict[str, Any]:
        return {"user_id": user, "visits": visits, EVENT_TIMESTAMP: event, CREATED_TIMESTAMP: created or event}

    rows, users = open_store(), [(user, "2024-05-01") for user in "abcdef"]
    stored = [row("b", 1, T0), row("c", 2, T0), row("d", 3, T0 + US), row("e", 4, T0 - US, T0 + US), row("f", 5, T0)]
    rows.write(VIEW, pack_rows(VIEW, table(stored)))
    # of c an act was taken back: its newest row is now an older one; of d and e more was learned after T0
    rebuild(rows, VIEW, pack_rows(VIEW, table([row("a", 6, T0), row("c", 7, T0 - 9 * US), row("d", 8, T0)])), T0)
    assert get(rows, VIEW, *users)["visits"] == [6, None, 7, 3, 4, None]
    rebuild(rows, VIEW, [], T0)
    assert get(rows, VIEW, *users)["visits"] == [None, None, None, 3, 4, None]
    rows.drop(VIEW.name)
    assert get(open_store(), VIEW, *users)["visits"] == [None] * 6


def test_replacing_equals_a_fresh_store_across_batches(open_store: Callable[[], Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.online.embedded._BATCH", 3)
    monkeypatch.setattr("features.online.redis._BATCH", 3)
    rng, rows = random.Random(5), open_store()
    names = ["", "a", "b\u00e9", "z", "家", "\U0001f600", *map(str, range(10))]
    for _ in range(30):
        told = {name: rng.randrange(100) for name in rng.sample(names, rng.randrange(len(names)))}
        batch = [{"user_id": name, "visits": n, EVENT_TIMESTAMP: T0 - rng.randrange(9) * US} for name, n in told.items()]
        rebuild(rows, VIEW, pack_rows(VIEW, table(batch)), T0)
        assert get(rows, VIEW, *((name, "2024-05-01") for name in names))["visits"] == [told.get(name) for name in names]


def _write_many(store: Callable[[], Rows], seed: int, rounds: int) -> None:
    """Write every key again and again at random instants; the value says the instant."""
    rng, rows = random.Random(seed), store()
    for _ in range(rounds):
        instants = [rng.randrange(10**6) for _ in range(40)]
        batch = [{"user_id": str(n), EVENT_TIMESTAMP: T0 + at * US, "visits": at} for n, at in enumerate(instants)]
        rows.write(VIEW, pack_rows(VIEW, table(batch)))


def _newest(seeds: range, rounds: int) -> list[int]:
    best = [0] * 40
    for seed in seeds:
        rng = random.Random(seed)
        for _ in range(rounds):
            best = [max(old, rng.randrange(10**6)) for old in best]
    return best


def test_eight_writers_and_readers_lose_nothing(open_store: Callable[[], Rows]) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(open_store, seed, 25)) for seed in range(8)]
    open_store().write(VIEW, [])
    for writer in writers:
        writer.start()
    keys = [(str(n), "2024-05-01") for n in range(40)]
    rows, seen = open_store(), [0] * 40
    while any(writer.is_alive() for writer in writers):
        now = [visits or 0 for visits in get(rows, VIEW, *keys)["visits"]]
        assert all(later >= earlier for later, earlier in zip(now, seen, strict=True)), "a value went back in time"
        seen = now
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert get(rows, VIEW, *keys)["visits"] == _newest(range(8), 25)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(FeatureError, match="format 99"):
        EmbeddedRows(path).read({VIEW: ["k"]})
    with pytest.raises(FeatureError, match="format 9"):
        Layout((("visits", "int"),)).unpack([b"\x09" + bytes(9)])


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"not a database" * 100)
    with pytest.raises(EngineError, match="online.db: file is not a database"):
        EmbeddedRows(tmp_path / "online.db").read({VIEW: ["a"]})


def test_a_silent_redis_is_named() -> None:
    closed = free_port()
    with pytest.raises(EngineError, match=f"Redis at 127.0.0.1:{closed} does not answer") as told:
        RedisRows(f"redis://:secret@127.0.0.1:{closed}/0", "sample").read({VIEW: ["k"]})
    assert "secret" not in str(told.value)


def test_only_packed_rows_with_a_key_are_written() -> None:
    packed: list[Packed] = pack_rows(VIEW, table([{"user_id": None, "visits": 1}, {"visits": 2}]))
    assert [key for key, *_ in packed] == ['["u","2024-05-01"]']
