"""A digest of code changes with what the code does, not with what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.source import code_digest

CODE = '"""A module."""\n\n\ndef double(x):\n    """Twice."""\n    return 2 * x  # twice\n'


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (CODE.replace("# twice", "# two times"), True),
        (CODE.replace("Twice.", "Two times."), True),
        (CODE.replace("\n\n\ndef", "\n\ndef"), True),
        (CODE.replace("2 * x", "3 * x"), False),
        (CODE.replace("def double", "def twice"), False),
    ],
)
def test_only_code_counts(tmp_path: Path, changed: str, same: bool) -> None:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text(changed)
    assert (code_digest(tmp_path / "a.py") == code_digest(tmp_path / "b.py")) is same


def test_functions_modules_and_files_in_their_order() -> None:
    assert code_digest(code_digest, Path) != code_digest(Path, code_digest)
