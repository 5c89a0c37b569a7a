from __future__ import annotations

import json
import os
import shutil
import struct
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from features.mapping import Source
from infra.errors import IngestError, TableContractError
from infra.lake import Lake
from spark_jobs.sources.parts import Part, file_format, find_parts
from spark_jobs.sources.seen import Seen
from spark_jobs.sources.staging import check_columns, stage

ITEMS = {"table": "items", "columns": {"item_id": "a", "title": "a", "event_timestamp": {"constant": "2025-01-01"}}}


def source(**more: Any) -> Source:
    return Source(**{"name": "s", "format": "parquet", "tables": [ITEMS], **more})


def seen_of(parts: list[Part]) -> Seen:
    rows = [
        {
            "source": p.source.name,
            "part": p.name,
            "size": p.size,
            "modified": p.modified,
            "digest": p.digest,
            "cursor": p.cursor,
            "columns": "{}",
        }
        for p in parts
    ]
    return Seen(tuple(rows))


def content(part: Part) -> list[dict[str, Any]]:
    return [row for batch in part.batches() for row in batch.to_pylist()]


def test_a_file_is_read_again_only_when_its_content_changed(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "_tmp.parquet", "note.txt", ".hidden/c.parquet", "deep/d.parquet"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": [name]}), file)
    where = source(path=str(tmp_path))
    parts, skipped = find_parts(where, tmp_path, Seen())
    assert ([Path(part.name).name for part in parts], skipped) == (["a.parquet", "b.parquet", "d.parquet"], 0)
    seen = seen_of(parts)
    os.utime(tmp_path / "a.parquet", (1, 1))  # touched
    shutil.copy(tmp_path / "b.parquet", tmp_path / "copy.parquet")
    pq.write_table(pa.table({"a": ["changed"]}), tmp_path / "deep/d.parquet")
    parts, skipped = find_parts(where, tmp_path, seen)
    assert ([Path(part.name).name for part in parts], skipped) == (["d.parquet"], 3)
    assert content(parts[0]) == [{"a": "changed"}]


def test_paths_are_relative_to_the_shop_and_may_be_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "店 [1]"
    folder.mkdir()
    for name in ("x-1.parquet", "x-2.parquet", "y.parquet"):
        pq.write_table(pa.table({"a": [name]}), folder / name)
    (tmp_path / "plain").mkdir()
    for file in folder.iterdir():
        shutil.copy(file, tmp_path / "plain")
    assert len(find_parts(source(path="x-*.parquet"), tmp_path / "plain", Seen())[0]) == 2
    assert len(find_parts(source(path=str(folder)), tmp_path, Seen())[0]) == 3
    with pytest.raises(IngestError, match=r"source s: no parquet file at .*z\.parquet"):
        find_parts(source(path="z.parquet"), tmp_path, Seen())


def test_a_copy_is_read_once_and_compressed_text_is_seen(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["a.csv", "b.CSV.GZ", "c.txt.zst", "d.tsv.bz2", "e.csv.lz4", "f.csv.zip", "g.jsonl", "h.parquet.gz"]
    ):
        compression = {".bz2": "bz2", ".gz": "gzip", ".lz4": "lz4", ".zst": "zstd"}.get(Path(name).suffix.lower())
        with pa.output_stream(str(tmp_path / name), compression=compression) as file:
            file.write(f"a\n{number}\n".encode())
    shutil.copy(tmp_path / "a.csv", tmp_path / "a copy.csv")
    parts, skipped = find_parts(source(format="csv", path=str(tmp_path)), tmp_path, Seen())
    assert [Path(part.name).name for part in parts] == ["a copy.csv", "b.CSV.GZ", "c.txt.zst", "d.tsv.bz2", "e.csv.lz4"]
    assert [content(part)[0]["a"] for part in parts] == ["0", "1", "2", "3", "4"]
    assert skipped == 1
    assert [file_format(tmp_path / name) for name in ("g.jsonl", "f.csv.zip", "h.parquet.gz", "gz")] == ["jsonl", None, None, None]


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(IngestError, match="no whole Parquet file"):
        find_parts(source(path=str(tmp_path)), tmp_path, Seen())


def test_a_reader_of_the_shop(tmp_path: Path) -> None:
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "till.py").write_text(
        "import pyarrow as pa\n\ndef batches(source, path):\n    yield pa.RecordBatch.from_pydict({'a': path.read_text().split()})\n"
    )
    (tmp_path / "a.dat").write_text("1 2")
    parts, _ = find_parts(source(format="till", path="a.dat"), tmp_path, Seen())
    assert content(parts[0]) == [{"a": "1"}, {"a": "2"}]
    with pytest.raises(IngestError, match="postgres or a reader at .*nobody.py; there is none"):
        find_parts(source(format="nobody", path="a.dat"), tmp_path, Seen())


