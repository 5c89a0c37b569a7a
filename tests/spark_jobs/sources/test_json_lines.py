from __future__ import annotations

from pathlib import Path

import pytest

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources.json_lines import batches


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


def test_bytes_of_another_encoding_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"名": "好"}\n'.encode("gb18030"))
    with pytest.raises(IngestError, match="line 1: expected utf-8, got other bytes; it reads as gb18030"):
        list(batches(TextFormat(), file))
