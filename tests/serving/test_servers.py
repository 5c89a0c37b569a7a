"""up, status and down of one home; the last test starts the real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

import shopgraph
from infra import processes
from infra.errors import EngineError, SettingsError
from infra.home import Home
from infra.settings import Settings
from serving import servers
from serving.keys import Keys
from serving.releases import Releases
from tests.serving.conftest import ServedShop, ask, compose, keep, save_recommender


def with_ports(settings: Settings, **more: Any) -> Settings:
    """The same settings on ports that are free now."""
    names = ("http_port", "mlflow_port", "ray_port", "ray_dashboard_port")
    ports = processes.free_ports(len(names))
    return Settings.load(home=settings.home, **dict(zip(names, ports, strict=True)), **more)


def command(settings: Settings, *arguments: str) -> Any:
    """Run the command line in this process."""
    environment = {f"SHOPGRAPH_{name.upper()}": str(getattr(settings, name)) for name in ("http_port", "mlflow_port", "ray_port")}
    return CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), *arguments], env=environment)


def reachable_ports(settings: Settings, name: str) -> set[int]:
    """Ports of a server that other machines can reach."""
    family = processes.processes(Home(settings), name)
    listening = [one.laddr for process in family for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return {address.port for address in listening if not ip_address(address.ip.removeprefix("::ffff:")).is_loopback}


def test_with_nothing_up_status_and_down_say_so(settings: Settings) -> None:
    settings = with_ports(settings)
    found = servers.status(settings)
    assert [(server.name, server.is_up, server.pid) for server in found.servers] == [
        ("mlflow", False, None),
        ("ray", False, None),
        ("http", False, None),
    ]
    told = command(settings, "status", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["is_up"] is False
    down = command(settings, "down")
    assert (down.exit_code, down.stdout) == (0, "nothing was up.\n")


def test_a_folder_that_is_no_home_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(SettingsError, match="is no shopgraph home"):
        servers.purge(Settings.load(home=tmp_path))
    assert (tmp_path / "thesis.txt").exists()


def test_purge_asks_and_then_deletes_the_home_and_its_sockets(tmp_path: Path) -> None:
    settings = with_ports(Settings.load(home=tmp_path / ("a long path " * 9)))
    home = Home(settings).create()
    sockets = processes.socket_folder(home, 88)
    assert sockets.exists()
    assert not sockets.is_relative_to(home.path)
    asked = CliRunner().invoke(shopgraph.app, ["--home", str(settings.home), "down", "--purge"], input="n\n")
    assert asked.exit_code == 1
    assert home.path.exists()
    assert command(settings, "down", "--purge", "--yes").exit_code == 0
    assert not home.path.exists()
    assert not sockets.exists()


def test_up_says_what_is_missing_or_taken(settings: Settings, served: ServedShop) -> None:
    with pytest.raises(SettingsError, match="shopgraph sample"):
        servers.up(with_ports(settings), False, print)
    with pytest.raises(SettingsError, match="SHOPGRAPH_RAY_ADDRESS"):
        servers.up(with_ports(served.settings, ray_address="somewhere:6379"), False, print)
    taken = with_ports(served.settings)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken.ray_dashboard_port))
        holder.listen()
        with pytest.raises(EngineError, match=rf"port {taken.ray_dashboard_port} .*SHOPGRAPH_RAY_DASHBOARD_PORT"):
            servers.up(taken, False, print)
    assert servers.down(taken) == []


def test_where_haproxy_does_not_run_the_default_proxy_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, variables = servers.choose_proxy(tmp_path, 20001, 20002)
    assert fast == "HAProxy"
    paths = [Path(value) for name, value in variables.items() if name.endswith(("_LOC", "_PATH", "_BASE", "_FILE"))]
    assert [path for path in paths if not path.is_relative_to(tmp_path)] == [Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"])]
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    slow, variables = servers.choose_proxy(tmp_path, 20001, 20002)
    assert "default" in slow
    assert variables == {}


def test_replicas_get_ports_on_which_no_other_home_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ports() -> range:
        variables = servers.choose_proxy(tmp_path, 20001, 20002)[1]
        bounds = (variables[f"RAY_SERVE_DIRECT_INGRESS_{name}_HTTP_PORT"] for name in ("MIN", "MAX"))
        first, last = map(int, bounds)
        return range(first, last + 1)

    before = ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", before[3]))
        other.listen()
        after = ports()
        assert len(after) == len(before)
        assert not set(after) & set(before)
        monkeypatch.setattr(servers, "_REPLICA_PORTS", range(before[0], before[0] + 40, 40))
        with pytest.raises(EngineError, match=rf"ports {before[0]}-{before[-1]}"):
            ports()


def test_the_mlflow_of_another_home_is_not_ours(tmp_path: Path) -> None:
    """Any program that answers /health stands for a server; whose it is shows in its environment."""
    (tmp_path / "health").touch()
    ours, theirs = (with_ports(Settings.load(home=tmp_path / name)) for name in ("ours", "theirs"))
    try:
        for settings in (ours, theirs):
            port = settings.mlflow_port
            command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
            ready = partial(processes.answers, port, "/health")
            processes.start(Home(settings).create(), "mlflow", command, {}, ready)
        assert servers.status(ours).servers[0].is_up
        elsewhere = servers.status(ours.model_copy(update={"mlflow_port": theirs.mlflow_port})).servers[0]
        assert (elsewhere.is_up, elsewhere.pid) == (False, processes.running(Home(ours), "mlflow"))
    finally:
        for settings in (ours, theirs):
            processes.stop(Home(settings), "mlflow")


@pytest.fixture
def running(told_shop: ServedShop) -> Iterator[Settings]:
    """The served shop in a home of its own, which logs what it is asked, up on ports of its own."""
    settings = with_ports(told_shop.settings)
    try:
        assert servers.up(settings, False, print)
        yield settings
    finally:
        servers.down(settings)


def check_release(running: Settings, served: ServedShop, url: str) -> None:
    """A candidate comes, answers everybody, and goes, each within a second at most once it is loaded, and no request fails."""
    releases, stable = Releases(running, "sample"), served.manifests["recommend"].version
    model = keep(Home(running), "recommender", 2, save_recommender)
    version = releases.store(compose("recommend", {"recommender": model}))

    def answers(wanted: str, within_s: float) -> None:
        began = time.monotonic()
        while True:
            answer = httpx.post(url, json={"user_id": "u1", "k": 5}, timeout=30)
            assert answer.status_code == 200, answer.text
            if answer.json()["graph_version"] == wanted:
                return
            assert time.monotonic() - began < within_s

    releases.deploy(version, who="test", why="")
    releases.canary("recommend", 100, who="test", why="")
    answers(version, 30)
    assert servers.status(running).candidates == {"recommend": version}
    releases.promote("recommend", who="test", why="")
    answers(version, 1)
    releases.rollback("recommend", who="test", why="")
    answers(stable, 1)
    assert releases.verify() == []


def check_keys(running: Settings, url: str) -> None:
    """Whoever asks from another machine, past the proxy too, needs a key; a key is good until it is revoked."""
    keys = Keys(running, "sample")
    _, page = keys.create("web", ["events:write"], "test", origins=["https://shop.example"])
    _, server = keys.create("server", ["recommend"], "test", rate=1000)

    def ask_with(key: str, at: str = url, path: str = "/v1/recommend") -> httpx.Response:
        headers = {
            "authorization": f"Bearer {key}",
            "origin": "https://shop.example",
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        }
        return httpx.post(f"{at}{path}", json={"user_id": "u1"}, headers=headers, timeout=30)

    began = time.monotonic()
    while (answer := ask_with(server)).status_code != 200:
        assert time.monotonic() - began < 2, answer.text
    assert answer.headers["traceparent"].startswith(f"00-{'a' * 32}-")
    assert answer.headers["ratelimit-policy"] == '"rate";q=1000;w=1'
    assert ask_with(page).status_code == 403
    assert ask_with(page, path="/v1/events").headers["access-control-allow-origin"] == "https://shop.example"
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert httpx.options(f"{url}/v1/events", headers=asks, timeout=30).status_code == 204

    for headers in ({"x-forwarded-for": "203.0.113.9"}, {"host": "shop.example"}):  # what a proxy of this machine hands on
        for path in ("/v1/recommend", "/metrics"):
            method = "GET" if path == "/metrics" else "POST"
            assert httpx.request(method, url + path, json={"user_id": "u1"}, headers=headers, timeout=30).status_code == 401
    addresses = [one.address for those in psutil.net_if_addrs().values() for one in those if one.family == socket.AF_INET]
    for address in addresses:
        if not ip_address(address).is_loopback:  # by which this machine reaches itself as others do
            for port in reachable_ports(running, "ray"):
                with suppress(httpx.HTTPError):  # most speak no HTTP
                    answer = httpx.post(f"http://{address}:{port}/v1/recommend", json={"user_id": "u1"}, timeout=2)
                    assert answer.status_code >= 400, port
    keys.revoke("server", "test")
    began = time.monotonic()
    while ask_with(server).status_code == 200:
        assert time.monotonic() - began < 2
    assert ask_with(server).status_code == 401


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_real_servers(running: Settings, served: ServedShop, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{running.http_port}"
    body = {"user_id": "u1", "k": 5}
    headers = {"x-request-id": "mine", "x-request-timeout-ms": "30000"}
    answer = httpx.post(f"{url}/v1/recommend", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    in_process = ask(served.gateway(), "/v1/recommend", body).json()
    assert answer.json()["items"] == in_process["items"]
    assert answer.json()["graph_version"] == in_process["graph_version"]
    assert answer.json()["request_id"] == "mine"
    assert answer.headers.get_list("x-request-id") == ["mine"]
    for product, good in (("forecast", {"series": [{"item_id": "i0"}], "horizon": 2}), ("sentiment", {"texts": ["很好"]})):
        assert httpx.post(f"{url}/v1/{product}", json=good, timeout=30).status_code == 200
    refused = httpx.post(f"{url}/v1/forecast", json={"series": [{"item_id": "i0"}], "horizon": 10_000}, timeout=30)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert (
        httpx.post(
            f"{url}/v1/sentiment", content=b"x" * 2_000_000, headers={"content-type": "application/json"}, timeout=30
        ).status_code
        == 413
    )
    assert httpx.get(f"{url}/nothing/here", timeout=30).json()["type"] == "urn:shopgraph:problem:not-found"
    assert "shopgraph_request_seconds_count" in httpx.get(f"{url}/metrics", timeout=30).text

    check_release(running, served, f"{url}/v1/recommend")
    check_keys(running, url)
    found = servers.status(running)
    assert found.is_up
    assert found.graphs == {product: manifest.version for product, manifest in served.manifests.items()}
    assert all(server.memory_mb > 0 for server in found.servers[:2])
    assert not servers.up(running, False, print)
    with pytest.raises(EngineError, match=f"SHOPGRAPH_HTTP_PORT={running.http_port}"):
        servers.up(running.model_copy(update={"http_port": running.mlflow_port}), False, print)
    with pytest.raises(EngineError, match="SHOPGRAPH_HTTP_KEYS=auto, not required"):
        servers.up(running.model_copy(update={"http_keys": "required"}), False, print)
    assert servers.status(running.model_copy(update={"http_port": running.mlflow_port})).is_up

    # What an application or a user reaches is on loopback; Ray's own ports are not all, and the token locks them.
    assert reachable_ports(running, "mlflow") == set()
    assert not reachable_ports(running, "ray") & {running.http_port, running.ray_dashboard_port}
    assert httpx.get(f"http://127.0.0.1:{running.ray_dashboard_port}/api/serve/applications/", timeout=30).status_code == 401

    other = with_ports(Settings.load(home=tmp_path / "other"))
    Home(other).create()
    assert servers.down(other) == []  # another home's `down` stops nothing here
    assert httpx.get(f"{url}/livez", timeout=30).status_code == 200

    pids = {process.pid for name in ("mlflow", "ray") for process in processes.processes(Home(running), name)}
    assert servers.down(running) == ["ray", "mlflow"]
    assert servers.down(running) == []
    assert not any(processes.is_open(port) for port in (running.http_port, running.mlflow_port, running.ray_port))
    assert not pids & {process.pid for name in ("mlflow", "ray") for process in processes.processes(Home(running), name)}


def test_who_stays_is_told_when_a_server_ends_by_itself(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "home")
    home = Home(settings).create()
    for name in ("ray", "mlflow"):
        processes.start(home, name, [sys.executable, "-c", "import time; time.sleep(60)"], {}, lambda: True)
    staying = threading.Thread(target=_told, args=(settings, told := list[str]()))
    staying.start()
    try:
        staying.join(timeout=2)
        assert staying.is_alive()
        processes.stop(home, "ray")
        staying.join(timeout=10)
        assert len(told) == 1
        assert "ray has ended by itself" in told[0]
        assert servers.down(settings) == ["mlflow"]
    finally:
        servers.down(settings)
        staying.join(timeout=10)


def _told(settings: Settings, told: list[str]) -> None:
    try:
        servers.stay(settings)
    except EngineError as error:
        told.append(str(error))


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_up_stays_until_it_is_told_to_end_and_leaves_nothing(told_shop: ServedShop) -> None:
    settings = with_ports(told_shop.settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "shopgraph", "up", "--stay"],
        cwd=servers.ROOT, env={**os.environ, **settings.environment()}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not processes.answers(settings.http_port, "/readyz"):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(2)
        assert process.poll() is None
        metrics = httpx.get(f"http://127.0.0.1:{settings.http_port}/metrics", timeout=30).text
        assert "shopgraph_ready 1.0" in metrics
        assert "shopgraph_replica_starts_total 1.0" in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert [server.pid for server in servers.status(settings).servers] == [None] * 3
        assert not any(processes.processes(Home(settings), name) for name in ("ray", "mlflow"))
    finally:
        process.kill()
        process.communicate()
        servers.down(settings)
