"""The lake: the one door to Delta tables, local or on S3, without any extra jar.

Writers put Parquet files into a fresh attempt folder inside the table and `commit` makes them visible in one atomic Delta
transaction; a crashed attempt leaves nothing that a reader could see. delta-rs checks almost nothing on this path, so `commit`
does: every file has the declared schema and a row count, required columns hold no null, an overwrite lands only on the version
that was read, and a rerun with the same input digest commits nothing.

The Delta version number is the lineage key of everything derived from a table.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, PostCommitHookProperties, create_table_with_add_actions

from infra.errors import TableConflictError, TableContractError
from infra.home import Home
from infra.settings import Settings

Mode = Literal["append", "overwrite"]

_FOREIGN_FEATURES = {"deletionVectors": "deletion vectors", "columnMapping": "column mapping"}
DIGEST = "shopgraph.digest"
MODE = "shopgraph.mode"
NUM_ROWS = "shopgraph.num_rows"
RESTORED = "shopgraph.restored"
"""Of a commit of mode `restore`: the version it went back to, as JSON; null: to before the first."""
KEPT = "shopgraph.kept"
"""Of a commit of mode `restore`: versions after `RESTORED` whose appended rows stayed, a JSON list."""
ROWS_OF = "shopgraph.rows_of"
"""Of a commit of mode `restore` or `compact`: the version before it that holds exactly its rows."""
PINS = "shopgraph.pins"
"""Kept with every commit of code that pins what a model is trained on; a version without it may have holders that nobody noted."""
_STATS_TYPES = (pa.types.is_timestamp, pa.types.is_date)
_VERSION = re.compile(r"(?P<table>.+)/_delta_log/\d{20}\.(?:json|checkpoint.*\.parquet)")
"""Path of what tells a table's version in its log: a commit or a checkpoint."""
_ATTEMPT = re.compile(r"\d{13}-[0-9a-f]{8}")
_KEPT_LOG = {"delta.enableExpiredLogCleanup": "false"}
"""Delta drops the log of versions older than 30 days by default; the log is our lineage. This tells other writers of a table."""


@dataclass(frozen=True)
class Commit:
    """What one commit did. `skipped`: the same input digest was committed before, nothing was written."""

    path: str
    version: int
    num_rows: int
    skipped: bool = False


