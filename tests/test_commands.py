"""Every command that a page tells somebody to type is one that there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import calls, check, in_shell, mentions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for arguments in calls(text):
        check(arguments)
    for arguments in mentions(text):
        with suppress_incomplete():
            check(arguments)


@contextmanager
def suppress_incomplete() -> Iterator[None]:
    """`shopgraph build --from` in a sentence is no command yet."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ not in ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError", "Exit"):
            raise


def test_commands_are_found() -> None:
    found = calls((ROOT / "README.md").read_text(encoding="utf-8"))
    assert ["train", "propensity"] in found
    assert ["graph", "deploy", "91bc", "--why", "more dropout"] in found
    assert len(found) > 15
    text = 'A=1 shopgraph up --latest  # why\nkubectl exec x -- shopgraph status && shopgraph \\\n  down; echo "shopgraph"'
    assert list(in_shell(text)) == [["up", "--latest"], ["status"], ["down"]]
    text = "compose run --rm shopgraph build\nin-gateway shopgraph drain\ncompose exec shopgraph shopgraph status\nsystemctl stop shopgraph"
    assert list(in_shell(text)) == [["build"], ["drain"], ["status"]]
    deploy = calls((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))
    assert len(deploy) > 20
    assert ["graph", "release", "3f2a", "--why", "the first"] in deploy


@pytest.mark.parametrize("line", ["shopgraph graph undo", "shopgraph up --lastest", "shopgraph backup", "shopgraph --hom x up"])
def test_a_command_that_there_is_not_is_found(line: str) -> None:
    (arguments,) = in_shell(line)
    with pytest.raises(Exception, match=r"No such|Missing"):
        check(arguments)
