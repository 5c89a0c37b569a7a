"""Online rows for the tests of what a running shop tells: the same for SQLite and for a Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from features.online.redis import RedisRows
from features.online.rows import Rows, open_rows
from infra.settings import Settings


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.engines)])
def rows(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Rows]:
    if request.param == "redis":
        yield RedisRows(request.getfixturevalue("redis_url"), f"s{uuid4().hex}")
        return
    yield open_rows(settings, "sample")
