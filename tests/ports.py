"""Servers that tests start, waited for at their ports."""

from __future__ import annotations

import subprocess
import time

from infra.processes import is_open


def wait_until_open(port: int, process: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    """Wait until something listens on the port; fail if the process that should has ended."""
    deadline = time.monotonic() + timeout_s
    while not is_open(port):
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} does not listen on {port} after {timeout_s} s"
        time.sleep(0.1)
