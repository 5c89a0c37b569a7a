"""Upkeep of a lake's tables: what was committed is taken back, many small files become few.

Neither rewrites history: both are commits like others, whose metadata says of which version they hold the rows.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from infra.errors import TableConflictError, TableContractError
from infra.lake import (
    DIGEST,
    KEPT,
    MODE,
    NUM_ROWS,
    PINS,
    RESTORED,
    ROWS_OF,
    Commit,
    Lake,
    add_action,
    digest_of,
    files_of,
    keep_log,
    refuse_foreign,
    standing,
    statistics_of,
)  # fmt: skip

UNDO = "shopgraph.undo"
"""Of a commit of mode `restore`: the command it was part of."""
FILE_BYTES = 128 << 20
"""Small files are joined up to this size."""
MOST_SMALL = 100
"""Small files that a table may have before `tidy` joins them: reading a few rows of 1,000 costs twenty times what it costs of one."""
SMALL_BYTES = 16 << 20
"""`tidy` leaves larger files alone, so that a drain, which holds the lock of all writers, is done in a moment."""
_DELTA_KEYS = {
    "timestamp", "operation", "operationParameters", "readVersion", "engineInfo", "operationMetrics", "clientVersion", "version",
    "isBlindAppend", "isolationLevel", "userId", "userName", "userMetadata", "txnId", "inCommitTimestamp",
}  # fmt: skip


def check(lake: Lake, path: str, to: int | None, kept: Sequence[int]) -> None:
    """Whether `restore` would find the files it needs; nothing is changed.

    Raises:
        TableContractError: a version does not exist or was vacuumed.
    """
    if to is not None:
        lake.file_uris(path, to)
    for version in kept:
        _check_there(lake, path, lake.appended(path, version))


def restore(lake: Lake, path: str, to: int | None, kept: Sequence[int] = (), *, undo: str, since: int) -> Commit:
    """Make the files of an older version the newest one. Done once per `undo`; rows appended after `since` stay.

    Args:
        to: the version; None: before the first, without any row.
        kept: versions after it whose appended rows stay.
        undo: names the command.
        since: the newest version when the command was planned.

    Raises:
        TableContractError: the version does not exist or was vacuumed.
        TableConflictError: other writers commit faster than this.
    """
    for _ in range(10):
        table = lake.table(path)
        newest = table.version()
        after = table.history(newest - since) if newest > since else []
        if done := next((entry for entry in after if entry.get(UNDO) == undo), None):
            return Commit(path, int(done["version"]), int(done[NUM_ROWS]), skipped=True)
        if to == newest and not kept:
            return Commit(path, newest, lake.num_rows(path, newest), skipped=True)
        late = {int(entry["version"]): entry.get(MODE) for entry in standing(after)}
        if "overwrite" in late.values():
            break
        try:
            return _restore(lake, table, path, to, sorted({*kept, *late}), undo)
        except CommitFailedError:
            continue
    raise TableConflictError(f"table {path}: others write it faster than it can be taken back; run again when they are done.")


def _restore(lake: Lake, table: DeltaTable, path: str, to: int | None, kept: list[int], undo: str) -> Commit:
    newest = table.version()
    metadata = {PINS: "1", MODE: "restore", RESTORED: json.dumps(to), KEPT: json.dumps(kept), UNDO: undo}
    if to is not None:
        lake.file_uris(path, to)  # refuses what was vacuumed
    if to is not None and not kept:
        source = lake.entry(path, to)
        metadata = {**_noted(source), **metadata, ROWS_OF: str(source.get(ROWS_OF, to)), NUM_ROWS: str(lake.num_rows(path, to))}
        properties = CommitProperties(custom_metadata=metadata, max_commit_retries=0)
        try:
            table.restore(to, commit_properties=properties, post_commithook_properties=keep_log())
        except DeltaError as error:
            if isinstance(error, CommitFailedError) or "already exists" in str(error).lower():
                raise CommitFailedError(str(error)) from None
            raise
        return Commit(path, newest + 1, int(metadata[NUM_ROWS]))
    wanted = files_of(lake.table(path, to)) if to is not None else set[str]()
    for version in kept:
        wanted |= lake.appended(path, version)
    there = files_of(table)
    added, num_rows = [], 0
    for name, size, statistics in _footers(lake, path, wanted):
        num_rows += statistics["numRecords"]
        if name not in there:
            added.append(add_action(name, size, statistics))
    metadata |= {DIGEST: digest_of(undo, path), NUM_ROWS: str(num_rows)}
    _replace(table, added, there - wanted, metadata, data_change=True)
    return Commit(path, newest + 1, num_rows)


def _noted(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What our own code kept with a commit."""
    return {key: value for key, value in entry.items() if key not in _DELTA_KEYS}


def _check_there(lake: Lake, path: str, names: Iterable[str]) -> list[pafs.FileInfo]:
    """What lies where the files of a table should, in order of their names.

    Raises:
        TableContractError: one of them is gone.
    """
    found = lake.filesystem.get_file_info([lake.on_filesystem(f"{lake.uri(path)}/{name}") for name in sorted(names)])
    for info in found:
        if info.type is pafs.FileType.NotFound:
            raise TableContractError(
                f"table {path}: {info.path} is gone, as after `shopgraph tables vacuum`; nothing was committed."
            )
    return list(found)


