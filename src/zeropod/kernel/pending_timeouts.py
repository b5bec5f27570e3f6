"""Adjusts the timeouts of system calls in which frozen processes are blocked.

Most waits need no help: poll(2), epoll_wait(2), nanosleep(2) and futex(2) keep an absolute deadline, and end at once
after a thaw if that has passed. select(2), pselect6(2) and ppoll(2) do not: interrupted by the freeze, they write the
remaining time back into the caller's timeval or timespec, and restart with that. So after a sleep a worker that reports
to its master each second may report a second late, while the master sees at once that the last report is too old, and
kills it: this happened in 13 of 50 thaws of a pre-forking server with two workers, and in none of 50 with the workers'
timeouts set to 0.

Only workers' timeouts are shortened. A master must not look before its workers have reported, and after a sleep their
pages are not in memory: with pages in files, 18 of 60 were killed in spite of timeouts of 0, because the rest of the
master's own timeout expired first. So a master's timeout is lengthened where little of it is left.

Nothing is stopped or injected: the structure is changed in the memory of the frozen process, and only where its page is
present. Where the page would have to be brought in first, the timeout is left alone.

Source of facts: proc_pid_syscall(5), proc_pid_pagemap(5), fs/select.c (poll_select_finish).
"""

import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from zeropod.kernel import proc_stat

_MICROSECOND, _NANOSECOND = 1_000_000, 1_000_000_000
_GENERIC = {72: (4, _NANOSECOND), 73: (2, _NANOSECOND)}  # pselect6, ppoll
_CALLS = {
    "x86_64": {23: (4, _MICROSECOND), 270: (4, _NANOSECOND), 271: (2, _NANOSECOND)},  # select, pselect6, ppoll
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
}
"""By system call number: index of the argument that points to the time, and units of its second field in a second."""

_TIME = struct.Struct("=qq")
_ENTRY = struct.Struct("=Q")
_PRESENT = 1 << 63
_ABOVE_32_BIT = 1 << 32


class Pending(NamedTuple):
    """A thread that is blocked with a timeout."""

    pid: int
    address: int
    """Address of its timeval or timespec."""
    parts: int
    """How many units of the structure's second field make a second."""


def expire(pids: Sequence[int], init: int) -> int:
    """Set the timeouts of all workers to 0, so that they end at once after the thaw; return how many were not 0 yet.

    Call it while all are frozen, before pages are moved out. A worker is a process other than `init` without a child
    among `pids`. Processes that are gone or may not be inspected are skipped.
    """
    return sum(_change(pending, partial(expired, parts=pending.parts)) for pending in find(pids, init, masters=False))


def lengthen(pids: Sequence[int], init: int, at_least: float) -> int:
    """Raise the timeouts of all masters to `at_least` seconds after the thaw; return how many were lengthened.

    A master is every process that is not a worker (see `expire`). Longer and infinite timeouts are left alone.
    """
    return sum(
        _change(pending, partial(lengthened, parts=pending.parts, at_least=at_least))
        for pending in find(pids, init, masters=True)
    )


def find(pids: Sequence[int], init: int, *, masters: bool) -> Iterator[Pending]:
    """Yield the threads of workers, or of masters, that are blocked with a timeout; none if there is one process."""
    calls = _CALLS.get(platform.machine())
    if calls is None or len(pids) < 2:
        return
    parents = {init} | {_parent(pid) for pid in pids}
    for pid in pids:
        if (pid in parents) is not masters:
            continue
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError):
                    if found := _blocked(proc_stat.content(f"/proc/{pid}/task/{task}/syscall"), calls):
                        yield Pending(pid, *found)


def _blocked(line: bytes, calls: dict[int, tuple[int, int]]) -> tuple[int, int] | None:
    # "NUMBER ARGUMENT*6 STACK INSTRUCTION", "-1 STACK INSTRUCTION" outside of a call, or "running".
    fields = line.split()
    if len(fields) < 9 or (call := calls.get(int(fields[0]))) is None:
        return None
    argument, parts = call
    address = int(fields[1 + argument], 16)
    # A 32-bit process has other calls by these numbers, and its stack below 4 GiB.
    return (address, parts) if address and int(fields[7], 16) >= _ABOVE_32_BIT else None


def _change(pending: Pending, change: Callable[[int, int], tuple[int, int] | None]) -> bool:
    if not _is_present(pending):
        return False
    with suppress(OSError, struct.error):  # of a mapping that ends within the structure
        with open(f"/proc/{pending.pid}/mem", "r+b", buffering=0) as memory:
            seconds, rest = _TIME.unpack(os.pread(memory.fileno(), _TIME.size, pending.address))
            if new := change(seconds, rest):
                return os.pwrite(memory.fileno(), _TIME.pack(*new), pending.address) == _TIME.size
    return False


def expired(seconds: int, rest: int, parts: int) -> tuple[int, int] | None:
    """Return a time of 0; None if it is 0 already or invalid."""
    return (0, 0) if seconds >= 0 and 0 <= rest < parts and seconds + rest else None


def lengthened(seconds: int, rest: int, parts: int, at_least: float) -> tuple[int, int] | None:
    """Return a time of `at_least` seconds; None if it is that long already or invalid."""
    if seconds < 0 or not 0 <= rest < parts or seconds + rest / parts >= at_least:
        return None
    return divmod(round(at_least * parts), parts)


def _is_present(pending: Pending) -> bool:
    first, last = pending.address // mmap.PAGESIZE, (pending.address + _TIME.size - 1) // mmap.PAGESIZE
    with suppress(OSError):
        with open(f"/proc/{pending.pid}/pagemap", "rb", buffering=0) as pagemap:
            entries = os.pread(pagemap.fileno(), (last - first + 1) * _ENTRY.size, first * _ENTRY.size)
        return bool(entries) and all(entry & _PRESENT for (entry,) in _ENTRY.iter_unpack(entries))
    return False


def _parent(pid: int) -> int:
    with suppress(OSError):
        return proc_stat.read(pid).parent
    return 0
