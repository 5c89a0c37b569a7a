"""`shopgraph doctor`: what could keep this machine and these settings from working, each with what to do about it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement
from pydantic import SecretStr

from infra.home import FORMAT, Home
from infra.hosts import is_loopback
from infra.processes import is_open, processes, running
from infra.settings import Settings, foreign_variable, quiet_environment

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # looked for, not bound

Verdict = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `note`: works, but a user should know; `fail`: something will not work."""

    what: str
    verdict: Verdict
    told: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    home = Home(settings)
    checks: tuple[Callable[[Home], Iterator[Finding]], ...] = (
        _python, _packages, _java, _memory, _home, _secrets, _ports, _listeners, _keys, _telemetry, _engines, _kafka, _platform,
    )  # fmt: skip
    return [finding for check in checks for finding in check(home)]


def _python(_home: Home) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok" if sys.version_info[:2] == (3, 11) else "fail", f"{found}; 3.11 is what everything is tested with")


def _packages(_home: Home) -> Iterator[Finding]:
    lock = Path(__file__).parent.parent / "requirements.lock"
    if not lock.exists():
        yield Finding("packages", "note", "requirements.lock is not beside the code, versions were not compared")
        return
    wrong = []
    for line in lock.read_text().splitlines():
        if line.startswith("#"):
            continue
        locked = Requirement(line)
        if locked.marker and not locked.marker.evaluate():
            continue
        try:
            found = importlib.metadata.version(locked.name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found == "missing" or not locked.specifier.contains(found, prereleases=True):
            wrong.append(f"{locked.name} {found} (locked: {locked.specifier})")
    told = (
        f"{len(wrong)} differ from requirements.lock: {', '.join(wrong[:5])}; run `make setup`"
        if wrong
        else "as in requirements.lock"
    )
    yield Finding("packages", "fail" if wrong else "ok", told)


def _java(home: Home) -> Iterator[Finding]:
    homes = [home.settings.java_home, foreign_variable("JAVA_HOME")]
    java = next((str(Path(folder) / "bin" / "java") for folder in homes if folder), None) or shutil.which("java")
    how = "install Java 17+ (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
    if java is None:
        yield Finding("Java", "fail", f"none found; {how}")
        return
    try:
        banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("Java", "fail", f"{java} does not run ({error}); {how}")
        return
    version = re.search(r'version "(\d+)', banner)
    enough = version is not None and int(version[1]) >= 17
    yield Finding(
        "Java",
        "ok" if enough else "fail",
        f"{java} version {version[1] if version else 'unknown'}" + ("" if enough else f"; {how}"),
    )


def _memory(home: Home) -> Iterator[Finding]:
    free = psutil.virtual_memory().available / 1e9
    yield Finding(
        "memory", "ok" if free >= 6 else "note", f"{free:.1f} GB free; the demo peaks below 8 GB, tiny shops need about 4"
    )
    existing = next(folder for folder in (home.path, *home.path.parents) if folder.exists())
    disk = shutil.disk_usage(existing).free / 1e9
    yield Finding("disk", "ok" if disk >= 2 else "fail", f"{disk:.1f} GB free at {existing}")


def _home(home: Home) -> Iterator[Finding]:
    marker = home.path / "format"
    if not home.path.exists():
        yield Finding("home", "ok", f"{home.path} does not exist yet; the first command makes it")
        return
    found = marker.read_text().strip() if marker.exists() else "none"
    yield Finding("home", "ok" if found == str(FORMAT) else "fail", f"{home.path}, format {found}, this version reads {FORMAT}")
    if not _is_writable(home.path):
        yield Finding("home", "fail", f"{home.path} cannot be written; choose another with SHOPGRAPH_HOME")


def _is_writable(folder: Path) -> bool:
    probe = folder / ".doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _secrets(home: Home) -> Iterator[Finding]:
    loose = (
        [path.name for path in home.run.glob("*.key") if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
        if home.run.exists()
        else []
    )
    yield Finding(
        "secrets",
        "fail" if loose else "ok",
        f"others may read {', '.join(loose)}; chmod 600 them" if loose else "readable by their owner only",
    )


def _ports(home: Home) -> Iterator[Finding]:
    settings = home.settings
    wanted = {
        "mlflow": (settings.mlflow_port, "SHOPGRAPH_MLFLOW_PORT"),
        "ray": (settings.ray_port, "SHOPGRAPH_RAY_PORT"),
        "ray dashboard": (settings.ray_dashboard_port, "SHOPGRAPH_RAY_DASHBOARD_PORT"),
        "http": (settings.http_port, "SHOPGRAPH_HTTP_PORT"),
    }
    for name, (port, setting) in wanted.items():
        ours = running(home, "mlflow" if name == "mlflow" else "ray") is not None
        taken = is_open(port)
        verdict: Verdict = "ok" if ours or not taken else "fail"
        told = "ours" if ours and taken else "free" if not taken else f"taken by another program; choose another with {setting}"
        yield Finding(f"port {port} ({name})", verdict, told)


def _listeners(home: Home) -> Iterator[Finding]:
    """What our servers expose: Ray's daemons and HAProxy's pages of figures bind all interfaces whatever they are told."""
    wide = []
    for name in ("mlflow", "ray"):
        for process in processes(home, name):
            try:
                sockets = process.net_connections(kind="tcp")
                label = process.name()
            except psutil.Error:
                continue
            listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
            wide += [f"{label}:{address.port}" for address in listening if address.ip in _EVERYWHERE]
    if wide:
        yield Finding(
            "listeners",
            "note",
            f"on all interfaces: {', '.join(sorted(set(wide)))}. Ray's token locks its own daemons; HAProxy tells its figures to whoever "
            "reaches this machine: keep a firewall in front",
        )
    else:
        yield Finding("listeners", "ok", "nothing beyond loopback")


def _keys(home: Home) -> Iterator[Finding]:
    """Who may ask the API without a key."""
    settings = home.settings
    is_here = is_loopback(settings.http_host)
    always = "/livez, /readyz, /docs and /openapi.json need none"
    if settings.http_keys == "optional":
        told = (
            f"none is needed, and the API binds {settings.http_host}: whoever reaches this machine asks, posts events and items, and reads "
            "/metrics; unset SHOPGRAPH_HTTP_KEYS"
        )
        yield Finding("API keys", "note" if is_here else "fail", told)
    elif is_here:
        who = "whoever asks" if settings.http_keys == "required" else "whoever asks from another machine"
        yield Finding("API keys", "ok", f"needed by {who}; {always}")
    else:
        told = (
            f"needed by whoever asks; {always}. The API binds {settings.http_host} and speaks plain HTTP: put TLS in front, or keys are "
            "read on the way"
        )
        yield Finding("API keys", "note", told)


def _telemetry(_home: Home) -> Iterator[Finding]:
    named = ("RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    changed = [name for name in named if foreign_variable(name) not in (None, quiet_environment()[name])]
    yield Finding("telemetry and pickles", "note" if changed else "ok", f"you changed {', '.join(changed)}" if changed else "off")


def _engines(home: Home) -> Iterator[Finding]:
    settings = home.settings
    engines: dict[str, str | SecretStr | None] = {
        "spark_master": settings.spark_master if settings.spark_master.startswith("spark://") else None,
        "ray_address": f"ray://{settings.ray_address}" if settings.ray_address else None,
        "mlflow_uri": settings.mlflow_uri,
        "mlflow_backend": settings.mlflow_backend,
        "feast_registry": settings.feast_registry,
        "releases_db": settings.releases_db,
        "online_store": settings.online_store,
        "s3_endpoint": settings.s3_endpoint,
    }
    default_ports = {
        "http": 80,
        "https": 443,
        "redis": 6379,
        "postgresql": 5432,
        "postgresql+psycopg": 5432,
        "spark": 7077,
        "ray": 6379,
    }
    for name, value in engines.items():
        if value is None:
            continue
        parts = urlsplit(value.get_secret_value() if isinstance(value, SecretStr) else value)
        if parts.hostname is None:
            continue
        port = parts.port or default_ports.get(parts.scheme, 0)
        answers = _answers(parts.hostname, port)
        told = "answers" if answers else f"does not answer; start it or change SHOPGRAPH_{name.upper()}"
        yield Finding(f"{name} at {parts.hostname}:{port}", "ok" if answers else "fail", told)


def _kafka(home: Home) -> Iterator[Finding]:
    if home.settings.kafka is not None:
        told = (
            "the Kafka source of `shopgraph stream` is written and untested: put spark-sql-kafka-0-10 of your Spark's version, and what "
            "it needs, among Spark's jars; files in a folder need nothing"
        )
        yield Finding(f"kafka at {home.settings.kafka}", "note", told)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False


def _platform(_home: Home) -> Iterator[Finding]:
    system = platform.system()
    other = f"{system}: HAProxy comes for Linux only; elsewhere Ray Serve's own proxy answers, slower"
    yield Finding("platform", "ok", system) if system == "Linux" else Finding("platform", "note", other)
