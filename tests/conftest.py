"""Fixtures that the whole test tree shares."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock
from pyspark.sql import SparkSession

from infra.home import Home
from infra.lake import Lake
from infra.processes import free_ports
from infra.settings import Settings, set_quiet_environment, variables
from spark_jobs.session import session
from tests.installation import installation
from tests.ports import wait_until_open

set_quiet_environment()
# Commands on small data: what the JVM's optimising compiler costs it never earns back (120 -> 76 CPU seconds for a build of `tiny`).
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")


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
    """One Spark for all tests: starting it costs seconds. It lives for minutes, so its JVM may optimise; a plan lives for a few rows,
    so it is interpreted and not compiled (test_build.py: 316 -> 189 s, both together). Commands of other processes run as users' do.
    """
    settings = Settings.load(home=tmp_path_factory.mktemp("spark"), spark_driver_memory="1536m")
    with ExitStack() as stack:
        with variables({"JDK_JAVA_OPTIONS": ""}):
            spark = stack.enter_context(session(settings, "tests"))
        spark.conf.set("spark.sql.shuffle.partitions", "2")
        spark.conf.set("spark.sql.codegen.wholeStage", "false")
        spark.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        yield spark


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the public data sets, where the machine has one."""
    folder = Settings.load().data or Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; set SHOPGRAPH_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def trained_tiny(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A home with the `tiny` sample shop, tables built, models trained; made once for all test processes. To be copied."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    home, done = shared / "home 家", shared / "trained"
    with FileLock(shared / "trained.lock"):
        if not done.exists():
            made = installation(home)
            try:
                made.shopgraph("sample", "--size", "tiny")
                made.shopgraph("build")
                made.shopgraph("features", "apply")
                made.shopgraph("features", "materialize")
                made.shopgraph("train", "--set", "fit.epochs=2")
            finally:
                made.shopgraph("down")
            done.touch()
    return home


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Postgres server; its address without a database, e.g. `127.0.0.1:5433`, user `shop`, no password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    tools = found[-1].parent if found else Path(shutil.which("initdb") or "initdb").parent
    folder = Path(tempfile.mkdtemp(prefix="shopgraph-pg-"))  # pytest's own folders are closed to the postgres user
    as_user = {"user": "postgres"} if os.geteuid() == 0 else {}  # Postgres refuses to run as root
    if as_user:
        shutil.chown(folder, "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    data = folder / "data"
    subprocess.run([tools / "initdb", "-D", data, "-U", "shop", "--auth=trust", "--encoding=UTF8"], check=True, **quiet, **as_user)
    (port,) = free_ports(1)
    options = ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen([tools / "postgres", "-D", data, "-p", str(port), *options], **quiet, **as_user)
    try:
        wait_until_open(port, server)
        ready = [tools / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False, **quiet).returncode:  # it listens before it answers
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A private Redis server that keeps nothing on disk."""
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port, server)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(timeout=30)
