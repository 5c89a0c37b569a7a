"""One Ray and one MLflow server for all tests that train: each start costs seconds of every core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.home import Home
from infra.processes import stop
from infra.settings import Settings
from tests.ports import free_port
from training.tracking.server import NAME, ensure_server
from training.trainer import ray_session


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this test process; fits join it."""
    with ray_session(Settings.load(home=tmp_path_factory.mktemp("ray") / "home")):
        yield


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with a home of its own."""
    home = Home(Settings.load(home=tmp_path_factory.mktemp("mlflow") / "home", mlflow_port=free_port())).create()
    yield ensure_server(home)
    stop(home, NAME)
