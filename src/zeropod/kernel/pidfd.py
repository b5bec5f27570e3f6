"""Processes by pidfd: a handle that cannot come to mean another process when a pid is reused.

Owns waiting for and reaping children, and taking a duplicate of a file descriptor out of another process.

Source of facts: pidfd_open(2), pidfd_getfd(2), waitid(2), prctl(2); exit codes as containerd's
reaper reports them (a process killed by a signal has code 128 + signal).
"""

import contextlib
import errno
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from zeropod.kernel import libc, proc_stat

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_TRACER_POLL = 0.002  # seconds


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: `code` in shell terms, `at_ns` (Unix time) when its end was seen."""

    pid: int
    code: int
    at_ns: int


@contextlib.contextmanager
def opened(pid: int) -> Iterator[int]:
    """Have a pidfd for a process, closed at the end. Raises ProcessLookupError if it does not exist."""
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def getfd(pidfd: int, fd: int) -> int:
    """Duplicate file descriptor `fd` of another process into ours (close-on-exec).

    Raises OSError: EBADF when the process has no such descriptor, ESRCH when it is gone, EPERM
    without the right to ptrace it.
    """
    return libc.syscall("pidfd_getfd", pidfd, fd, 0)


def getfd_if_open(pidfd: int, fd: int) -> int | None:
    """Do what `getfd` does, but return None for a descriptor or a process that is gone. Raises OSError."""
    try:
        return getfd(pidfd, fd)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ESRCH):
            return None
        raise


async def wait_exit(pidfd: int) -> ExitStatus:
    """Wait until our child behind `pidfd` has ended, reap it and return how it ended.

    No other child's status is touched. Raises ChildProcessError when the process is not our child
    or was reaped elsewhere. One task at a time may wait on one pidfd (trio refuses a second);
    it must stay open until the wait is over.
    """
    while True:
        await trio.lowlevel.wait_readable(pidfd)
        at_ns = time.time_ns()
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - WNOHANG
        if result is not None:
            return ExitStatus(result.si_pid, exit_code(result.si_code, result.si_status), at_ns)
        # Dead, but a tracer (CRIU) has not detached yet: the kernel reports to the tracer first.
        await trio.sleep(_TRACER_POLL)


def exit_code(si_code: int, si_status: int) -> int:
    """Return the shell's exit code for waitid(2)'s si_code and si_status."""
    return si_status if si_code == os.CLD_EXITED else 128 + si_status


def set_subreaper(*, wanted: bool = True) -> None:
    """Let this process adopt descendants whose own parent has ended, or stop that."""
    libc.call("prctl", _PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def set_name(name: str) -> None:
    """Set the calling thread's name, as ps and /proc/PID/comm show it: its first 15 bytes."""
    libc.call("prctl", _PR_SET_NAME, name.encode()[:15], 0, 0, 0)


_zombies: set[tuple[int, int]] = set()
"""(pid, start time) of those seen dead by the last reap_orphans(). A process has one table of
children, hence one such set."""


def reap_orphans(known: Collection[int]) -> list[int]:
    """Reap adopted children that no task waits for; return their pids.

    Call it every few seconds: a child is reaped at the second call that finds it dead. That spares a process just
    started with subprocess or trio, whose pid is not in `known` yet and whose waiter is about to take its status: if
    this took it first, subprocess would report a failed program as successful.
    """
    dead = {(pid, start) for pid, start in dead_children("self") if pid not in known}
    reaped = []
    for pid, _ in sorted(dead & _zombies):
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None:
                reaped.append(pid)
    _zombies.clear()
    _zombies.update((pid, start) for pid, start in dead if pid not in reaped)
    return reaped


def dead_children(parent: int | str) -> Iterator[tuple[int, int]]:
    """Yield pid and start time (ticks) of children of a process (`self` for ours) that have ended unreaped."""
    for pid in children(parent):
        try:
            stat = proc_stat.read(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat.state == "Z":
            yield pid, stat.start


def children(parent: int | str) -> Iterator[int]:
    """Yield the children of a process (`self` for ours), including dead ones that are not reaped yet."""
    # Threads have children of their own in the kernel's view.
    for task in Path(f"/proc/{parent}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield from map(int, (task / "children").read_text().split())
