"""One row of a view as bytes, and back; whole tables at a time.

    byte 0          format version
    null bits       one per fixed column, packed, most significant bit first
    fixed columns   8 bytes each, little endian: int64, float64 bits, 0/1, microseconds UTC, days since 1970
    text columns    one JSON array: string, list of strings, or null, in column order; absent if the view has none

The names and types of a row's columns are not in the row but in the definition it was written under, so a row read after a
column was added gives null for it, never a shifted value. Floats keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.tables import Type
from features.views import View
from infra.errors import FeatureError

FORMAT = 1
_TEXT: tuple[Type, ...] = ("string", "strings")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DAY = date(1970, 1, 1)

Packed = tuple[str, int, int, bytes]
"""Key, event and created time in microseconds UTC, packed columns."""


class Layout:
    """Where each column of a definition lies in a packed row."""

    def __init__(self, columns: Sequence[tuple[str, Type]]) -> None:
        self.columns = tuple(columns)
        self.fixed = [(name, kind) for name, kind in self.columns if kind not in _TEXT]
        self.text = [name for name, kind in self.columns if kind in _TEXT]
        self._null_bytes = (len(self.fixed) + 7) // 8
        self._start = 1 + self._null_bytes
        self._end = self._start + 8 * len(self.fixed)

    def pack(self, rows: pa.Table) -> list[bytes]:
        """The columns of each row as bytes, in row order.

        Raises:
            KeyError: `rows` lack a column of the layout.
        """
        n = rows.num_rows
        head = np.empty((n, self._end), dtype=np.uint8)
        head[:, 0] = FORMAT
        nulls = np.zeros((n, len(self.fixed)), dtype=bool)
        body = np.zeros((n, len(self.fixed)), dtype="<i8")
        for i, (name, kind) in enumerate(self.fixed):
            column = rows[name]
            if column.null_count:
                nulls[:, i] = pc.is_null(column).to_numpy()
            body[:, i] = _as_integers(column, kind)
        head[:, 1 : self._start] = np.packbits(nulls, axis=1)
        head[:, self._start :] = body.view(np.uint8).reshape(n, 8 * len(self.fixed))
        flat = head.tobytes()
        heads = [flat[i : i + self._end] for i in range(0, n * self._end, self._end)]
        if not self.text:
            return heads
        texts = zip(*(rows[name].to_pylist() for name in self.text), strict=True)
        return [head + orjson.dumps(text) for head, text in zip(heads, texts, strict=True)]

    def unpack(self, packed: Sequence[bytes]) -> dict[str, list[Any]]:
        """Column -> Python values of these rows, in their order.

        Raises:
            FeatureError: a row was written by another format version.
        """
        n = len(packed)
        if n == 0:
            return {name: [] for name, _ in self.columns}
        flat = b"".join([row[: self._end] for row in packed])
        head = np.frombuffer(flat, dtype=np.uint8).reshape(n, self._end)
        if (head[:, 0] != FORMAT).any():
            raise FeatureError(f"online rows have format {head[:, 0].max()}, this version reads {FORMAT}; materialise again.")
        nulls = np.unpackbits(head[:, 1 : self._start], axis=1, count=len(self.fixed)).astype(bool)
        body = np.ascontiguousarray(head[:, self._start :]).view("<i8")
        values: dict[str, list[Any]] = {}
        for i, (name, kind) in enumerate(self.fixed):
            values[name] = _as_values(body[:, i], kind)
        for i, row in np.argwhere(nulls.T).tolist():
            values[self.fixed[i][0]][row] = None
        if self.text:
            texts = [orjson.loads(row[self._end :]) for row in packed]
            values |= {name: [text[i] for text in texts] for i, name in enumerate(self.text)}
        return values


def pack_rows(view: View, rows: pa.Table) -> list[Packed]:
    """Rows in the view's schema, ready for a store, sorted by key; a row with a null in its key is nobody's and left out."""
    rows = rows.filter(reduce(pc.and_, (pc.is_valid(rows[name]) for name in view.key_names)))
    events, createds = (rows[name].cast(pa.int64()).to_numpy().tolist() for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP))
    keys = [orjson.dumps(key).decode() for key in zip(*(key_values(rows[name]) for name in view.key_names), strict=True)]
    return sorted(zip(keys, events, createds, Layout(view.columns).pack(rows), strict=True))


def key_texts(parts: Sequence[Iterable[Any]]) -> list[str | None]:
    """One text per entity out of its key parts (str or date): a JSON array, so ("1", "23") is not ("12", "3").

    None where a part is null or no Unicode text: such a key is nobody's.
    """
    return [_key_text(key) for key in zip(*parts, strict=True)]


def from_microseconds(value: int) -> datetime:
    """The instant, in UTC, so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=value)


def to_microseconds(value: datetime) -> int:
    """Microseconds from 1970 to an instant, exactly; TypeError for a time without a zone."""
    return (value - _EPOCH) // timedelta(microseconds=1)


def _key_text(key: tuple[Any, ...]) -> str | None:
    if None in key:
        return None
    try:
        return orjson.dumps(key).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, which no table can hold
        return None


def key_values(column: pa.ChunkedArray) -> list[Any]:
    """One part of keys as `key_texts` takes it: dates as ISO text."""
    return list((column.cast(pa.string()) if pa.types.is_date(column.type) else column).to_pylist())


def _as_integers(column: pa.ChunkedArray, kind: Type) -> npt.NDArray[np.int64]:
    """The 64 bits of each value; anything where it is null."""
    if kind == "float":
        return np.asarray(column.fill_null(0.0).to_numpy(), dtype="<f8").view("<i8")
    if kind == "date":
        column = column.cast(pa.int32())
    return np.asarray(column.cast(pa.int64()).fill_null(0).to_numpy(), dtype="<i8")


def _as_values(bits: npt.NDArray[np.int64], kind: Type) -> list[Any]:
    if kind == "float":
        values: list[Any] = np.ascontiguousarray(bits).view("<f8").tolist()
        return values
    numbers = bits.tolist()
    if kind == "bool":
        return [bool(number) for number in numbers]
    if kind == "timestamp":
        return [from_microseconds(number) for number in numbers]
    if kind == "date":
        return [_FIRST_DAY + timedelta(days=number) for number in numbers]
    return list(numbers)
