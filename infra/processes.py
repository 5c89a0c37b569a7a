"""Servers that outlive the command that starts them: MLflow, Ray. Each belongs to one home.

`<home>/run/<name>.json` names the process, `<home>/logs/<name>.log` holds what it prints. Every process of a server carries the
variable `_SHOPGRAPH_SERVER=<home>:<name>`, which children inherit, so that `stop` finds all of them, also those that left their
parent, and never one of another home. A child whose environment names no server (Ray's agents write their titles over it) belongs to
its parent's.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from infra.errors import EngineError, HomeError
from infra.home import Home
from infra.settings import child_environment

MARK = "_SHOPGRAPH_SERVER"
"""Variable that tells a server's processes from all others; the underscore keeps it out of the settings."""

UNIX_SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux (`sun_path` less its final zero byte)."""

_LAST_WORDS = 5
"""Lines of a log in an error; Ray ends with two about itself after the one that says why."""
_FREE_PORTS = range(20_000, 30_000)
_DRAWN = random.SystemRandom()
"""Two programs that seed `random` alike would look for ports in one order."""


def start(
    home: Home,
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    ready: Callable[[], bool],
    timeout_s: float = 60.0,
) -> int:
    """Start a server detached from this process and wait until it answers; its pid. One that runs already is left alone.

    Args:
        env: variables on top of this process's own and of the settings.
        ready: says whether the server answers; called every 100 ms.

    Raises:
        EngineError: it ended early or did not answer in time; what it had started is stopped again.
    """
    with starting(home, name, timeout_s):
        found = running(home, name)
        if found is not None:
            return found
        log = log_path(home, name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**child_environment(home.settings), **env, MARK: _mark(home, name)},
                    cwd=home.path,
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"{name} cannot be started: {command[0]}: {error.strerror}.") from None
        _record(home, name).write_text(json.dumps({"pid": process.pid, "command": list(command)}))
        try:
            _wait_until_ready(name, process, ready, log, timeout_s)
        except BaseException:  # also Ctrl-C: a half-started server must not stay behind
            stop(home, name, grace_s=2)
            raise
        return process.pid


def running(home: Home, name: str) -> int | None:
    """Pid of the server of that name in this home, None if it does not run."""
    try:
        pid = int(json.loads(_record(home, name).read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    try:
        process = psutil.Process(pid)
        ours = process.environ().get(MARK) == _mark(home, name)  # a recorded pid may long belong to somebody else
    except psutil.Error:
        return None
    return pid if ours else None


def stop(home: Home, name: str, grace_s: float = 10.0) -> bool:
    """Stop every process of the server, politely first; False if there was none.

    They have `grace_s` to end of themselves and are then killed.
    """
    found = family = set(processes(home, name))
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with suppress(psutil.NoSuchProcess):
                signal(process)
        deadline = time.monotonic() + grace_s
        # an orphan without the mark is found no more, one that was started meanwhile was not known before
        while (family := {*filter(_lives, family), *processes(home, name)}) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not family:
            break
    _record(home, name).unlink(missing_ok=True)
    return bool(found)


def processes(home: Home, name: str) -> list[psutil.Process]:
    """Every live process of the server, the oldest first."""
    mark = _mark(home, name)
    marks = {
        process: (process.info["environ"] or {}).get(MARK)  # None: gone meanwhile, or somebody else's
        for process in psutil.process_iter(["ppid", "status", "environ", "create_time"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    }
    family = [process for process, found in marks.items() if found == mark]
    for parent in family:  # grows as it is walked: children of children
        family += [child for child, found in marks.items() if found is None and child.info["ppid"] == parent.pid]
    return sorted(family, key=lambda process: process.info["create_time"])


def memory_bytes(family: Iterable[psutil.Process]) -> int:
    """Resident memory of processes; pages that several share count once (Linux's PSS, elsewhere in each)."""
    total = 0
    for process in family:
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total


def ports(home: Home, name: str) -> set[int]:
    """TCP ports on which this server, and no other program, takes connections; none while it still comes up."""
    found: set[int] = set()
    for process in processes(home, name):
        with suppress(psutil.Error):
            connections = process.net_connections("tcp")
            found |= {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def log_path(home: Home, name: str) -> Path:
    """File with what the server prints; what it printed when it ran before lies beside it as `<name>.log.1`."""
    return home.logs / f"{name}.log"


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something takes a connection on the port within a second."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def check_port_free(port: int, setting: str, host: str = "127.0.0.1") -> None:
    """Refuse a port that another program holds.

    Raises:
        EngineError: it is taken; the message names the setting that chooses another.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EngineError(f"port {port} cannot be used ({error.strerror}); choose another with {setting}.") from None


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody holds now; they differ.

    They lie outside the range from which systems draw the ports of outgoing connections, so that none of those takes one between this
    answer and its use.

    Raises:
        EngineError: fewer than `number` are free.
    """
    found: list[int] = []
    for port in _DRAWN.sample(_FREE_PORTS, len(_FREE_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == number:
            return found
    raise EngineError(f"programs hold nearly all of the ports {_FREE_PORTS.start}-{_FREE_PORTS.stop - 1}; stop some.")


def answers(port: int, path: str = "/", host: str = "127.0.0.1") -> bool:
    """Whether a GET on the path gives a 2xx answer within a second."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def socket_folder(home: Home, needed: int) -> Path:
    """A folder for Unix sockets whose names take up to `needed` more bytes: under the home, else a short one beside the system's
    temporary files.

    Raises:
        HomeError: the short folder exists and belongs to somebody else.
    """
    folder = home.run / "s"
    if len(str(folder).encode()) + 1 + needed <= UNIX_SOCKET_BYTES:
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    folder = short_socket_folder(home)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != home.run.stat().st_uid or folder.is_symlink() or found.st_mode & 0o077:
        raise HomeError(f"{folder} belongs to somebody else or is open to others; remove it, it is this home's socket folder.")
    return folder


def short_socket_folder(home: Home) -> Path:
    """Where the sockets of a home with a long path lie; it may not exist."""
    return Path(tempfile.gettempdir()) / f"sg-{hashlib.sha256(str(home.path).encode()).hexdigest()[:8]}"


@contextmanager
def starting(home: Home, name: str, timeout_s: float) -> Iterator[None]:
    """One starter at a time; a second waits and then finds the server running.

    Raises:
        EngineError: the first takes longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with (home.run / f"{name}.starting").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EngineError(f"{name}: another command has been starting it for {timeout_s:.0f} s; try again.") from None
                time.sleep(0.1)
        yield


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        ended = process.poll()
        if ended is not None:
            raise EngineError(f"{name} ended at once (exit {ended}){_last_words(log)}")
        if time.monotonic() > deadline:
            raise EngineError(f"{name} did not answer within {timeout_s:.0f} s{_last_words(log)}")
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_words(log: Path) -> str:
    lines = [line.strip()[:300] for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"; {log} ends with:\n  " + "\n  ".join(lines[-_LAST_WORDS:]) if lines else f"; it printed nothing to {log}"


def _record(home: Home, name: str) -> Path:
    return home.run / f"{name}.json"


def _mark(home: Home, name: str) -> str:
    return f"{home.path}:{name}"
