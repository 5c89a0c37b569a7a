"""Backup and restore of a home: one archive that answers the same requests after it is restored elsewhere.

A backup may run beside writers and stops none. SQLite files are copied through SQLite's own online backup; Delta tables are immutable
files plus their logs, of which all are taken at one instant, with the journal of writes that were half done then. The databases are
copied first, then the logs, and only then is all else listed: what a record names is in the archive.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path, PurePath

from infra.errors import HomeError, SettingsError
from infra.home import FORMAT, Home
from infra.journal import SUFFIX
from infra.settings import Settings
from infra.sqlite import BASES, kept

_LEFT_OUT = ("cache", "logs", "feast")
"""Folders a restored home makes again; the files of `feast`, which name the home they are of, with `features apply`."""
_SECRETS = ("pseudonym.key",)
"""What is kept of `run/`: keys that old answers depend on; pids, sockets and tokens belong to the running home."""
_SQLITE_MAGIC = b"SQLite format 3\0"
_MANIFEST = "shopgraph-backup"
_MANIFEST_LIMIT = 1 << 20
"""Bytes of a manifest that are read: an archive of others may name any size."""
_VERSION = re.compile(r"\d{20}\.")
"""How the names of a log's commits and checkpoints begin, which are never written twice."""
_STILL_S = 60.0
"""How long a backup waits for an instant at which no table changes; a commit of all tables takes seconds."""


def backup(home: Home, archive: Path) -> int:
    """Write the home into `archive` (a gzipped tar, readable by its owner only); its size in bytes.

    Raises:
        HomeError: there is no home, the archive cannot be written, or tables never stand still.
        SettingsError: some of the state lies outside the home, or behind a link, so a backup would not hold it.
    """
    if not (home.path / "format").exists():
        raise HomeError(f"there is no home at {home.path}; nothing to back up.")
    elsewhere = ("lake_root", "artifact_root", "mlflow_uri", "mlflow_backend", "feast_registry", "releases_db", "online_store")
    outside = [name for name in elsewhere if getattr(home.settings, name)]
    if outside:
        raise SettingsError(f"{', '.join(outside)} lie outside the home: back those up with their own tools, or unset them.")
    if links := _links(home.path):
        raise SettingsError(f"{', '.join(links[:5])}: a backup follows no links; put what they lead to in their place.")
    archive = archive.expanduser().resolve()
    if archive.is_relative_to(home.path):
        raise HomeError(f"{archive} lies inside the home; choose a place outside it.")
    draft = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, dereference=True) as tar,
            ExitStack() as held,
        ):
            _add_bytes(tar, _MANIFEST, f"{FORMAT}\n".encode())
            for folder in home.online.glob(f"*{BASES}"):
                held.enter_context(kept(folder))
            for path in _files(home.path):
                if not _is_record(path) and _is_database(path):
                    _add_database(tar, home, path)
            for path, content in _records(home).items():
                if content is None:
                    _add(tar, home, path)
                else:
                    _add_bytes(tar, str(path.relative_to(home.path)), content)
            for path in _files(home.path):
                if not _is_record(path) and not _is_database(path):
                    _add(tar, home, path)
        draft.replace(archive)
    except OSError as error:
        raise HomeError(f"backup {archive} cannot be written ({error.strerror}).") from None
    except sqlite3.Error as error:
        raise HomeError(f"backup {archive} cannot be written: a database of the home cannot be copied ({error}).") from None
    finally:
        draft.unlink(missing_ok=True)
    return archive.stat().st_size


