from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import upkeep
from infra.errors import TableContractError
from infra.journal import Append, Journal, TakeBack
from infra.lake import Commit, Lake

ONE = pa.schema([pa.field("a", pa.int64())])
TWO = ONE.append(pa.field("b", pa.string()))


def prepared(lake: Lake, path: str, table: pa.Table, digest: str) -> Append:
    attempt = lake.attempt(path)
    pq.write_table(table, f"{attempt.uri}/part.parquet")
    return Append(attempt, table.schema, digest, {"ingest": digest})


def test_several_tables_become_visible_in_order_and_columns_are_added(lake: Lake) -> None:
    journal = Journal(lake, "ingest")
    appends = [
        prepared(lake, "raw/x", pa.table({"a": [1]}, schema=ONE), "1"),
        prepared(lake, "raw/y", pa.table({"a": [2]}, schema=ONE), "1"),
    ]
    assert [(c.path, c.version) for c in journal.commit(appends)] == [("raw/x", 0), ("raw/y", 0)]
    journal.commit([prepared(lake, "raw/x", pa.table({"a": [3], "b": ["z"]}, schema=TWO), "2")])
    assert lake.read("raw/x").sort_by("a").to_pylist() == [{"a": 1, "b": None}, {"a": 3, "b": "z"}]
    assert journal.recover() == []


def test_a_recovered_commit_leaves_out_what_the_writer_left_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    append = prepared(lake, "raw/x", pa.table({"a": [1]}, schema=ONE), "1")
    pq.write_table(pa.table({"a": [9]}, schema=ONE), f"{append.attempt.uri}/lost.parquet")
    journal = Journal(lake, "ingest")
    named = replace(append, attempt=replace(append.attempt, files=("part.parquet",)))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            journal.commit([named])
    journal.recover()
    assert lake.read("raw/x")["a"].to_pylist() == [1]


LATE = pa.table({"a": pa.array([300_000_000_000_000_000], pa.timestamp("us", "UTC"))})  # a time after the year 9999
TEXT = pa.table({"a": ["z"]})
FEWER = pa.table({"b": ["z"]})


@pytest.mark.parametrize("wrong", [LATE, TEXT, FEWER], ids=["statistics", "type", "column"])
@pytest.mark.parametrize("exists", [True, False])
def test_what_can_never_be_committed_leaves_no_journal(wrong: pa.Table, exists: bool, lake: Lake) -> None:
    lake.write("raw/y", pa.table({"a": [1]}, schema=ONE), "append", digest="0")
    journal = Journal(lake, "ingest")
    good = prepared(lake, "raw/x", pa.table({"a": [1]}, schema=ONE), "1")
    bad = prepared(lake, "raw/y" if exists else "raw/z", wrong, "1")
    declared = bad if exists else replace(bad, schema=pa.schema([pa.field("a", pa.binary())]))
    with pytest.raises(TableContractError):
        journal.commit([good, declared])
    assert (lake.tables(), lake.version("raw/y")) == (["raw/y"], 0)
    assert journal.recover() == []
    assert journal.commit([good])[0].version == 0


@pytest.fixture
def killed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with a journal of two appends, none of them committed."""
    appends = [prepared(lake, f"raw/{name}", pa.table({"a": [1]}, schema=ONE), "1") for name in "xy"]
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Journal(lake, "ingest").commit(appends)
    return lake


def test_a_moved_lake_is_finished_where_it_lies(killed: Lake) -> None:
    moved = replace(killed, root=f"{killed.root}-moved")
    Path(killed.root).rename(moved.root)
    assert len(Journal(moved, "ingest").recover()) == 2
    assert [moved.num_rows(path) for path in moved.tables()] == [1, 1]


def test_files_that_are_gone_are_told_and_nothing_is_committed(killed: Lake) -> None:
    shutil.rmtree(f"{killed.uri('raw/y')}/data")
    with pytest.raises(TableContractError, match=r"raw/y/data/.* is gone"):
        Journal(killed, "ingest").recover()
    assert killed.tables() == []


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_what_a_killed_commit_left_is_finished_once(dies_at: int, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(lake, "ingest")
    appends = [prepared(lake, f"raw/{name}", pa.table({"a": [1]}, schema=ONE), "1") for name in "xyz"]
    real = Lake.commit
    done: list[str] = []

    def die(self: Lake, attempt: object, *rest: object, **more: object) -> object:
        if len(done) == dies_at:
            raise KeyboardInterrupt
        done.append("")
        return real(self, attempt, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            journal.commit(appends)
    assert len(lake.tables()) == dies_at
    assert len(journal.recover()) == 3 - dies_at
    assert [lake.num_rows(path) for path in lake.tables()] == [1, 1, 1]
    assert journal.recover() == []


def test_a_journal_reads_the_history_since_it_was_begun(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(lake, "ingest")
    for number in range(4):
        journal.commit([prepared(lake, "raw/x", pa.table({"a": [number]}, schema=ONE), f"{number}")])
    lake.table("raw/x").create_checkpoint()
    for number in range(3):
        Path(lake.uri("raw/x"), f"_delta_log/{number:020}.json").write_text("none can read this")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_remove", Mock(side_effect=KeyboardInterrupt))  # all is committed, the journal is still there
        with pytest.raises(KeyboardInterrupt):
            journal.commit([prepared(lake, "raw/x", pa.table({"a": [4]}, schema=ONE), "4")])
    assert journal.recover() == []
    assert lake.read("raw/x")["a"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_killed_take_back_is_finished_once(lake: Lake, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    for number, path in enumerate(("raw/x", "raw/y")):
        for name in ("good", "bad"):
            lake.write(path, pa.table({"a": [number]}, schema=ONE), "append", digest=name)
    writes = [TakeBack(path, 0, (), "u", 1) for path in ("raw/x", "raw/y")]
    left = [done]

    def killed(*args: Any, **more: Any) -> Commit:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return upkeep.restore(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("infra.journal.restore", killed)
        patch.setattr(Journal, "_remove", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Journal(lake, "ingest").commit(writes)
    assert len(Journal(lake, "ingest").recover()) == 2 - done
    assert [(lake.version(path), lake.num_rows(path)) for path in ("raw/x", "raw/y")] == [(2, 1), (2, 1)]
    assert Journal(lake, "ingest").recover() == []


def test_a_take_back_of_what_was_vacuumed_leaves_no_journal(lake: Lake) -> None:
    for name in ("a", "b"):
        lake.write("raw/x", pa.table({"a": [1]}, schema=ONE), "overwrite", digest=name, read_version=lake.version("raw/x"))
    (path,) = lake.file_uris("raw/x", 0)
    Path(path).unlink()
    with pytest.raises(TableContractError, match="version 0 cannot be read"):
        Journal(lake, "ingest").commit([TakeBack("raw/x", 0, (), "u", 1)])
    assert Journal(lake, "ingest").recover() == []
    assert lake.version("raw/x") == 1
