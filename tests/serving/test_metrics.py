"""What is counted of requests, and what several replicas of a machine say together."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import EngineError
from infra.home import Home
from serving.gateway import Gateway
from serving.pulse import BEAT_S
from tests.serving.conftest import ServedShop, ask
from tests.serving.test_live import second_graph

ROOT = Path(__file__).parent.parent.parent
REPLICA = """
import json, sys
from pathlib import Path
from serving.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
def say(given):
    metrics.is_ready.set(given["ready"])
    metrics.waiting.labels("recommend").set(given["waiting"])
    metrics.breaker_open.labels("recommend", "ranker").set(given["open"])
    metrics.release_epoch.labels("recommend").set(given["epoch"])
    metrics.replica_starts.inc()
    print("said", flush=True)
say(json.loads(sys.argv[2]))
for line in sys.stdin:
    sys.stdout.write(metrics.text().decode() + "end\\n")
    sys.stdout.flush()
"""


class Replica:
    """A process that counts into a shared folder until it is killed."""

    def __init__(self, folder: Path, **said: float) -> None:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(folder), json.dumps(said)],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "said\n"

    def scrape(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("scrape\n")
        self.process.stdin.flush()
        return values("".join(iter(self.process.stdout.readline, "end\n")))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def values(text: str) -> dict[str, float]:
    """Every sample: name with its labels in order -> value."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{sample.name}{_braces(sample.labels)}": sample.value for sample in samples}


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}" if labels else ""


def test_replicas_say_the_worst_of_them_and_a_dead_one_says_nothing(tmp_path: Path) -> None:
    well = Replica(tmp_path, ready=1, waiting=2, open=0, epoch=8)
    ill = Replica(tmp_path, ready=0, waiting=5, open=1, epoch=7)
    try:
        found = well.scrape()
        assert found["shopgraph_ready"] == 0
        assert found["shopgraph_waiting_requests{product=recommend}"] == 7
        assert found["shopgraph_breaker_open{node=ranker,product=recommend}"] == 1
        assert found["shopgraph_release_epoch{product=recommend}"] == 7
        assert found["shopgraph_replica_starts_total"] == 2
        ill.kill()
        found = well.scrape()
        assert found["shopgraph_ready"] == 1
        assert found["shopgraph_waiting_requests{product=recommend}"] == 2
        assert found["shopgraph_breaker_open{node=ranker,product=recommend}"] == 0
        assert found["shopgraph_release_epoch{product=recommend}"] == 8
        assert found["shopgraph_replica_starts_total"] == 2  # what was counted stays
    finally:
        well.kill()
        ill.kill()


def test_a_file_of_a_process_whose_number_another_has_now_says_nothing(tmp_path: Path) -> None:
    gone = Replica(tmp_path, ready=0, waiting=5, open=1, epoch=7)
    gone.kill()
    for path in tmp_path.glob("gauge_live*"):  # as after a restart of the container, where numbers begin anew
        os.utime(path, (0, 0))
        path.rename(path.with_name(path.name.replace(str(gone.process.pid), str(os.getpid()))))
    well = Replica(tmp_path, ready=1, waiting=0, open=0, epoch=8)
    try:
        found = well.scrape()
        assert found["shopgraph_ready"] == 1
        assert found["shopgraph_release_epoch{product=recommend}"] == 8
    finally:
        well.kill()


def test_what_no_graph_took_up_has_no_version_and_a_candidate_is_told_apart(told_shop: ServedShop) -> None:
    shop = told_shop
    stable, candidate = shop.manifests["recommend"].version, second_graph(shop)
    shop.releases.deploy(candidate, "me", "")
    shop.releases.canary("recommend", 50, "me", "")
    gateway = shop.gateway()
    for number in range(40):
        assert ask(gateway, "/v1/recommend", {"user_id": f"u{number}"}).is_success
    assert ask(gateway, "/v1/recommend", {"k": 0}).status_code == 422  # the schema refuses it
    assert ask(gateway, "/v1/forecast", {"series": [{"item_id": "i0"}], "horizon": 8}).status_code == 422  # the graph does
    found = {name: value for name, value in scraped(gateway).items() if name.startswith("shopgraph_request_seconds_count")}

    def count(version: str, product: str, status: int, variant: str) -> str:
        return f"shopgraph_request_seconds_count{{graph_version={version},product={product},status={status},variant={variant}}}"

    forecast = shop.manifests["forecast"].version
    answers = count(stable, "recommend", 200, "stable"), count(candidate, "recommend", 200, "candidate")
    assert all(found[name] > 5 for name in answers)
    assert sum(found.pop(name) for name in answers) == 40
    assert found == {count("", "recommend", 422, ""): 1, count(forecast, "forecast", 422, "stable"): 1}


