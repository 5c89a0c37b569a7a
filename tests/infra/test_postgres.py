"""Addresses and the password file of a shop; the database itself is asked in tests/engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import SettingsError
from infra.postgres import PASSFILE, address, connection, keep_password, with_passfile, without_password


def test_each_database_keeps_its_password_and_a_new_one_replaces_the_old(tmp_path: Path) -> None:
    keep_password(tmp_path, "till.example", "*", "till", "reader", "first")
    keep_password(tmp_path, "web.example", "5433", "web", "reader", r"a:b\c")
    keep_password(tmp_path, "till.example", "*", "till", "reader", "second")
    keep_password(tmp_path, "till.example", "5434", "till", "reader", "third")
    assert (tmp_path / PASSFILE).read_text().splitlines() == [
        r"web.example:5433:web:reader:a\:b\\c",
        "till.example:5434:till:reader:third",
        "till.example:*:till:reader:second",
    ]
    assert (tmp_path / PASSFILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("url", "bare", "kept"),
    [
        ("postgresql://u:geheim@Host:5433/db", "postgresql://u@Host:5433/db", "Host:5433:db:u:geheim"),
        ("postgres://u:a%2F%23b:c@h/db?sslmode=require", "postgres://u@h/db?sslmode=require", r"h:*:db:u:a/#b\:c"),
        ("postgresql://h/db?user=u&password=geheim", "postgresql://h/db?user=u", "h:*:db:u:geheim"),
        ("postgresql://u:old@h/db?pass%77ord=ge+%68eim&x=1", "postgresql://u@h/db?x=1", "h:*:db:u:ge+heim"),
        ("postgresql://u:geheim@[::1]:5433", "postgresql://u@[::1]:5433", r"\:\:1:5433:*:u:geheim"),
        ("postgresql:///db?host=/var/run/pg&password=geheim", "postgresql:///db?host=/var/run/pg", "*:*:db:*:geheim"),
        ("postgresql://:geheim@h", "postgresql://h", "h:*:*:*:geheim"),
    ],
)
def test_a_password_goes_from_the_address_to_the_password_file(url: str, bare: str, kept: str, tmp_path: Path) -> None:
    assert without_password(url, tmp_path / "shop") == bare
    assert (tmp_path / "shop" / PASSFILE).read_text() == f"{kept}\n"
    assert "geheim" not in address(url)


def test_an_address_without_a_password_stays_as_it_is(tmp_path: Path) -> None:
    for url in ("postgresql://u@h/db", "postgresql:///db?host=/var/run/pg", "postgresql://"):
        assert without_password(url, tmp_path) == url
    assert not (tmp_path / PASSFILE).exists()


def test_the_password_file_is_named_in_the_address(tmp_path: Path) -> None:
    assert with_passfile("postgresql:///db", tmp_path) == "postgresql:///db"
    keep_password(tmp_path, "*", "*", "db", "u", "p")
    assert with_passfile("postgresql:///db", tmp_path) == f"postgresql:///db?passfile={tmp_path}/{PASSFILE}"
    url = "postgresql://u:own@h:1/db?sslmode=require"
    assert with_passfile(url, tmp_path) == f"{url}&passfile={tmp_path}/{PASSFILE}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:ge/heim@h/db",
        "postgresql://u:ge#heim@h/db",
        "postgresql://u:ge?heim@h/db",
        "postgresql://u:ge@heim@h/db",
        "postgresql://u:12/heim@h/db",
        "postgresql://u:12#heim",
        "postgresql://u:ge%heim@h/db",
        "postgresql://u:ge%00heim@h/db",
        "postgresql://u:ge[heim@h:port/db",
        "postgresql://u@h/db?password=ge#heim",
    ],
)
def test_a_bad_address_is_refused_and_not_quoted(url: str, tmp_path: Path) -> None:
    for use in (address, lambda bad: connection(bad).__enter__(), lambda bad: without_password(bad, tmp_path)):
        with pytest.raises(SettingsError, match="a database address cannot be read") as caught:
            use(url)
        assert "heim" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert not (tmp_path / PASSFILE).exists()
