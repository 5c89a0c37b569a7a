"""A backup holds everything a request needs and nothing of the running machine; a restore is all or nothing."""

from __future__ import annotations

import io
import sqlite3
import stat
import tarfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.online.packing import key_texts, pack_rows
from features.online.read import read_columns
from features.online.rows import open_rows
from features.views import View
from infra import backup as backups
from infra.backup import backup, restore
from infra.errors import HomeError, SettingsError
from infra.home import Home
from infra.journal import Append, Journal, TakeBack
from infra.lake import Attempt, Commit, Lake
from infra.pins import pin, pins
from infra.settings import Settings

ROWS = pa.table({"item_id": ["a", "b"], "quantity": [1, 2]})

MANIFEST = (tarfile.TarInfo("shopgraph-backup"), b"1\n")


@pytest.fixture
def filled(settings: Settings) -> Home:
    """A home with a table, an SQLite file whose rows still lie in the write-ahead log, a secret and a pid file."""
    home = Home(settings)
    Lake.open(settings).write("raw/orders", ROWS, "append", digest="1")
    home.secret("pseudonym.key")
    (home.run / "ray.json").write_text("{}")
    (home.logs / "ray.log").write_text("words")
    (home.path / "feast").mkdir()
    (home.path / "feast" / "sample.yaml").write_text(f"home: {home.path}")
    return home


def elsewhere(tmp_path: Path) -> Home:
    return Home(Settings.load(home=tmp_path / "中文 home"))


