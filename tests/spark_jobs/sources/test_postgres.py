"""The password file of a shop; the database itself is asked in tests/engines."""

from __future__ import annotations

from pathlib import Path

from spark_jobs.sources.postgres import PASSFILE, keep_password


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
