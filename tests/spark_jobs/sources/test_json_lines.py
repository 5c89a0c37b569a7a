from __future__ import annotations

from pathlib import Path

import pytest

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources.arrow_files import OURS
from spark_jobs.sources.json_lines import batches, is_keyed


def test_objects_become_flat_text_and_keep_their_digits(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"id": 12345678901234567890123, "price": 19.90, "user": {"id": "7", "tags": ["a", 1]}, "ok": true, "x": null}\n'
        '\n[1]\n{"id": 1, "id": 2}\n{"id": NaN}\n{"id"\n',
        encoding="utf-8",
    )
    rows = [row for batch in batches(TextFormat(), file) for row in batch.to_pylist()]
    assert [row["__row"] for row in rows] == [1, 3, 4, 5, 6]
    first = {key: value for key, value in rows[0].items() if value is not None and not key.startswith("__")}
    assert first == {"id": "12345678901234567890123", "price": "19.90", "user.id": "7", "user.tags": '["a", "1"]', "ok": "true"}
    assert rows[3]["id"] == "NaN"
    assert [row["__text"] for row in rows] == [None, "[1]", '{"id": 1, "id": 2}', None, '{"id"']
    assert [bool(row["__problem"]) for row in rows] == [False, True, True, False, True]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r'{"id": "2", "query": "caf\ud83d"}', r"\ud83d is half of a character"),
        (r'{"id": "2", "tags": ["\uDE00"]}', r"\ude00 is half of a character"),
        (r'{"id": "2", "caf\ud83d": "x"}', r"\ud83d is half of a character"),
        *((f'{{"id": "2", "{name}": "9"}}', f"the key {name} is a name of shopgraph's own") for name in [*OURS, "__ROW"]),
        ('{"id": "2", "Id": "3"}', "the keys id and Id are one column"),
        ('{"id": "2", "a": {"b": 1}, "a.b": 2}', "the keys a.b and a.b are one column"),
    ],
)
def test_a_line_that_cannot_be_columns_is_a_problem_and_the_others_are_read(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"id": "1"}}\n{line}\n{{"id": "\\ud83d\\ude00"}}\n', encoding="ascii")
    (batch,) = batches(TextFormat(), file)
    assert batch.to_pylist() == [
        {"__row": 1, "id": "1", "__problem": None, "__text": None},
        {"__row": 2, "id": None, "__problem": f"no JSON object: {problem}", "__text": line},
        {"__row": 3, "id": "😀", "__problem": None, "__text": None},
    ]


def test_bytes_of_another_encoding_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"名": "好"}\n'.encode("gb18030"))
    with pytest.raises(IngestError, match="line 1: expected utf-8, got other bytes; it reads as gb18030"):
        list(batches(TextFormat(), file))


def test_the_entries_of_one_object_are_records(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(
        '\ufeff{\n"b1": {"title": "Tea", "tags": [1]}, "b2": {"key": 3},\n"b3": {"a": "\\ud83d"}, "b4": 7.50}', encoding="utf-8"
    )
    (batch,) = batches(TextFormat(keyed=True), file)
    rows = [{name: value for name, value in row.items() if value is not None} for row in batch.to_pylist()]
    assert rows[0] == {"__row": 1, "key": "b1", "title": "Tea", "tags": '["1"]'}
    assert rows[1] == {
        "__row": 2,
        "__problem": "no record: the key `key` is the name of the entry",
        "__text": '{"b2": {"key": "3"}}',
    }
    assert rows[2]["__problem"] == r"no record: \ud83d is half of a character"
    assert rows[3] == {"__row": 4, "key": "b4", "value": "7.50"}


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": {}, "a": {}}', '{"a": {}}\n{"b": {}}', "", "{"])
def test_what_is_no_single_object_cannot_be_keyed(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    assert not is_keyed(file, "utf-8")
    with pytest.raises(IngestError, match="expected one JSON object"):
        list(batches(TextFormat(keyed=True), file))


@pytest.mark.parametrize(
    ("text", "keyed"),
    [
        ('{"a": [1], "b": [2]}', False),
        ('{"a": {"x": 1}, "b": {"x": 2}}', True),
        ('{\n"a": {"x": 1},\n\n"b": {}\n}\n', True),
        ('{"a": [1], "b": {}}', False),
        ('{"a": {"x": 1}}', False),
        ('{"user": {"id": 1}, "item": {"id": 2}}\n{"user": {"id": 1}, "item": {"id": 3}}\n', False),
    ],
)
def test_one_object_of_objects_is_keyed(text: str, keyed: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    assert is_keyed(file, "utf-8") is keyed
