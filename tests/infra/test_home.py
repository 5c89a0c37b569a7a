"""The home folder: made once, checked by format, one command of a kind at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import HomeError, SettingsError
from infra.home import Home, check_shop_name
from infra.settings import Settings


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    home = Home(Settings.load(home=tmp_path / "home"))
    assert not home.path.exists()
    home.create()
    assert (home.path / "format").read_text() == "1\n"
    assert home.create().path == home.path


def test_another_format_is_refused_and_upgrade_says_why(settings: Settings) -> None:
    home = Home(settings)
    assert home.upgrade() == "nothing to do"
    (home.path / "format").write_text("99\n")
    with pytest.raises(HomeError, match="format 99"):
        home.create()
    with pytest.raises(HomeError, match="newer"):
        home.upgrade()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="SHOPGRAPH_HOME"):
        Home(Settings.load(home=tmp_path / "file" / "home")).create()


def test_a_secret_is_made_once_and_private(settings: Settings) -> None:
    home = Home(settings)
    first = home.secret("x.key")
    assert len(first) == 64
    assert home.secret("x.key") == first
    assert (home.run / "x.key").stat().st_mode & 0o077 == 0


def test_a_pseudonym_is_stable_and_tells_nothing(settings: Settings) -> None:
    home = Home(settings)
    assert home.pseudonym("u1") == home.pseudonym("u1") != home.pseudonym("u2")
    assert "u1" not in home.pseudonym("u1")


def test_a_lock_is_held_against_other_processes_and_freed(settings: Settings) -> None:
    home = Home(settings)
    code = f"""
from infra.home import Home
from infra.settings import Settings
with Home(Settings.load(home={str(home.path)!r})).lock("ingest"):
    pass
"""

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    with home.lock("ingest"):
        refused = other()
    assert refused.returncode == 1
    assert "already running" in refused.stderr
    assert other().returncode == 0


@pytest.mark.parametrize("name", ["", "Shop", "1shop", "my-shop", "../x", "店"])
def test_a_shop_name_that_is_no_namespace_is_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        check_shop_name(name)
    assert check_shop_name("my_shop2") == "my_shop2"
