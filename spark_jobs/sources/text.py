"""Text files in any encoding: opened strictly, and where decoding fails, the line that is to blame."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from infra.errors import IngestError

COMPRESSIONS = {".bz2": "bz2", ".gz": "gzip", ".lz4": "lz4", ".zst": "zstd"}
"""How a file is compressed, by the ending of its name."""
_CANDIDATES = ("utf-8", "gb18030", "cp1252")
_WIDE = ("utf-16", "utf-32")
_CHINESE = ("gb18030", "gbk", "gb2312", "big5", "big5hkscs")
_LONGER_THAN_CHANCE = re.compile(rb"(?:[\xe0-\xef][\x80-\xbf]{2}){6}")
_ANY_UTF8 = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The file as text; bytes that do not decode raise UnicodeDecodeError. Compressed files (`COMPRESSIONS`) are opened too.

    The byte-order mark of UTF-8 and UTF-16 is skipped; that of GB18030 is the first character.
    """
    return io.TextIOWrapper(
        io.BufferedReader(open_bytes(path)), encoding="utf-8-sig" if is_utf8(encoding) else encoding, newline=""
    )


def open_bytes(path: Path) -> pa.NativeFile:
    """The bytes of the file, of a compressed one those that it holds."""
    return pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower()))


def is_utf8(encoding: str) -> bool:
    """Whether UTF-8 reads this encoding (ASCII too); LookupError if Python knows none of that name."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def check_encoding(path: Path, encoding: str) -> None:
    """Find the UTF-8 line in a file that is said to be in another encoding: it often decodes there too, into nonsense.

    Chinese double-byte text is valid UTF-8 by chance where it is short, so there only six characters in a row count.

    Raises:
        IngestError: the file mixes encodings.
    """
    name = codecs.lookup(encoding).name
    if is_utf8(encoding) or name.startswith(_WIDE):
        return
    hint = _LONGER_THAN_CHANCE if name in _CHINESE else _ANY_UTF8
    for number, line in _lines(path):
        if not line.isascii() and hint.search(line) and _decodes(line, "utf-8"):
            raise IngestError(
                f"{path}, line {number}: mixed encodings, this line is UTF-8 and the mapping says {encoding}; "
                "split the file or export it again in one encoding."
            )


def undecodable(path: Path, encoding: str) -> str:
    """The message that names the first line of `path` that is not in `encoding`, and what it reads as."""
    if not codecs.lookup(encoding).name.startswith(_WIDE):
        for number, line in _lines(path):
            if not _decodes(line, encoding):
                reads = next((name for name in _CANDIDATES if _decodes(line, name)), None)
                told = f"; it reads as {reads}" if reads else ""
                return (
                    f"{path}, line {number}: expected {encoding}, got other bytes{told}. Say `encoding` in shop.yaml, "
                    "or split files of different encodings into sources of their own."
                )
    return f"{path} is not in {encoding}; say its `encoding` in shop.yaml (for example utf-8, gb18030, cp1252)."


def guess_encoding(path: Path, num_bytes: int = 1 << 20) -> str:
    """The encoding that the head of a file is in, of utf-8, utf-16, gb18030 and cp1252.

    Western text has its high bytes one by one between letters, Chinese text in pairs.
    """
    with io.BufferedReader(open_bytes(path)) as file:
        head = file.read(num_bytes)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) == num_bytes:
        head = head.rsplit(b"\n", 1)[0]
    if _decodes(head, "utf-8"):
        return "utf-8"
    runs = re.findall(rb"[\x80-\xff]+", head)
    alone = sum(len(run) == 1 for run in runs)
    return "gb18030" if alone * 2 < len(runs) and _decodes(head, "gb18030") else "cp1252"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with io.BufferedReader(open_bytes(path)) as file:
        yield from enumerate(file, 1)


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
