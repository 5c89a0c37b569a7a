"""Our own MLflow server: SQLite or Postgres behind it, artifacts through its proxy, loopback only. Clients speak HTTP."""

from __future__ import annotations

import sys
import time

from infra.errors import EngineError
from infra.home import Home
from infra.processes import answers, check_port_free, is_open, ports, running, start, starting, stop

NAME = "mlflow"
_START_S = 90
_BUSY_S = 30
"""How long a server that runs may be too busy to say so."""
_SERVE = (
    "import os; from mlflow.db import upgrade; upgrade.callback(os.environ['MLFLOW_BACKEND_STORE_URI']); "
    "from mlflow.cli import cli; cli()"
)
"""`mlflow db upgrade` and `mlflow server` in one process, for importing MLflow takes seconds. The address of the database, which may
hold a password, stays off the command line, which everybody on the machine can read."""


def server_uri(home: Home) -> str:
    """Address of the MLflow server the settings name, else of this home's own."""
    return home.settings.mlflow_uri or f"http://127.0.0.1:{home.settings.mlflow_port}"


def backend_uri(home: Home) -> str:
    """SQL behind our own server."""
    configured = home.settings.mlflow_backend
    return configured.get_secret_value() if configured else f"sqlite:///{home.sql / 'mlflow.db'}"


def ensure_server(home: Home) -> str:
    """Start this home's MLflow server unless it runs or the settings name another; its address.

    Raises:
        EngineError: the port is taken, the server runs on another one, or it does not come up.
    """
    settings = home.settings
    if settings.mlflow_uri or _is_up(home):
        return server_uri(home)
    with starting(home, f"{NAME}-server", _BUSY_S + _START_S):
        if not _is_up(home, _BUSY_S):
            stop(home, NAME)  # what a server that was killed has left behind
            _wait_for_port(settings.mlflow_port)
            _start(home)
    return server_uri(home)


def is_running(home: Home) -> bool:
    """Whether there is a server to speak to: one that the settings name, or ours, started already."""
    return home.settings.mlflow_uri is not None or _is_up(home)


def _is_up(home: Home, busy_s: float = 0) -> bool:
    """Whether our server runs and answers, at the latest after `busy_s`.

    Raises:
        EngineError: it runs on another port than the settings say, on which others may rely.
    """
    port = home.settings.mlflow_port  # at which another home's server may answer
    deadline = time.monotonic() + busy_s
    while running(home, NAME):
        held = ports(home, NAME)
        if held and port not in held:
            raise EngineError(
                f"this home's MLflow runs on port {min(held)}, not {port}; set SHOPGRAPH_MLFLOW_PORT so, or run `shopgraph down` first."
            )
        if held and answers(port, "/health"):
            return True
        if time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    return False


def _wait_for_port(port: int) -> None:
    """A process that was killed holds its port until the kernel has taken it apart."""
    deadline = time.monotonic() + 5
    while is_open(port) and time.monotonic() < deadline:
        time.sleep(0.1)


def _start(home: Home) -> None:
    """Start the server, which brings the database to MLflow's schema first."""
    settings = home.settings
    check_port_free(settings.mlflow_port, "SHOPGRAPH_MLFLOW_PORT")
    # its job runner starts seven more processes of 290 MB each, for features (gateway, evaluation jobs) that we do not offer
    environment = {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **_s3_environment(home)}
    environment["MLFLOW_BACKEND_STORE_URI"] = backend_uri(home)
    command = [sys.executable, "-c", _SERVE, "server", "--artifacts-destination", home.artifact_root]
    command += ["--host", "127.0.0.1", "--port", str(settings.mlflow_port), "--workers", "1"]
    start(home, NAME, command, environment, lambda: answers(settings.mlflow_port, "/health"), timeout_s=_START_S)


def _s3_environment(home: Home) -> dict[str, str]:
    """What MLflow's server needs to reach the S3 of the settings; empty for a local artifact folder."""
    settings = home.settings
    if not home.artifact_root.startswith("s3://"):
        return {}
    environment = {"AWS_DEFAULT_REGION": settings.s3_region}
    if settings.s3_endpoint:
        environment["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_endpoint
    if settings.s3_access_key_id and settings.s3_secret_access_key:
        environment["AWS_ACCESS_KEY_ID"] = settings.s3_access_key_id.get_secret_value()
        environment["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_access_key.get_secret_value()
    return environment
