"""Every setting of shopgraph, and the only reader of the environment.

A setting is an environment variable `SHOPGRAPH_<NAME>`; the defaults run everything embedded on one machine under one
home folder. `docs/settings.md` is generated from this file (`make docs`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import SettingsError


class Settings(BaseSettings):
    """Where things run. Frozen: read once, by `Settings.load()`, and handed on."""

    model_config = SettingsConfigDict(env_prefix="SHOPGRAPH_", frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = Field(Path(".shopgraph"), description="Folder that holds all state: lake, SQL files, artifacts, logs, pids.")
    shop: str = Field("sample", pattern=r"^[a-z][a-z0-9_]{0,40}$", description="The shop a command works on.")
    now: str | None = Field(
        None, description="The clock: `wall`, `data` (just after the newest fact) or an ISO 8601 time. Default: the shop's own."
    )
    data: Path | None = Field(None, description="Folder with the public data sets that `make demo-real` reads.")

    spark_master: str = Field("local[*]", description="Spark master: `local[*]` inside the job, or `spark://host:7077`.")
    spark_driver_memory: str = Field("2g", pattern=r"^\d+[mg]$", description="Memory of the Spark driver (and of `local[*]`).")
    spark_python: str | None = Field(None, description="Python of Spark's workers; default: this one. Needs pyarrow and pandas.")
    java_home: Path | None = Field(None, description="Java 17 or newer; default: JAVA_HOME, then the PATH.")

    lake_root: str | None = Field(None, description="Where tables lie: a folder or `s3://bucket/prefix`. Default: `<home>/lake`.")
    artifact_root: str | None = Field(
        None, description="Where MLflow keeps artifacts: a folder or `s3://bucket/prefix`. Default: `<home>/artifacts`."
    )
    table_retention_days: float = Field(
        30, ge=0, description="Days after which `tables vacuum` lets go of a table version that was replaced and that nothing pins."
    )
    s3_endpoint: str | None = Field(None, description="Endpoint of an S3-compatible store; default: AWS.")
    s3_region: str = Field("us-east-1", description="S3 region.")
    s3_access_key_id: SecretStr | None = Field(None, description="S3 key id; default: the AWS chain of the process.")
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret key.")

    mlflow_uri: str | None = Field(None, description="MLflow server to use; default: one of our own, started on demand.")
    mlflow_backend: SecretStr | None = Field(
        None, description="SQL of our own MLflow server, e.g. `postgresql+psycopg://...`; default: SQLite under the home."
    )
    mlflow_port: int = Field(5000, ge=1024, le=65535, description="Port of our own MLflow server.")

    feast_registry: SecretStr | None = Field(
        None, description="SQL of the Feast registry, e.g. `postgresql+psycopg://...`; default: SQLite under the home."
    )
    online_store: SecretStr | None = Field(
        None, description="Online store: `redis://host:port/db`; default: an embedded file under the home."
    )
    read_log: float = Field(
        0, ge=0, le=1, description="Share of online reads that are logged, for `shopgraph features verify --logged`; 1: all."
    )
    releases_db: SecretStr | None = Field(
        None, description="SQL of the release pointers and the API keys; default: SQLite under the home."
    )

    ray_address: str | None = Field(
        None, description="Ray cluster that `train` joins, `host:port`; default: one of our own. Unset it for `up`."
    )
    ray_port: int = Field(6399, ge=1024, le=65535, description="Port of our own Ray head (Redis owns 6379).")
    ray_dashboard_port: int = Field(8265, ge=1024, le=65535, description="Port of our own Ray dashboard and Jobs API.")
    ray_memory_mb: int = Field(300, ge=80, description="Object store of our own Ray, in MB.")
    ray_auth_token: SecretStr | None = Field(None, description="Token of the Ray cluster; default: one made under the home.")

    train_memory_gb: float = Field(
        8.0,
        ge=0.1,
        description="Memory that the baselines of a training may take, in GB; one that needs more is not run, and the run says so.",
    )

    http_host: str = Field("127.0.0.1", description="Address that the HTTP API binds.")
    http_port: int = Field(8000, ge=1024, le=65535, description="Port of the HTTP API.")
    http_replicas: int = Field(1, ge=1, description="Gateway replicas.")
    http_keys: Literal["auto", "required", "optional"] = Field(
        "auto",
        description="Whether requests need an API key (`shopgraph keys create`): `required`, `optional`, or `auto`: required, but for "
        "requests from this machine while the API binds loopback.",
    )
    http_max_body_bytes: int = Field(1_000_000, ge=1_000, description="Largest request body accepted, in bytes.")

    serve_memory_gb: float = Field(
        4.0, gt=0, description="Memory for models in all replicas, in GB; `graph deploy` refuses a version beyond it."
    )
    request_log: float = Field(
        1.0, ge=0, le=1, description="Share of requests that are logged with their answers, for `shopgraph explain`; 0: none."
    )
    drain_s: float = Field(5.0, gt=0, le=3600, description="Seconds between two commits of what was posted to the tables.")
    spool_days: float = Field(
        7.0, ge=1, description="Days for which an event that was posted is known, so that it counts once when it is posted again."
    )

    kafka: str | None = Field(
        None,
        pattern=r"^[^/]+:\d+/[^/]+$",
        description="Where `shopgraph stream` reads events: `host:port/topic`. Never run here: it needs a jar that pip's Spark lacks.",
    )

    pseudonym_key: SecretStr | None = Field(
        None, description="Key of the hash that stands for a user outside the lake; default: one made under the home."
    )
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged.")
    log_json: bool = Field(False, description="Log JSON lines instead of readable text.")
    seed: int = Field(7, ge=0, description="Seed of the sample shop; trainings have their own: `train --set fit.seed=8`.")

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment; `overrides` win (the command line's own options).

        Raises:
            SettingsError: an unknown `SHOPGRAPH_` variable or a value that does not fit, named.
        """
        known = {f"SHOPGRAPH_{name.upper()}" for name in cls.model_fields}
        unknown = sorted(k for k in os.environ if k.startswith("SHOPGRAPH_") and k not in known)
        if unknown:
            raise SettingsError(f"unknown setting {unknown[0]}; `docs/settings.md` lists the known ones. Unset it or fix its name.")
        try:
            return cls(**{k: v for k, v in overrides.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = "SHOPGRAPH_" + "_".join(str(part) for part in first["loc"]).upper()
            raise SettingsError(f"{name}: {first['msg']}; see docs/settings.md.") from None

    @cached_property
    def home_path(self) -> Path:
        """The home folder as an absolute path (it may not exist yet)."""
        return self.home.expanduser().resolve()

    def environment(self, with_secrets: bool = True) -> dict[str, str]:
        """These settings as `SHOPGRAPH_` variables, for a child process of ours; secrets only where nobody else can read them."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values["home"] = self.home_path
        return {
            f"SHOPGRAPH_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None and (with_secrets or not isinstance(value, SecretStr))
        }


def quiet_environment() -> dict[str, str]:
    """Variables that keep the engines silent and safe; set by `shopgraph.py` before anything heavy is imported.

    Telemetry off, pickles refused, no look-ups on the network while a model is logged.
    """
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_UV_AUTO_DETECT": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONUTF8": "1",
    }


def set_quiet_environment() -> None:
    """Put `quiet_environment()` under the process; what the user set already wins."""
    for name, value in quiet_environment().items():
        os.environ.setdefault(name, value)


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a server or worker we start: this process's own, our quiet defaults beneath, these settings on top."""
    return {**quiet_environment(), **os.environ, **settings.environment()}


def foreign_variable(name: str) -> str | None:
    """The value of a variable that is not ours, such as JAVA_HOME; the one way for other modules to see it."""
    return os.environ.get(name)


def ray_token(token: str | None) -> AbstractContextManager[None]:
    """Ray's own token around its first import and its connecting, when it reads the environment; None leaves that as it is."""
    return variables({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that a library reads only from the environment, and put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