def test_buckets_tell_50_ms_from_what_lies_beside_it(gateway: Gateway) -> None:
    assert ask(gateway, "/v1/recommend", {"user_id": "u1"}).is_success
    bounds = [float(name.split("le=")[1].split(",")[0]) for name in scraped(gateway) if "request_seconds_bucket" in name]
    assert {0.04, 0.05, 0.06} <= set(bounds)


def test_the_pulse_says_what_is_released_what_waits_and_how_old_the_rows_are(told_shop: ServedShop) -> None:
    shop = told_shop
    gateway = shop.gateway()
    pulse = gateway.pulse
    pulse.look()
    pulse.look_at_features()
    found = scraped(gateway)
    assert found["shopgraph_ready"] == 1
    assert found["shopgraph_graph_waiting{product=recommend}"] == 0
    epochs = {move.product: move.epoch for move in reversed(shop.releases.history())}
    assert {product: found[f"shopgraph_release_epoch{{product={product}}}"] for product in epochs} == epochs
    assert found["shopgraph_features_age_seconds{view=user_history}"] == 0  # made for the instant at which the shop's clock stands

    shop.releases.deploy(second := second_graph(shop), "me", "")
    shop.releases.canary("recommend", 10, "me", "")
    gateway.live.look()  # the candidate is not loaded yet
    pulse.look()
    assert scraped(gateway)["shopgraph_candidate_held_back{product=recommend}"] == 1
    assert scraped(gateway)["shopgraph_ready"] == 1
    shop.releases.release(second, "me", "")
    gateway.live.look()
    pulse.look()
    found = scraped(gateway)
    assert found["shopgraph_candidate_held_back{product=recommend}"] == 0
    assert found["shopgraph_graph_waiting{product=recommend}"] == 1
    assert found["shopgraph_ready"] == 0


def test_a_release_database_that_is_away_is_not_said_to_be_read(told_shop: ServedShop) -> None:
    gateway = told_shop.gateway()
    before = gateway.live.releases.read_at
    assert before is not None
    gateway.live.releases.engine.dispose()
    for path in Home(told_shop.settings).sql.glob("releases.db*"):
        path.write_bytes(b"no database" * 100)
    with pytest.raises(EngineError):
        gateway.live.look()
    gateway.pulse.look()
    assert scraped(gateway)["shopgraph_releases_read_timestamp_seconds"] == before


def test_before_the_releases_are_read_a_replica_is_not_ready_and_names_no_epoch(served: ServedShop) -> None:
    live = served.live()
    gateway = Gateway(live, served.inbox(live), served.requests(), served.access(live), live.metrics, 1000)
    gateway.pulse.look()
    found = scraped(gateway)
    assert found["shopgraph_ready"] == 0
    assert not any(name.startswith("shopgraph_release_epoch") for name in found)


def test_a_loop_that_is_held_up_is_told(served: ServedShop) -> None:
    live = served.live()
    gateway = Gateway(live, served.inbox(live), served.requests(), served.access(live), live.metrics, 1000)

    async def run() -> None:
        gateway.pulse.start()
        await asyncio.sleep(0.1)
        time.sleep(BEAT_S + 0.5)  # as a computation in the event loop would hold it up
        await asyncio.sleep(0.1)
        gateway.pulse.stop()

    asyncio.run(run())
    found = scraped(gateway)
    assert found["shopgraph_event_loop_lag_seconds"] > 0.3
    assert found["shopgraph_replica_starts_total"] == 1


def scraped(gateway: Gateway) -> dict[str, float]:
    return values(gateway.metrics.text().decode())
