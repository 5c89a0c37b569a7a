"""What a vacuum deletes, who holds the rest, and that no version which is needed loses a file."""

from __future__ import annotations

import json
import os
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from infra import upkeep
from infra.errors import TableContractError
from infra.lake import Lake
from infra.pins import Pin, pin, pins, unpin
from infra.vacuum import vacuum, waste

PATH = "features/商品"
SCHEMA = pa.schema([pa.field("item_id", pa.string(), nullable=False)])
NOW, MONTH = timedelta(0), timedelta(30)


def rows(*items: str) -> pa.Table:
    return pa.table({"item_id": list(items)}, schema=SCHEMA)


def overwritten(lake: Lake, *names: str) -> None:
    for name in names:
        lake.write(PATH, rows(name), "overwrite", digest=name, read_version=lake.version(PATH))


def fates(lake: Lake, older_than: timedelta = NOW) -> dict[int, str]:
    return {kept.version: kept.fate for kept in waste(lake, PATH, older_than).versions}


def test_versions_go_but_the_newest_the_pinned_and_the_young(lake: Lake) -> None:
    overwritten(lake, "a", "b", "c", "d")
    pin(lake, "model", "sample.demand-3", {PATH: 1, "features/other": 9})
    pin(lake, "graph", "0123456789abcdef", {PATH: 1})
    assert fates(lake, MONTH) == {3: "newest", 2: "held", 1: "held", 0: "held"}
    assert not waste(lake, PATH, MONTH).files
    found = waste(lake, PATH, NOW)
    assert fates(lake) == {3: "newest", 2: "goes", 1: "held", 0: "goes"}
    assert found.versions[2].holders == ("graph 0123456789abcdef", "model sample.demand-3")
    assert len(found.files) == 2
    assert found.num_bytes > 0
    log = sorted(path.name for path in Path(lake.uri(PATH), "_delta_log").iterdir())
    vacuum(lake, found)
    assert fates(lake) == {3: "newest", 2: "gone", 1: "held", 0: "gone"}
    assert [lake.read(PATH, version)["item_id"].to_pylist() for version in (1, 3)] == [["b"], ["d"]]
    assert sorted(path.name for path in Path(lake.uri(PATH), "_delta_log").iterdir()) == log
    assert lake.num_rows(PATH, 0) == 1
    for read in (lake.read, lake.file_uris, lake.dataset):
        with pytest.raises(
            TableContractError, match=r"version 2 cannot be read: 1 of its 1 files are gone, as after `shopgraph tables"
        ):
            read(PATH, 2)
    with pytest.raises(TableContractError, match="version 0 cannot be read"):
        upkeep.restore(lake, PATH, 0, undo="u", since=3)
    assert not waste(lake, PATH, NOW).files


def test_age_counts_from_when_a_version_was_replaced(lake: Lake) -> None:
    overwritten(lake, "a", "b", "c")
    log = Path(lake.uri(PATH), "_delta_log")
    for number, days in ((0, 100), (1, 40), (2, 20)):
        commit = log / f"{number:020}.json"
        then = int((time.time() - days * 86_400) * 1000)
        lines = [json.loads(line) for line in commit.read_text().splitlines()]
        for line in lines:
            if "commitInfo" in line:
                line["commitInfo"]["timestamp"] = then
        commit.write_text("\n".join(map(json.dumps, lines)))
    assert fates(lake, MONTH) == {2: "newest", 1: "held", 0: "goes"}


def test_an_unpinned_version_goes_with_the_next_vacuum(lake: Lake) -> None:
    overwritten(lake, "a", "b")
    pin(lake, "run", "abc", {PATH: 0})
    assert fates(lake)[0] == "held"
    assert unpin(lake, "run", "abc")
    assert not unpin(lake, "run", "abc")
    assert fates(lake)[0] == "goes"


def test_versions_of_before_pins_were_kept_stay(lake: Lake) -> None:
    write_deltalake(lake.uri(PATH), rows("a"))
    overwritten(lake, "b", "c")
    assert fates(lake) == {2: "newest", 1: "goes", 0: "held"}


def test_versions_whose_log_an_earlier_home_dropped_stay(lake: Lake) -> None:
    overwritten(lake, "a", "b", "c")
    lake.table(PATH).create_checkpoint()
    overwritten(lake, "d", "e")
    for number in range(2):
        Path(lake.uri(PATH), f"_delta_log/{number:020}.json").unlink()
    assert fates(lake) == {4: "newest", 3: "goes", 2: "goes"}
    assert len(waste(lake, PATH, NOW).files) == 2


def test_files_that_no_version_names_go_after_a_week(lake: Lake) -> None:
    overwritten(lake, "a")
    (data,) = Path(lake.uri(PATH), "data").iterdir()
    for name, days in (("left.parquet", 8), ("at work.parquet", 1)):
        (data / name).write_bytes(b"")
        then = time.time() - days * 86_400
        os.utime(data / name, (then, then))
    assert [Path(name).name for name in waste(lake, PATH, NOW).files] == ["left.parquet"]
    assert not waste(lake, PATH, MONTH).files


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_what_stays_can_be_read(lake: Lake, seed: int) -> None:
    """Appends, overwrites, restores, compactions and pins in any order; half of a vacuum is a vacuum."""
    chance = random.Random(seed)
    lake.write(PATH, rows("0"), "append", digest="0")
    content = {0: ["0"]}
    for number in range(1, 13):
        newest, act = max(content), chance.choice(["append", "overwrite", "restore", "compact"])
        if act == "append":
            lake.write(PATH, rows(f"{number}"), "append", digest=f"{number}")
        elif act == "overwrite":
            lake.write(PATH, rows(f"{number}"), "overwrite", digest=f"{number}", read_version=newest)
        elif act == "restore":
            upkeep.restore(lake, PATH, chance.choice(list(content)), undo=f"{number}", since=newest)
        else:
            upkeep.compact(lake, PATH)
        content[lake.version(PATH) or 0] = lake.read(PATH)["item_id"].to_pylist()
    for version in chance.sample(list(content), 2):
        pin(lake, "run", f"{version}", {PATH: version})
    found = waste(lake, PATH, NOW)
    for name in chance.sample(found.files, len(found.files) // 2):
        Path(lake.uri(PATH), name).unlink()
    for _ in range(2):
        left = waste(lake, PATH, NOW)
        for kept in left.versions:
            if kept.fate != "gone":
                assert lake.read(PATH, kept.version)["item_id"].to_pylist() == content[kept.version]
            assert not (kept.holders and kept.fate == "gone")
        vacuum(lake, left)


def test_pins_are_whole_files_that_name_their_holder(lake: Lake) -> None:
    assert pins(lake) == []
    pin(lake, "model", "sample.demand-3", {"features/daily_demand": 4})
    pin(lake, "model", "sample.demand-3", {"features/daily_demand": 5})
    (found,) = pins(lake)
    assert found == Pin("model", "sample.demand-3", {"features/daily_demand": 5}, found.since)
    assert datetime.now(UTC) - datetime.fromisoformat(found.since) < timedelta(minutes=1)
    with pytest.raises(ValueError, match="cannot name a pin"):
        pin(lake, "model", "../../x", {})
    Path(lake.uri("pins"), "model-broken.json").write_text('{"kind": "model"}')
    with pytest.raises(TableContractError, match=r"model-broken\.json is no pin of ours"):
        pins(lake)