def test_files_of_a_delta_table_are_parts_and_partition_values_are_filled_in(tmp_path: Path) -> None:
    where = source(format="delta", path=str(tmp_path / "t"))
    with pytest.raises(TableContractError, match="no Delta table at"):
        find_parts(where, tmp_path, Seen())
    write_deltalake(tmp_path / "t", pa.table({"a": [1, 2], "p": ["x", "y"]}), partition_by=["p"])
    parts, _ = find_parts(where, tmp_path, Seen())
    assert sorted((row["a"], row["p"]) for part in parts for row in content(part)) == [(1, "x"), (2, "y")]
    write_deltalake(tmp_path / "t", pa.table({"a": [3], "p": ["x"]}), mode="append")
    new, skipped = find_parts(where, tmp_path, seen_of(parts))
    assert ([content(part) for part in new], skipped) == ([[{"a": 3, "p": "x"}]], 2)


def test_a_rewritten_delta_table_whose_rows_have_no_ids_is_refused(tmp_path: Path) -> None:
    columns = {"order_id": "a", "item_id": "a", "quantity": "a", "unit_price": "a", "event_timestamp": {"constant": "2025-01-01"}}

    def where(**more: Any) -> Source:
        return source(format="delta", path=str(tmp_path / "t"), tables=[{"table": "orders", "columns": columns, **more}])

    for number in range(3):
        write_deltalake(tmp_path / "t", pa.table({"a": [number]}), mode="append")
    seen = seen_of(find_parts(where(), tmp_path, Seen())[0])
    write_deltalake(tmp_path / "t", pa.table({"a": [3]}), mode="append")
    assert [content(part) for part in find_parts(where(), tmp_path, seen)[0]] == [[{"a": 3}]]
    DeltaTable(tmp_path / "t").optimize.compact()
    with pytest.raises(IngestError, match=r"no longer part of the Delta table, and orders has no order_line_id.*be counted twice"):
        find_parts(where(), tmp_path, seen)
    for known in (where(identical="drop"), where(columns={**columns, "order_line_id": "a"})):
        assert [len(content(part)) for part in find_parts(known, tmp_path, seen)[0]] == [4]
    DeltaTable(tmp_path / "t").delete()
    assert find_parts(where(), tmp_path, seen) == ([], 0)  # nothing new, nothing to count twice


def test_a_file_of_a_delta_table_that_came_back_is_read_again(tmp_path: Path) -> None:
    where = source(format="delta", path=str(tmp_path / "t"))
    write_deltalake(tmp_path / "t", pa.table({"a": [1]}))
    first, _ = find_parts(where, tmp_path, Seen())
    write_deltalake(tmp_path / "t", pa.table({"a": [2]}), mode="overwrite")
    second, _ = find_parts(where, tmp_path, seen_of(first))
    assert find_parts(where, tmp_path, seen_of([*first, *second])) == ([], 1)
    DeltaTable(tmp_path / "t").restore(0)
    back, _ = find_parts(where, tmp_path, seen_of([*first, *second]))
    assert [content(part) for part in back] == [[{"a": 1}]]
    seen = seen_of([*first, *second, *back])
    assert find_parts(where, tmp_path, seen) == ([], 1)
    write_deltalake(tmp_path / "t", pa.table({"a": [3]}), mode="append")
    third, skipped = find_parts(where, tmp_path, seen)
    assert ([content(part) for part in third], skipped) == ([[{"a": 3}]], 1)
    DeltaTable(tmp_path / "t").restore(2)  # less than was read
    assert find_parts(where, tmp_path, seen_of([*first, *second, *back, *third])) == ([], 1)


