from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources import csv_files
from spark_jobs.sources.csv_files import batches, header


def read(path: Path, **form: Any) -> list[dict[str, Any]]:
    return [row for batch in batches(TextFormat(**form), path) for row in batch.to_pylist()]


def test_fields_stay_text_and_records_have_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes('\ufeffid;note;menge\r\n007;"zwei\r\nZeilen; ""so""";1.234,5\r\n\r\n1;NA;\r\n'.encode())
    assert read(file, delimiter=";", nulls=["NA"]) == [
        {"id": "007", "note": 'zwei\r\nZeilen; "so"', "menge": "1.234,5", "__row": 1},
        {"id": "1", "note": None, "menge": None, "__row": 2},
    ]


def test_records_with_too_many_or_too_few_fields_are_handed_on(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,2\n3\n4,5\n6,7,8\n9,0\n")
    rows = read(file)
    assert [(row["__row"], row.get("a"), row.get("__problem"), row.get("__text")) for row in rows] == [
        (1, "1", None, None),
        (3, "4", None, None),
        (5, "9", None, None),
        (2, None, "1 fields, expected 2", "3"),
        (4, None, "3 fields, expected 2", "6,7,8"),
    ]


def test_a_file_without_a_header_line_takes_the_names_of_the_mapping(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("0012 7\n1 2 3\n\nü 商品\n9\n", encoding="utf-8-sig")
    rows = read(file, delimiter=" ", header=["user", "item"])
    assert [(row["__row"], row.get("user"), row.get("item"), row.get("__problem"), row.get("__text")) for row in rows] == [
        (1, "0012", "7", None, None),
        (3, "ü", "商品", None, None),
        (2, None, None, "3 fields, expected 2", "1 2 3"),
        (4, None, None, "1 fields, expected 2", "9"),
    ]
    file.write_text("\n")
    assert read(file, header=["user", "item"]) == []


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_a_delimiter_may_be_several_signs_and_quotes_may_mean_nothing(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "movies.dat"
    text = 'id::title\n1::"Les" Misérables: a "tale"\n2\n3:::x:\n4::a::b\n5::"'
    file.write_bytes(text.encode(encoding))
    rows = read(file, encoding=encoding, delimiter="::", quote="")
    assert [(row["__row"], row.get("id"), row.get("title") or row["__text"]) for row in rows] == [
        (1, "1", '"Les" Misérables: a "tale"'),
        (3, "3", ":x:"),
        (5, "5", '"'),
        (2, None, "2"),
        (4, None, "4::a::b"),
    ]


def test_a_delimiter_of_several_signs_is_found_wherever_chunks_end() -> None:
    text = b"a::b:::c::::d:"
    for first in range(1, len(text)):
        for second in range(first, len(text)):
            replace = csv_files._replacing("::", "|")
            chunks = [chunk for chunk in (text[:first], text[first:second], text[second:]) if chunk]
            assert b"".join(map(replace, [*chunks, b""])) == text.replace(b"::", b"|")


def test_a_delimiter_of_several_signs_does_not_go_with_quotes() -> None:
    with pytest.raises(ValidationError, match='a `delimiter` of several needs `quote: ""`'):
        TextFormat(delimiter="::")


def test_gb18030_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("\ufeff订单,名称\n1,㐀𠮷\n".encode("gb18030"))
    assert read(file, encoding="gb18030") == [{"订单": "1", "名称": "㐀𠮷", "__row": 1}]
    assert header(TextFormat(encoding="gb18030"), file) == ["订单", "名称"]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_bytes_of_another_encoding_are_refused_with_their_line(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"a,b\n1,2\n3,\xff\xff\n")
    with pytest.raises(IngestError, match=f"line 3: expected {encoding}"):
        read(file, encoding=encoding)


def test_a_large_file_comes_in_blocks(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n" + "".join(f"{i},{'x' * 100}\n" for i in range(200_000)))
    sizes = [batch.num_rows for batch in batches(TextFormat(), file)]
    assert len(sizes) > 1
    assert sum(sizes) == 200_000
    last = list(batches(TextFormat(), file))[-1]
    assert last["__row"][-1].as_py() == 200_000
    assert last["a"][-1].as_py() == "199999"


def test_wrong_records_of_a_large_file_come_with_their_blocks(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    numbers = range(1, 150_001)
    file.write_text("a,b\n" + "".join(f"{number},{'x' * 200}{',y' * (number % 3 > 0)}\n" for number in numbers))
    found = list(batches(TextFormat(), file))
    assert max(batch.num_rows for batch in found) < 50_000
    rows = [(row["__row"], row.get("a") or row["__text"].split(",")[0]) for batch in found for row in batch.to_pylist()]
    assert sorted(rows) == [(number, f"{number}") for number in numbers]
    problems = [number for batch in found if "__problem" in batch.schema.names for number in batch["__row"].to_pylist()]
    assert problems == [number for number in numbers if number % 3]


def test_a_file_of_wrong_records_only_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n" + "1,2,3\n" * 5)
    assert [row["__row"] for row in read(file)] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(csv_files, "_MOST_WRONG", 4)
    with pytest.raises(IngestError, match=r"a.csv is no CSV with `,` .*Row #6: Expected 2 columns, got 3"):
        read(file)
