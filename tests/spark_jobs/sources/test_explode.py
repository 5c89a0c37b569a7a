from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pydantic import ValidationError

from features.mapping import Source
from infra.errors import IngestError
from spark_jobs.sources.explode import batches
from spark_jobs.sources.parts import find_parts
from spark_jobs.sources.seen import Seen
from spark_jobs.sources.staging import check_columns

EVENTS = {
    "table": "events",
    "columns": {
        "user_id": "user",
        "item_id": "items",
        "event_type": {"constant": "view"},
        "event_timestamp": {"sql": "position", "unit": "s"},
    },
}


def source(path: Path, **more: Any) -> Source:
    return Source(**{"name": "s", "format": "parquet", "path": str(path), "explode": "items", "tables": [EVENTS], **more})


def records(lists: pa.RecordBatch) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for batch in batches([lists], "items", "here") for row in batch.to_pylist()]


@pytest.mark.parametrize("type", [pa.list_(pa.string()), pa.large_list(pa.string())])
def test_each_element_is_a_record_with_its_place(type: pa.DataType) -> None:
    items = [["x"], ["0012", "商品 é", "0012"], [], None, [None, "b"], [str(2**200)]]
    rows = pa.record_batch({"user": ["z", "a", "b", "c", "d", "e"], "items": pa.array(items, type), "age": range(6)})
    assert records(rows[1:]) == [  # a slice: its lists do not begin where their elements are stored
        ("a", "0012", 1, 1),
        ("a", "商品 é", 1, 2),
        ("a", "0012", 1, 3),
        ("b", None, 2, 0),
        ("c", None, 3, None),
        ("d", None, 4, 1),
        ("d", "b", 4, 2),
        ("e", str(2**200), 5, 1),
    ]


def test_lists_of_one_length_and_of_objects() -> None:
    pairs = pa.array([[1, 2], None], pa.list_(pa.int64(), 2))
    assert records(pa.record_batch({"items": pairs})) == [(1, 1), (2, 2), (None, None)]
    assert records(pa.record_batch({"items": [[{"id": 7}]]})) == [({"id": 7}, 1)]


def test_many_and_long_lists_keep_their_order() -> None:
    lists = [list(range(number % 7)) for number in range(3000)] + [list(range(100_000))]
    found = records(pa.record_batch({"user": range(len(lists)), "items": lists}))
    expected = [(user, item, item + 1) for user, items in enumerate(lists) for item in items]
    assert [row for row in found if row[2] != 0] == expected
    assert [row[0] for row in found if row[2] == 0] == [user for user, items in enumerate(lists) if not items]


def test_files_and_delta_tables_are_exploded_before_their_columns_are_checked(tmp_path: Path) -> None:
    table = pa.table({"user": ["a"], "items": [[2**62, 1]]})
    pq.write_table(table, tmp_path / "s.parquet")
    write_deltalake(tmp_path / "delta", table)
    for where in (source(tmp_path / "s.parquet"), source(tmp_path / "delta", format="delta")):
        (part,), _ = find_parts(where, tmp_path, Seen())
        assert part.schema.names == ["user", "items", "position"]
        check_columns(where, [part])
        assert pa.Table.from_batches(part.batches()).to_pydict() == {"user": ["a", "a"], "items": [2**62, 1], "position": [1, 2]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "articles": [[1]]}, r"s\.parquet: no column `items`, which `explode` names; it has user, articles"),
        ({"items": ["1 2"]}, r"`explode` expected lists in column `items`, got string"),
        ({"items": [[1]], "Position": [1]}, r"column `Position` bears the name of the place in a list"),
    ],
)
def test_what_cannot_be_exploded_is_told_before_a_row_is_read(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(IngestError, match=message):
        find_parts(source(tmp_path / "s.parquet"), tmp_path, Seen())


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_holds_no_lists(form: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=f"`explode` needs a column of lists, and a {form} file gives text"):
        source(tmp_path, format=form)
