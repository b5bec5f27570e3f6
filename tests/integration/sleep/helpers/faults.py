"""Things that go wrong on a node: a CRIU that fails, a disk that is full, and what to look at then."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tests.integration import node
from tests.integration.shimsocket import ShimSocket, address
from tests.integration.sleep.helpers.stage import App
from tests.integration.test_cgroups import MISSING_PAGE

from zeropod import paths as places
from zeropod.kernel import pidfd

OWN = Path("/opt/zeropod/bin/criu")
"""Found before the node's own by runc and by the shim."""

STORE = str(places.CONTAINERS)

CHECKPOINT = "grep -qw checkpoint /proc/$PPID/cmdline"
"""Whether runc wants a checkpoint from this CRIU (it talks to it through a socket, not by arguments)."""

RESTORE = "grep -qw restore /proc/$PPID/cmdline"
PAGER = '[ "$1" = lazy-pages ]'


@contextmanager
def program(name: str, script: str) -> Iterator[None]:
    """One of the node's programs that runs these lines of shell first. $name is the real one, which follows."""
    own, real = OWN.with_name(name), shutil.which(name)
    assert real
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(f'#!/bin/bash\n{name}={real}\n{script}\nexec ${name} "$@"\n')
    own.chmod(0o755)
    try:
        yield
    finally:
        own.unlink()


def criu(script: str) -> AbstractContextManager[None]:
    """A CRIU that runs these lines of shell first. $criu is the real one; without an exit or exec it follows."""
    return program("criu", script)


@contextmanager
def small_disk(size: str) -> Iterator[None]:
    """Only so much room for checkpoints, such as `2m`. For containers that begin and end inside."""
    os.makedirs(STORE, mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "small", STORE], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", STORE], check=True, timeout=10)


def resize_disk(size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", STORE], check=True, timeout=10)


def shim_pid(app: App) -> int:
    with ShimSocket(address(app.bundle)) as shim:
        return shim.connect(app.id).shim_pid


def pagers(app: App) -> list[int]:
    """The pids of what brings in its pages: processes of that name that have files of its image or its store open."""
    directory = str(places.container(app.namespace, app.id))
    found = [pid for pid in node.running("lazy-pages") if app.images in node.processes().get(pid, ())]
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if _read(f"/proc/{name}/comm") == "zeropod-pager\n":
                files = (os.readlink(f"/proc/{name}/fd/{number}") for number in os.listdir(f"/proc/{name}/fd"))
                if any(directory in file for file in files):
                    found.append(int(name))
    return found


def serves(pager: int) -> bool:
    """Whether it has the memory of a process already."""
    with suppress(OSError):
        return any(
            os.readlink(f"/proc/{pager}/fd/{name}") == "anon_inode:[userfaultfd]"
            for name in os.listdir(f"/proc/{pager}/fd")
        )
    return False


def waits_for_memory(cgroup: Path) -> bool:
    """Whether a thread in it waits for a page that a pager is to bring."""
    threads = cgroup / ("tasks" if (cgroup / "tasks").exists() else "cgroup.threads")
    with suppress(OSError):
        return any(_read(f"/proc/{tid}/wchan") == "handle_userfault" for tid in _read(str(threads)).split())
    return False


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


@contextmanager
def unfreezable(app: App) -> Iterator[None]:
    """A process in its cgroup that cannot freeze, as one that waits for a file server that is gone.

    It is in a system call that needs a page which nobody brings. It can be killed. Of the page it has nothing open,
    since a container with a userfaultfd is not even tried.
    """
    cgroup = freezer(app.status.pid)
    with subprocess.Popen(
        [sys.executable, "-c", MISSING_PAGE, "elsewhere"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stuck:
        held = -1
        try:
            assert stuck.stdin
            assert stuck.stdout
            held = _descriptor_of(stuck.pid, int(stuck.stdout.readline()))
            stuck.stdin.write("\n")
            stuck.stdin.close()
            node.until(lambda: _read(f"/proc/{stuck.pid}/wchan") == "handle_userfault", "a process waits for a page")
            (cgroup / "cgroup.procs").write_text(str(stuck.pid))
            yield
        finally:
            stuck.kill()
            if held >= 0:
                os.close(held)


def _descriptor_of(pid: int, number: int) -> int:
    process = os.pidfd_open(pid)
    try:
        return pidfd.getfd(process, number)
    finally:
        os.close(process)


def freezer(pid: int) -> Path:
    """The cgroup that is frozen when this process is: of the v1 hierarchy `freezer`, or of the only one."""
    lines = [line.split(":", 2) for line in _read(f"/proc/{pid}/cgroup").splitlines()]
    paths = {controllers: path for _, controllers, path in lines}
    if "freezer" in paths:
        return Path(f"/sys/fs/cgroup/freezer{paths['freezer']}")
    return Path(f"/sys/fs/cgroup{paths['']}")


def logged(app: App, *parts: str) -> bool:
    """Whether the shim has said all of this of the container in one line of containerd's log."""
    return any(app.id in line and all(part in line for part in parts) for line in node.containerd_log())
