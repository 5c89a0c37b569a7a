"""What was read before: the lake table `ingest/files`, one row per part that an ingest has read."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra.lake import Lake

PATH = "ingest/files"
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("us", tz="UTC")),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("num_rows", pa.int64(), nullable=False),
        pa.field("columns", pa.string(), nullable=False),
        pa.field("cursor", pa.string()),
        pa.field("ingest", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Seen:
    """The rows of `ingest/files`, oldest first."""

    rows: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def load(cls, lake: Lake) -> Seen:
        """Everything read so far into this lake."""
        return cls(tuple(lake.read(PATH).to_pylist()) if lake.version(PATH) is not None else ())

    def of(self, source: str) -> Iterable[Mapping[str, Any]]:
        """The rows of one source, oldest first."""
        return (row for row in self.rows if row["source"] == source)

    def num_reads(self, source: str) -> int:
        """How many parts of the source were read; one that was read again counts again."""
        return sum(1 for _ in self.of(source))

    def parts(self, source: str) -> dict[str, Mapping[str, Any]]:
        """Name of each part that was read -> its newest row: what it held when it was last read."""
        return {row["part"]: row for row in self.of(source)}

    def digests(self, source: str) -> set[str]:
        """The digest of everything that was read, whatever its name."""
        return {row["digest"] for row in self.of(source)}

    def sources(self, without: Collection[str]) -> dict[str, str]:
        """Name and digest of everything that was read -> the source it was read as, but for some sources."""
        return {key: row["source"] for row in self.rows if row["source"] not in without for key in (row["part"], row["digest"])}

    def cursor(self, source: str, part: str) -> str | None:
        """How far the parts of a source whose names begin with `part` were read, as text: the newest that is known, None if none is."""
        found = [row["cursor"] for row in self.of(source) if row["cursor"] is not None and row["part"].startswith(part)]
        return found[-1] if found else None

    def columns(self, source: str) -> dict[str, str]:
        """Every column the source ever had -> its family of types (number, text, time, bool), as last seen."""
        found: dict[str, str] = {}
        for row in self.of(source):
            found |= json.loads(row["columns"])
        return found
