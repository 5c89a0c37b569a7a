"""Release pointers: appended, never changed, proven by digest, in SQLite and Postgres."""

from __future__ import annotations

import pytest

from infra.errors import EngineError, ReleaseError
from infra.lake import Lake
from infra.pins import pins
from infra.settings import Settings
from serving.graph import compose
from serving.releases import Releases
from tests.serving.conftest import Registered

FIRST, SECOND = (compose("sample", "recommend", {"recommender": Registered(version, "ab" * 32, "run", {})}) for version in (1, 2))


def check_pointers(releases: Releases) -> None:
    assert releases.current() == {}
    for manifest in (FIRST, SECOND, FIRST):
        assert releases.store(manifest) == manifest.version
    epochs = [releases.point(manifest.version, who="me", why="test") for manifest in (FIRST, SECOND, FIRST)]
    assert epochs == sorted(set(epochs))
    assert releases.current() == {"recommend": FIRST.version}
    assert [move.version for move in releases.history("recommend")] == [FIRST.version, SECOND.version, FIRST.version]
    assert releases.history("forecast") == []
    assert releases.manifest(SECOND.version) == SECOND


def test_the_newest_pointer_holds_and_all_are_kept(settings: Settings) -> None:
    check_pointers(Releases(settings, "sample"))


@pytest.mark.engines
def test_the_same_on_postgres(settings: Settings, postgres: str) -> None:
    configured = Settings.load(home=settings.home, releases_db=f"postgresql+psycopg://shop@{postgres}/postgres")
    check_pointers(Releases(configured, "sample"))


def test_a_released_graph_pins_what_its_models_learned_from(settings: Settings) -> None:
    manifest = compose("sample", "recommend", {"recommender": Registered(1, "ab" * 32, "run", {"features/interactions": 4})})
    releases = Releases(settings, "sample")
    releases.store(manifest)
    assert pins(Lake.open(settings)) == []
    releases.point(manifest.version, who="me", why="test")
    (found,) = pins(Lake.open(settings))
    assert (found.holder, found.tables) == (f"graph {manifest.version}", {"features/interactions": 4})


def test_shops_do_not_see_each_other(settings: Settings) -> None:
    releases, other = Releases(settings, "sample"), Releases(settings, "other")
    releases.point(releases.store(FIRST), who="me", why="test")
    assert other.current() == {}
    with pytest.raises(ReleaseError, match=f"shop other has no graph version '{FIRST.version}'"):
        other.point(FIRST.version, who="me", why="test")


def test_a_changed_manifest_is_found(settings: Settings) -> None:
    releases = Releases(settings, "sample")
    releases.store(FIRST)
    with releases.engine.begin() as sql:
        sql.exec_driver_sql("UPDATE manifests SET manifest = replace(manifest, '\"version\":1', '\"version\":9')")
    with pytest.raises(ReleaseError, match="somebody changed it"):
        releases.manifest(FIRST.version)


def test_a_database_that_does_not_answer_is_one_message(settings: Settings) -> None:
    away = Settings.load(home=settings.home, releases_db="postgresql+psycopg://shop:secret@127.0.0.1:1/none")
    with pytest.raises(EngineError, match=r"release database does not answer.*SHOPGRAPH_RELEASES_DB") as found:
        Releases(away, "sample").current()
    assert "secret" not in str(found.value)
