"""The image, the containers of compose.yaml and the units of systemd: what can be said of them without running them."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from infra.settings import Settings, quiet_environment
from tests.commands import check

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("shopgraph:")]
UNITS = sorted((ROOT / "infra" / "systemd").glob("*.service"))
_WANTED = re.compile(r"\$\{([A-Z0-9_]+):\?")


def environment(name: str) -> dict[str, str]:
    return SERVICES[name].get("environment") or {}


def test_hadolint_finds_nothing() -> None:
    hadolint = next(Path(sys.executable).parent.glob("hadolint*"))
    found = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_image_is_nobody_and_checks_whether_it_is_ready() -> None:
    last = DOCKERFILE.split("\nFROM ")[-1]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["10001:10001"]
    assert "/readyz" in last.split("HEALTHCHECK")[1]
    assert 'ENTRYPOINT ["shopgraph"]' in last
    check(ast.literal_eval(last.split("\nCMD ")[1].strip()))


def test_the_image_is_as_quiet_as_the_command_line() -> None:
    flat = DOCKERFILE.replace("\\\n", " ")
    said = dict(word.split("=", 1) for line in re.findall(r"^ENV (.*)$", flat, re.MULTILINE) for word in line.split())
    said = {name: value.strip('"') for name, value in said.items()}
    assert quiet_environment().items() <= said.items()
    settings = {name: value for name, value in said.items() if name.startswith("SHOPGRAPH_")}
    Settings(**{name.removeprefix("SHOPGRAPH_").lower(): value for name, value in settings.items()})


def test_what_the_image_copies_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert set(copied) == let_in
    assert all((ROOT / name).exists() for name in copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set(copied)


def test_no_password_stands_in_the_file_and_none_is_left_out() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    example = [line.split("=") for line in (DOCKER / ".env.example").read_text().splitlines() if "=" in line and line[0] != "#"]
    assert {name for name, _ in example} == set(_WANTED.findall(text))
    assert all(value == "" for _, value in example)
    for name in SERVICES:
        for variable, value in environment(name).items():
            if re.search("PASSWORD|SECRET|_KEY$|_DB$|REGISTRY|ONLINE_STORE|BACKEND", variable):
                assert _WANTED.search(value), f"{name}: {variable}"
    assert "infra/docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_setting_is_one() -> None:
    known = {f"SHOPGRAPH_{name.upper()}" for name in Settings.model_fields}
    said = {name for service in SERVICES for name in environment(service) if name.startswith("SHOPGRAPH_")}
    assert said
    assert said <= known


def test_containers_find_each_other() -> None:
    assert set(COMPOSE["volumes"]) == {
        volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if not volume.startswith(".")
    }
    files = [
        volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if volume.startswith(".")
    ]
    assert all((DOCKER / path).is_file() for path in files)
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= set(SERVICES)
    urls = [
        value for name in OURS for value in environment(name).values() if re.match(r"(http|redis|postgresql\S*)://", str(value))
    ]
    assert {urlsplit(_WANTED.sub("", url).replace("see infra/docker/.env.example}", "x")).hostname for url in urls} <= set(SERVICES)
    scraped = yaml.safe_load((ROOT / "infra" / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"][0]["static_configs"]
    assert scraped == [{"targets": ["shopgraph:8000"]}]
    made = re.findall(r"CREATE DATABASE (\w+);", (DOCKER / "databases.sql").read_text())
    assert {url.rsplit("/", 1)[1] for url in urls if url.startswith("postgresql")} == set(made)


def test_mlflow_takes_requests_under_the_name_it_is_asked_by() -> None:
    host = urlsplit(environment("shopgraph")["SHOPGRAPH_MLFLOW_URI"]).hostname
    assert f"{host}:*" in environment("mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_only_loopback_is_published_and_ours_write_only_to_volumes() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"] is True
        if name != "bucket":
            assert service["cap_drop"] == ["ALL"]
            assert service["init"] is True
    for service in SERVICES.values():
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"].replace("${SHOPGRAPH_VERSION:-latest}", "latest"))


def test_the_bucket_is_made_by_python_that_compiles() -> None:
    ast.parse(SERVICES["bucket"]["command"][0])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_gives_commands_that_there_are(unit: Path) -> None:
    commands = re.findall(r"^ExecStart=/opt/shopgraph/\.venv/bin/shopgraph (.*)$", unit.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        check(command.split())
    parser = configparser.ConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    assert parser["Service"]["User"] == "shopgraph"
    assert parser["Service"]["ProtectSystem"] == "strict"
