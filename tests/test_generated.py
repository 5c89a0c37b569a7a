"""Pages made from code are the ones committed; `make docs` makes them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from shopgraph import generated

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", ["docs/settings.md", "docs/dictionary.md", "serving/openapi.json"])
def test_a_generated_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == generated()[path], f"{path} is old; run `make docs`"
