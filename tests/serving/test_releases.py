"""Releases: appended, never changed, proven by digest, in SQLite and Postgres."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.errors import EngineError, ReleaseError
from infra.lake import Lake
from infra.pins import pins
from infra.settings import Settings
from serving.releases import Release, Releases
from tests.serving.conftest import Registered, compose

MANIFESTS = [compose("recommend", {"recommender": Registered(version, "ab" * 32, "run", {})}) for version in (1, 2, 3)]
A, B, C = (manifest.version for manifest in MANIFESTS)
ME = {"who": "me", "why": "test"}


@pytest.fixture
def releases(settings: Settings) -> Releases:
    """Three stored graphs, the first released."""
    made = Releases(settings, "sample")
    for manifest in MANIFESTS:
        made.store(manifest)
    made.release(A, **ME)
    return made


def change(releases: Releases, statement: str) -> None:
    """What somebody who reaches the database does to it."""
    with releases.engine.begin() as sql:
        sql.exec_driver_sql(statement)


def check_moves(releases: Releases) -> None:
    assert releases.current() == {}
    assert releases.head() is None
    for manifest in (*MANIFESTS, MANIFESTS[0]):
        assert releases.store(manifest) == manifest.version
    moves = [releases.release(version, **ME) for version in (A, B, A)]
    assert [move.epoch for move in moves] == [1, 2, 3]
    assert releases.current() == {"recommend": Release(stable=A, before=B)}
    assert releases.history("recommend") == moves[::-1]
    assert releases.history("forecast") == []
    assert releases.manifest(B) == MANIFESTS[1]
    assert releases.verify(head=moves[1].digest) == []
    with ThreadPoolExecutor(4) as threads:  # all at once, and none lost
        list(threads.map(lambda number: releases.release((A, B)[number % 2], **ME), range(12)))
    assert [move.epoch for move in releases.history()] == list(range(15, 0, -1))
    assert releases.verify() == []


def test_the_newest_move_holds_and_all_are_kept(settings: Settings) -> None:
    check_moves(Releases(settings, "sample"))


@pytest.mark.engines
def test_the_same_on_postgres(settings: Settings, postgres: str) -> None:
    configured = Settings.load(home=settings.home, releases_db=f"postgresql+psycopg://shop@{postgres}/postgres")
    check_moves(Releases(configured, "sample"))


def test_a_candidate_comes_in_steps_and_becomes_stable(releases: Releases) -> None:
    deployed = releases.deploy(B, **ME).release.candidate
    assert deployed is not None
    assert (deployed.version, deployed.weight) == (B, 0)
    salts = {releases.canary("recommend", weight, **ME).release.candidate.salt for weight in (1, 50)}  # type: ignore[union-attr]
    assert salts == {deployed.salt}  # who was drawn stays
    assert releases.current()["recommend"].stable == A
    assert releases.promote("recommend", **ME).release == Release(stable=B, before=A)
    again = releases.deploy(C, **ME).release.candidate
    assert again is not None
    assert again.salt != deployed.salt  # others are drawn for another experiment


def test_each_rollback_takes_one_step_back(releases: Releases) -> None:
    for version in (B, C):
        releases.deploy(version, **ME)
        releases.promote("recommend", **ME)
    releases.deploy(A, **ME)
    releases.canary("recommend", 10, **ME)
    assert releases.rollback("recommend", **ME).release == Release(stable=C, before=B)  # the candidate first
    assert releases.rollback("recommend", **ME).release == Release(stable=B, before=A)
    assert releases.rollback("recommend", **ME).release == Release(stable=A)
    with pytest.raises(ReleaseError, match="no release of before"):
        releases.rollback("recommend", **ME)
    releases.release(C, **ME)
    assert releases.rollback("recommend", **ME).release == Release(stable=A)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (lambda releases: releases.deploy(A, **ME), "the stable one already"),
        (lambda releases: releases.deploy("ffff", **ME), "has no graph version 'ffff'"),
        (lambda releases: releases.canary("recommend", 5, **ME), "has no candidate; `shopgraph graph deploy"),
        (lambda releases: releases.canary("recommend", 101, **ME), "expected 0 to 100 percent, got 101"),
        (lambda releases: releases.canary("recommend", float("nan"), **ME), "expected 0 to 100 percent, got nan"),
        (lambda releases: releases.promote("recommend", **ME), "has no candidate"),
        (lambda releases: releases.rollback("forecast", **ME), "forecast has no release of before"),
        (lambda releases: releases.find(""), "3 graph versions begin with ''"),
        (lambda releases: releases.find("zz"), "has no graph version 'zz'"),
    ],
)
def test_a_step_that_makes_no_sense_moves_nothing(releases: Releases, step: Callable[[Releases], object], told: str) -> None:
    with pytest.raises(ReleaseError, match=told):
        step(releases)
    assert len(releases.history()) == 1


def test_a_version_is_found_by_its_first_digits(releases: Releases) -> None:
    assert releases.find(B[:8]) == MANIFESTS[1]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE moves SET who = 'somebody else' WHERE epoch = 2",
        "UPDATE moves SET release = replace(release, 'stable', 'stabel') WHERE epoch = 2",
        "UPDATE moves SET moved_at = '2020-01-01T00:00:00' WHERE epoch = 2",
        "DELETE FROM moves WHERE epoch = 2",
        "DELETE FROM moves WHERE epoch = 1",
        "DELETE FROM manifests",
    ],
)
def test_tampering_with_one_row_of_the_history_is_found(releases: Releases, tampering: str) -> None:
    for version in (B, C, A):
        releases.release(version, **ME)
    assert releases.verify() == []
    change(releases, tampering)
    assert releases.verify() != []


def test_a_move_that_is_made_anew_with_its_digest_breaks_the_chain(releases: Releases) -> None:
    for version in (B, C):
        releases.release(version, **ME)
    forged = Releases(
        Settings.load(home=releases.settings.home, releases_db=f"sqlite:///{releases.settings.home}/forged.db"), "sample"
    )
    for manifest in MANIFESTS:
        forged.store(manifest)
    forged.release(A, **ME)
    digest = forged.release(C, who="me", why="forged").digest
    with forged.engine.begin() as sql:
        row = sql.exec_driver_sql("SELECT release, moved_at, why, previous, digest FROM moves WHERE epoch = 2").one()
    with releases.engine.begin() as sql:
        sql.exec_driver_sql("UPDATE moves SET release=?, moved_at=?, why=?, previous=?, digest=? WHERE epoch = 2", tuple(row))
    assert digest in {move.digest for move in releases.history()}
    assert releases.verify() == ["move 2 does not follow the move before it", "move 3 does not follow the move before it"]


def test_a_cut_history_is_found_by_a_digest_that_was_noted(releases: Releases) -> None:
    head = releases.release(B, **ME).digest
    assert releases.head() == head
    change(releases, "DELETE FROM moves WHERE epoch = 2")
    assert releases.verify() == []
    assert releases.verify(head) == [f"no move has the digest {head}: the history was cut or made anew"]


def test_a_changed_release_is_not_followed(releases: Releases) -> None:
    releases.release(B, **ME)
    change(releases, f"UPDATE moves SET release = replace(release, '{B}', '{C}') WHERE epoch = 2")
    with pytest.raises(ReleaseError, match=r"move 2 of the releases is not as it was made.*--verify"):
        releases.current()


def test_a_released_graph_pins_what_its_models_learned_from(settings: Settings) -> None:
    manifest = compose("recommend", {"recommender": Registered(1, "ab" * 32, "run", {"features/interactions": 4})})
    releases = Releases(settings, "sample")
    releases.store(manifest)
    assert pins(Lake.open(settings)) == []
    releases.release(manifest.version, who="me", why="test")
    (found,) = pins(Lake.open(settings))
    assert (found.holder, found.tables) == (f"graph {manifest.version}", {"features/interactions": 4})


def test_shops_do_not_see_each_other(settings: Settings) -> None:
    releases, other = Releases(settings, "sample"), Releases(settings, "other")
    releases.release(releases.store(MANIFESTS[0]), who="me", why="test")
    assert other.current() == {}
    with pytest.raises(ReleaseError, match=f"shop other has no graph version '{A}'"):
        other.release(A, who="me", why="test")


def test_a_changed_manifest_is_found(settings: Settings) -> None:
    releases = Releases(settings, "sample")
    releases.store(MANIFESTS[0])
    with releases.engine.begin() as sql:
        sql.exec_driver_sql("UPDATE manifests SET manifest = replace(manifest, '\"version\":1', '\"version\":9')")
    with pytest.raises(ReleaseError, match="somebody changed it"):
        releases.manifest(A)


def test_a_database_that_does_not_answer_is_one_message(settings: Settings) -> None:
    away = Settings.load(home=settings.home, releases_db="postgresql+psycopg://shop:secret@127.0.0.1:1/none")
    with pytest.raises(EngineError, match=r"release database does not answer.*SHOPGRAPH_RELEASES_DB") as found:
        Releases(away, "sample").current()
    assert "secret" not in str(found.value)