def write(archive: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


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


def test_the_archive_is_private_and_leaves_out_logs_and_files_that_name_the_home(filled: Home, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.gz"
    backup(filled, archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if name.startswith(("logs", "cache", "feast"))]


def test_a_full_home_is_not_overwritten(filled: Home, tmp_path: Path) -> None:
    backup(filled, tmp_path / "b.tar.gz")
    with pytest.raises(HomeError, match="not empty"):
        restore(filled, tmp_path / "b.tar.gz")


@pytest.mark.parametrize("damage", ["cut", "checksum", "stream", "foreign", "missing"])
def test_a_broken_archive_leaves_no_home(filled: Home, tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "b.tar.gz"
    backup(filled, archive)
    if damage == "cut":
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    elif damage == "checksum":
        content = archive.read_bytes()
        archive.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    elif damage == "stream":
        content = archive.read_bytes()
        half = len(content) // 2
        archive.write_bytes(content[:half] + bytes(byte ^ 255 for byte in content[half : half + 16]) + content[half + 16 :])
    elif damage == "foreign":
        archive.write_bytes(b"not a tar")
    else:
        archive.unlink()
    other = elsewhere(tmp_path)
    with pytest.raises(HomeError):
        restore(other, archive)
    assert not other.path.exists()


@pytest.mark.parametrize("name", ["run/sockets", "./run/ray.json", "/run/sockets", "lake/../run/sockets", "cache/models/x", "."])
def test_an_archive_with_what_no_backup_writes_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "b.tar.gz"
    write(archive, MANIFEST, (tarfile.TarInfo(name), b"x"))
    other = elsewhere(tmp_path)
    with pytest.raises(HomeError, match="is no file of a backup"):
        restore(other, archive)
    assert not other.path.exists()


def test_what_a_log_or_a_database_names_is_in_the_archive(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that grows, and a run that ends, between the copies of the records and of the data."""
    lake = Lake.open(filled.settings)
    artifact = filled.path / "artifacts" / "r1"
    artifact.parent.mkdir()
    with closing(sqlite3.connect(filled.sql / "mlflow.db")) as writer:
        writer.execute("create table runs (id text)")
        writer.commit()
    real = tarfile.TarFile.add

    def add(self: tarfile.TarFile, name: Path | str, arcname: str, recursive: bool) -> None:
        if arcname == "sql/mlflow.db":
            lake.write("raw/orders", ROWS, "append", digest="2")
        if arcname.endswith("_delta_log/00000000000000000000.json"):
            artifact.write_text("weights")
        real(self, name, arcname, recursive)

    monkeypatch.setattr(tarfile.TarFile, "add", add)
    backup(filled, tmp_path / "b.tar.gz")
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    assert Lake.open(other.settings).read("raw/orders").equals(pa.concat_tables([ROWS, ROWS]))
    assert (other.path / "artifacts" / "r1").read_text() == "weights"


def test_online_rows_that_are_made_anew_meanwhile_are_whole_in_the_archive(
    filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: before the file that names them is copied, and after it."""
    view, then = (
        View("activity", "features/activity", (("user_id", "string"),), (("count", "int"),)),
        datetime(2024, 5, 1, tzinfo=UTC),
    )

    def rebuild(count: int) -> None:
        rows = pa.table([["u"], [count], [then], [then]], schema=view.schema)
        with open_rows(filled.settings, "sample").rebuild([view], then) as put:
            put(view, pack_rows(view, rows))

    rebuild(1)
    real_database, real_records = backups._add_database, backups._records

    def add_database(tar: tarfile.TarFile, home: Home, path: Path) -> None:
        if path.parent.name == "online":
            rebuild(2)
        real_database(tar, home, path)

    def records(home: Home) -> dict[Path, bytes | None]:
        rebuild(3)
        return real_records(home)

    monkeypatch.setattr(backups, "_add_database", add_database)
    monkeypatch.setattr(backups, "_records", records)
    backup(filled, tmp_path / "b.tar.gz")
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    for settings, count in ((other.settings, 2), (filled.settings, 3)):
        assert read_columns(open_rows(settings, "sample"), {view: key_texts([["u"]])})[view][1] == {"count": [count]}


def both(lake: Lake, digest: str) -> None:
    """What an ingest does: rows, and the record that they were read."""
    writes = []
    for path in ("raw/orders", "ingest/files"):
        attempt = lake.attempt(path)
        pq.write_table(ROWS, f"{attempt.uri}/part-0.parquet")
        writes.append(Append(attempt, ROWS.schema, digest))
    Journal(lake, "ingest").commit(writes)


def test_tables_that_belong_together_are_of_one_instant(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ingest commits while the logs are being listed, so that the list shows half of it, and one while they are copied."""
    lake = Lake.open(filled.settings)
    both(lake, "2")
    read, add = backups._read_records, tarfile.TarFile.add
    done: list[str] = []

    def list_half(root: Path) -> dict[Path, bytes | None]:
        found = read(root)
        if not done:
            done.append("3")
            both(lake, "3")
            found |= {path: content for path, content in read(root).items() if "orders" in path.parts}
        return found

    def add_late(self: tarfile.TarFile, name: Path | str, arcname: str, recursive: bool) -> None:
        if "_delta_log" in arcname and "4" not in done:
            done.append("4")
            both(lake, "4")
        add(self, name, arcname, recursive)

    monkeypatch.setattr(backups, "_read_records", list_half)
    monkeypatch.setattr(tarfile.TarFile, "add", add_late)
    backup(filled, tmp_path / "b.tar.gz")
    assert done == ["3", "4"]
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    there = Lake.open(other.settings)
    assert (there.version("raw/orders"), there.version("ingest/files")) == (2, 1)
    assert (there.num_rows("raw/orders"), there.num_rows("ingest/files")) == (3 * ROWS.num_rows, 2 * ROWS.num_rows)


def test_a_half_done_write_of_several_tables_is_finished_after_a_restore(
    filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(filled.settings)
    real = Lake.commit

    def die(self: Lake, attempt: Attempt, *rest: Any, **more: Any) -> Commit:
        if attempt.path == "ingest/files":
            raise KeyboardInterrupt
        return real(self, attempt, *rest, **more)

    add = tarfile.TarFile.add

    def finish(self: tarfile.TarFile, name: Path | str, arcname: str, recursive: bool) -> None:
        Journal(lake, "ingest").recover()  # the next ingest begins while the backup runs
        add(self, name, arcname, recursive)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            both(lake, "2")
    monkeypatch.setattr(tarfile.TarFile, "add", finish)
    backup(filled, tmp_path / "b.tar.gz")
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    there = Lake.open(other.settings)
    assert (there.version("raw/orders"), there.version("ingest/files")) == (1, None)
    assert [commit.path for commit in Journal(there, "ingest").recover()] == ["ingest/files"]
    assert there.num_rows("ingest/files") == ROWS.num_rows


def test_pins_and_an_undo_that_is_open_are_kept(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(filled.settings)
    lake.write("raw/orders", ROWS, "append", digest="2")
    pin(lake, "model", "sample.demand-1", {"raw/orders": 1})
    with monkeypatch.context() as patch:
        patch.setattr("infra.journal.restore", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Journal(lake, "ingest").commit([TakeBack("raw/orders", 0, (), "u", 1)])
    backup(filled, tmp_path / "a.tar.gz")
    target = elsewhere(tmp_path)
    restore(target, tmp_path / "a.tar.gz")
    restored = Lake.open(target.settings)
    assert pins(restored) == pins(lake)
    assert [commit.path for commit in Journal(restored, "ingest").recover()] == ["raw/orders"]
    assert restored.read("raw/orders").equals(ROWS)
    assert restored.read("raw/orders", 1).num_rows == 4


def test_tables_that_never_stand_still_are_told(filled: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, lake = backups._read_records, Lake.open(filled.settings)

    def restless(root: Path) -> dict[Path, bytes | None]:
        lake.write("raw/orders", ROWS, "append", digest=f"{time.monotonic_ns()}")
        return read(root)

    monkeypatch.setattr(backups, "_read_records", restless)
    monkeypatch.setattr(backups, "_STILL_S", 0.1)
    with pytest.raises(HomeError, match="have not stood still"):
        backup(filled, tmp_path / "b.tar.gz")
    assert not list(tmp_path.glob("*b.tar.gz*"))


def test_a_database_that_cannot_be_copied_is_told(filled: Home, tmp_path: Path) -> None:
    (filled.sql / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"x" * 4096)
    with pytest.raises(HomeError, match="a database of the home cannot be copied"):
        backup(filled, tmp_path / "b.tar.gz")
    assert not list(tmp_path.glob("*b.tar.gz*"))


def test_no_home_and_an_archive_inside_it_are_refused(filled: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="no home"):
        backup(elsewhere(tmp_path), tmp_path / "b.tar.gz")
    with pytest.raises(HomeError, match="inside the home"):
        backup(filled, filled.path / "b.tar.gz")


def test_state_outside_the_home_is_named(tmp_path: Path) -> None:
    home = Home(Settings.load(home=tmp_path / "home", lake_root="s3://bucket/lake")).create()
    with pytest.raises(SettingsError, match="lake_root"):
        backup(home, tmp_path / "b.tar.gz")


@pytest.mark.parametrize("folder", ["a#b", "a?mode=rwc", "a%20b"])
def test_a_home_with_the_signs_of_an_address_in_its_path_keeps_its_rows(tmp_path: Path, folder: str) -> None:
    home = Home(Settings.load(home=tmp_path / folder / "home")).create()
    with closing(sqlite3.connect(home.sql / "mlflow.db")) as writer:
        writer.execute("create table runs (id text)")
        writer.commit()
    backup(home, tmp_path / "b.tar.gz")
    other = elsewhere(tmp_path)
    restore(other, tmp_path / "b.tar.gz")
    with closing(sqlite3.connect(other.sql / "mlflow.db")) as reader:
        assert reader.execute("select name from sqlite_master").fetchall() == [("runs",)]


@pytest.mark.parametrize("name", ["lake", "lake/linked", "run", "run/pseudonym.key", "format"])
def test_a_link_in_the_place_of_state_is_named(filled: Home, tmp_path: Path, name: str) -> None:
    link, disk = filled.path / name, tmp_path / "disk"
    if link.exists():
        link.rename(disk)
    else:
        disk.mkdir()
    link.symlink_to(disk)
    with pytest.raises(SettingsError, match=f"^{name}: .*links"):
        backup(filled, tmp_path / "b.tar.gz")
    assert not list(tmp_path.glob("*b.tar.gz*"))


@pytest.mark.parametrize("name", ["cache", "logs/newest", "run/newest"])
def test_a_link_in_a_place_that_is_left_out_is_no_matter(filled: Home, tmp_path: Path, name: str) -> None:
    (filled.path / name).symlink_to(tmp_path)
    assert backup(filled, tmp_path / "b.tar.gz")


@pytest.mark.parametrize("headers", [{"mtime": "1e30"}, {"mtime": "nan"}, {"path": "lake/a\0b"}], ids=["far", "nan", "nul"])
def test_an_archive_with_a_header_that_no_system_takes_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    member = tarfile.TarInfo("lake/x")
    member.pax_headers = headers
    write(tmp_path / "b.tar.gz", MANIFEST, (member, b"x"))
    other = elsewhere(tmp_path)
    with pytest.raises(HomeError, match="cannot be restored"):
        restore(other, tmp_path / "b.tar.gz")
    assert list(tmp_path.iterdir()) == [tmp_path / "b.tar.gz"]


@pytest.mark.parametrize(("name", "content"), [("format", b"2\n"), ("format", b"\xff"), ("format/x", b"1\n"), ("shops", b"x")])
def test_an_archive_that_holds_no_home_leaves_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / "b.tar.gz", MANIFEST, (tarfile.TarInfo(name), content))
    with pytest.raises(HomeError, match="cannot be restored"):
        restore(elsewhere(tmp_path), tmp_path / "b.tar.gz")
    assert list(tmp_path.iterdir()) == [tmp_path / "b.tar.gz"]


def test_a_manifest_of_any_size_or_a_linked_one_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("shopgraph-backup")
    link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
    for manifest in ((tarfile.TarInfo("shopgraph-backup"), b"1" + b"\n" * (1 << 20)), (link, b"")):
        write(tmp_path / "b.tar.gz", manifest)
        with pytest.raises(HomeError, match="is not a backup"):
            restore(elsewhere(tmp_path), tmp_path / "b.tar.gz")


def test_a_restore_counts_and_unpacks_the_files_of_the_home_only(tmp_path: Path) -> None:
    earlier = (tarfile.TarInfo("feast/sample.yaml"), b"home: /old")  # a backup of today leaves it out
    write(tmp_path / "b.tar.gz", MANIFEST, (tarfile.TarInfo("format"), b"1\n"), earlier, (tarfile.TarInfo("lake/x"), b"x"))
    other = elsewhere(tmp_path)
    assert restore(other, tmp_path / "b.tar.gz") == 2
    assert not (other.path / "feast").exists()
    assert {path.name for path in other.path.iterdir() if path.is_file()} == {"format"}
