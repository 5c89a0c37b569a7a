"""The contract of the online store, the same on SQLite and on Redis. Feast's side of it is in test_repo.py, many processes at once
in test_online_processes.py; the three together are what an upgrade of Feast has to pass.

In this order: bytes of a row, keys, rows over time, definitions over time, generations, updates, and what is refused.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import redis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.online.base import Bases
from features.online.embedded import EmbeddedRows
from features.online.packing import Layout, Packed, key_texts, pack_rows, to_microseconds
from features.online.read import read_columns
from features.online.redis import RedisRows
from features.online.rows import Row, Rows
from features.views import View
from infra.errors import EngineError, FeatureError
from infra.processes import free_ports
from infra.sqlite import kept
from tests.features.conftest import OnlineStore

VIEW = View(
    "profile",
    "features/profile",
    keys=(("user_id", "string"), ("ds", "date")),
    columns=(
        ("name", "string"), ("items", "strings"), ("visits", "int"), ("spent", "float"), ("is_new", "bool"),
        ("born", "date"), ("seen", "timestamp"),
    ),
)  # fmt: skip
OTHER = replace(VIEW, name="activity", path="features/activity")
T0 = datetime(2024, 5, 1, tzinfo=UTC)
US = timedelta(microseconds=1)


def table(rows: list[dict[str, Any]], view: View = VIEW) -> pa.Table:
    defaults = {"user_id": "u", "ds": date(2024, 5, 1), EVENT_TIMESTAMP: T0}
    full = [{**defaults, **row} for row in rows]
    return pa.Table.from_pylist([{CREATED_TIMESTAMP: row[EVENT_TIMESTAMP], **row} for row in full], schema=view.schema)


def packed(*rows: dict[str, Any], view: View = VIEW) -> list[Packed]:
    return pack_rows(view, table(list(rows), view))


def visits(at: datetime = T0, created: datetime | None = None, /, **counts: int) -> list[Packed]:
    """A row per user and count."""
    times = {EVENT_TIMESTAMP: at, CREATED_TIMESTAMP: created or at}
    return packed(*({"user_id": user, "visits": count, **times} for user, count in counts.items()))


def get(rows: Rows, view: View = VIEW, *keys: tuple[str, str], now: datetime | None = None) -> dict[str, list[Any]]:
    keys = keys or (("u", "2024-05-01"),)
    asked = {view: key_texts(list(zip(*keys, strict=True)))}
    return read_columns(rows, asked, None if now is None else to_microseconds(now))[view][1]


def counts(rows: Rows, users: str = "u", view: View = VIEW) -> list[int | None]:
    return get(rows, view, *((user, "2024-05-01") for user in users))["visits"]


def rebuild(
    rows: Rows, given: Sequence[Packed], as_of: datetime = T0, back_to: Mapping[str, int] | None = None, view: View = VIEW
) -> None:
    with rows.rebuild([view], as_of, back_to) as put:
        put(view, given)


# -- the bytes of a row ---------------------------------------------------------------------------------------------------------

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


# -- keys -----------------------------------------------------------------------------------------------------------------------


def test_keys_do_not_run_into_each_other() -> None:
    assert len(set(key_texts([["1", "12", "", '1","23'], ["23", "3", "123", ""]]))) == 4
    assert key_texts([["a", None, "\ud800"], ["b", "b", "b"]]) == ['["a","b"]', None, None]


def test_only_rows_with_a_key_are_written() -> None:
    assert [key for key, *_ in packed({"user_id": None, "visits": 1}, {"visits": 2})] == ['["u","2024-05-01"]']


def test_rows_come_back_in_key_order_and_missing_ones_are_none(online: OnlineStore) -> None:
    online.open().write(VIEW, packed({"user_id": "u", "visits": 1}, {"user_id": "v", "visits": 2, "items": ["a", None]}))
    asked = [("v", "2024-05-01"), ("x", "2024-05-01"), ("u", "2024-05-02"), ("u", "2024-05-01"), ("v", "2024-05-01")]
    found = get(online.open(), VIEW, *asked)
    assert found["visits"] == [2, None, None, 1, 2]
    assert found["items"] == [["a", None], None, None, None, ["a", None]]


def test_a_key_is_any_text(online: OnlineStore) -> None:
    users = [
        "",
        " ",
        "é",
        "e\u0301",
        "家",
        "\U0001f600",
        "\x00",
        "a\x00b",
        "%",
        "*",
        "'",
        '"',
        "\\",
        "\n",
        "x" * 100_000,
        "x" * 99_999,
    ]
    rows = online.open()
    rebuild(rows, packed(*({"user_id": user, "visits": n} for n, user in enumerate(users))))
    assert get(rows, VIEW, *((user, "2024-05-01") for user in users))["visits"] == list(range(len(users)))


def test_nothing_asked_and_nothing_held(online: OnlineStore) -> None:
    rows = online.open()
    assert rows.read({}) == {}
    assert get(rows)["visits"] == [None]
    rebuild(rows, [])
    assert get(rows)["visits"] == [None]
    assert [found for _, found in rows.read({VIEW: [], OTHER: [None]}).values()] == [[], [None]]


# -- rows over time -------------------------------------------------------------------------------------------------------------


def test_an_older_row_changes_nothing_and_a_correction_of_the_same_event_counts(online: OnlineStore) -> None:
    rows = online.open()
    told = [(1, T0, T0), (2, T0 - US, T0 + 9 * US), (3, T0, T0 - US), (4, T0, T0 + US), (5, T0, T0)]
    for count, event, created in told:
        rows.write(VIEW, visits(event, created, u=count))
        assert counts(rows) == [4 if count > 3 else 1]
    rows.write(VIEW, visits(T0, T0 + US, u=6))
    assert counts(rows) == [6], "of two that are equally new the later stands"


def test_a_row_before_1970_is_older(online: OnlineStore) -> None:
    rows, long_ago = online.open(), datetime(1969, 12, 31, tzinfo=UTC)
    rows.write(VIEW, visits(long_ago, u=1))
    rows.write(VIEW, visits(datetime(1970, 1, 1, tzinfo=UTC), u=2))
    rows.write(VIEW, visits(long_ago + US, u=3))
    assert counts(rows) == [2]


def test_a_row_expires_to_the_microsecond_and_is_not_seen_before_it_was_known(online: OnlineStore) -> None:
    rows, view = online.open(), replace(VIEW, ttl_days=1)
    rows.write(view, visits(T0, T0 + US, u=1))
    instants = [T0, T0 + US, T0 + timedelta(days=1), T0 + timedelta(days=1) + US]
    assert [get(rows, view, now=now)["visits"] for now in instants] == [[None], [1], [1], [None]]


# -- definitions over time ------------------------------------------------------------------------------------------------------


def test_a_row_written_before_a_column_was_added_gives_null_for_it(online: OnlineStore) -> None:
    old, new = online.open(), online.open()
    rebuild(old, packed({"name": "Ada", "visits": 7, "spent": 1.5}))
    wider = replace(VIEW, columns=(("added", "int"), *VIEW.columns[:2], ("visits", "string"), *VIEW.columns[3:]))
    found = get(new, wider)
    assert (found["added"], found["name"], found["spent"]) == ([None], ["Ada"], [1.5])
    assert found["visits"] == [None], "a column that changed its type is another column"

    rows = packed({"added": 1, "name": "Ada L."}, view=wider)
    new.write(wider, rows)
    assert get(old, wider)["added"] == [None], "half a definition is not read"
    rebuild(new, rows, view=wider)
    assert get(old, wider)["added"] == [1]
    assert get(new)["name"] == ["Ada"], "the old definition still answers who needs it"


def test_columns_that_moved_or_went_never_shift_another(online: OnlineStore) -> None:
    rows = online.open()
    row = {"name": "Ada", "items": ["a"], "visits": 7, "spent": 1.5, "is_new": True, "born": date(1815, 12, 10), "seen": T0}
    rebuild(rows, packed(row))
    for columns in (VIEW.columns[::-1], VIEW.columns[1:], VIEW.columns[:2] + VIEW.columns[3:], VIEW.columns[-1:]):
        assert get(rows, replace(VIEW, columns=columns)) == {name: [row[name]] for name, _ in columns}


def test_two_definitions_live_side_by_side_until_the_view_is_dropped(online: OnlineStore) -> None:
    rows, narrow = online.open(), replace(VIEW, columns=VIEW.columns[2:3])
    elsewhere = online.open()
    for count in (1, 2):
        rebuild(rows, visits(u=count))
        rebuild(rows, packed({"visits": count * 10}, view=narrow), view=narrow)
        assert (counts(elsewhere), counts(elsewhere, view=narrow)) == ([count], [count * 10])
    rows.drop(VIEW.name)
    assert (counts(elsewhere), counts(elsewhere, view=narrow)) == ([None], [None]), "what another process dropped is not remembered"
    assert online.count() == 0


# -- generations ----------------------------------------------------------------------------------------------------------------


def test_rebuilding_takes_away_what_is_no_longer_there_and_leaves_what_is_newer(online: OnlineStore) -> None:
    def row(user: str, count: int, event: datetime, created: datetime | None = None) -> dict[str, Any]:
        return {"user_id": user, "visits": count, EVENT_TIMESTAMP: event, CREATED_TIMESTAMP: created or event}

    rows = online.open()
    rows.write(VIEW, packed(row("b", 1, T0), row("c", 2, T0), row("d", 3, T0 + US), row("e", 4, T0 - US, T0 + US), row("f", 5, T0)))
    # of c an act was taken back: its newest row is now an older one; of d and e more was learned after T0
    rebuild(rows, packed(row("a", 6, T0), row("c", 7, T0 - 9 * US), row("d", 8, T0)))
    assert counts(rows, "abcdef") == [6, None, 7, 3, 4, None]
    rebuild(rows, [])
    assert counts(rows, "abcdef") == [None, None, None, 3, 4, None]
    rebuild(rows, visits(T0 - 9 * US, d=9), back_to={})
    assert counts(rows, "abcdef") == [None, None, None, 9, None, None], "of restored tables nothing newer stays"
    assert online.count() == 1


def test_rebuilding_equals_a_fresh_store_across_batches(online: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.online.embedded._BATCH", 3)
    monkeypatch.setattr("features.online.redis._BATCH", 3)
    rng, rows = random.Random(5), online.open()
    names = ["", "a", "b\u00e9", "z", "家", "\U0001f600", *map(str, range(600))]  # more than Redis keeps in one small piece
    newer: dict[str, int] = {}
    for _ in range(5):
        told = {name: rng.randrange(100) for name in rng.sample(names, rng.randrange(len(names)))}
        rebuild(rows, packed(*({"user_id": n, "visits": v, EVENT_TIMESTAMP: T0 - rng.randrange(9) * US} for n, v in told.items())))
        expected = told | newer
        assert get(rows, VIEW, *((name, "2024-05-01") for name in names))["visits"] == [expected.get(name) for name in names]
        assert online.count() == len(expected)
        newer |= {name: rng.randrange(100) for name in rng.sample(names, 7)}
        rows.write(VIEW, packed(*({"user_id": n, "visits": newer[n], EVENT_TIMESTAMP: T0 + US} for n in newer)))


def test_readers_see_a_rebuild_whole_and_over_all_views_at_once(online: OnlineStore) -> None:
    rows, reader = online.open(), online.open()

    def seen() -> list[list[int | None]]:
        asked = {view: key_texts([["a", "b"], ["2024-05-01"] * 2]) for view in (VIEW, OTHER)}
        return [columns["visits"] for _, columns in read_columns(reader, asked).values()]

    assert seen() == [[None, None], [None, None]]
    for turn in (1, 2):
        before = seen()
        with rows.rebuild([VIEW, OTHER], T0) as put:
            for view in (VIEW, OTHER):
                put(view, visits(a=turn, b=turn * 10))
                assert seen() == before
        assert seen() == [[turn, turn * 10]] * 2


@pytest.mark.parametrize("back_to", [None, {}])
def test_what_is_written_during_a_rebuild_is_in_both(online: OnlineStore, back_to: Mapping[str, int] | None) -> None:
    rows, writer = online.open(), online.open()
    rebuild(rows, visits(a=1, b=1, c=1))
    with rows.rebuild([VIEW], T0, back_to) as put:
        writer.write(VIEW, visits(T0 + US, a=2))
        writer.write(VIEW, visits(T0, b=3))
        writer.write(VIEW, visits(T0 - US, c=4))
        assert counts(writer, "abc") == [2, 3, 1]
        put(VIEW, visits(a=5, b=5, c=5))
        writer.write(VIEW, visits(T0 + 2 * US, c=6))
        assert counts(writer, "abc") == [2, 3, 6]
    assert counts(writer, "abc") == [2, 3, 6], "older tables never lie over it, nor equal ones that were read before"


def test_a_rebuild_that_broke_off_is_never_seen_and_the_next_one_removes_it(online: OnlineStore) -> None:
    rows = online.open()
    rebuild(rows, visits(a=1))
    with suppress(ZeroDivisionError), online.open().rebuild([VIEW], T0) as put:
        put(VIEW, visits(a=2, b=2))
        raise ZeroDivisionError
    assert (counts(rows, "ab"), online.count()) == ([1, None], 3)
    rows.write(VIEW, visits(T0 + US, b=3))
    rebuild(rows, visits(a=4))
    assert (counts(rows, "ab"), online.count()) == ([4, 3], 2)


def test_of_two_rebuilds_at_once_the_later_stands_and_the_other_is_told(online: OnlineStore) -> None:
    first, second = online.open(), online.open()

    def overtaken() -> None:
        with first.rebuild([VIEW, OTHER], T0) as put:
            put(VIEW, visits(a=1))
            with second.rebuild([VIEW], T0) as put_too:
                put_too(VIEW, visits(a=2))
                put(OTHER, visits(a=3))
                with pytest.raises(FeatureError, match="profile are being rebuilt by another process"):
                    put(VIEW, visits(b=1))

    def dropped() -> None:
        with first.rebuild([VIEW], T0):
            second.drop(VIEW.name)

    with pytest.raises(FeatureError, match="profile are being rebuilt by another process"):
        overtaken()
    assert (counts(first, "ab"), counts(first, "ab", OTHER)) == ([2, None], [None, None])
    with pytest.raises(FeatureError, match="or were dropped"):
        dropped()
    assert counts(first, "ab") == [None, None]


def test_a_reader_whose_rows_are_replaced_and_removed_meanwhile_reads_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reader = EmbeddedRows(tmp_path / "online.db"), EmbeddedRows(tmp_path / "online.db")
    rebuild(rows, visits(u=1))
    read, turns = Bases.read, iter(range(2, 4))

    def read_late(bases: Bases, number: int, keys: Sequence[str]) -> dict[str, Row]:
        """The reader knows which file to read; before it opens it, others rebuild, twice."""
        for turn in turns:
            rebuild(rows, visits(u=turn))
        return read(bases, number, keys)

    monkeypatch.setattr(Bases, "read", read_late)
    assert counts(reader) == [3]


def _deleted(file: Path) -> None:
    file.unlink()


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(4096)


def _garbled(file: Path) -> None:
    file.write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize("damage", [_deleted, _emptied, _cut, _garbled])
def test_a_file_of_rows_that_was_lost_is_named_and_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    rows = EmbeddedRows(tmp_path / "online.db")
    rebuild(rows, visits(u=1, v=1))
    rows.write(VIEW, visits(T0 + US, v=2))
    (file,) = (tmp_path / "online.rows").iterdir()
    damage(file)
    again = EmbeddedRows(tmp_path / "online.db")
    for use in (lambda: counts(again), lambda: add(again, 0, 1)):
        with pytest.raises(
            EngineError, match=f"{file.name} in .*online.rows cannot be read.*; run `shopgraph features materialize`"
        ):
            use()
    rebuild(again, visits(u=3, v=3))
    assert counts(again, "uv") == [3, 2]


def test_files_of_rows_of_a_store_that_was_deleted_are_removed(tmp_path: Path) -> None:
    rebuild(EmbeddedRows(tmp_path / "online.db"), visits(u=1))
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    rows = EmbeddedRows(tmp_path / "online.db")
    assert counts(rows) == [None]
    assert [*(tmp_path / "online.rows").iterdir()] == []


def test_a_sleeping_thread_holds_no_file_that_is_gone(tmp_path: Path) -> None:
    rows = EmbeddedRows(tmp_path / "online.db")
    with ExitStack() as held:
        threads = [held.enter_context(ThreadPoolExecutor(1)) for _ in range(4)]
        rebuild(rows, visits(u=0))
        assert [thread.submit(counts, rows).result() for thread in threads] == [[0]] * 4
        opened = psutil.Process().num_fds()
        for turn, thread in enumerate(threads):
            rebuild(rows, visits(u=turn))
            assert thread.submit(counts, rows).result() == [turn]
        assert psutil.Process().num_fds() <= opened


def test_rows_stay_while_a_backup_copies_them_and_go_with_the_next_rebuild(tmp_path: Path) -> None:
    rows, folder = EmbeddedRows(tmp_path / "online.db"), tmp_path / "online.rows"
    rebuild(rows, visits(u=1))
    with kept(folder):
        rebuild(rows, visits(u=2))
        assert len([*folder.iterdir()]) == 2
    rebuild(rows, visits(u=3))
    assert len([*folder.iterdir()]) == 1
    assert [generation.state for generation in rows.generations()] == ["current"]


# -- updates --------------------------------------------------------------------------------------------------------------------


def add(rows: Rows, after: int, to: int, *views: View, user: str = "u") -> int:
    """Add one visit of `user` to each view, as the facts of a log from `after` to `to`."""
    (key,) = key_texts([[user], ["2024-05-01"]])
    assert key is not None

    def change(held: Mapping[View, Mapping[str, Row]]) -> dict[View, list[Packed]]:
        made = {}
        for view, found in held.items():
            old = Layout(view.columns).unpack([found[key][2]])["visits"][0] if key in found else 0
            made[view] = visits(T0 + to * US, **{user: old + 1})
        return made

    return rows.update({view: [key] for view in views or (VIEW,)}, change, "log", after, to)


def test_an_update_counts_once_in_all_its_views(online: OnlineStore) -> None:
    rows = online.open()
    assert rows.mark("log") == 0
    assert add(rows, 0, 3, VIEW, OTHER) == 3
    assert add(online.open(), 0, 3, VIEW, OTHER) == 3, "told again"
    assert add(rows, 2, 5, VIEW, OTHER) == 3, "one would count twice"
    assert add(rows, 4, 5, VIEW, OTHER) == 3, "one would be left out"
    assert add(rows, 3, 5, VIEW) == 5
    assert (counts(rows), counts(rows, view=OTHER), online.open().mark("log")) == ([2], [1], 5)


def test_an_update_that_fails_changes_nothing(online: OnlineStore) -> None:
    rows = online.open()
    rebuild(rows, visits(u=1))
    with pytest.raises(ZeroDivisionError):
        rows.update({VIEW: ["k"]}, lambda held: 1 // 0, "log", 0, 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="not asked for: activity"):
        rows.update({VIEW: ["k"]}, lambda held: {VIEW: visits(T0 + US, u=2), OTHER: visits(u=2)}, "log", 0, 1)
    assert (counts(rows), rows.mark("log")) == ([1], 0)


def test_an_update_never_lies_over_a_newer_row(online: OnlineStore) -> None:
    rows = online.open()
    rows.write(VIEW, visits(T0 + 9 * US, u=1))
    assert add(rows, 0, 3) == 3
    assert counts(rows) == [1]


def test_updates_and_their_watermark_outlive_a_rebuild(online: OnlineStore) -> None:
    rows, writer = online.open(), online.open()
    rebuild(rows, visits(a=10, b=20))
    add(writer, 0, 1, user="a")
    with rows.rebuild([VIEW], T0) as put:
        add(writer, 1, 2, user="a")
        put(VIEW, visits(a=10, b=21))
        add(writer, 2, 3, user="b")
        assert counts(writer, "ab") == [12, 21]
    assert counts(writer, "ab") == [12, 21]
    assert add(writer, 3, 4, user="b") == 4
    assert counts(writer, "ab") == [12, 22]


def test_restored_rows_know_nothing_of_updates_until_their_log_is_told_again(online: OnlineStore) -> None:
    rows, writer = online.open(), online.open()
    rebuild(rows, visits(a=1000))  # a mistake that was loaded
    add(writer, 0, 1, user="a")
    with rows.rebuild([VIEW], T0, {"log": 1}) as put:
        add(writer, 1, 2, user="a")
        put(VIEW, visits(T0 - US, a=10))
        assert counts(writer, "a") == [1002]
    assert (counts(writer, "a"), writer.mark("log")) == ([10], 1)
    assert add(writer, 2, 3, user="a") == 1, "whoever goes on is told from where"
    assert add(writer, 1, 3, user="a") == 3
    assert counts(writer, "a") == [11]


# -- what is refused ------------------------------------------------------------------------------------------------------------


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(FeatureError, match="format 99"):
        EmbeddedRows(path).read({VIEW: ["k"]})
    with pytest.raises(FeatureError, match="format 9"):
        Layout((("visits", "int"),)).unpack([b"\x09" + bytes(9)])


@pytest.mark.engines
def test_a_redis_of_another_format_is_refused(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("shopgraph:later:epoch", "99-aa")
    rows = RedisRows(redis_url, "later")
    for use in (lambda: counts(rows), lambda: rows.write(VIEW, visits(u=1)), lambda: add(rows, 0, 1), lambda: rebuild(rows, [])):
        with pytest.raises(FeatureError, match="format 99"):
            use()


@pytest.mark.engines
def test_an_emptied_redis_is_an_empty_store(redis_url: str) -> None:
    rows = RedisRows(redis_url, "emptied")
    rebuild(rows, visits(u=1))
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*client.keys("shopgraph:emptied:*"))
    assert counts(rows) == [None]
    rows.write(VIEW, visits(u=2))
    assert counts(rows) == [2]


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"not a database" * 100)
    with pytest.raises(EngineError, match="online.db: file is not a database"):
        EmbeddedRows(tmp_path / "online.db").read({VIEW: ["a"]})


def test_a_silent_redis_is_named() -> None:
    (closed,) = free_ports(1)
    with pytest.raises(EngineError, match=f"Redis at 127.0.0.1:{closed} does not answer") as told:
        RedisRows(f"redis://:secret@127.0.0.1:{closed}/0", "sample").read({VIEW: ["k"]})
    assert "secret" not in str(told.value)
