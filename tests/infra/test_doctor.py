"""The doctor names what will not work and what to do about it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from infra.doctor import Finding, examine
from infra.home import Home
from infra.settings import Settings


def found(settings: Settings, what: str) -> Finding:
    return next(finding for finding in examine(settings) if finding.what.startswith(what))


def test_a_fresh_machine_has_nothing_failing_but_maybe_ports(tmp_path: Path) -> None:
    findings = examine(Settings.load(home=tmp_path / "home"))
    assert {finding.what for finding in findings if finding.verdict == "fail" and not finding.what.startswith("port")} == set()
    assert not (tmp_path / "home").exists()


def test_a_taken_port_names_the_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        finding = found(Settings.load(http_port=port), f"port {port}")
    assert (finding.verdict, "SHOPGRAPH_HTTP_PORT" in finding.told) == ("fail", True)


def test_no_java_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    finding = found(Settings.load(), "Java")
    assert finding.verdict == "fail"
    assert "openjdk" in finding.told


def test_an_engine_that_is_away_is_named() -> None:
    finding = found(Settings.load(online_store="redis://127.0.0.1:9/0"), "online_store")
    assert (finding.verdict, finding.what) == ("fail", "online_store at 127.0.0.1:9")


@pytest.mark.parametrize(
    ("more", "verdict", "told"),
    [
        ({}, "ok", "needed by whoever asks from another machine; /livez"),
        ({"http_keys": "required"}, "ok", "needed by whoever asks; /livez"),
        ({"http_keys": "optional"}, "note", "none is needed, and the API binds 127.0.0.1: whoever reaches"),
        ({"http_host": "0.0.0.0"}, "note", "needed by whoever asks.*put TLS in front"),
        ({"http_host": "0.0.0.0", "http_keys": "optional"}, "fail", "unset SHOPGRAPH_HTTP_KEYS"),
    ],
)
def test_who_needs_no_key_is_said(more: dict[str, str], verdict: str, told: str) -> None:
    finding = found(Settings.load(**more), "API keys")
    assert finding.verdict == verdict
    assert re.search(told, finding.told)


def test_a_loose_secret_is_found(settings: Settings) -> None:
    home = Home(settings)
    home.secret("a.key")
    assert found(settings, "secrets").verdict == "ok"
    (home.run / "a.key").chmod(0o644)
    assert found(settings, "secrets").verdict == "fail"
