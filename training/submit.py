"""Submitting a training run to a Ray cluster through its Jobs API, with this code as the job's working folder.

Secrets are not sent: the Jobs API shows a job's environment to everyone who may see the cluster. The cluster's own environment
carries them.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from infra.errors import EngineError
from infra.home import Home
from infra.settings import Settings, quiet_environment, ray_token
from training.tracking.server import ensure_server

ROOT = Path(__file__).parent.parent
_AGENTS_S = 60
"""How long a cluster that has just started may take until its nodes accept jobs."""
_LEFT_OUT = [
    "/.git",
    "/.venv*",
    "/.shopgraph*",
    "/.env*",
    "/shared",
    "/.demo",
    "/build",
    "/tests",
    "/docs",
    "**/__pycache__",
    "/.*_cache",
    "/.hypothesis",
]


def submit(settings: Settings, address: str, arguments: Sequence[str]) -> None:
    """Run `shopgraph <arguments>` as a job on the cluster and follow its log until it ends.

    Args:
        address: the dashboard of the cluster, e.g. `http://127.0.0.1:8265`.

    Raises:
        EngineError: the cluster does not answer or refuses, the connection breaks, or the job fails.
    """
    home = Home(settings)
    sent = settings.environment(with_secrets=False)
    sent |= {"SHOPGRAPH_MLFLOW_URI": ensure_server(home), "SHOPGRAPH_RAY_ADDRESS": "auto"}
    token = settings.ray_auth_token
    with ray_token(token.get_secret_value() if token else None):
        # Ray reads its way of authentication once, while it is imported
        import aiohttp  # Ray's own client speaks through it
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobStatus, JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of every file it leaves out
        runtime_env = {"working_dir": str(ROOT), "excludes": _left_out(home), "env_vars": {**quiet_environment(), **sent}}
        deadline = time.monotonic() + _AGENTS_S
        while True:
            try:
                client = JobSubmissionClient(address)
                job = client.submit_job(entrypoint=f"python -m shopgraph {shlex.join(arguments)}", runtime_env=runtime_env)
                break
            except AuthenticationError:
                raise EngineError(
                    f"Ray at {address} wants another token; expected the cluster's own in SHOPGRAPH_RAY_AUTH_TOKEN."
                ) from None
            except (ConnectionError, RuntimeError) as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise EngineError(f"Ray at {address} does not take the job: {str(error).splitlines()[0]}") from None
                time.sleep(1)

        async def follow() -> None:
            async for lines in client.tail_job_logs(job):
                print(lines, end="", flush=True)

        try:
            asyncio.run(follow())
            status = client.get_job_status(job)
        except (ConnectionError, RuntimeError, aiohttp.ClientError) as error:
            raise EngineError(
                f"the connection to {address} broke ({str(error)[:200]}); job {job} goes on there: see the Ray dashboard, "
                f"or `ray job logs --address {address} --follow {job}`."
            ) from error
    if status != JobStatus.SUCCEEDED:
        raise EngineError(f"job {job} on {address} ended as {status}; its log is above and in the Ray dashboard.")


def _left_out(home: Home) -> list[str]:
    """What is not sent: neither the job nor the cluster's disks need it, and some of it is secret."""
    below = [f"/{home.path.relative_to(ROOT)}"] if home.path != ROOT and home.path.is_relative_to(ROOT) else []
    return [*_LEFT_OUT, *below]