def _footers(lake: Lake, path: str, names: Iterable[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, size and Delta statistics of files of a table.

    Raises:
        TableContractError: one of them is gone.
    """
    for name, info in zip(sorted(names), _check_there(lake, path, names), strict=True):
        with lake.filesystem.open_input_file(info.path) as file:
            footer = pq.ParquetFile(file)
            yield name, info.size, statistics_of(footer.metadata, footer.schema_arrow)


def _replace(
    table: DeltaTable, added: Sequence[AddAction], removed: Iterable[str], metadata: Mapping[str, Any], data_change: bool
) -> None:
    """Commit new files and removals at once, onto the version of `table` or not at all (raises CommitFailedError)."""
    now = int(time.time() * 1000)
    try:
        table.create_write_transaction(
            [*added, *(RemoveAction(name, data_change, now) for name in sorted(removed))],
            "append",
            table.schema(),
            commit_properties=CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0),
            post_commithook_properties=keep_log(),
        )
    except DeltaError as error:
        if "already exists" in str(error).lower():
            raise CommitFailedError(str(error)) from None
        raise


def compact(lake: Lake, path: str, file_bytes: int = FILE_BYTES) -> Commit | None:
    """Join neighbouring small files of a table into larger ones; every row keeps its place. None where there are none to join.

    Readers of older versions find their files until a vacuum. The caller holds the lock of the table's writers.

    Raises:
        TableContractError: the table does not exist, or is a foreign one that files alone do not tell.
        TableConflictError: somebody committed meanwhile; nothing was changed.
    """
    table = lake.table(path)
    newest = table.version()
    refuse_foreign(table)
    groups = _groups(table, file_bytes)
    if not groups:
        return None
    schema = pa.schema(table.schema().to_arrow())
    made: list[str] = []
    added = []
    try:
        for group in groups:
            # in the folder of the last file and after its name: in the order of names the rows stay where they were
            name = f"{group[-1]}-{uuid.uuid4().hex[:8]}.parquet"
            made.append(name)
            _join(lake, path, group, name, schema)
            added += [add_action(found, size, statistics, False) for found, size, statistics in _footers(lake, path, [name])]
        source = lake.entry(path, newest)
        num_rows = sum(json.loads(action.stats)["numRecords"] for action in added)
        metadata = {
            **_noted(source), PINS: "1", MODE: "compact", ROWS_OF: str(source.get(ROWS_OF, newest)), NUM_ROWS: str(table.count()),
        }  # fmt: skip
        for key in (RESTORED, KEPT, UNDO):
            metadata.pop(key, None)
        if num_rows != sum(_rows(table)[name] for group in groups for name in group):
            raise TableContractError(
                f"table {path}: its files hold other numbers of rows than its log says; nothing was committed."
            )
        _replace(table, added, [name for group in groups for name in group], metadata, data_change=False)
    except BaseException as error:
        for name in made:
            with suppress(FileNotFoundError):
                lake.filesystem.delete_file(lake.on_filesystem(f"{lake.uri(path)}/{name}"))
        if isinstance(error, CommitFailedError):
            raise TableConflictError(f"table {path}: another writer committed first ({error}); run again.") from None
        raise
    return Commit(path, newest + 1, int(metadata[NUM_ROWS]))


def tidy(lake: Lake, path: str) -> Commit | None:
    """Join the small files of a table where they have become many. None where they have not, or where another home's writer came first.

    The caller holds the lock of the table's writers.

    Raises:
        TableContractError: as `compact`.
    """
    if sum(len(group) - 1 for group in _groups(lake.table(path), SMALL_BYTES)) < MOST_SMALL:
        return None
    try:
        return compact(lake, path, SMALL_BYTES)
    except TableConflictError:
        return None


def _groups(table: DeltaTable, file_bytes: int) -> list[list[str]]:
    """Neighbouring files of a table that together are no larger than `file_bytes`, two or more each."""
    actions = pa.table(table.get_add_actions())
    sizes = dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))
    groups: list[list[str]] = [[]]
    total = 0
    for name in sorted(sizes):
        if groups[-1] and total + sizes[name] > file_bytes:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += sizes[name]
    return [group for group in groups if len(group) > 1]


def _rows(table: DeltaTable) -> dict[str, int]:
    actions = pa.table(table.get_add_actions())
    return dict(zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True))


def _join(lake: Lake, path: str, names: Sequence[str], target: str, schema: pa.Schema) -> None:
    """Write the rows of some files, in order, into one; a column that a file lacks is null."""
    where = lake.on_filesystem(lake.uri(path))
    with pq.ParquetWriter(f"{where}/{target}", schema, filesystem=lake.filesystem, compression="zstd") as writer:
        for name in names:
            with lake.filesystem.open_input_file(f"{where}/{name}") as file:
                for batch in pq.ParquetFile(file).iter_batches():
                    columns = [
                        batch.column(f.name).cast(f.type) if f.name in batch.schema.names else pa.nulls(batch.num_rows, f.type)
                        for f in schema
                    ]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
