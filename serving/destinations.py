"""Where rows for everybody go: a table of the lake, a lake on S3, a table of a Postgres. Each takes all of them at once or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from features.shop import Shop
from features.tables import Table
from infra import postgres
from infra.errors import EngineError, SettingsError, ShopgraphError
from infra.home import Home
from infra.lake import Lake, s3_options
from infra.settings import Settings


class Destination(Protocol):
    """Holds the newest rows of one table."""

    @property
    def address(self) -> str:
        """Where the rows can be read; without a password."""
        ...

    def holds(self, digest: str) -> bool:
        """Whether the rows of `digest` are there already, or EngineError."""
        ...

    def replace(self, files: Sequence[Path], digest: str, metadata: Mapping[str, Any]) -> None:
        """Put the rows of Parquet files in place of those that are there, atomically.

        Args:
            digest: what the rows were computed from.
            metadata: more to keep with them, where there is a place for it.

        Raises:
            TableContractError: something else lies there.
            TableConflictError: somebody else wrote meanwhile.
            EngineError: it does not answer, or refuses.
        """
        ...


def destination(to: str, table: Table, settings: Settings, shop: Shop) -> Destination:
    """The destination that `to` names; nothing is looked at yet.

    Args:
        to: the table's name or path, `s3://bucket/prefix` (a lake there) or `postgresql://...`.

    Raises:
        SettingsError: it is none of these.
    """
    if to in (table.name, table.path):
        return InLake(Lake.open(settings, shop.name), table)
    if to.startswith("s3://") and to.removeprefix("s3://").strip("/"):
        return InLake(Lake(to.rstrip("/"), shop.name, s3_options(settings), is_shared=True), table)
    if to.startswith(("postgresql://", "postgres://")):
        postgres.address(to)  # one that cannot be read is told before anything is scored
        return InPostgres(postgres.with_passfile(to, Home(settings).shop(shop.name)), table)
    raise SettingsError(
        f"--to {to!r}: expected {table.name} (the table {table.path} of the lake), s3://bucket/prefix or "
        "postgresql://user@host:port/database."
    )


@dataclass(frozen=True)
class InLake:
    """A Delta table; its log says what it holds, and earlier versions stay readable until they are vacuumed."""

    lake: Lake
    table: Table

    @property
    def address(self) -> str:
        return self.lake.uri(self.table.path)

    def holds(self, digest: str) -> bool:
        return self.lake.committed(self.table.path, digest, self._version()) is not None

    def replace(self, files: Sequence[Path], digest: str, metadata: Mapping[str, Any]) -> None:
        version = self._version()
        attempt = self.lake.attempt(self.table.path)
        path = f"{self.lake.on_filesystem(attempt.uri)}/part-0.parquet"
        try:
            with pq.ParquetWriter(path, self.table.schema, filesystem=self.lake.filesystem, compression="zstd") as writer:
                for file in files:
                    writer.write_table(pq.read_table(file, schema=self.table.schema))
            self.lake.commit(attempt, self.table.schema, "overwrite", digest=digest, read_version=version, metadata=metadata)
        except ShopgraphError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _version(self) -> int | None:
        try:
            return self.lake.version(self.table.path)
        except Exception as error:  # of whatever library speaks to the store
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> Exception:
        """What a person is told of a store that does not answer; what befalls our own disk is told as everywhere."""
        if not self.lake.is_remote:
            return error
        return EngineError(f"{self.address}: {(str(error).splitlines() or [type(error).__name__])[0]}")


@dataclass(frozen=True)
class InPostgres:
    """A table of the name of ours, in the first schema of the address's search path; its comment says what it holds."""

    url: str
    table: Table

    @property
    def address(self) -> str:
        return f"{postgres.address(self.url)}, table {self.table.name}"

    def holds(self, digest: str) -> bool:
        return postgres.noted(self.url, self.table.name) == digest

    def replace(self, files: Sequence[Path], digest: str, metadata: Mapping[str, Any]) -> None:  # noqa: ARG002 - the comment has room for one
        schema = self.table.schema
        batches = ds.dataset(list(files), schema=schema, format="parquet").to_batches(batch_readahead=1, fragment_readahead=1)
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        postgres.replace(self.url, self.table.name, reader, self.table.keys, digest)