def restore(home: Home, archive: Path) -> int:
    """Unpack a backup into an empty home; the number of files. Nothing is visible before all of it is there.

    Raises:
        HomeError: the home is not empty, or the archive is none of ours, broken or of another format.
    """
    if home.path.exists() and any(home.path.iterdir()):
        raise HomeError(
            f"home {home.path} is not empty; choose an empty one with SHOPGRAPH_HOME, or `shopgraph down --purge` first."
        )
    try:
        home.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            gzip.open(archive) as content,
            tarfile.open(fileobj=content, mode="r:") as tar,
            tempfile.TemporaryDirectory(dir=home.path.parent, prefix=f".{home.path.name}-") as draft,
        ):
            first = tar.next()
            ours = first is not None and first.name == _MANIFEST and first.isreg() and first.size <= _MANIFEST_LIMIT
            manifest = tar.extractfile(first) if first is not None and ours else None
            if manifest is None or manifest.read().strip() != str(FORMAT).encode():
                raise HomeError(f"{archive} is not a backup of format {FORMAT}.")
            target = Path(draft) / "home"
            target.mkdir(mode=0o700)
            count = 0
            for member in tar:
                if member.name == _MANIFEST or member.name.startswith("feast/"):  # also what earlier versions left in archives
                    continue
                if not member.isreg() or not _belongs(PurePath(member.name)):
                    raise HomeError(f"{archive} cannot be restored: {member.name} is no file of a backup.")
                tar.extract(member, target, filter="data")
                count += 1
            # tar stops at its end marker; gzip compares its checksum only at the end of the file
            while content.read(1 << 20):
                pass
            _check(target, archive)
            if home.path.exists():
                home.path.rmdir()
            target.rename(home.path)
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
        # a name with a NUL is a ValueError, a time that no clock holds is one or the other
        raise HomeError(f"{archive} cannot be restored: {error}") from None
    return count


def _check(target: Path, archive: Path) -> None:
    """Make what a backup leaves out, and refuse what is no home, while it still lies aside."""
    try:
        Home(Settings.load(home=target)).create()
    except HomeError:  # its words name a folder that is about to go
        raise HomeError(f"{archive} cannot be restored: it holds no home of format {FORMAT}.") from None


def _links(root: Path) -> list[str]:
    """The links below the home in places that a backup holds; `run` counts, for a secret lies in it."""
    names = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_symlink())
    return [str(name) for name in names if _belongs(name) or name == Path("run")]


def _files(root: Path) -> Iterator[Path]:
    """The files of the backup, as they are now."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and _belongs(path.relative_to(root)):
            yield path


def _belongs(name: PurePath) -> bool:
    """Whether a backup holds the file of this name below the home."""
    if not name.parts or name.is_absolute() or ".." in name.parts or name.parts[0] in _LEFT_OUT:
        return False
    return (name.parts[0] != "run" or name.name in _SECRETS) and not name.name.endswith(("-wal", "-shm", "-journal"))


def _is_record(path: Path) -> bool:
    """Whether the file belongs to the log of a table or is the journal of writes to several."""
    return path.parent.name == "_delta_log" or path.name.endswith(SUFFIX)


def _is_database(path: Path) -> bool:
    """Whether the file is copied through SQLite; those that do not change once another names them are not."""
    if path.parent.suffix == BASES:
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except FileNotFoundError:  # a writer's draft, gone meanwhile
        return False


def _records(home: Home) -> dict[Path, bytes | None]:
    """The logs of all tables and the journals as they stood at one instant; with their content, but for what never changes.

    Logs only grow, and a journal is there while only some of its writes are in them: nothing lies between two readings that are
    the same.

    Raises:
        HomeError: tables never stand still.
    """
    deadline = time.monotonic() + _STILL_S
    before = None
    while (found := _read_records(home.path)) != before:
        if time.monotonic() > deadline:
            raise HomeError(f"the tables of {home.path} have not stood still for {_STILL_S:.0f} s; run the backup again later.")
        before = found
    return found


def _read_records(root: Path) -> dict[Path, bytes | None]:
    found: dict[Path, bytes | None] = {}
    for path in filter(_is_record, _files(root)):
        with suppress(FileNotFoundError):
            found[path] = None if _VERSION.match(path.name) else path.read_bytes()
    return found


def _add(tar: tarfile.TarFile, home: Home, path: Path) -> None:
    with suppress(FileNotFoundError):  # a writer's draft, gone meanwhile
        tar.add(path, str(path.relative_to(home.path)), recursive=False)


def _add_database(tar: tarfile.TarFile, home: Home, path: Path) -> None:
    with tempfile.NamedTemporaryFile() as copy:
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy.name)) as target,
        ):
            source.backup(target)
        tar.add(copy.name, str(path.relative_to(home.path)), recursive=False)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
