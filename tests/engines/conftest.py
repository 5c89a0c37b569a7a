"""The real engines, each private to this test run and on loopback: a Spark cluster, a Ray cluster of two nodes, an S3 server."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pyspark
import pytest

from infra.processes import free_ports
from infra.settings import quiet_environment
from tests.ports import wait_until_open

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a standalone Spark with one worker of two cores."""
    folder = tmp_path_factory.mktemp("spark-cluster")
    spark_class = Path(pyspark.__file__).parent / "bin" / "spark-class"
    port, web_port, worker_port, worker_web_port = free_ports(4)
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(folder), "PYSPARK_PYTHON": sys.executable}
    common = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    deploy = "org.apache.spark.deploy"
    master = subprocess.Popen(
        [spark_class, f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(web_port)],
        **common,
    )
    worker = None
    try:
        wait_until_open(port, master)
        address = f"spark://127.0.0.1:{port}"
        sizes = ["--cores", "2", "--memory", "2g", "--port", str(worker_port), "--webui-port", str(worker_web_port)]
        worker = subprocess.Popen([spark_class, f"{deploy}.worker.Worker", address, "--host", "127.0.0.1", *sizes], **common)
        wait_until_open(worker_port, worker)
        yield address
    finally:
        for process in filter(None, (worker, master)):
            process.terminate()
            process.wait(timeout=30)


@dataclass(frozen=True)
class S3:
    """An S3 server with one empty bucket `shop`."""

    endpoint: str

    @property
    def settings(self) -> dict[str, str]:
        """The SHOPGRAPH settings that reach it."""
        return {"s3_endpoint": self.endpoint, "s3_access_key_id": "testing", "s3_secret_access_key": "testing"}


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """moto's server: a real S3 protocol over HTTP, kept in memory."""
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_open(port, server)
        made = S3(f"http://127.0.0.1:{port}")
        boto3.client(
            "s3", endpoint_url=made.endpoint, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
        ).create_bucket(Bucket="shop")
        yield made
    finally:
        server.terminate()
        server.wait(timeout=30)


@dataclass(frozen=True)
class RayCluster:
    """A running Ray cluster: where its Jobs API is and the token that opens it."""

    dashboard: str
    token: str


@pytest.fixture(scope="session")
def ray_cluster(s3: S3) -> Iterator[RayCluster]:
    """A Ray head and a second node; a token opens them, and their own environment carries the secrets of S3."""
    token, (port, dashboard, client) = secrets.token_hex(16), free_ports(3)
    environment = {**os.environ, **quiet_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment |= {f"SHOPGRAPH_{name.upper()}": value for name, value in s3.settings.items() if "key" in name}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"  # jobs run the `python` of the nodes' path
    common = ["--disable-usage-stats", "--block"]
    # A folder each, as on two machines: a node replaces a job's code when it gets it. Short names, sockets lie in there.
    folders = [tempfile.mkdtemp(prefix="sg-ray-") for _ in range(2)]
    head = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1", "--object-store-memory=100000000",
         "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
         f"--temp-dir={folders[0]}", *common],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip
    node = None
    try:
        wait_until_open(dashboard, head)
        node = subprocess.Popen(
            [BIN / "ray", "start", f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1", "--num-cpus=2",
             "--object-store-memory=100000000", f"--temp-dir={folders[1]}", *common],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
        yield RayCluster(f"http://127.0.0.1:{dashboard}", token)
    finally:
        for process in filter(None, (node, head)):
            process.terminate()  # `ray start --block` takes its daemons along
            process.wait(timeout=60)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
