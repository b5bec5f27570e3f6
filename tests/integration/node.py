"""The test node around containerd: its processes, mounts and cgroups, and containerd's own process.

Mostly looks; only containerd itself is ever ended. Knows no container: callers name ids or look for what has changed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.integration.endpoint import ADDRESS, Endpoint, Refused
from tests.integration.patience import patient
from tests.integration.protos import cri_v1_pb2 as v1

STATE = "/run/containerd"
TASKS = f"{STATE}/io.containerd.runtime.v2.task"
CGROUPS = "/sys/fs/cgroup"

LOG = "/run/containerd.log"
"""What containerd says, unless systemd has started it, whose journal has it then."""

SYSTEMD = os.path.isdir("/run/systemd/system")
"""Whether this node is a machine whose services are systemd's, containerd among them."""

PODS_CGROUP = "/kubepods.slice" if SYSTEMD else ""
"""The parent of pods' cgroups; empty is containerd's default, which the systemd driver does not accept."""


def pods_parent(wanted: str, handler: str = "") -> str:
    """What a kubelet would say for this parent of a pod's cgroup; the systemd driver accepts slices alone."""
    if handler.endswith("-cgroupfs"):
        return wanted
    if not wanted:
        return PODS_CGROUP
    return f"{wanted}.slice" if SYSTEMD and not wanted.endswith(".slice") else wanted


def until(condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Wait for the condition. Raises TimeoutError that says what did not happen."""
    timeout = patient(timeout)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout} s still not: {what}")
        time.sleep(0.01)


def processes() -> dict[int, tuple[str, ...]]:
    """Command lines by pid, of all that are neither kernel threads nor zombies."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if line := file.read():
                    found[int(name)] = tuple(part.decode(errors="replace") for part in line.split(b"\0")[:-1])
    return found


def end_zygotes() -> None:
    """So that the next shim is a fork of a new one; the shims that are there live on."""
    for pid, line in processes().items():
        if line[-1] == "zygote":
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running(*words: str) -> list[int]:
    """Pids of the processes with all these words in their command lines."""
    return [pid for pid, line in processes().items() if set(words) <= set(line)]


def mounts(part: str) -> list[str]:
    """Mount points with `part` in their paths."""
    with open("/proc/self/mounts") as file:
        return [point for point in (line.split()[1] for line in file) if part in point]


def cgroups(part: str) -> list[str]:
    """Cgroup directories with `part` in their own names, in all hierarchies."""
    return [os.path.join(directory, name) for directory, names, _ in os.walk(CGROUPS) for name in names if part in name]


def left_over(id: str, timeout: float = 15.0) -> list[str]:
    """What is left of a container or pod that is gone, after the moment that a shim takes to end. Empty is right."""
    with suppress(TimeoutError):
        until(lambda: not leftovers(id), "nothing is left", timeout)
    return leftovers(id)


def leftovers(id: str) -> list[str]:
    """What is on the node of a container or pod right now."""
    left = [f"mount {point}" for point in mounts(id)] + [f"cgroup {path}" for path in cgroups(id)]
    left += [
        f"process {pid}: {' '.join(line)}" for pid, line in processes().items() if any(id in part for part in line)
    ]
    for directory in (STATE, "/var/lib/containerd/io.containerd.runtime.v2.task", "/run/zeropod", "/var/lib/zeropod"):
        for parent, names, files in os.walk(directory):
            left += [f"file {os.path.join(parent, name)}" for name in names + files if id in name]
            names[:] = [name for name in names if name != "rootfs"]
    return left


@dataclass(frozen=True, slots=True)
class Census:
    """What many containers could leave behind, counted."""

    shim_sockets: int
    task_mounts: int
    bundles: int
    cgroups: int
    processes: int

    @classmethod
    def take(cls) -> "Census":
        return cls(
            shim_sockets=len(os.listdir(f"{STATE}/s")),
            task_mounts=len(mounts(TASKS)),
            bundles=sum(len(names) for _, names, _ in _walk(TASKS, 1)),
            cgroups=sum(len(names) for _, names, _ in os.walk(CGROUPS)),
            # The zygote and its idle fork belong to no container: they end a moment after the last shim.
            processes=sum(line[-1] != "zygote" for line in processes().values()),
        )


def _walk(directory: str, depth: int) -> list[tuple[str, list[str], list[str]]]:
    found = []
    for parent, names, files in os.walk(directory):
        if parent.removeprefix(directory).count("/") == depth:
            found.append((parent, list(names), files))
            names.clear()
    return found


def pod_cgroup() -> str:
    """A name for a pod's cgroup as a kubelet gives it, for the driver that this node's containerd is told to use."""
    unique = os.urandom(4).hex()
    return f"/kubepods.slice/kubepods-pod{unique}.slice" if SYSTEMD else f"/kubepods/pod-{unique}"


def remove_cgroups(path: str) -> None:
    """Remove an empty cgroup in every hierarchy, as a kubelet does with a pod's."""
    if path.endswith(".slice"):
        subprocess.run(["systemctl", "stop", os.path.basename(path)], check=True, timeout=patient(20))
    for hierarchy in ("", *os.listdir(CGROUPS)):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.rmdir(os.path.join(CGROUPS, hierarchy, path.lstrip("/")))


def containerd_pid() -> int:
    """The node's containerd. Raises RuntimeError when there is none."""
    for pid, line in processes().items():
        if os.path.basename(line[0]) == "containerd":
            return pid
    raise RuntimeError("no containerd runs here")


def stop_containerd(number: int = signal.SIGTERM) -> tuple[tuple[str, ...], dict[str, str]]:
    """End containerd alone, as an upgrade does; its command line and environment, to start it again."""
    pid = containerd_pid()
    line = processes()[pid]
    with open(f"/proc/{pid}/environ") as file:
        environment = dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)
    os.kill(pid, number)
    if SYSTEMD:  # which would start it again by itself
        subprocess.run(["systemctl", "stop", "containerd"], check=True, timeout=patient(20))
    until(lambda: not alive(pid), "containerd has ended")
    return line, environment


def start_containerd(line: tuple[str, ...], environment: dict[str, str]) -> None:
    """Start it again, as nobody's child, and wait until it answers."""
    if SYSTEMD:
        subprocess.run(["systemctl", "reset-failed", "containerd"], check=False, timeout=patient(20))
        subprocess.run(["systemctl", "start", "containerd"], check=True, timeout=patient(60))
    else:
        with open(environment.get("CONTAINERD_LOG", LOG), "ab") as log:
            subprocess.run(
                ["setsid", "--fork", *line],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=10, cwd="/",
            )  # fmt: skip
    until(lambda: os.path.exists(ADDRESS) and _answers(), "containerd answers", 30)


def containerd_log() -> list[str]:
    """What containerd has said so far, and its shims through it."""
    if not SYSTEMD:
        return Path(LOG).read_text(errors="replace").splitlines()
    command = ["journalctl", "--unit", "containerd", "--output", "cat", "--all", "--quiet", "--no-pager"]
    said = subprocess.run(command, check=True, capture_output=True, timeout=patient(60))
    return said.stdout.decode(errors="replace").splitlines()


def _answers() -> bool:
    """Whether its CRI plugin does, which comes up after all else."""
    endpoint = Endpoint()
    try:
        endpoint.call("/runtime.v1.RuntimeService/Status", v1.StatusRequest(), v1.StatusResponse, 10)
    except Refused:
        return False
    finally:
        endpoint.close()
    return True
