"""CSV files: every field stays text until Spark validates it; decoding is strict, never with replacement characters.

A record with too many or too few fields is handed on as a problem row, so that it is quarantined and not lost.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources.arrow_files import PROBLEM, ROW, TEXT
from spark_jobs.sources.text import check_encoding, is_utf8, open_bytes, open_text, undecodable

_BLOCK_BYTES = 8 << 20  # a record has to fit into one
_UNIT = "\x1f"
"""Stands for a delimiter of several signs while a file is read: Arrow and Python know delimiters of one."""
_MOST_WRONG = 1_000_000
"""Wrong records that are held in memory: Arrow gives nothing between two good ones, however far apart they are."""


def header(form: TextFormat, path: Path) -> list[str]:
    """Column names of the file: those of its first line, or those that the mapping gives.

    Raises:
        IngestError: no header, or one that is not in the encoding the mapping says.
    """
    if form.header:
        return list(form.header)
    try:
        with open_text(path, form.encoding) as file:
            lines: Iterable[str] = file if _sign(form) == form.delimiter else (line.replace(form.delimiter, _UNIT) for line in file)
            quotes: dict[str, Any] = {"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE}
            names = next(csv.reader(lines, delimiter=_sign(form), **quotes), [])
    except UnicodeError:
        raise IngestError(undecodable(path, form.encoding)) from None
    names = [name.strip("\ufeff \t") for name in names]
    if not any(names):
        raise IngestError(f"{path} has no header line; expected column names in its first line.")
    return [name or f"column {index}" for index, name in enumerate(names, 1)]


def schema(form: TextFormat, path: Path) -> pa.Schema:
    """All columns, as text.

    Raises:
        IngestError: as `header`.
    """
    return pa.schema([(name, pa.string()) for name in header(form, path)])


def batches(form: TextFormat, path: Path) -> Iterator[pa.RecordBatch]:
    """The records of the file with their number (1 is the first after a header line), a block at a time.

    Raises:
        IngestError: bytes that are not in the encoding the mapping says, a quote that never closes, or hardly a record with the fields
            of the header.
    """
    names = header(form, path)
    num_header_lines = 0 if form.header else 1
    check_encoding(path, form.encoding)
    wrong: dict[int, tuple[str, str]] = {}

    def keep(row: pcsv.InvalidRow) -> str:
        problem = f"{row.actual_columns} fields, expected {row.expected_columns}"
        wrong[row.number - num_header_lines] = (problem, row.text.replace(_sign(form), form.delimiter))
        return "skip" if len(wrong) <= _MOST_WRONG else "error"

    number = 0
    try:
        reader = pcsv.open_csv(
            _open(form, path),
            read_options=pcsv.ReadOptions(
                use_threads=False,  # only then do wrong records come with their number
                block_size=_BLOCK_BYTES,
                column_names=names,
                skip_rows_after_names=num_header_lines,
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=_sign(form),
                quote_char=form.quote or False,
                newlines_in_values=bool(form.quote),
                ignore_empty_lines=True,
                invalid_row_handler=keep,
            ),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=["", *form.nulls],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            numbers = list(islice((n for n in count(number + 1) if n not in wrong), batch.num_rows))
            number = numbers[-1] if numbers else number
            yield batch.append_column(ROW, pa.array(numbers, pa.int64()))
            while number + 1 in wrong:
                number += 1
            yield from _problems(wrong, number)
    except UnicodeDecodeError:
        raise IngestError(undecodable(path, form.encoding)) from None
    except pa.ArrowInvalid as error:
        if "invalid UTF8" in str(error):
            raise IngestError(undecodable(path, form.encoding)) from None
        if "Empty CSV" not in str(error):
            raise IngestError(f"{path} is no CSV with `{form.delimiter}` and `{form.quote}`: {error}") from None
    yield from _problems(wrong, max(wrong, default=0))


def _sign(form: TextFormat) -> str:
    return form.delimiter if len(form.delimiter) == 1 else _UNIT


def _open(form: TextFormat, path: Path) -> pa.NativeFile:
    """The file in UTF-8, with one sign between the fields."""
    file = open_bytes(path)
    if not is_utf8(form.encoding):
        file = pa.transcoding_input_stream(file, form.encoding, "utf8")
    return file if _sign(form) == form.delimiter else pa.TransformInputStream(file, _replacing(form.delimiter, _UNIT))


def _replacing(old: str, new: str) -> Callable[[bytes], bytes]:
    """Replaces text in a file that comes in chunks, the last of them empty."""
    told, becomes = old.encode(), new.encode()
    held = b""

    def replace(chunk: bytes) -> bytes:
        nonlocal held
        *done, last = (held + bytes(chunk)).split(told)
        # what the text may begin with stays until more is known
        length = next((n for n in range(len(told) - 1, 0, -1) if chunk and last.endswith(told[:n])), 0)
        held = last[len(last) - length :]
        return becomes.join([*done, last[: len(last) - length]])

    return replace


def _problems(wrong: dict[int, tuple[str, str]], number: int) -> Iterator[pa.RecordBatch]:
    """The wrong records up to a number; they go from `wrong`, as a file may hold more of them than memory."""
    done = {n: wrong.pop(n) for n in [n for n in wrong if n <= number]}
    if done:
        problems, texts = zip(*done.values(), strict=True)
        yield pa.RecordBatch.from_pydict({ROW: pa.array(done, pa.int64()), PROBLEM: problems, TEXT: texts})
