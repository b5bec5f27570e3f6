"""A node as it is before zeropod is installed, the commands that are run on it, and a look at all of its files."""

import hashlib
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import node
from tests.integration.cri import Container
from tests.integration.patience import patient

INSTALL_ROOT = Path("/opt/zeropod")
LIBRARY = Path("/var/lib/zeropod")
RUN = Path("/run/zeropod")
ZEROPOD = INSTALL_ROOT / "bin/zeropod"
LINKS = (Path("/usr/local/bin/zeropod"), Path("/usr/local/bin/containerd-shim-zeropod-v2"))

# What is somebody else's: the kernel's, containerd's, pods', a Prometheus' that runs where systemd starts what is
# installed, and what the tests bring themselves.
PASSING = (
    "/proc", "/sys", "/dev", "/run", "/tmp", "/src", "/node", "/var/lib/containerd", "/var/log", "/var/lib/cni",
    "/opt/containerd", "/var/lib/prometheus",
)  # fmt: skip
HASHED = ("/etc", "/opt", "/usr/local")


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Installer:
    """`zeropod.pyz installer` out of a bundle, with the options of this node."""

    bundle: Path
    options: tuple[str, ...]

    def __call__(self, *arguments: str) -> Said:
        return run(str(self.bundle / "bin/zeropod.pyz"), "installer", *self.options, *arguments)


def run(*command: str) -> Said:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(240),
        check=False, cwd="/", env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    return Said(done.returncode, done.stdout)


STATE = (str(RUN), str(LIBRARY))
"""What changes as long as containers run."""


def files(*tops: str) -> dict[str, tuple[Any, ...]]:
    """Every file of the node, or below these directories: its kind, mode, owner, date, and content or target."""
    found: dict[str, tuple[Any, ...]] = {}
    for top in tops or ("/", *STATE):
        for parent, directories, names in os.walk(top):
            if top == "/":
                here = parent.rstrip("/")
                directories[:] = [name for name in directories if f"{here}/{name}" not in PASSING]
            for name in (*directories, *names):
                path = os.path.join(parent, name)
                found[path] = _describe(path)
    return found


def _describe(path: str) -> tuple[Any, ...]:
    status = os.lstat(path)
    common = (oct(status.st_mode), status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*common, os.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        return common
    content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path.startswith(HASHED) else status.st_size
    return (*common, status.st_mtime_ns, content)


def differences(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> list[str]:
    """The paths that are not the same in both."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def state_of(container: Container) -> str:
    """RUNNING, STANDBY, …, as `zeropod ps` says."""
    said = subprocess.run([ZEROPOD, "ps", "--json"], capture_output=True, text=True, timeout=patient(30), check=True)
    return next((str(known["state"]) for known in json.loads(said.stdout) if known["id"] == container.id), "-")


def ask_redis(address: str, command: str) -> str:
    """redis's answer to an inline command, on a new connection."""
    with socket.create_connection((address, 6379), timeout=patient(30)) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(4096).decode().strip()


def until_asleep(container: Container) -> None:
    node.until(lambda: state_of(container) == "STANDBY", "it sleeps", 60)


def _aside(place: Path) -> Path:
    return place.with_name("zeropod-of-the-tests")


@contextmanager
def without_product() -> Iterator[None]:
    """Takes away what the test node has of zeropod for the other tests, and brings it back."""
    node.until(lambda: not any("zygote" in line for line in node.processes().values()), "no shim has run lately", 30)
    # What earlier tests have left, where it cannot be moved.
    for place in (RUN, *(place for place in (LIBRARY,) if place.is_mount())):
        run("find", str(place), "-mindepth", "1", "-delete")
    kept = {link: os.readlink(link) for link in LINKS if link.is_symlink()}
    moved = [place for place in (INSTALL_ROOT, LIBRARY) if place.exists() and not place.is_mount()]
    for link in kept:
        link.unlink()
    for place in moved:
        place.rename(_aside(place))
    try:
        yield
    finally:
        for place in (INSTALL_ROOT, *moved):
            if place.exists():
                run("rm", "-rf", str(place))
        for place in moved:
            _aside(place).rename(place)
        for link, target in kept.items():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
