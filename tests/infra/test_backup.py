"""A backup holds everything a request needs and nothing of the running machine; a restore is all or nothing."""

from __future__ import annotations

import sqlite3
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from infra.backup import backup, restore
from infra.errors import HomeError, SettingsError
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings

ROWS = pa.table({"item_id": ["a", "b"], "quantity": [1, 2]})


@pytest.fixture
def filled(settings: Settings) -> Home:
    """A home with a table, an SQLite file whose rows still lie in the write-ahead log, a secret and a pid file."""
    home = Home(settings)
    Lake.open(settings).write("raw/orders", ROWS, "append", digest="1")
    home.secret("pseudonym.key")
    (home.run / "ray.json").write_text("{}")
    (home.logs / "ray.log").write_text("words")
    return home


def elsewhere(tmp_path: Path) -> Home:
    return Home(Settings.load(home=tmp_path / "中文 home"))


def test_a_restored_home_has_the_same_rows_keys_and_pseudonyms(filled: Home, tmp_path: Path) -> None:
    with closing(sqlite3.connect(filled.sql / "mlflow.db")) as writer:
        writer.execute("pragma journal_mode=wal")
        writer.execute("create table runs (id text)")
        writer.execute("insert into runs values ('r1')")
        writer.commit()
        backup(filled, tmp_path / "b.tar.gz")  # the row is only in the log yet
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    assert Lake.open(other.settings).read("raw/orders").equals(ROWS)
    assert other.pseudonym("u1") == filled.pseudonym("u1")
    with closing(sqlite3.connect(other.sql / "mlflow.db")) as reader:
        assert reader.execute("select id from runs").fetchall() == [("r1",)]
    assert not (other.run / "ray.json").exists()


def test_the_archive_is_private_and_leaves_logs_out(filled: Home, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.gz"
    backup(filled, archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if name.startswith(("logs", "cache"))]


def test_a_full_home_is_not_overwritten(filled: Home, tmp_path: Path) -> None:
    backup(filled, tmp_path / "b.tar.gz")
    with pytest.raises(HomeError, match="not empty"):
        restore(filled, tmp_path / "b.tar.gz")


@pytest.mark.parametrize("damage", ["cut", "foreign", "missing"])
def test_a_broken_archive_leaves_no_home(filled: Home, tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "b.tar.gz"
    backup(filled, archive)
    if damage == "cut":
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    elif damage == "foreign":
        archive.write_bytes(b"not a tar")
    else:
        archive.unlink()
    other = elsewhere(tmp_path)
    with pytest.raises(HomeError):
        restore(other, archive)
    assert not other.path.exists()


def test_no_home_and_an_archive_inside_it_are_refused(filled: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="no home"):
        backup(elsewhere(tmp_path), tmp_path / "b.tar.gz")
    with pytest.raises(HomeError, match="inside the home"):
        backup(filled, filled.path / "b.tar.gz")


def test_state_outside_the_home_is_named(tmp_path: Path) -> None:
    home = Home(Settings.load(home=tmp_path / "home", lake_root="s3://bucket/lake")).create()
    with pytest.raises(SettingsError, match="lake_root"):
        backup(home, tmp_path / "b.tar.gz")