def test_a_delta_table_whose_log_does_not_reach_back_any_more(tmp_path: Path) -> None:
    where = source(format="delta", path=str(tmp_path / "t"))
    write_deltalake(tmp_path / "t", pa.table({"a": [1]}))
    first, _ = find_parts(where, tmp_path, Seen())
    write_deltalake(tmp_path / "t", pa.table({"a": [2]}), mode="append")
    DeltaTable(tmp_path / "t").create_checkpoint()
    (tmp_path / "t" / "_delta_log" / "00000000000000000000.json").unlink()
    new, skipped = find_parts(where, tmp_path, seen_of(first))
    assert ([content(part) for part in new], skipped) == ([[{"a": 2}]], 1)


def delete_with_vector(table: Path, row: int) -> None:
    """Delete one row of a one-file table the way Spark does: a deletion vector in the log, the file stays."""
    (file,) = [action["path"] for action in pa.table(DeltaTable(table).get_add_actions(flatten=True)).to_pylist()]
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)  # one roaring container that holds one value
    vector = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    padded = vector + b"\0" * (-len(vector) % 4)
    words = [int.from_bytes(padded[i : i + 4], "big") for i in range(0, len(padded), 4)]
    text = "".join(alphabet[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))
    now = int(time.time() * 1000)
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    size = (table / file).stat().st_size
    descriptor = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(vector), "cardinality": 1}
    common = {"path": file, "dataChange": True, "partitionValues": {}, "size": size}
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {"remove": {**common, "deletionTimestamp": now, "extendedFileMetadata": True}},
        {"add": {**common, "modificationTime": now, "deletionVector": descriptor}},
    ]
    (table / "_delta_log" / "00000000000000000001.json").write_text("\n".join(json.dumps(action) for action in actions))


def test_a_foreign_delta_table_with_deletion_vectors_is_read_without_its_deleted_rows(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"a": [10, 11, 12]}))
    where = source(format="delta", path=str(tmp_path / "t"))
    before, _ = find_parts(where, tmp_path, Seen())
    delete_with_vector(tmp_path / "t", row=1)
    (part,), _ = find_parts(where, tmp_path, seen_of(before))
    assert [row["a"] for row in content(part)] == [10, 12]
    assert find_parts(where, tmp_path, seen_of([part])) == ([], 1)


def test_types_are_brought_to_a_few_plain_ones(tmp_path: Path, lake: Lake) -> None:
    first = pa.table(
        {
            "n": pa.array([1, 2], pa.uint8()),
            "ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
            "zoned": pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("ms", tz="Asia/Tokyo")),
            "words": pa.array(["x", "y"]).dictionary_encode(),
            "nested": [{"k": [1]}, None],
            "raw": [b"\x01", b""],
            "exact": [Decimal("1.50"), None],
        }
    )
    pq.write_table(first, tmp_path / "1.parquet")
    pq.write_table(pa.table({"n": [1.5], "more": ["z"]}), tmp_path / "2.parquet")
    where = source(path=str(tmp_path))
    parts, _ = find_parts(where, tmp_path, Seen())
    check_columns(where, parts)
    told: list[int] = []
    staged = stage(where, parts, lake, lake.uri("staging/0"), told.append)
    rows = [row for file in staged.files for row in pq.read_table(file, schema=staged.schema).to_pylist()]
    assert [row["n"] for row in rows] == [1.0, 2.0, 1.5]
    assert rows[0]["ns"] == datetime(2023, 11, 14, 22, 13, 20, 123456)
    assert rows[0]["zoned"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert (rows[0]["words"], rows[0]["nested"], rows[0]["raw"], rows[0]["exact"]) == ("x", '{"k": [1]}', "01", Decimal("1.50"))
    assert [(row["__part"], row["__row"], row["more"]) for row in rows] == [(0, 1, None), (0, 2, None), (1, 1, "z")]
    assert (staged.num_rows, sum(told), staged.columns["n"], staged.columns["ns"]) == (3, 3, "number", "time")


def test_one_column_of_two_kinds_stops(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["1"]}), tmp_path / "2.parquet")
    where = source(path=str(tmp_path))
    parts, _ = find_parts(where, tmp_path, Seen())
    with pytest.raises(IngestError, match=r"column `a` holds number in .*1\.parquet and text in .*2\.parquet"):
        check_columns(where, parts)
    check_columns(source(path=str(tmp_path), retyped=["a"]), parts)
