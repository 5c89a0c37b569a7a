"""`shopgraph graph`: the steps of a release as they are typed, and what is said when one makes no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import shopgraph
from infra.errors import ReleaseError, SettingsError
from infra.settings import Settings
from serving.releases import Releases
from tests.serving.conftest import Registered, compose

OLD, NEW = (compose("recommend", {"recommender": Registered(version, "ab" * 32, "run", {})}) for version in (1, 2))


@pytest.fixture
def releases(settings: Settings) -> Releases:
    """Two stored graphs, the first released."""
    made = Releases(settings, "sample")
    for manifest in (OLD, NEW):
        made.store(manifest)
    made.release(OLD.version, who="me", why="first")
    return made


def graph(releases: Releases, *arguments: str) -> Result:
    return CliRunner().invoke(shopgraph.app, ["--home", str(releases.settings.home), "graph", *arguments])


def told(releases: Releases, *arguments: str) -> Any:
    done = graph(releases, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_release_goes_out_and_comes_back(releases: Releases) -> None:
    releases.deploy(NEW.version, who="me", why="more dropout")  # the verb tries it first: see test_trial
    assert "candidate " + NEW.version + " at 5 %" in graph(releases, "canary", "recommend", "--weight", "5").output
    assert {row["version"]: row["role"] for row in told(releases, "list")} == {
        OLD.version: "stable",
        NEW.version: "candidate at 5 %",
    }
    assert told(releases, "promote", "recommend")["release"]["stable"] == NEW.version
    assert f"recommend: {OLD.version} answers." in graph(releases, "rollback", "recommend", "--why", "empty lists").output
    moves = told(releases, "history", "recommend")
    assert [move["verb"] for move in moves] == ["rollback", "promote", "canary", "deploy", "release"]
    assert (moves[0]["why"], moves[3]["why"]) == ("empty lists", "more dropout")
    assert "more dropout" in graph(releases, "history").output
    assert told(releases, "history", "forecast") == []


def test_the_first_version_of_a_product_is_released_at_once(settings: Settings) -> None:
    releases = Releases(settings, "sample")
    releases.store(NEW)
    assert f"recommend: {NEW.version} answers." in graph(releases, "release", NEW.version[:6], "--why", "the first").output
    assert releases.current()["recommend"].stable == NEW.version
    (move,) = releases.history()
    assert (move.verb, move.why) == ("release", "the first")


def test_a_graph_is_shown_as_a_picture_and_beside_another(releases: Releases) -> None:
    assert graph(releases, "show", NEW.version).output.startswith("flowchart LR\n")
    assert told(releases, "show", NEW.version) == NEW.model_dump(mode="json")
    assert told(releases, "diff", OLD.version, NEW.version) == [{"what": "models.recommender.version", "old": "1", "new": "2"}]
    assert "they are the same" in graph(releases, "diff", NEW.version, NEW.version).output


def test_a_history_that_was_changed_is_said_and_fails(releases: Releases) -> None:
    noted = told(releases, "history", "--verify")
    assert noted == {"is_intact": True, "found": [], "head": releases.head()}
    assert "intact" in graph(releases, "history", "--verify", "--head", noted["head"]).output
    with releases.engine.begin() as sql:
        sql.exec_driver_sql("UPDATE moves SET why = 'another reason'")
    done = graph(releases, "history", "--verify")
    assert done.exit_code == 1
    assert "move 1 of the releases is not as it was made" in done.output


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        (("canary", "recomend", "--weight", "5"), SettingsError, "expected a product"),
        (("promote", "recommend"), ReleaseError, "has no candidate"),
        (("deploy", "nothing"), ReleaseError, "has no graph version 'nothing'"),
        (("history", "--head", "ab"), SettingsError, "--head belongs to --verify"),
        (("compile", "recommend", "--model", "recommender"), SettingsError, "expected name=value"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    releases: Releases, arguments: tuple[str, ...], error: type[Exception], expected: str
) -> None:
    done = graph(releases, *arguments)
    assert isinstance(done.exception, error)
    assert expected in str(done.exception)
    assert len(releases.history()) == 1
