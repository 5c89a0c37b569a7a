"""JSON lines: one object per line; nested objects become columns `outer.inner`, lists become JSON text.

A file may also be one object as a whole (`keyed`): each of its entries is a record, its name in the column `key`; a value that is no
object is the column `value`.

Numbers keep the digits they are written with. A line that is no JSON object is a problem row, and so is one whose keys cannot
be columns beside each other and ours, or that holds half a character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources.arrow_files import BATCH_ROWS, OURS, PROBLEM, ROW, TEXT, twins
from spark_jobs.sources.text import check_encoding, open_text, undecodable

_HALF = re.compile("[\ud800-\udfff]")


def batches(form: TextFormat, path: Path) -> Iterator[pa.RecordBatch]:
    """The objects of the file as text columns with their line number, a chunk at a time; the columns differ between chunks.

    Raises:
        IngestError: bytes that are not in the encoding the mapping says.
    """
    check_encoding(path, form.encoding)
    try:
        with open_text(path, form.encoding) as file:
            if form.keyed:
                rows = (_record(number, key, value) for number, (key, value) in enumerate(_entries(file.read(), path), 1))
            else:
                lines = ((number, line.strip("\ufeff \t\r\n")) for number, line in enumerate(file, 1))
                rows = (_row(number, line) for number, line in lines if line)
            for chunk in iter(lambda: list(islice(rows, BATCH_ROWS)), []):
                yield _batch(chunk)
    except UnicodeError:
        raise IngestError(undecodable(path, form.encoding)) from None


def is_keyed(path: Path, encoding: str, kind: type = dict) -> bool:
    """Whether a file is one object of several others (or of lists), and no line of many."""
    with open_text(path, encoding) as file:
        first = next((line for line in file if line.strip("\ufeff \t\r\n")), "")
        try:
            if any(line.strip() for line in file) and isinstance(json.loads(first.lstrip("\ufeff")), dict):
                return False
        except ValueError:
            pass  # an object over several lines begins with a line that is none
    with open_text(path, encoding) as file:
        try:
            values = list(dict(_parsed(file.read().lstrip("\ufeff"))).values())
        except (TypeError, ValueError, RecursionError):
            return False
    return len(values) > 1 and all(isinstance(value, kind) for value in values)


def _entries(text: str, path: Path) -> list[tuple[str, Any]]:
    try:
        return list(_parsed(text.lstrip("\ufeff")).items())
    except (AttributeError, ValueError, RecursionError) as error:
        problem = "expected an object {...}" if isinstance(error, AttributeError) else str(error)[:80]
        raise IngestError(
            f"{path}: `keyed` expected one JSON object, got something else: {problem}. Take `keyed` out of shop.yaml."
        ) from None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_once)


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: pa.array([row.get(name) for row in rows], pa.int64() if name == ROW else pa.string()) for name in names}
    return pa.RecordBatch.from_pydict({ROW: pa.array([], pa.int64())} | columns)


def _record(number: int, key: str, value: Any) -> dict[str, Any]:
    said = value if isinstance(value, dict) else {"value": value}
    try:
        if "key" in said:
            raise ValueError("the key `key` is the name of the entry")
        return {ROW: number, **_checked(list(_flat({"key": key, **said})))}
    except ValueError as error:
        return {ROW: number, PROBLEM: f"no record: {str(error)[:80]}", TEXT: json.dumps({key: value})}


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        value = _parsed(line)
        if isinstance(value, dict):
            return {ROW: number, **_checked(list(_flat(value)))}
        problem = "expected an object {...}"
    except (ValueError, RecursionError) as error:
        problem = str(error)[:80]
    return {ROW: number, PROBLEM: f"no JSON object: {problem}", TEXT: line}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _checked(pairs: list[tuple[str, str | None]]) -> dict[str, str | None]:
    """The columns of a row, if Spark, which ignores the case of names, and Arrow, which holds UTF-8, can take them."""
    for name, text in pairs:
        if half := _HALF.search(name) or _HALF.search(text or ""):
            raise ValueError(f"\\u{ord(half[0]):04x} is half of a character")
        if name.lower() in OURS:
            raise ValueError(f"the key {name[:20]} is a name of shopgraph's own")
    if pair := twins(name for name, _ in pairs):
        raise ValueError(f"the keys {pair[0][:20]} and {pair[1][:20]} are one column")
    return dict(pairs)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        elif isinstance(item, list):
            yield prefix + name, json.dumps(item, ensure_ascii=False)
        elif isinstance(item, bool):
            yield prefix + name, "true" if item else "false"
        else:
            yield prefix + name, item
