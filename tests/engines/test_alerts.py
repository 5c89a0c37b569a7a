"""Prometheus itself fires what infra/monitoring/alerts.yaml says, and keeps quiet where nothing is wrong (promtool)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parent.parent.parent


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    found = promtool("test", "rules", ROOT / "tests" / "engines" / "alerts.yaml")
    assert found.returncode == 0, found.stdout + found.stderr


def test_an_alert_that_would_fire_wrongly_is_found(tmp_path: Path) -> None:
    """The same expectations on alerts with another threshold: what the test above proves could fail."""
    (tmp_path / "infra" / "monitoring").mkdir(parents=True)
    (tmp_path / "tests" / "engines").mkdir(parents=True)
    alerts = (ROOT / "infra" / "monitoring" / "alerts.yaml").read_text()
    (tmp_path / "infra" / "monitoring" / "alerts.yaml").write_text(alerts.replace("oldest_seconds > 300", "oldest_seconds > 2"))
    shutil.copy(ROOT / "tests" / "engines" / "alerts.yaml", tmp_path / "tests" / "engines")
    found = promtool("test", "rules", tmp_path / "tests" / "engines" / "alerts.yaml")
    assert found.returncode == 1
    assert "ShopgraphSpoolNotDrained" in found.stdout + found.stderr


def test_prometheus_takes_its_configuration() -> None:
    found = promtool("check", "config", ROOT / "infra" / "monitoring" / "prometheus.yaml")
    assert found.returncode == 0, found.stdout + found.stderr
