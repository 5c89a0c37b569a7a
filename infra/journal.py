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


class Journal:
    """The journal of one name in one lake. Its callers hold a lock: one writer at a time."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self._path = lake.on_filesystem(lake.uri(f"{name}{SUFFIX}"))

    def commit(self, writes: Sequence[Write]) -> list[Commit]:
        """Make all of them visible, in order; after a crash in between, `recover` finishes.

        Args:
            writes: of digests that are new to their tables; who may repeat one asks `Lake.committed` first.

        Raises:
            TableContractError: files or a schema that `Lake.commit` would refuse; nothing is visible, and there is no journal.
            TableConflictError: as `Lake.commit`; what came before it is visible, and the journal stays.
        """
        writes = [replace(write, since=self.lake.version(write.attempt.path)) for write in writes]
        for write in writes:
            self.lake.check(write.attempt, write.schema)  # a journal that can never be committed would stop every later write
        entries = [
            {
                "path": w.attempt.path,
                "folder": w.attempt.folder,
                "files": w.attempt.files,
                "schema": base64.b64encode(w.schema.serialize().to_pybytes()).decode(),
                "digest": w.digest,
                "metadata": dict(w.metadata),
                "mode": w.mode,
                "since": w.since,
            }
            for w in writes
        ]
        self._save(json.dumps(entries, default=str))
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
            entries = json.loads(file.read())
        kinds = {kind.mode: kind for kind in (Append, Overwrite)}
        writes = [
            kinds[entry.get("mode", "append")](
                # the address is made anew: a restored or moved lake lies elsewhere
                Attempt(entry["path"], f"{self.lake.uri(entry['path'])}/{entry['folder']}", entry["folder"], entry.get("files")),
                pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry["schema"]))),
                entry["digest"],
                entry["metadata"],
                entry.get("since"),
            )
            for entry in entries
        ]
        for write in writes:
            self._check_there(write)
        commits = [self._commit(write) for write in writes]
        self._remove()
        return [commit for commit in commits if not commit.skipped]

    def _check_there(self, write: Write) -> None:
        attempt = write.attempt
        if self.lake.committed(attempt.path, write.digest, write.since):
            return
        if self.lake.filesystem.get_file_info(self.lake.on_filesystem(attempt.uri)).type is not pafs.FileType.Directory:
            raise TableContractError(
                f"table {attempt.path}: {attempt.uri} is gone, which the journal {self._path} was to commit. Restore the folder, "
                "or delete the journal and run the command again. Nothing was committed."
            )

    def _commit(self, write: Write) -> Commit:
        path, digest = write.attempt.path, write.digest
        if done := self.lake.committed(path, digest, write.since):
            return done
        if self.lake.version(path) is not None:
            self.lake.add_columns(path, write.schema)
        found = self.lake.version(path)
        return self.lake.commit(write.attempt, write.schema, write.mode, digest=digest, read_version=found, metadata=write.metadata)

    def _save(self, text: str) -> None:
        """All of the file or none of it: a rename locally, one put on S3."""
        filesystem = self.lake.filesystem
        draft = self._path if self.lake.is_remote else f"{self._path}.draft"
        if not self.lake.is_remote:
            filesystem.create_dir(self._path.rsplit("/", 1)[0], recursive=True)
        with filesystem.open_output_stream(draft) as file:
            file.write(text.encode())
        if draft != self._path:
            filesystem.move(draft, self._path)

    def _remove(self) -> None:
        self.lake.filesystem.delete_file(self._path)
