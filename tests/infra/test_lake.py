"""What delta-rs does not check on this path, the lake does."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from infra.errors import TableConflictError, TableContractError
from infra.lake import Commit, Lake, Mode
from infra.settings import Settings

PATH = "raw/orders"
SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False), pa.field("event_timestamp", pa.timestamp("us", "UTC"))])


def rows(*items: str, day: int = 1) -> pa.Table:
    return pa.table({"item_id": list(items), "event_timestamp": [datetime(2025, 1, day, tzinfo=UTC)] * len(items)}, schema=SCHEMA)


def test_append_overwrite_and_time_travel(lake: Lake) -> None:
    assert lake.version(PATH) is None
    assert lake.write(PATH, rows("a"), "append", digest="1").version == 0
    assert lake.write(PATH, rows("b"), "append", digest="2").version == 1
    assert lake.write(PATH, rows("c"), "overwrite", digest="3", read_version=1).version == 2
    assert lake.read(PATH)["item_id"].to_pylist() == ["c"]
    assert sorted(lake.read(PATH, version=1)["item_id"].to_pylist()) == ["a", "b"]
    assert lake.tables() == [PATH]


def test_rows_come_oldest_append_first(lake: Lake) -> None:
    for number in range(12):  # a checkpoint or a listing by text would show at the tenth
        lake.write(PATH, rows(f"{number}"), "append", digest=f"{number}")
    assert lake.read(PATH)["item_id"].to_pylist() == [f"{number}" for number in range(12)]


def age(lake: Lake, days: float) -> None:
    """Let every file of the log be `days` old."""
    then = time.time() - days * 86_400
    for file in Path(lake.uri(PATH), "_delta_log").iterdir():
        os.utime(file, (then, then))


@pytest.mark.parametrize("committed_by", ["another writer", "commit", "add_columns"])
def test_old_versions_stay(lake: Lake, committed_by: str) -> None:
    """Whoever commits to a table of ours, and in a table of an earlier home, whose properties say nothing of its log."""
    often = {"delta.checkpointInterval": "1"}  # Delta drops old logs where it writes a checkpoint
    if committed_by == "another writer":
        lake.write(PATH, rows("a"), "append", digest="1")
        lake.table(PATH).alter.set_table_properties(often)
    else:
        ours = CommitProperties({"shopgraph.digest": "1", "shopgraph.mode": "append", "shopgraph.num_rows": "1"})
        write_deltalake(lake.uri(PATH), rows("a"), configuration=often, commit_properties=ours)
    first = lake.committed(PATH, "1")
    assert first
    for number in range(2, 6):
        age(lake, 60)
        if committed_by == "another writer":
            write_deltalake(lake.uri(PATH), rows("b"), mode="append")
        elif committed_by == "commit":
            lake.write(PATH, rows("b"), "append", digest=f"{number}")
        else:
            lake.add_columns(PATH, pa.schema([(f"column_{number}", pa.string())]))
    assert list(Path(lake.uri(PATH), "_delta_log").glob("*.checkpoint.parquet"))
    assert lake.committed(PATH, "1") == first
    assert lake.num_rows(PATH, 0) == 1


def test_a_table_is_known_by_any_version_of_its_log(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "append", digest="1")
    lake.write(PATH, rows("b"), "append", digest="2")
    lake.table(PATH).create_checkpoint()
    log = Path(lake.uri(PATH), "_delta_log")
    (log / "00000000000000000000.json").unlink()
    (log / "00000000000000000001.json").unlink()
    assert (lake.tables(), lake.num_rows(PATH)) == ([PATH], 2)


def test_a_table_without_a_version_is_none(lake: Lake) -> None:
    log = Path(lake.uri(PATH), "_delta_log")
    log.mkdir(parents=True)
    (log / "00000000000000000000.json#1").touch()  # what a killed writer leaves
    assert lake.tables() == []


def test_the_same_digest_commits_once(lake: Lake) -> None:
    first = lake.write(PATH, rows("a"), "append", digest="1")
    again = lake.write(PATH, rows("a"), "append", digest="1")
    assert (again.version, again.skipped) == (first.version, True)
    assert lake.num_rows(PATH) == 1


def test_an_overwritten_result_is_written_again(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "overwrite", digest="1")
    lake.write(PATH, rows("b"), "overwrite", digest="2", read_version=0)
    assert not lake.write(PATH, rows("a"), "overwrite", digest="1", read_version=1).skipped


def test_an_overwrite_lands_only_on_the_version_that_was_read(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "append", digest="1")
    lake.write(PATH, rows("b"), "append", digest="2")
    with pytest.raises(TableConflictError, match="expected version 0, found 1"):
        lake.write(PATH, rows("c"), "overwrite", digest="3", read_version=0)
    assert lake.version(PATH) == 1


def test_files_that_an_attempt_does_not_name_are_left_out(lake: Lake) -> None:
    attempt = lake.attempt(PATH)
    for name in ("lost", "done"):
        pq.write_table(rows(name), Path(attempt.uri) / f"{name}.parquet")
    lake.commit(replace(attempt, files=("done.parquet",)), SCHEMA, "append", digest="1")
    assert lake.read(PATH)["item_id"].to_pylist() == ["done"]
    with pytest.raises(TableContractError, match=r"gone\.parquet of .* is gone"):
        lake.commit(replace(attempt, files=("gone.parquet",)), SCHEMA, "append", digest="2")


def test_an_attempt_without_commit_is_invisible(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "append", digest="1")
    attempt = lake.attempt(PATH)
    pq.write_table(rows("b"), Path(attempt.uri) / "part-0.parquet")
    assert lake.read(PATH)["item_id"].to_pylist() == ["a"]


def attempts(lake: Lake) -> int:
    return len(list(Path(lake.uri(PATH), "data").iterdir()))


def test_the_next_write_removes_what_dead_writers_left_and_no_file_of_any_version(lake: Lake) -> None:
    lake.attempt(PATH)  # of a table that does not exist yet
    lake.write(PATH, rows("a"), "append", digest="1")
    lake.write(PATH, rows("b"), "overwrite", digest="2", read_version=0)
    lake.table(PATH).create_checkpoint()
    lake.write(PATH, rows("c"), "append", digest="3")
    lake.write(PATH, rows("d"), "overwrite", digest="4", read_version=2)
    for number in range(2):  # an earlier home dropped old logs; "b" is still a row of version 2
        Path(lake.uri(PATH), f"_delta_log/{number:020}.json").unlink()
    pq.write_table(rows("dead"), Path(lake.attempt(PATH).uri) / "part-0.parquet")
    lake.write(PATH, rows("e"), "append", digest="5")
    assert attempts(lake) == 5
    assert [lake.read(PATH, version)["item_id"].to_pylist() for version in (2, 3, 4)] == [["b", "c"], ["d"], ["d", "e"]]


def test_what_dead_writers_left_goes_also_where_several_did(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "append", digest="1")
    for number in range(2):  # a backup may hold several: its logs are older than its other files
        Path(lake.uri(PATH), "data", f"{int(time.time() * 1000) + 1:013d}-0000000{number}").mkdir()
    lake.write(PATH, rows("b"), "append", digest="2")
    assert attempts(lake) == 2


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_write_reads_only_the_newest_of_a_long_history(mode: Mode, lake: Lake) -> None:
    for number in range(4):
        lake.write(PATH, rows(f"{number}"), mode, digest=f"{number}", read_version=number - 1 if number else None)
    lake.table(PATH).create_checkpoint()
    for number in range(3):
        Path(lake.uri(PATH), f"_delta_log/{number:020}.json").write_text("none can read this")
    assert lake.write(PATH, rows("4"), mode, digest="4", read_version=3) == Commit(PATH, 4, 1)
    assert lake.committed(PATH, "4", 3) == Commit(PATH, 4, 1, skipped=True)
    assert attempts(lake) == 5


def test_what_was_committed_since_a_version_is_found(lake: Lake) -> None:
    commits = [lake.write(PATH, rows(f"{number}"), "append", digest=f"{number}") for number in range(4)]
    assert [lake.committed(PATH, f"{number}", 1) for number in range(4)] == [
        None,
        None,
        *(replace(c, skipped=True) for c in commits[2:]),
    ]
    assert lake.committed(PATH, "3", 3) == replace(commits[3], skipped=True)


def test_versions_that_were_overwritten_keep_their_files(lake: Lake) -> None:
    for number, item in enumerate("abc"):
        lake.write(PATH, rows(item), "overwrite", digest=item, read_version=number - 1 if number else None)
    assert [lake.read(PATH, version)["item_id"].to_pylist() for version in range(3)] == [["a"], ["b"], ["c"]]


def test_attempts_in_a_lake_outside_the_home_may_be_of_others(tmp_path: Path) -> None:
    lake = Lake.open(Settings.load(home=tmp_path / "home", lake_root=str(tmp_path / "lake")))
    lake.attempt(PATH)
    lake.write(PATH, rows("a"), "append", digest="1")
    assert attempts(lake) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (pa.table({"item_id": ["a"]}), "event_timestamp"),
        (
            pa.table({"item_id": [1], "event_timestamp": pa.array([None], SCHEMA.field(1).type)}),
            "item_id: expected string, got int64",
        ),
        (
            pa.table({"item_id": pa.array([None], pa.string()), "event_timestamp": pa.array([None], SCHEMA.field(1).type)}),
            "hold null",
        ),
    ],
)
def test_files_that_break_the_contract_are_refused(lake: Lake, wrong: pa.Table, told: str) -> None:
    attempt = lake.attempt(PATH)
    pq.write_table(wrong, Path(attempt.uri) / "part-0.parquet")
    with pytest.raises(TableContractError, match=told):
        lake.commit(attempt, SCHEMA, "append", digest="1")
    assert lake.version(PATH) is None


def test_another_schema_needs_an_explicit_step(lake: Lake) -> None:
    lake.write(PATH, rows("a"), "append", digest="1")
    wider = rows("b").append_column("colour", pa.array(["red"]))
    with pytest.raises(TableContractError, match="colour"):
        lake.write(PATH, wider, "append", digest="2")
    assert lake.add_columns(PATH, wider.schema) == ["colour"]
    lake.write(PATH, wider, "append", digest="2")
    assert sorted(lake.read(PATH)["colour"].to_pylist(), key=str) == [None, "red"]


def test_empty_rows_make_an_empty_version(lake: Lake) -> None:
    assert lake.write(PATH, rows(), "append", digest="1").num_rows == 0
    assert lake.read(PATH).num_rows == 0


def test_a_missing_table_or_version_is_named(lake: Lake) -> None:
    with pytest.raises(TableContractError, match=PATH):
        lake.read(PATH)
    lake.write(PATH, rows("a"), "append", digest="1")
    with pytest.raises(TableContractError, match="version 9"):
        lake.read(PATH, version=9)


def test_a_foreign_table_with_deletion_vectors_or_partitions_is_refused_by_name(lake: Lake) -> None:
    uri = lake.uri("raw/foreign")
    write_deltalake(uri, rows("a", "b"), configuration={"delta.enableDeletionVectors": "true"})
    assert "deletionVectors" in set(DeltaTable(uri).protocol().reader_features or [])
    with pytest.raises(TableContractError, match="deletion vectors"):
        lake.read("raw/foreign")
    write_deltalake(lake.uri("raw/parted"), rows("a"), partition_by=["item_id"])
    with pytest.raises(TableContractError, match="partition columns"):
        lake.read("raw/parted")
