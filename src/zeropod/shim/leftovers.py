"""Processes that a dead shim has left running: commands that it had started, and pagers of its containers.

Some of them would create files again that are being removed. They are found by command line and name, because only the
dead shim knew their pids.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import proc_stat
from zeropod.runtime import images
from zeropod.runtime.programs import UNFINISHED

PAGER = b"zeropod-pager\n"
"""The process name of pagers, as set by `runtime.pager`."""

GRACE = 2.0
"""Seconds for killed processes to be gone; containerd gives `delete` five for all."""


def end_dump(configuration: Path) -> None:
    """End a CRIU that waits for its dead shim: it reads the end of its configuration, and fails."""
    with suppress(OSError):
        if configuration.is_fifo():
            # Open for both directions: a reader that waits for a writer continues, and a later one does not wait.
            fifo = os.open(configuration, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fifo, UNFINISHED.encode())
                configuration.unlink()
            finally:
                os.close(fifo)


def end_restore(root: Path, id: str) -> None:
    """End runc's restore of this container and all processes that it has started. `root` is runc's for the namespace.

    It would go on making mount points in the bundle, and containerd would fail to remove that.
    """
    ours: set[int] = set()
    # A stopped process does not fork: a second pass that finds nothing new has found everything.
    while fresh := set(_restoring(str(root), id)) - ours:
        _signal(fresh, signal.SIGSTOP)
        ours |= fresh
    handles = list(_handles(ours))
    _signal(ours, signal.SIGKILL)
    _wait(handles)


def kill_pagers(containerd_namespace: str, id: str) -> None:
    """End pagers that have outlived both their shim and the processes they served; a stopped pager would stay for ever.

    They hold files of an image or a page store open, which may be deleted by now.
    """
    directory = f"{images.ImageStore.of(containerd_namespace, id).directory}/"
    for pid in proc_stat.pids():
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_bytes() == PAGER and _has_open(Path(f"/proc/{pid}/fd"), directory):
                os.kill(pid, signal.SIGKILL)


def _has_open(descriptors: Path, directory: str) -> bool:
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            if os.readlink(descriptor).startswith(directory):
                return True
    return False


def _restoring(root: str, id: str) -> Iterator[int]:
    """Yield the processes of a restore: runc itself, by its command line, and everything below it."""
    children: dict[int, list[int]] = {}
    found = []
    for pid in proc_stat.pids():
        with suppress(OSError):
            children.setdefault(proc_stat.read(pid).parent, []).append(pid)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if {root, "restore", id} <= set(words):
                found.append(pid)
    while found:
        pid = found.pop()
        yield pid
        found += children.get(pid, ())


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _handles(pids: Iterable[int]) -> Iterator[int]:
    for pid in pids:
        with suppress(OSError):
            yield os.pidfd_open(pid)


def _wait(handles: Iterable[int]) -> None:
    """Wait `GRACE` seconds at most until all have ended, zombies included; close the handles."""
    deadline = time.monotonic() + GRACE
    for handle in handles:
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(deadline - time.monotonic(), 0) * 1000)
        finally:
            os.close(handle)
