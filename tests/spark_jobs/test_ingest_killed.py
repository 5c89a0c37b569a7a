"""`shopgraph ingest` killed with SIGKILL at its different stages: the next run loses and repeats nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from spark_jobs.init_shop import init_shop
from tests.installation import Installation

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent.parent
ROWS = 20_000


def start(settings: Settings) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **settings.environment()}
    command = [sys.executable, "-m", "shopgraph", "ingest", "--json"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


STAGES: dict[str, Callable[[Path], bool]] = {
    "staging": lambda lake: any(lake.glob("staging/*/*.parquet")),
    "writing": lambda lake: any(lake.glob("raw/orders/data/*/*")),
    "committing": lambda lake: (lake / "ingest.journal.json").exists() or any(lake.glob("raw/orders/_delta_log/*.json")),
}


@pytest.mark.parametrize(
    "stage", [*(pytest.param(stage, marks=pytest.mark.soak) for stage in ("staging", "writing")), "committing"]
)
def test_killed_and_run_again(stage: str, settings: Settings, lake: Lake, tmp_path: Path) -> None:
    header = "order_id,user_id,item_id,quantity,unit_price,event_timestamp\n"  # no line ids: a file read twice would show
    rows = [f"{i},{i % 97},{i % 13},{1 if i % 10 else 'x'},1.5,2025-06-01 10:00:00\n" for i in range(ROWS)]
    (tmp_path / "orders.csv").write_text(header + "".join(rows))
    home = Home(settings)
    path = init_shop(home, settings.shop, [str(tmp_path / "orders.csv")])
    path.write_text(path.read_text().replace("quarantine_share: 0.05", "quarantine_share: 0.2"))
    killed = start(settings)
    folder = Path(lake.uri(""))
    while killed.poll() is None and not STAGES[stage](folder):
        time.sleep(0.002)
    assert killed.returncode is None, f"it ended before it was killed: {killed.stderr.read().decode()}"  # type: ignore[union-attr]
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    again = start(settings)
    _, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors.decode()
    assert lake.num_rows("raw/orders") == ROWS * 9 // 10
    assert lake.num_rows("quarantine/orders") == ROWS // 10
    assert lake.num_rows("ingest/files") == 1
    left = Installation(settings).leavings().keys()
    assert left <= {"run/spark"}  # goes when Spark starts next: what is only to be committed needs none
    assert stage == "committing" or not left
