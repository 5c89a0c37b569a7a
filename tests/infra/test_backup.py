"""A backup holds everything a request needs and nothing of the running machine; a restore is all or nothing."""

from __future__ import annotations

import io
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

MANIFEST = (tarfile.TarInfo("shopgraph-backup"), b"1\n")


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
    write(tmp_path / "b.tar.gz", MANIFEST, (tarfile.TarInfo("format"), b"1\n"), (tarfile.TarInfo("lake/x"), b"x"))
    other = elsewhere(tmp_path)
    assert restore(other, tmp_path / "b.tar.gz") == 2
    assert {path.name for path in other.path.iterdir() if path.is_file()} == {"format"}
