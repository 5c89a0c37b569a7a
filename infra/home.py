"""The home folder: where each thing lies, its format version, and locks between our own processes.

<home>/format            format version of this folder
<home>/shops/<shop>/     the shop's project folder: shop.yaml, features/, recipes/, rules/, readers/
<home>/lake/<shop>/      Delta tables, raw/ and features/
<home>/sql/              SQLite files: mlflow.db, registry.db (Feast), releases.db, searches.db
<home>/spool/            what a running shop told, one file per shop, until it is in the tables and some days longer
<home>/streams/          how far each streamed source was read
<home>/online/           embedded online store, log of reads
<home>/artifacts/        MLflow artifacts
<home>/rules/            texts of shops' own rules that a graph version pins, by digest
<home>/run/              pids, sockets, tokens, locks
<home>/logs/             what our servers print
<home>/cache/            what can be made again: files of registered models, lists that a killed `recommend --all` had scored
<home>/reports/<shop>/   pages for people, such as quality.html
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import HomeError, SettingsError
from infra.settings import Settings

FORMAT = 1

_MOMENT_S = 2.0
"""How long a lock is waited for: the drain of a running gateway holds that of the raw tables for a moment every few seconds."""


class Home:
    """Paths under one home folder. Making the object touches nothing; `create()` does."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = settings.home_path

    @property
    def shops(self) -> Path:
        return self.path / "shops"

    def shop(self, name: str | None = None) -> Path:
        """Project folder of a shop; default: the one the settings name."""
        return self.shops / (name or self.settings.shop)

    @property
    def sql(self) -> Path:
        """Folder of the SQLite files."""
        return self.path / "sql"

    @property
    def online(self) -> Path:
        """Folder of the embedded online stores, one file per shop."""
        return self.path / "online"

    @property
    def spool(self) -> Path:
        """Folder of the spools, one file per shop."""
        return self.path / "spool"

    def model_folder(self, name: str, version: int, digest: str) -> Path:
        """Where this machine keeps the files of a registered model version; the digest is part of the name."""
        return self.path / "cache" / "models" / name / f"{version}-{digest[:12]}"

    def rule_file(self, digest: str) -> Path:
        """Where the text of a shop's own rule is kept, by its digest."""
        return self.path / "rules" / f"{digest}.py"

    @property
    def run(self) -> Path:
        """Folder of pids, sockets, secrets and locks; `create` opens it to the owner only."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def reports(self) -> Path:
        """Folder of the pages that are written for people, one folder per shop."""
        return self.path / "reports"

    @property
    def lake_root(self) -> str:
        """Folder or `s3://` address under which every shop has its tables."""
        return self.settings.lake_root or str(self.path / "lake")

    @property
    def artifact_root(self) -> str:
        """Folder or `s3://` address where MLflow keeps artifacts."""
        return self.settings.artifact_root or str(self.path / "artifacts")

    def create(self) -> Home:
        """Make the folder if it is missing and check its format version.

        Raises:
            HomeError: it cannot be written, or was made by another format version.
        """
        marker = self.path / "format"
        try:
            for folder in (self.shops, self.sql, self.spool, self.online, self.run, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            self.run.chmod(0o700)
            if not marker.exists():
                temporary = marker.with_suffix(f".{os.getpid()}")
                temporary.write_text(f"{FORMAT}\n")
                temporary.replace(marker)
        except OSError as error:
            raise HomeError(
                f"home folder {self.path} cannot be written ({error.strerror}); choose another with SHOPGRAPH_HOME."
            ) from None
        found = marker.read_text().strip()
        if found != str(FORMAT):
            raise HomeError(f"home folder {self.path} has format {found}, this version reads {FORMAT}; run `shopgraph upgrade`.")
        return self

    def upgrade(self) -> str:
        """Bring the folder to this version's format; what was done, in words.

        Raises:
            HomeError: it was made by a newer version, or by no version that we know.
        """
        marker = self.path / "format"
        if not marker.exists():
            self.create()
            return "made new"
        found = marker.read_text().strip()
        if found == str(FORMAT):
            return "nothing to do"
        if found.isdigit() and int(found) > FORMAT:
            raise HomeError(
                f"home folder {self.path} has format {found}, newer than this version's {FORMAT}; install a newer shopgraph."
            )
        raise HomeError(f"home folder {self.path} has format {found!r}, which no version of shopgraph wrote; restore a backup.")

    def secret(self, name: str) -> str:
        """A random secret kept under the home for embedded use, made on first use, readable by the owner only."""
        path = self.run / name
        if not path.exists():
            self.run.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):  # another process was first: its secret stands
                os.link(draft, path)
            draft.unlink()
        return path.read_text()

    def pseudonym(self, user_id: str) -> str:
        """The keyed hash that stands for a user outside the lake (HMAC-SHA256, 16 hex digits)."""
        key = self.settings.pseudonym_key
        raw = key.get_secret_value() if key else self.secret("pseudonym.key")
        return hmac.new(raw.encode(), user_id.encode(), hashlib.sha256).hexdigest()[:16]

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a named lock between processes of this home; it dies with its holder. One that is held for a moment is waited for.

        Raises:
            HomeError: another process holds it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _MOMENT_S
        with (self.run / f"{name}.lock").open("a+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() < deadline:
                        time.sleep(0.02)
                        continue
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    raise HomeError(
                        f"`{name}` is already running in this home (process {holder}); wait for it, then run again."
                    ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def check_shop_name(name: str) -> str:
    """`name`, if it can be a namespace of tables, experiments and keys.

    Raises:
        SettingsError: it is something else than lower-case letters, digits and underscores.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
        raise SettingsError(f"shop name {name!r}: expected lower-case letters, digits and underscores, beginning with a letter.")
    return name
