"""A home with ports of its own, driven through the command line as a user does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from infra.lake import Lake
from infra.processes import free_ports
from infra.settings import Settings


@dataclass(frozen=True)
class Installation:
    """One home with ports of its own, driven through the command line."""

    settings: Settings

    def shopgraph(self, *arguments: str, code: int = 0) -> str:
        """Run a verb; its standard output, or its standard error where `code` is not 0."""
        done = subprocess.run(self._words(arguments), **self._place, capture_output=True, check=False)
        assert done.returncode == code, (
            f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
        return str(done.stdout if code == 0 else done.stderr)

    def killed(self, after_s: float, *arguments: str) -> bool:
        """Start a verb and kill it and what it started (its process group) with SIGKILL; False where it had ended before."""
        process = subprocess.Popen(
            self._words(arguments), **self._place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        return False

    def _words(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "shopgraph", *arguments]

    @property
    def _place(self) -> dict[str, Any]:
        return {"env": {**os.environ, **self.settings.environment()}, "cwd": Path(__file__).parent.parent, "text": True}

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        # a busy machine is no reason for an answer that leaves something out
        headers = {"content-type": "application/json", "x-request-timeout-ms": "60000"}
        return httpx.post(f"http://127.0.0.1:{self.settings.http_port}{path}", content=content, headers=headers, timeout=60)

    @property
    def lake(self) -> Lake:
        return Lake.open(self.settings)

    def leavings(self) -> Counter[str]:
        """Where in the home lies what nothing names, and how much: attempts of no version, staging, journals, drafts, Spark's scratch."""
        root, lake = self.settings.home_path, self.lake
        named = {
            Path(file).parent
            for path in lake.tables()
            for version in range((lake.version(path) or 0) + 1)
            for file in lake.file_uris(path, version)
        }
        left = [folder for folder in root.glob("lake/*/*/*/data/*") if folder not in named]
        for pattern in ("lake/*/staging/*", "lake/**/*.journal.json", "run/spark/*", "**/*.tmp", "**/*.draft"):
            left += root.glob(pattern)
        return Counter(str(path.parent.relative_to(root)) for path in left)

    def rows(self, path: str) -> pa.Table:
        """A table of the lake in one order, whatever files its rows lie in."""
        table = self.lake.read(path)
        plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
        return table.sort_by([(name, "ascending") for name in plain]).combine_chunks()


def installation(home: Path) -> Installation:
    names = ("http_port", "mlflow_port", "ray_port", "ray_dashboard_port")
    return Installation(Settings.load(home=home, **dict(zip(names, free_ports(len(names)), strict=True))))
