"""Tables taken back and compacted: the rows, their order, and what earlier versions and digests say afterwards."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import upkeep
from infra.errors import TableConflictError, TableContractError
from infra.lake import Lake

PATH = "raw/orders"
SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False), pa.field("event_timestamp", pa.timestamp("us", "UTC"))])


def rows(*items: str, day: int = 1) -> pa.Table:
    return pa.table({"item_id": list(items), "event_timestamp": [datetime(2025, 1, day, tzinfo=UTC)] * len(items)}, schema=SCHEMA)


def items(lake: Lake, version: int | None = None) -> list[str]:
    return list(lake.read(PATH, version)["item_id"].to_pylist())


def appended(lake: Lake, *names: str) -> None:
    for number, name in enumerate(names):
        lake.write(PATH, rows(name, day=number + 1), "append", digest=name)


def test_a_restore_is_a_new_commit_with_the_rows_schema_and_lineage_of_the_old_version(lake: Lake) -> None:
    lake.write(PATH, rows("商品", day=9), "overwrite", digest="1", metadata={"inputs": {"raw/x": 3}})
    lake.add_columns(PATH, pa.schema([("note", pa.string())]))
    wide = rows("b").append_column("note", pa.array(["x"]))
    lake.write(PATH, wide, "overwrite", digest="2", read_version=1, metadata={"inputs": {"raw/x": 4}})
    before = lake.read(PATH, 0)
    done = upkeep.restore(lake, PATH, 0, undo="u", since=2)
    assert (done.version, done.num_rows, lake.version(PATH)) == (3, 1, 3)
    assert lake.read(PATH).equals(before)
    assert lake.newest([PATH]) == datetime(2025, 1, 9, tzinfo=UTC)
    assert lake.history(PATH)[0]["inputs"] == '{"raw/x": 3}'
    assert lake.committed(PATH, "1").version == 3  # a build finds it up to date
    assert lake.committed(PATH, "2") is None
    assert (lake.rows_of(PATH, lake.version(PATH)), items(lake, 2)) == (0, ["b"])


def test_what_was_taken_back_may_be_committed_again_and_what_stands_may_not(lake: Lake) -> None:
    appended(lake, "a", "b", "c")
    upkeep.restore(lake, PATH, 0, undo="u", since=2)
    assert lake.committed(PATH, "a")
    assert not lake.write(PATH, rows("b"), "append", digest="b").skipped
    assert items(lake) == ["a", "b"]
    assert lake.committed(PATH, "c") is None


def test_a_restore_is_done_once_and_leaves_what_others_appended_since(lake: Lake) -> None:
    appended(lake, "a", "bad", "late")
    first = upkeep.restore(lake, PATH, 0, undo="u", since=1)
    assert items(lake) == ["a", "late"]
    again = upkeep.restore(lake, PATH, 0, undo="u", since=1)
    assert (again.version, again.skipped) == (first.version, True)
    assert lake.committed(PATH, "late")
    assert lake.committed(PATH, "bad") is None
    assert lake.rows_of(PATH, lake.version(PATH)) == first.version


def test_before_the_first_version_there_are_no_rows(lake: Lake) -> None:
    appended(lake, "bad", "b")
    upkeep.restore(lake, PATH, None, kept=[1], undo="u", since=1)
    assert items(lake) == ["b"]
    upkeep.restore(lake, PATH, None, undo="v", since=2)
    assert (items(lake), lake.num_rows(PATH)) == ([], 0)
    lake.write(PATH, rows("bad"), "append", digest="bad")
    assert items(lake) == ["bad"]


def test_a_version_that_does_not_exist_is_told(lake: Lake) -> None:
    appended(lake, "a")
    with pytest.raises(TableContractError, match="has no version 7"):
        upkeep.restore(lake, PATH, 7, undo="u", since=0)
    with pytest.raises(TableContractError, match="does not exist"):
        upkeep.restore(lake, "raw/nothing", 0, undo="u", since=0)


def test_compaction_keeps_every_row_in_its_place(lake: Lake) -> None:
    chance = random.Random(5)
    for number in range(12):
        attempt = lake.attempt(PATH)
        for part in range(chance.randrange(1, 4)):
            content = rows(*(f"{number}-{part}-{chance.random()}" for _ in range(chance.choice([1, 3, 2000]))))
            pq.write_table(content, f"{attempt.uri}/part-{part}.parquet")
        lake.commit(attempt, SCHEMA, "append", digest=f"{number}")
    before, files, newest = lake.read(PATH), lake.file_uris(PATH), lake.newest([PATH])
    done = upkeep.compact(lake, PATH, 60_000)
    assert done
    assert done.num_rows == before.num_rows
    left = lake.file_uris(PATH)
    assert 1 < len(left) < len(files) / 2
    assert lake.read(PATH).equals(before)
    assert lake.read(PATH, 11).equals(before)  # until a vacuum
    assert (lake.rows_of(PATH, lake.version(PATH)), lake.newest([PATH])) == (11, newest)
    assert all(lake.committed(PATH, f"{number}") for number in range(12))
    lake.write(PATH, rows("new"), "append", digest="new")
    assert items(lake) == [*before["item_id"].to_pylist(), "new"]
    upkeep.compact(lake, PATH, 10**9)
    assert items(lake) == [*before["item_id"].to_pylist(), "new"]
    assert upkeep.compact(lake, PATH, 10**9) is None


def test_a_compaction_changes_no_data(lake: Lake) -> None:
    appended(lake, "a", "b")
    upkeep.compact(lake, PATH)
    log = Path(lake.uri(PATH), "_delta_log", f"{2:020}.json").read_text()
    assert '"dataChange":false' in log
    assert '"dataChange":true' not in log


def test_columns_added_later_are_null_in_what_is_joined(lake: Lake) -> None:
    appended(lake, "a")
    lake.add_columns(PATH, pa.schema([("note", pa.string())]))
    lake.write(PATH, rows("b").append_column("note", pa.array(["x"])), "append", digest="b")
    upkeep.compact(lake, PATH)
    assert lake.read(PATH)["note"].to_pylist() == [None, "x"]


def test_a_load_is_taken_back_after_a_compaction_joined_it_with_others(lake: Lake) -> None:
    appended(lake, "a", "bad", "c")
    upkeep.compact(lake, PATH)
    upkeep.restore(lake, PATH, 0, kept=[2], undo="u", since=3)
    assert items(lake) == ["a", "c"]


def test_a_compaction_beside_another_writer_changes_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    appended(lake, "a", "b")
    join = upkeep._join

    def slowly(*args: object) -> None:
        join(*args)
        lake.write(PATH, rows("c"), "append", digest="c")

    monkeypatch.setattr(upkeep, "_join", slowly)
    with pytest.raises(TableConflictError, match="another writer committed first"):
        upkeep.compact(lake, PATH)
    assert items(lake) == ["a", "b", "c"]
    assert len(list(Path(lake.uri(PATH)).rglob("*.parquet"))) == 3


def test_a_table_is_tidied_once_its_small_files_are_many_and_the_large_ones_stay(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MOST_SMALL", 4)
    monkeypatch.setattr(upkeep, "SMALL_BYTES", 20_000)
    chance = random.Random(5)
    lake.write(PATH, rows(*(f"{chance.random()}" for _ in range(2_000))), "append", digest="large")
    (large,) = lake.file_uris(PATH)
    counts = []
    for number in range(12):
        lake.write(PATH, rows(f"{number}"), "append", digest=f"{number}")
        upkeep.tidy(lake, PATH)
        counts.append(len(lake.file_uris(PATH)))
    assert counts == [2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5]
    assert lake.file_uris(PATH)[0] == large
    assert items(lake)[2_000:] == [f"{number}" for number in range(12)]
    added = lake.added_files(PATH, 0, lake.version(PATH))
    assert added is not None
    assert [row for uri in added for row in pq.read_table(uri)["item_id"].to_pylist()] == items(lake)[2_000:]


def test_a_tidying_that_another_writer_beats_is_left_for_the_next(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MOST_SMALL", 1)
    appended(lake, "a", "b")
    join = upkeep._join

    def slowly(*args: object) -> None:
        join(*args)
        lake.write(PATH, rows("c"), "append", digest="c")

    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "_join", slowly)
        assert upkeep.tidy(lake, PATH) is None
    assert items(lake) == ["a", "b", "c"]
    assert upkeep.tidy(lake, PATH)
    assert items(lake) == ["a", "b", "c"]


def test_two_restores_at_once_are_one_after_the_other(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    appended(lake, "a", "b", "c")
    footers = upkeep._footers
    done = []

    def slowly(*args: object) -> object:
        if not done:
            done.append(upkeep.restore(lake, PATH, 1, undo="other", since=2))
        return footers(*args)

    monkeypatch.setattr(upkeep, "_footers", slowly)
    upkeep.restore(lake, PATH, 0, kept=[2], undo="u", since=2)
    assert items(lake) == ["a", "c"]


def test_what_was_added_since_a_version_skips_compactions_and_what_was_taken_back(lake: Lake) -> None:
    appended(lake, "a", "b")
    upkeep.compact(lake, PATH)
    lake.write(PATH, rows("bad"), "append", digest="bad")
    upkeep.restore(lake, PATH, 2, undo="u", since=3)
    lake.write(PATH, rows("c"), "append", digest="c")

    def added(since: int) -> list[str] | None:
        found = lake.added_files(PATH, since, 5)
        return None if found is None else [row for uri in found for row in pq.read_table(uri)["item_id"].to_pylist()]

    assert (added(0), added(1), added(2), added(4), added(5)) == (["b", "c"], ["c"], ["c"], ["c"], [])
    assert added(3) is None  # what was built from it holds rows that were taken back
    Path(lake.file_uris(PATH, 1)[1]).unlink()
    assert (added(0), added(1)) == (None, ["c"])
