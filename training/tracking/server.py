"""Our own MLflow server: SQLite or Postgres behind it, artifacts through its proxy, loopback only. Clients speak HTTP."""

from __future__ import annotations

import subprocess
import sys

from infra.errors import EngineError
from infra.home import Home
from infra.processes import answers, check_port_free, running, start, stop

NAME = "mlflow"


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
        EngineError: the port is taken, or the server does not come up.
    """
    settings = home.settings
    if settings.mlflow_uri or running(home, NAME):
        return server_uri(home)
    stop(home, NAME)  # what a server that was killed has left behind
    check_port_free(settings.mlflow_port, "SHOPGRAPH_MLFLOW_PORT")
    # its job runner starts seven more processes of 290 MB each, for features (gateway, evaluation jobs) that we do not offer
    environment = {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **_s3_environment(home)}
    upgraded = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", backend_uri(home)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home.path,
    )
    if upgraded.returncode:
        last = (upgraded.stderr.strip().splitlines() or ["no output"])[-1]
        raise EngineError(f"MLflow's database cannot be made ready: {last}")
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", backend_uri(home), "--artifacts-destination", home.artifact_root]
    command += ["--host", "127.0.0.1", "--port", str(settings.mlflow_port), "--workers", "1"]
    start(home, NAME, command, environment, lambda: answers(settings.mlflow_port, "/health"), timeout_s=90)
    return server_uri(home)


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
