"""CSV files: every field stays text until Spark validates it; decoding is strict, never with replacement characters.

A record with too many or too few fields is handed on as a problem row, so that it is quarantined and not lost.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv

from features.mapping import TextFormat
from infra.errors import IngestError
from spark_jobs.sources.arrow_files import PROBLEM, ROW, TEXT
from spark_jobs.sources.text import check_encoding, is_utf8, open_bytes, open_text, undecodable

_BLOCK_BYTES = 8 << 20  # a record has to fit into one
_MOST_WRONG = 1_000_000
"""Wrong records that are held in memory: Arrow gives nothing between two good ones, however far apart they are."""


def header(form: TextFormat, path: Path) -> list[str]:
    """Column names of the file.

    Raises:
        IngestError: no header, or one that is not in the encoding the mapping says.
    """
    try:
        with open_text(path, form.encoding) as file:
            names = next(csv.reader(file, delimiter=form.delimiter, quotechar=form.quote), [])
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
    """The records of the file with their number (1 is the first after the header), a block at a time.

    Raises:
        IngestError: bytes that are not in the encoding the mapping says, a quote that never closes, or hardly a record with the fields
            of the header.
    """
    names = header(form, path)
    check_encoding(path, form.encoding)
    wrong: dict[int, tuple[str, str]] = {}

    def keep(row: pcsv.InvalidRow) -> str:
        problem = f"{row.actual_columns} fields, expected {row.expected_columns}"
        wrong[row.number - 1] = (problem, row.text)  # the header is record 1
        return "skip" if len(wrong) <= _MOST_WRONG else "error"

    number = 0
    try:
        reader = pcsv.open_csv(
            open_bytes(path),
            read_options=pcsv.ReadOptions(
                use_threads=False,  # only then do wrong records come with their number
                block_size=_BLOCK_BYTES,
                column_names=names,
                skip_rows_after_names=1,
                encoding="utf8" if is_utf8(form.encoding) else form.encoding,
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=form.delimiter,
                quote_char=form.quote,
                newlines_in_values=True,
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


def _problems(wrong: dict[int, tuple[str, str]], number: int) -> Iterator[pa.RecordBatch]:
    """The wrong records up to a number; they go from `wrong`, as a file may hold more of them than memory."""
    done = {n: wrong.pop(n) for n in [n for n in wrong if n <= number]}
    if done:
        problems, texts = zip(*done.values(), strict=True)
        yield pa.RecordBatch.from_pydict({ROW: pa.array(done, pa.int64()), PROBLEM: problems, TEXT: texts})
