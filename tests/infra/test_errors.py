"""A disk that is full or closed is recognised, whichever library ran into it."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from infra.errors import disk_trouble


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "whatever"), "No space left on device"),
        (RuntimeError("Failed to write: LocalFileSystem: No space left on device (os error 28)"), "No space left on device"),
        (sqlite3.OperationalError("database or disk is full"), "No space left on device"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "Read-only file system"),
        (RuntimeError("Unable to open: os error 30"), "Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "no such file"), None),
        (ValueError("28"), None),
    ],
)
def test_told_in_the_system_s_words(error: Exception, told: str | None) -> None:
    assert disk_trouble(error) == told


def test_a_cause_counts() -> None:
    error = RuntimeError("the job failed")
    error.__cause__ = OSError(errno.EROFS, "x", "/srv/home")
    assert disk_trouble(error) == "Read-only file system: /srv/home"
