"""Keeps the programs of a node running, as systemd does on others, and lets tests end and stop them.

A service has its pid in /run/cluster/NAME.pid and its output in /run/cluster/NAME.log. It is started again whenever it
ends, unless /run/cluster/NAME.stop is there. The file
/run/cluster/restart-containerd has containerd restarted, and is gone when that answers again: so a container that sees
no more of the node than its files can ask for it.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tests.cluster.command import ClusterError
from tests.cluster.components import RUN
from tests.integration.patience import patient

CONTAINERD = "containerd"
SOCKET = "/run/containerd/containerd.sock"
WANTED = RUN / "restart-containerd"

POLL = 0.05
PAUSE = 0.2
"""Seconds until what has ended is started again."""
PATIENCE = 60.0


def keep(name: str, line: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a service, and again whenever it ends."""
    threading.Thread(target=_keep, args=(name, line, environment), name=name, daemon=True).start()


def _keep(name: str, line: Sequence[str], environment: Mapping[str, str]) -> None:
    while True:
        with (RUN / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        (RUN / f"{name}.pid").write_text(str(process.pid))
        process.wait()
        (RUN / f"{name}.pid").unlink()
        time.sleep(PAUSE)
        while (RUN / f"{name}.stop").exists():
            time.sleep(POLL)


def keep_containerd(line: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start containerd as a service that can be asked to be restarted."""
    keep(CONTAINERD, line, environment)
    threading.Thread(target=_restart_on_demand, name="restarts containerd", daemon=True).start()


def _restart_on_demand() -> None:
    while True:
        if WANTED.exists():
            restart(CONTAINERD)
            WANTED.unlink()
        time.sleep(POLL)


def pid_of(name: str) -> int | None:
    """None while it does not run."""
    with suppress(FileNotFoundError, ValueError):
        return int((RUN / f"{name}.pid").read_text())
    return None


def restart(name: str, number: int = signal.SIGTERM) -> None:
    """End a service and wait until it runs again; containerd until it listens."""
    before = pid_of(name)
    if before is not None:
        os.kill(before, number)
    wait(lambda: pid_of(name) not in (None, before), f"{name} runs again", name)
    if name == CONTAINERD:
        wait(listens, "containerd listens", name)


@contextmanager
def stopped(name: str, number: int = signal.SIGTERM) -> Iterator[None]:
    """A service does not run during the block. Ended by a signal; the API server takes a minute for SIGTERM."""
    stop = RUN / f"{name}.stop"
    stop.touch()
    try:
        pid = pid_of(name)
        if pid is not None:
            os.kill(pid, number)
        wait(lambda: pid_of(name) is None, f"{name} has ended", name)
        yield
    finally:
        stop.unlink()
    wait(lambda: pid_of(name) is not None, f"{name} runs again", name)


def listens() -> bool:
    """Whether containerd does."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(SOCKET) == 0


def wait(condition: Callable[[], bool], what: str, log: str, seconds: float = PATIENCE) -> None:
    """Raises ClusterError with the end of a service's log."""
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > deadline:
            file = RUN / f"{log}.log"
            text = "\n".join(file.read_text(errors="replace").splitlines()[-20:]) if file.exists() else "there is none"
            raise ClusterError(f"not within {patient(seconds):.0f} s: {what}; the end of {file}:\n{text}")
        time.sleep(POLL)
