"""Servers of one home: started once, found again, stopped whole, never those of another home."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra import processes
from infra.errors import EngineError, HomeError
from infra.home import Home
from infra.settings import Settings

PARENT_AND_ORPHAN = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
    "print('listening', flush=True)\n"
    "time.sleep(300)\n"
)


@pytest.fixture
def home(settings: Settings) -> Iterator[Home]:
    made = Home(settings)
    yield made
    for record in made.run.glob("*.json"):
        processes.stop(made, record.stem, grace_s=1)


def _says_listening(home: Home, name: str) -> bool:
    return "listening" in processes.log_path(home, name).read_text()


def _start(home: Home, name: str = "server", code: str = PARENT_AND_ORPHAN, timeout_s: float = 20) -> int:
    return processes.start(home, name, [sys.executable, "-c", code], {}, lambda: _says_listening(home, name), timeout_s)


def test_a_started_server_is_found_and_stopped_with_its_orphans(home: Home) -> None:
    pid = _start(home)
    assert processes.running(home, "server") == pid
    family = processes.processes(home, "server")
    assert len(family) == 2
    assert processes.memory_bytes(family) > 1_000_000
    assert processes.stop(home, "server", grace_s=5)
    assert processes.running(home, "server") is None
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert not processes.stop(home, "server")


def test_children_that_lost_their_environment_are_found_and_stopped(home: Home) -> None:
    nameless = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('listening', flush=True); time.sleep(300)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {nameless!r}], env={{}}); time.sleep(300)"
    _start(home, code=parent)
    family = processes.processes(home, "server")
    assert len(family) == 2
    assert processes.stop(home, "server", grace_s=1)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_starting_twice_keeps_the_first(home: Home) -> None:
    assert _start(home) == _start(home)
    assert len(processes.processes(home, "server")) == 2


def test_a_server_that_ignores_terminate_is_killed(home: Home) -> None:
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('listening', flush=True)\ntime.sleep(300)"
    _start(home, code=stubborn)
    assert processes.stop(home, "server", grace_s=0.5)
    assert not processes.processes(home, "server")


def test_another_home_is_left_alone(home: Home, tmp_path: Path) -> None:
    other = Home(Settings.load(home=tmp_path / "other")).create()
    try:
        theirs = _start(other)
        _start(home)
        processes.stop(home, "server", grace_s=5)
        assert processes.running(other, "server") == theirs
    finally:
        processes.stop(other, "server", grace_s=5)


def test_a_server_that_ends_says_its_last_line(home: Home) -> None:
    with pytest.raises(EngineError, match=r"server ended at once \(exit 3\); .*server\.log ends with:\n  no such database$"):
        _start(home, code="import sys; print('no such database', flush=True); sys.exit(3)")
    assert processes.running(home, "server") is None


def test_a_server_that_never_answers_is_stopped_again(home: Home) -> None:
    with pytest.raises(EngineError, match="did not answer within 1 s"):
        _start(home, code="import time; time.sleep(300)", timeout_s=1)
    assert not processes.processes(home, "server")


def test_a_command_that_does_not_exist_is_named(home: Home) -> None:
    with pytest.raises(EngineError, match="/no/such/program: No such file"):
        processes.start(home, "server", ["/no/such/program"], {}, lambda: True)


def test_a_recorded_pid_of_somebody_else_is_not_ours(home: Home) -> None:
    pid = _start(home)
    record = home.run / "server.json"
    record.write_text(record.read_text().replace(str(pid), "1"))
    assert processes.running(home, "server") is None
    record.write_text("half a rec")
    assert processes.running(home, "server") is None


def test_free_ports_differ_and_are_none_of_those_that_outgoing_connections_get() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        outgoing = connection.getsockname()[1]
        found = processes.free_ports(200)
    assert len(set(found)) == 200
    assert max(found) < outgoing
    with socket.create_server(("127.0.0.1", found[0])), socket.create_server(("127.0.0.1", found[1])):
        assert not {found[0], found[1]} & set(processes.free_ports(9_000))


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert processes.is_open(port)
        with pytest.raises(EngineError, match=rf"port {port} cannot be used \(Address already in use\).*SHOPGRAPH_HTTP_PORT"):
            processes.check_port_free(port, "SHOPGRAPH_HTTP_PORT")
    processes.check_port_free(port, "SHOPGRAPH_HTTP_PORT")
    assert not processes.is_open(port)
    assert not processes.answers(port)


def test_sockets_lie_under_a_short_home_and_elsewhere_for_a_long_one(home: Home, tmp_path: Path) -> None:
    deep = Home(Settings.load(home=tmp_path / ("很长的 path " * 9))).create()
    folder = processes.socket_folder(deep, 75)
    try:
        assert len(str(folder).encode()) + 1 + 75 <= processes.UNIX_SOCKET_BYTES
        assert folder == processes.short_socket_folder(deep)
        assert processes.socket_folder(deep, 75) == folder
        assert processes.socket_folder(home, 0) == home.run / "s"
        folder.chmod(0o777)
        with pytest.raises(HomeError, match="open to others"):
            processes.socket_folder(deep, 75)
    finally:
        folder.rmdir()
