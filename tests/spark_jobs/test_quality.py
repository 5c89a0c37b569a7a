"""A build looks at what it writes and at the raw tables it reads, and stops before what is bad becomes a version."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.quality.report import Reports
from features.shop import Shop
from features.tables import CLEAN_REVIEWS, REVIEWS
from infra.errors import TableContractError
from infra.lake import digest_of
from spark_jobs.build import Horizon, Snapshot, build_table, check_raw_tables
from spark_jobs.jobs import JOBS

NOW = datetime(2024, 5, 10, tzinfo=UTC)


@pytest.fixture
def build(spark, lake, frame):
    """Ingest reviews of these ratings, then build `clean_reviews` as a command does."""

    def run(*ratings, **expected):
        shop = Shop(name="sample", currency="EUR", time_zone="Europe/Berlin", quality=expected)
        rows = [
            {
                "review_id": f"r{n}",
                "review_text": f"text {n}",
                "item_id": "a",
                "rating": rating,
                "event_timestamp": "2024-05-09T10:00+02:00",
            }
            for n, rating in enumerate(ratings)
        ]
        table = frame(REVIEWS, *rows).toArrow().cast(REVIEWS.schema)
        lake.write(REVIEWS.path, table, "overwrite", digest=digest_of(ratings), read_version=lake.version(REVIEWS.path))
        snapshot = Snapshot(spark, lake, Horizon.of(NOW, shop, lake))
        check_raw_tables(snapshot, shop)
        for name in ("item_catalog", "clean_reviews"):
            built = build_table(snapshot, shop, JOBS[name])
        return built

    return run


def test_a_build_reports_what_it_wrote_and_refuses_what_breaks_a_hard_expectation(build, lake):
    reports = Reports(lake)
    assert build(5, 1, 4).version == 0
    found = reports.of(CLEAN_REVIEWS.path, 0)
    assert found is not None
    assert (found.rows, found.week["rating"].rows, found.status) == (3, 3, "passed")
    raw = reports.of(REVIEWS.path, 0)
    assert raw is not None
    assert raw.week["rating"].mean == pytest.approx(10 / 3)

    strict = {"clean_reviews": {"columns": {"rating": {"max": 4}}}}
    with pytest.raises(TableContractError, match="rating: expected 1 to 4, got 1 row outside, 2 to 5"):
        build(2, 5, 3, **strict)
    assert lake.version(CLEAN_REVIEWS.path) == 0
    assert len(list(Path(lake.uri(CLEAN_REVIEWS.path), "data").iterdir())) == 1
    assert lake.read(CLEAN_REVIEWS.path)["rating"].to_pylist().count(5) == 1
    assert reports.refused(CLEAN_REVIEWS.path) is not None

    assert build(2, 4, 3, **strict).version == 1
    assert reports.refused(CLEAN_REVIEWS.path) is None
    assert build(2, 4, 3, **strict).skipped


def test_nothing_is_built_from_raw_rows_that_break_a_hard_expectation(build, lake):
    with pytest.raises(TableContractError, match=r"table raw/reviews breaks .* rating: expected 1 to 5, got 1 row outside"):
        build(5, 11)
    assert lake.version(CLEAN_REVIEWS.path) is None
