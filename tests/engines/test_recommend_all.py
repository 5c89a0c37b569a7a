"""The lists of all users in a real PostgreSQL and in a lake on a real S3 protocol: the same rows as in the lake, replaced at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from features.tables import RECOMMENDATIONS
from infra.errors import EngineError, TableContractError
from infra.lake import Lake, s3_options
from infra.settings import Settings
from serving.bulk import Report
from tests.engines.conftest import S3
from tests.serving.test_bulk import NOW, NUM_USERS, killed, lists, registered, run, shop_of

pytestmark = pytest.mark.engines

Run = Callable[..., Report]


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return shop_of(settings)


@pytest.fixture
def score(settings: Settings, lake: Lake) -> Run:
    """Run it on the shop of many users."""
    saved = registered(settings)
    return lambda settings=settings, **more: run(settings, saved, **more)


@pytest.fixture
def url(postgres: str) -> str:
    with psycopg.connect(f"postgresql://shop@{postgres}/postgres", autocommit=True) as connection:
        connection.execute('DROP DATABASE IF EXISTS "marketing"')
        connection.execute('CREATE DATABASE "marketing"')
    return f"postgresql://shop@{postgres}/marketing"


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        answer = connection.execute(statement)
        return answer.fetchall() if answer.description else []


def stored(url: str) -> pa.Table:
    columns = ", ".join(RECOMMENDATIONS.names)
    rows = query(url, f"SELECT {columns} FROM recommendations ORDER BY user_id, rank")
    parts = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), RECOMMENDATIONS.schema.types, strict=True)]
    return pa.Table.from_arrays(parts, schema=RECOMMENDATIONS.schema)


def test_postgres_holds_the_rows_of_the_lake_and_keeps_its_grants(url: str, score: Run, lake: Lake, settings: Settings) -> None:
    score()
    report = score(to=url)
    assert (report.users, report.skipped) == (NUM_USERS, False)
    assert report.address.endswith("/marketing, table recommendations")
    assert stored(url).equals(lists(lake))
    query(url, "CREATE VIEW first AS SELECT * FROM recommendations WHERE rank = 1")
    assert score(to=url).skipped
    assert score(to=url, k=2).users == NUM_USERS
    score(k=2)
    assert stored(url).equals(lists(lake))
    assert query(url, "SELECT count(*) FROM first") == [(NUM_USERS,)]
    later = settings.model_copy(update={"now": (NOW + timedelta(hours=1)).isoformat()})
    score(later, to=url, k=2)
    assert query(url, "SELECT count(*), count(DISTINCT scored_at) FROM recommendations") == [(NUM_USERS * 2, 1)]


def test_postgres_after_a_kill_holds_what_an_undisturbed_run_gives(url: str, score: Run, lake: Lake, settings: Settings) -> None:
    killed(settings, registered(settings), 10)
    report = score(to=url)
    assert report.found
    score()
    assert stored(url).equals(lists(lake))


def test_the_table_of_somebody_else_is_left_alone(url: str, score: Run) -> None:
    query(url, "CREATE TABLE recommendations (user_id text)")
    query(url, "INSERT INTO recommendations VALUES ('mine')")
    with pytest.raises(TableContractError, match="has a table recommendations that shopgraph did not write"):
        score(to=url)
    assert query(url, "SELECT * FROM recommendations") == [("mine",)]
    query(url, "CREATE SCHEMA ours")
    score(to=f"{url}?options=-csearch_path%3Dours")
    assert query(url, "SELECT count(*) FROM ours.recommendations") == [(NUM_USERS * 4,)]


def test_a_table_of_ours_that_changed_keeps_its_rows_and_what_is_scored_waits(url: str, score: Run) -> None:
    score(to=url)
    query(url, "ALTER TABLE recommendations RENAME COLUMN score TO points")
    with pytest.raises(EngineError, match="database postgresql://127.0.0.1"):
        score(to=url, k=2)
    assert query(url, "SELECT count(*) FROM recommendations") == [(NUM_USERS * 4,)]
    query(url, "ALTER TABLE recommendations RENAME COLUMN points TO score")
    assert score(to=url, k=2).found == NUM_USERS


def test_a_database_that_does_not_answer_is_named(score: Run) -> None:
    with pytest.raises(EngineError, match=r"database postgresql://127\.0\.0\.1:1/db: "):
        score(to="postgresql://shop:geheim@127.0.0.1:1/db")


def test_a_lake_on_s3_holds_the_rows_of_the_lake(s3: S3, score: Run, lake: Lake, settings: Settings) -> None:
    reached = settings.model_copy(update=Settings.load(**s3.settings).model_dump(include=set(s3.settings)))
    killed(settings, registered(settings), 10)  # on its way into the lake; what is scored serves any destination
    report = score(reached, to="s3://shop/lists/")
    assert report.found
    assert report.address == "s3://shop/lists/sample/scores/recommendations"
    score()
    remote = Lake("s3://shop/lists", "sample", s3_options(reached), is_shared=True)
    assert lists(remote).equals(lists(lake))
    assert score(reached, to="s3://shop/lists").skipped
    score(reached, to="s3://shop/lists", k=2)
    plain = ds.dataset([remote.on_filesystem(uri) for uri in remote.file_uris(RECOMMENDATIONS.path)], filesystem=remote.filesystem)
    assert plain.count_rows() == NUM_USERS * 2


def test_a_bucket_that_is_not_there_is_named(s3: S3, score: Run, settings: Settings) -> None:
    reached = settings.model_copy(update=Settings.load(**s3.settings).model_dump(include=set(s3.settings)))
    with pytest.raises(EngineError, match="s3://nobucket/lists/sample/scores/recommendations: "):
        score(reached, to="s3://nobucket/lists")