@dataclass(frozen=True)
class Attempt:
    """A fresh folder inside a table where one writer puts its Parquet files before the commit.

    `files` are the names below the folder that count; None: all. Where tasks are tried again, others are leavings.
    """

    path: str
    uri: str
    folder: str
    files: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Lake:
    """All tables of one shop. `path` below is a table's path such as `raw/orders` or `features/daily_demand`."""

    root: str
    shop: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_shared: bool = False
    """Whether it lies outside the home, where other homes may write to it whose locks are not ours."""

    @classmethod
    def open(cls, settings: Settings, shop: str | None = None) -> Lake:
        """The lake that the settings name, for one shop (default: the settings' own)."""
        root = Home(settings).lake_root.rstrip("/")
        return cls(root, shop or settings.shop, storage_options(settings), is_shared=bool(settings.lake_root))

    # -- where things lie ---------------------------------------------------------------------------------------------------

    @property
    def is_remote(self) -> bool:
        """Whether the tables lie on S3; else in a folder of this machine."""
        return self.root.startswith("s3://")

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The Arrow file system the lake lies on; paths on it come from `on_filesystem`."""
        return filesystem(self.storage_options) if self.is_remote else pafs.LocalFileSystem()

    def on_filesystem(self, uri: str) -> str:
        """`uri` as the path that `filesystem` takes."""
        return uri.removeprefix("s3://").removeprefix("file://")

    def uri(self, path: str) -> str:
        """Address of a table, `s3://...` or a local path. It is only put together: the table need not exist."""
        return f"{self.root}/{self.shop}/{path}"

    def tables(self) -> list[str]:
        """Paths of all tables of the shop that have at least one version."""
        base = self.on_filesystem(f"{self.root}/{self.shop}")
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
        names = (info.path.removeprefix(base.rstrip("/") + "/") for info in self.filesystem.get_file_info(selector))
        return sorted({found["table"] for name in names if (found := _VERSION.fullmatch(name))})

    # -- reading ------------------------------------------------------------------------------------------------------------

    def version(self, path: str) -> int | None:
        """Newest version of the table, None if it does not exist."""
        table = self._find(path)
        return table.version() if table else None

    def table(self, path: str, version: int | None = None) -> DeltaTable:
        """The delta-rs table itself.

        Raises:
            TableContractError: the table or that version does not exist.
        """
        try:
            return DeltaTable(self.uri(path), version=version, storage_options=dict(self.storage_options))
        except TableNotFoundError:
            raise TableContractError(f"table {path} of shop {self.shop} does not exist; build or ingest it first.") from None
        except DeltaError as error:
            raise TableContractError(f"table {path} of shop {self.shop} has no version {version}: {error}") from None

    def dataset(self, path: str, version: int | None = None) -> ds.Dataset:
        """The rows of one version as an Arrow dataset; nothing is read yet.

        Raises:
            TableContractError: as `table` and `file_uris`.
        """
        table = self.table(path, version)
        return ds.dataset(
            [self.on_filesystem(uri) for uri in self.file_uris(path, version)],
            schema=pa.schema(table.schema().to_arrow()),
            format="parquet",
            filesystem=self.filesystem,
        )

    def read(
        self, path: str, version: int | None = None, columns: list[str] | None = None, filter: ds.Expression | None = None
    ) -> pa.Table:
        """The rows of one version (default: the newest) as an Arrow table, those of the oldest attempt first.

        Raises:
            TableContractError: as `table` and `file_uris`.
        """
        return self.dataset(path, version).to_table(columns=columns, filter=filter)

    def file_uris(self, path: str, version: int | None = None) -> list[str]:
        """Addresses of the Parquet files of one version, oldest attempt first.

        Raises:
            TableContractError: a foreign table whose files alone do not say its rows (deletion vectors, column mapping,
                partition values kept in the log), or a named version whose files were vacuumed.
        """
        table = self.table(path, version)
        refuse_foreign(table)
        # not table.file_uris(): it percent-encodes folders such as `中文 home`
        # delta-rs lists the newest commit first; an attempt's folder begins with its time
        uris = [f"{self.uri(path)}/{name}" for name in sorted(files_of(table))]
        if version is not None:
            found = self.filesystem.get_file_info([self.on_filesystem(uri) for uri in uris])
            if gone := sum(info.type is pafs.FileType.NotFound for info in found):
                raise TableContractError(
                    f"table {path} version {version} cannot be read: {gone} of its {len(uris)} files are gone, as after `shopgraph tables "
                    f"vacuum`; `shopgraph tables log {path}` lists the versions that can."
                )
        return uris

    def num_rows(self, path: str, version: int | None = None) -> int:
        """Rows of one version (default: the newest), from the counts in its log: no data file is opened.

        Raises:
            TableContractError: the table or that version does not exist.
        """
        return int(self.table(path, version).count())

    def history(self, path: str, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits of the table, newest first: version, time, operation, our metadata.

        Args:
            limit: only so many of them.

        Raises:
            TableContractError: the table does not exist.
        """
        return list(self.table(path).history(limit))

    def added_files(self, path: str, since: int | None, version: int) -> list[str] | None:
        """Addresses of the files with the rows that a version has beyond an earlier one, oldest attempt first.

        Args:
            since: the earlier version; None: before the first.

        Returns:
            None where a commit in between did more than add rows, or what it added cannot be told or read any more. A compaction
            did nothing, and neither did what was taken back.
        """
        if since is None:
            return self.file_uris(path, version)
        table = self.table(path)
        history = [entry for entry in table.history(table.version() - since + 1) if int(entry["version"]) <= version]
        if since not in {int(entry["version"]) for entry in reached(history)}:
            return None
        commits = {int(entry["version"]): entry.get(MODE) for entry in standing(history) if int(entry["version"]) > since}
        if set(commits.values()) - {"append"}:
            return None
        added: set[str] = set()
        for first, last in _runs(commits):
            added |= self.appended(path, first, last)
        uris = [f"{self.uri(path)}/{name}" for name in sorted(added)]
        found = self.filesystem.get_file_info([self.on_filesystem(uri) for uri in uris])
        return None if any(info.type is pafs.FileType.NotFound for info in found) else uris

    def appended(self, path: str, first: int, last: int | None = None) -> set[str]:
        """Names, below the table's folder, of the files that the versions `first` to `last` (default: the first alone) appended."""
        newest = first if last is None else last
        return files_of(self.table(path, newest)) - (files_of(self.table(path, first - 1)) if first else set())

    def newest(self, paths: Iterable[str], column: str = "event_timestamp") -> datetime | None:
        """The greatest value of a timestamp column over several tables, in UTC, from file statistics; None if they hold no row."""
        found: list[datetime] = []
        for path in paths:
            table = self._find(path)
            if table is None:
                continue
            actions = pa.table(table.get_add_actions(flatten=True))
            if f"max.{column}" in actions.column_names:
                found += [value for value in actions[f"max.{column}"].to_pylist() if value is not None]
        return max(value if value.tzinfo else value.replace(tzinfo=UTC) for value in found) if found else None

    # -- writing ------------------------------------------------------------------------------------------------------------

    def attempt(self, path: str) -> Attempt:
        """A fresh folder for one writer; its files are invisible until `commit`.

        The caller holds the lock of all writers of the table, so the attempts in it that no version names are of dead ones: they go.
        """
        if not self.is_shared:
            for dead in self._dead(path):
                shutil.rmtree(f"{self.uri(path)}/{dead}")
        folder = f"data/{int(time.time() * 1000):013d}-{uuid.uuid4().hex[:8]}"
        uri = f"{self.uri(path)}/{folder}"
        if not self.is_remote:
            Path(uri).mkdir(parents=True)
        return Attempt(path, uri, folder)

    def committed(self, path: str, digest: str, since: int | None = None) -> Commit | None:
        """The commit that already holds the result of `digest`, if a rerun would only repeat it.

        An append counts wherever it is in the history, unless a restore took it back; an overwrite only while it is the newest
        version.

        Args:
            since: a version up to which no append is of `digest`, so that only the history after it, and the newest version, is
                read; None: all of it.
        """
        table = self._find(path)
        if table is None:
            return None
        history = table.history(None if since is None else max(table.version() - since, 1))
        appended = (entry for entry in standing(history) if entry.get(MODE) == "append")
        for entry in (history[0], *appended):
            if entry.get(DIGEST) == digest:
                return Commit(path, int(entry["version"]), int(entry[NUM_ROWS]), skipped=True)
        return None

    def rows_of(self, path: str, version: int) -> int:
        """The version that first held exactly the rows of this one.

        It is what lineage names: a table that was compacted, or taken back to what it was, changes nothing that was computed from it.
        """
        return int(self.entry(path, version).get(ROWS_OF, version))

    def entry(self, path: str, version: int) -> Mapping[str, Any]:
        """What the log says of the commit that made one version; empty where that part of the log is gone.

        delta-rs numbers a history from the version that it opened, also where newer ones are there meanwhile; this does not.
        """
        commit = self.on_filesystem(f"{self.uri(path)}/_delta_log/{version:020}.json")
        try:
            with self.filesystem.open_input_file(commit) as file:
                actions = [json.loads(line) for line in file.read().splitlines()]
        except FileNotFoundError:
            return {}
        return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})

    def commit(
        self,
        attempt: Attempt,
        schema: pa.Schema,
        mode: Mode,
        *,
        digest: str,
        read_version: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Make the files of `attempt` a new version of their table, or change nothing.

        Args:
            schema: the declared schema; every file must have exactly these names and types.
            mode: `append` adds rows, `overwrite` replaces all rows.
            digest: what the rows were computed from (table versions, parameters, code); the same digest commits once.
            read_version: for `overwrite`, the version that was read, None: the table did not exist; for `append`, one up to which
                none is of `digest`, None: look through all.
            metadata: more to keep with the commit, such as the input table versions.

        Raises:
            TableContractError: a file disagrees with the schema, or the table has another schema (evolve it first).
            TableConflictError: somebody committed since `read_version`.
        """
        path = attempt.path
        done = self.committed(path, digest, read_version)
        if done:
            return done
        actions, num_rows = self._check_files(attempt, schema)
        properties = CommitProperties(
            custom_metadata={
                **{
                    key: value if isinstance(value, str) else json.dumps(value, default=str)
                    for key, value in (metadata or {}).items()
                },
                PINS: "1",
                DIGEST: digest,
                MODE: mode,
                NUM_ROWS: str(num_rows),
            },
            max_commit_retries=0 if mode == "overwrite" else 20,
        )
        delta_schema = Schema.from_arrow(schema)
        existing = self._find(path)
        found_version = existing.version() if existing else None
        if mode == "overwrite" and found_version != read_version:
            raise TableConflictError(
                f"table {path}: expected version {read_version}, found {found_version}; somebody committed meanwhile. Run again."
            )
        try:
            if existing is None:
                create_table_with_add_actions(
                    self.uri(path),
                    delta_schema,
                    actions,
                    mode="error",
                    configuration=_KEPT_LOG,
                    storage_options=dict(self.storage_options),
                    commit_properties=properties,
                )
                return Commit(path, 0, num_rows)
            self._check_schema(path, pa.schema(existing.schema().to_arrow()), schema)
            base = existing.version()
            existing.create_write_transaction(
                actions, mode, delta_schema, commit_properties=properties, post_commithook_properties=keep_log()
            )
        except (CommitFailedError, DeltaError) as error:
            if isinstance(error, CommitFailedError) or "already exists" in str(error).lower():
                raise TableConflictError(f"table {path}: another writer committed first ({error}); run again.") from None
            raise
        existing.update_incremental()
        after = existing.history(existing.version() - base)
        written = next(int(entry["version"]) for entry in after if entry.get(DIGEST) == digest)
        return Commit(path, written, num_rows)

    def check(self, attempt: Attempt, schema: pa.Schema) -> None:
        """Whether `add_columns` and then `commit` would take the files of `attempt`; nothing is changed.

        Raises:
            TableContractError: as `commit`.
        """
        self._check_files(attempt, schema)
        existing = self._find(attempt.path)
        found = pa.schema(existing.schema().to_arrow()) if existing else pa.schema([])
        # there and back, because Delta knows fewer types than Arrow
        added = pa.schema(Schema.from_arrow(pa.schema([f for f in schema if f.name not in found.names])).to_arrow())
        if existing:
            self._check_schema(attempt.path, pa.schema([*found, *added]), schema)

    def write(
        self,
        path: str,
        rows: pa.Table,
        mode: Mode,
        *,
        digest: str,
        read_version: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Commit an Arrow table that fits in memory; for large ones Spark fills an `attempt` itself.

        Raises:
            TableContractError, TableConflictError: as `commit`.
        """
        attempt = self.attempt(path)
        if rows.num_rows:
            pq.write_table(
                rows, f"{self.on_filesystem(attempt.uri)}/part-0.parquet", filesystem=self.filesystem, compression="zstd"
            )
        return self.commit(attempt, rows.schema, mode, digest=digest, read_version=read_version, metadata=metadata)

    def add_columns(self, path: str, schema: pa.Schema) -> list[str]:
        """The explicit evolution step: add to the table the columns of `schema` it lacks; old rows hold null there.

        Returns:
            Names of the added columns.

        Raises:
            TableContractError: the table does not exist.
        """
        table = self.table(path)
        known = {f.name for f in table.schema().fields}
        added = [f for f in schema if f.name not in known]
        if added:
            fields = Schema.from_arrow(pa.schema([f.with_nullable(True) for f in added])).fields
            noted = CommitProperties({PINS: "1"})
            table.alter.add_columns(list(fields), commit_properties=noted, post_commithook_properties=keep_log())
        return [f.name for f in added]

    def save(self, name: str, text: str) -> None:
        """Write a small file of the shop, such as `pins/model-demand-3.json`: all of it or none, a rename locally, one put on S3."""
        path = self.on_filesystem(self.uri(name))
        draft = path if self.is_remote else f"{path}.{uuid.uuid4().hex[:8]}.draft"
        if not self.is_remote:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.filesystem.open_output_stream(draft) as file:
            file.write(text.encode())
        if draft != path:
            self.filesystem.move(draft, path)

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> DeltaTable | None:
        try:
            return DeltaTable(self.uri(path), storage_options=dict(self.storage_options))
        except TableNotFoundError:
            return None

    def _dead(self, path: str) -> set[str]:
        """The folders of a local table with the files of attempts that no version names.

        Those before the newest attempt in the newest version were looked at when that one was made (where a clock was set back
        one may stay). So the log, all of which has to be read to tell, is read only after a writer died.
        """
        made = {f"data/{folder.name}" for folder in Path(self.uri(path), "data").glob("*") if _ATTEMPT.fullmatch(folder.name)}
        table = self._find(path)
        files = pa.table(table.get_add_actions())["path"].to_pylist() if table else []
        newest = max((_folder(file) for file in files), default="")
        late = {folder for folder in made if folder > newest}
        return late - self._named(path) if late else late

    def _named(self, path: str) -> set[str]:
        """The folders of a local table that its log names."""
        files: list[str] = []
        for commit in Path(self.uri(path), "_delta_log").glob("*.json"):
            for line in commit.read_text(encoding="utf-8").splitlines():
                # also what a commit removes: the log of the version that added it may be gone
                files += [action["path"] for kind, action in json.loads(line).items() if kind in ("add", "remove")]
        return {_folder(file) for file in files}

    def _check_schema(self, path: str, existing: pa.Schema, schema: pa.Schema) -> None:
        declared = {f.name: f.type for f in schema}
        found = {f.name: f.type for f in existing}
        if declared != found:
            differing = sorted(n for n in declared.keys() | found.keys() if declared.get(n) != found.get(n))
            told = "; ".join(
                f"{n}: table has {found.get(n, 'no such column')}, writer has {declared.get(n, 'no such column')}"
                for n in differing
            )
            raise TableContractError(f"table {path}: {told}. Evolve the table explicitly or restore its old declaration.")

    def _check_files(self, attempt: Attempt, schema: pa.Schema) -> tuple[list[AddAction], int]:
        """One AddAction per Parquet file of the attempt that counts, after holding each footer against the declared schema."""
        base = self.on_filesystem(attempt.uri)
        selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
        infos = [i for i in self.filesystem.get_file_info(selector) if i.is_file and i.base_name.endswith(".parquet")]
        expected = {f.name: f.type for f in schema}
        if attempt.files is not None:
            missing = set(attempt.files) - {i.base_name for i in infos}
            if missing:
                raise TableContractError(
                    f"table {attempt.path}: {', '.join(sorted(missing))} of {attempt.uri} is gone. Nothing was committed."
                )
            infos = [i for i in infos if i.base_name in attempt.files]
        actions, total = [], 0
        for info in sorted(infos, key=lambda i: i.path):
            with self.filesystem.open_input_file(info.path) as file:
                footer = pq.ParquetFile(file)
                found = {f.name: f.type for f in footer.schema_arrow}
                try:
                    statistics = statistics_of(footer.metadata, schema)
                except OverflowError:  # no Python time holds it
                    raise TableContractError(
                        f"table {attempt.path}: {info.base_name} holds a time outside the years 1 to 9999. Nothing was committed."
                    ) from None
            if found != expected:
                differing = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
                told = "; ".join(
                    f"{n}: expected {expected.get(n, 'no such column')}, got {found.get(n, 'no such column')}" for n in differing
                )
                raise TableContractError(f"table {attempt.path}: {told}. Nothing was committed.")
            holes = [f.name for f in schema if not f.nullable and statistics["nullCount"].get(f.name)]
            if holes:
                raise TableContractError(
                    f"table {attempt.path}: required column(s) {', '.join(holes)} hold null. Nothing was committed."
                )
            if not statistics["numRecords"]:
                continue
            total += statistics["numRecords"]
            actions.append(add_action(f"{attempt.folder}/{info.path.removeprefix(base).lstrip('/')}", info.size, statistics))
        return actions, total


def standing(history: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The commits of rows in a history, newest first, but for those that a restore took back; no restores, no compactions."""
    for entry, _ in _walk(history):
        if entry.get(MODE, entry.get("operation")) in ("append", "overwrite", "WRITE"):
            yield entry


def reached(history: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The versions of a history, newest first, but for those that a restore took back."""
    return (entry for entry, is_state in _walk(history) if is_state)


def _walk(history: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """What leads to the newest version: each commit, and whether its version is a state on the way; else only its rows are kept."""
    above, kept = None, set[int]()
    for entry in history:
        version = int(entry["version"])
        is_state = above is None or version <= above
        if is_state or version in kept:
            yield entry, is_state
        if is_state and entry.get(MODE) == "restore":
            restored = json.loads(entry[RESTORED])
            above = -1 if restored is None else restored
            kept |= set(json.loads(entry[KEPT]))


def _runs(versions: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each stretch without a gap: to open a version reads the log up to it, and a day has thousands of appends."""
    runs: list[tuple[int, int]] = []
    for version in sorted(versions):
        first = runs.pop()[0] if runs and runs[-1][1] == version - 1 else version
        runs.append((first, version))
    return runs


def files_of(table: DeltaTable) -> set[str]:
    """Names of the table's files, below its folder, as they lie on disk."""
    return {unquote(name) for name in pa.table(table.get_add_actions())["path"].to_pylist()}


def add_action(name: str, size: int, statistics: Mapping[str, Any], data_change: bool = True) -> AddAction:
    """What makes a file of that name, below the table's folder, part of a version."""
    return AddAction(name, size, {}, int(time.time() * 1000), data_change, json.dumps(statistics))


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def keep_log() -> PostCommitHookProperties:
    """What keeps a commit of ours from dropping the log, also of a table that was made without `_KEPT_LOG`."""
    return PostCommitHookProperties(cleanup_expired_logs=False)


def digest_of(*parts: Any) -> str:
    """SHA-256, in hex, of what a result was computed from; order of dict keys irrelevant, what JSON cannot hold counts as its text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def refuse_foreign(table: DeltaTable) -> None:
    """Refuse, by name, a table of somebody else whose rows cannot be told from its files alone.

    Raises:
        TableContractError: deletion vectors, column mapping, or partition values that only the log holds.
    """
    features = set(table.protocol().reader_features or [])
    named = [words for feature, words in _FOREIGN_FEATURES.items() if feature in features]
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none" and "column mapping" not in named:
        named.append("column mapping")
    if table.metadata().partition_columns:
        named.append("partition columns")
    if named:
        raise TableContractError(
            f"Delta table {table.table_uri} uses {' and '.join(named)}, which cannot be read file by file; "
            "rewrite it without (for example with `INSERT INTO` a plain copy), then read that."
        )


@dataclass(frozen=True)
class ForeignTable:
    """One version of a Delta table that somebody else writes.

    `fragments` are its files by name, where the rows are the files' rows (partition values are filled in). It is None where
    they are not (deletion vectors, column mapping); then only delta-rs's own `scan` knows the rows.
    """

    version: int
    schema: pa.Schema
    fragments: dict[str, ds.Fragment] | None
    scan: Callable[[], pa.RecordBatchReader]


def foreign_table(uri: str, options: Mapping[str, str] | None = None, version: int | None = None) -> ForeignTable:
    """A version of the Delta table at `uri`, the newest where none is named; nothing is read yet.

    Raises:
        TableContractError: there is no Delta table or no such version, or one that delta-rs cannot read.
    """
    try:
        table = DeltaTable(uri, version, storage_options=dict(options or {}))
        features = set(table.protocol().reader_features or [])
        mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        fragments = None
        if not mapped and not features & _FOREIGN_FEATURES.keys():
            fragments = {fragment.path: fragment for fragment in table.to_pyarrow_dataset().get_fragments()}
        return ForeignTable(
            table.version(),
            pa.schema(table.schema().to_arrow()),
            fragments,
            lambda: pa.RecordBatchReader.from_stream(table.scan()),
        )
    except TableNotFoundError:
        raise TableContractError(f"no Delta table at {uri}: there is no _delta_log folder; check the path.") from None
    except DeltaError as error:
        raise TableContractError(f"Delta table {uri} cannot be read: {error}") from None


def storage_options(settings: Settings) -> dict[str, str]:
    """What delta-rs needs to reach S3, from the settings; empty for a local lake."""
    return s3_options(settings) if Home(settings).lake_root.startswith("s3://") else {}


def s3_options(settings: Settings) -> dict[str, str]:
    """What delta-rs needs to reach the S3 of the settings, wherever the lake lies."""
    options = {"AWS_REGION": settings.s3_region}
    if settings.s3_endpoint:
        options["AWS_ENDPOINT_URL"] = settings.s3_endpoint
        options["AWS_ALLOW_HTTP"] = str(settings.s3_endpoint.startswith("http://")).lower()
    if settings.s3_access_key_id and settings.s3_secret_access_key:
        options["AWS_ACCESS_KEY_ID"] = settings.s3_access_key_id.get_secret_value()
        options["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_access_key.get_secret_value()
    return options


def filesystem(options: Mapping[str, str]) -> pafs.FileSystem:
    """The Arrow S3 file system for the same options; used by Spark tasks too."""
    return pafs.S3FileSystem(
        region=options.get("AWS_REGION"),
        endpoint_override=options.get("AWS_ENDPOINT_URL"),
        access_key=options.get("AWS_ACCESS_KEY_ID"),
        secret_key=options.get("AWS_SECRET_ACCESS_KEY"),
        allow_bucket_creation=False,
    )


def statistics_of(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, Any]:
    """Delta statistics of one file: row count, nulls per column, and the range of times (what `newest` and pruning need)."""
    nulls: dict[str, int] = {}
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    names = {f.name: f.type for f in schema}
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            name, statistics = column.path_in_schema, column.statistics
            if name not in names or statistics is None:
                continue
            if statistics.has_null_count:
                nulls[name] = nulls.get(name, 0) + statistics.null_count
            if statistics.has_min_max and any(is_type(names[name]) for is_type in _STATS_TYPES):
                low[name] = min(low.get(name, statistics.min), statistics.min)
                high[name] = max(high.get(name, statistics.max), statistics.max)
    return {
        "numRecords": metadata.num_rows,
        "minValues": {name: _delta_time(value) for name, value in low.items()},
        "maxValues": {name: _delta_time(value) for name, value in high.items()},
        "nullCount": nulls,
    }


def _delta_time(value: datetime | date) -> str:
    """A time as Delta statistics hold it: microseconds, UTC."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    return value.isoformat()
