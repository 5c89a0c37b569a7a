"""Backup and restore of a home: one archive that answers the same requests after it is restored elsewhere.

SQLite files are copied through SQLite's own online backup, so a backup may run beside writers; Delta tables are immutable files plus
their log, and the log is read first, so every version in the archive is whole.
"""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from infra.errors import HomeError, SettingsError
from infra.home import FORMAT, Home

_LEFT_OUT = ("cache", "logs")
"""Folders a restored home makes again."""
_SECRETS = ("pseudonym.key",)
"""What is kept of `run/`: keys that old answers depend on; pids, sockets and tokens belong to the running home."""
_SQLITE_MAGIC = b"SQLite format 3\0"
_MANIFEST = "shopgraph-backup"


def backup(home: Home, archive: Path) -> int:
    """Write the home into `archive` (a gzipped tar, readable by its owner only); its size in bytes.

    Raises:
        HomeError: there is no home, or the archive cannot be written.
        SettingsError: some of the state lies outside the home, so a backup would not hold them.
    """
    if not (home.path / "format").exists():
        raise HomeError(f"there is no home at {home.path}; nothing to back up.")
    elsewhere = ("lake_root", "artifact_root", "mlflow_uri", "mlflow_backend", "feast_registry", "releases_db", "online_store")
    outside = [name for name in elsewhere if getattr(home.settings, name)]
    if outside:
        raise SettingsError(f"{', '.join(outside)} lie outside the home: back those up with their own tools, or unset them.")
    archive = archive.expanduser().resolve()
    if archive.is_relative_to(home.path):
        raise HomeError(f"{archive} lies inside the home; choose a place outside it.")
    draft = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
            _add_bytes(tar, _MANIFEST, f"{FORMAT}\n".encode())
            for path in _files(home.path):
                _add(tar, path, str(path.relative_to(home.path)))
        draft.replace(archive)
    except OSError as error:
        raise HomeError(f"backup {archive} cannot be written ({error.strerror}).") from None
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
            tarfile.open(archive, "r:gz") as tar,
            tempfile.TemporaryDirectory(dir=home.path.parent, prefix=f".{home.path.name}-") as draft,
        ):
            first = tar.next()
            manifest = tar.extractfile(first) if first is not None and first.name == _MANIFEST else None
            if manifest is None or manifest.read().strip() != str(FORMAT).encode():
                raise HomeError(f"{archive} is not a backup of format {FORMAT}.")
            target = Path(draft) / "home"
            target.mkdir(mode=0o700)
            count = 0
            for member in tar:
                tar.extract(member, target, filter="data")
                count += 1
            if home.path.exists():
                home.path.rmdir()
            target.rename(home.path)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise HomeError(f"{archive} cannot be restored: {error}") from None
    home.create()
    return count


def _files(root: Path) -> Iterator[Path]:
    """Every file of the backup, Delta logs before the data they name."""
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and path.relative_to(root).parts[0] not in _LEFT_OUT
        and not _is_transient(path, root)
    ]
    yield from sorted(found, key=lambda path: "_delta_log" not in path.parts)


def _is_transient(path: Path, root: Path) -> bool:
    inside_run = path.relative_to(root).parts[0] == "run"
    return (inside_run and path.name not in _SECRETS) or path.name.endswith(("-wal", "-shm", "-journal"))


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            is_sqlite = file.read(16) == _SQLITE_MAGIC
        if not is_sqlite:
            tar.add(path, name, recursive=False)
            return
        with tempfile.NamedTemporaryFile() as copy:
            with (
                closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy.name)) as target,
            ):
                source.backup(target)
            tar.add(copy.name, name, recursive=False)
    except FileNotFoundError:  # a writer's draft, gone meanwhile
        return


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
