"""Several tables committed as one: a redo journal beside the lake's tables.

Each Delta commit is atomic, a set of them is not. So the files of all tables are written first and checked, then the list of
commits is put into one journal file, then they are committed one by one, then the journal goes. Killed before the journal:
nothing is visible. Killed after it: `recover`, called before the next write and before a build reads, does the commits that are
missing; those already done are recognised by their digest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.fs as pafs

from infra.errors import TableContractError
from infra.lake import Attempt, Commit, Lake, Mode
from infra.upkeep import check, restore

SUFFIX = ".journal.json"


@dataclass(frozen=True)
class Write:
    """One commit to come of the files of `attempt`; columns the table lacks are added first.

    `since` is the version of the table when the journal was begun, None where there was no table: what `recover` looks beyond.
    """

    attempt: Attempt
    schema: pa.Schema
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    since: int | None = None
    mode: ClassVar[Mode]


class Append(Write):
    """The rows are added to their table."""

    mode = "append"


class Overwrite(Write):
    """The rows replace those of their table, in whatever version it is."""

    mode = "overwrite"


@dataclass(frozen=True)
class TakeBack:
    """One restore to come of the table at `path`: to version `to` (None: before the first), but for what the versions `kept` appended.

    `undo` names the command, `since` is the newest version when it was planned; see `infra.upkeep.restore`.
    """

    path: str
    to: int | None
    kept: tuple[int, ...]
    undo: str
    since: int
    mode: ClassVar[str] = "restore"


class Journal:
    """The journal of one name in one lake. Its callers hold a lock: one writer at a time."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self._name = f"{name}{SUFFIX}"
        self._path = lake.on_filesystem(lake.uri(self._name))

    def commit(self, writes: Sequence[Write | TakeBack]) -> list[Commit]:
        """Make all of them visible, in order; after a crash in between, `recover` finishes.

        Args:
            writes: of digests that are new to their tables; who may repeat one asks `Lake.committed` first.

        Raises:
            TableContractError: files or a schema that `Lake.commit` would refuse, or a version that was vacuumed; nothing is
                visible, and there is no journal.
            TableConflictError: as `Lake.commit`; what came before it is visible, and the journal stays.
        """
        writes = [
            write if isinstance(write, TakeBack) else replace(write, since=self.lake.version(write.attempt.path))
            for write in writes
        ]
        for write in writes:  # a journal that can never be committed would stop every later write
            if isinstance(write, Write):
                self.lake.check(write.attempt, write.schema)
            else:
                check(self.lake, write.path, write.to, write.kept)
        self.lake.save(self._name, json.dumps([_entry(write) for write in writes], default=str))
        commits = [self._commit(write) for write in writes]
        self._remove()
        return commits

    def recover(self) -> list[Commit]:
        """Finish what a killed process began; returns the commits it took, none where nothing was open.

        Raises:
            TableContractError: files that were to be committed are gone; nothing was committed.
        """
        if self.lake.filesystem.get_file_info(self._path).type is not pafs.FileType.File:
            return []
        with self.lake.filesystem.open_input_file(self._path) as file:
            writes = [self._write(entry) for entry in json.loads(file.read())]
        for write in writes:
            if isinstance(write, Write):
                self._check_there(write)
        commits = [self._commit(write) for write in writes]
        self._remove()
        return [commit for commit in commits if not commit.skipped]

    def _write(self, entry: Mapping[str, Any]) -> Write | TakeBack:
        if entry.get("mode") == TakeBack.mode:
            return TakeBack(entry["path"], entry["to"], tuple(entry["kept"]), entry["undo"], entry["since"])
        kinds = {kind.mode: kind for kind in (Append, Overwrite)}
        return kinds[entry.get("mode", "append")](
            # the address is made anew: a restored or moved lake lies elsewhere
            Attempt(entry["path"], f"{self.lake.uri(entry['path'])}/{entry['folder']}", entry["folder"], entry.get("files")),
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry["schema"]))),
            entry["digest"],
            entry["metadata"],
            entry.get("since"),
        )

    def _check_there(self, write: Write) -> None:
        attempt = write.attempt
        if self.lake.committed(attempt.path, write.digest, write.since):
            return
        if self.lake.filesystem.get_file_info(self.lake.on_filesystem(attempt.uri)).type is not pafs.FileType.Directory:
            raise TableContractError(
                f"table {attempt.path}: {attempt.uri} is gone, which the journal {self._path} was to commit. Restore the folder, "
                "or delete the journal and run the command again. Nothing was committed."
            )

    def _commit(self, write: Write | TakeBack) -> Commit:
        if isinstance(write, TakeBack):
            return restore(self.lake, write.path, write.to, write.kept, undo=write.undo, since=write.since)
        path, digest = write.attempt.path, write.digest
        if done := self.lake.committed(path, digest, write.since):
            return done
        if self.lake.version(path) is not None:
            self.lake.add_columns(path, write.schema)
        found = self.lake.version(path)
        return self.lake.commit(write.attempt, write.schema, write.mode, digest=digest, read_version=found, metadata=write.metadata)

    def _remove(self) -> None:
        self.lake.filesystem.delete_file(self._path)


def _entry(write: Write | TakeBack) -> dict[str, Any]:
    """A write as the journal keeps it."""
    if isinstance(write, TakeBack):
        return {**vars(write), "mode": write.mode}
    return {
        "path": write.attempt.path,
        "folder": write.attempt.folder,
        "files": write.attempt.files,
        "schema": base64.b64encode(write.schema.serialize().to_pybytes()).decode(),
        "digest": write.digest,
        "metadata": dict(write.metadata),
        "mode": write.mode,
        "since": write.since,
    }
