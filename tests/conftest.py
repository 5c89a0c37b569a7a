"""Fixtures that the whole test tree shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings, set_quiet_environment
from spark_jobs.session import session

set_quiet_environment()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh home of its own."""
    made = Settings.load(home=tmp_path / "home")
    Home(made).create()
    return made


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake.open(settings)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One Spark for all tests: starting it costs seconds."""
    settings = Settings.load(home=tmp_path_factory.mktemp("spark"), spark_driver_memory="1g")
    with session(settings, "tests") as spark:
        spark.conf.set("spark.sql.shuffle.partitions", "2")
        yield spark


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the public data sets, where the machine has one."""
    folder = Settings.load().data or Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; set SHOPGRAPH_DATA to their folder")
    return folder
