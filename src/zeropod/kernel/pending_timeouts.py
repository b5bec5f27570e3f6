"""Timeouts that frozen processes are blocked with: shortened by the time that they were frozen.

Most waits go on after a thaw as if nothing had happened: poll(2), epoll_wait(2), nanosleep(2) and futex(2) know when
they are to end, and end at once. select(2), pselect6(2) and ppoll(2) do not: interrupted by the freeze they write the
time that is left back into the caller's timeval or timespec, and begin again with that. So after a sleep a worker that
reports to its master each second may do so a second late, while the master finds at once that it has not reported for
long, and kills it: 13 of 50 thaws of a pre-forking server with two workers ended so, none of 50 with the workers'
timeouts set to 0.

Only the workers'. What a master waits for is to happen before it looks, and what workers need for that is not in memory
after a sleep: with pages in files, 18 of 60 were killed in spite of timeouts of 0, since what was left of the master's
own was over first. So what a master is blocked with is lengthened where little is left of it.

Nothing is stopped or injected: the structure is changed in the memory of the process, which runs no instruction
meanwhile, and only where its page is present. A page that is elsewhere would have to be waited for, and the timeout
is left as it is then.

Source of facts: proc_pid_syscall(5), proc_pid_pagemap(5), fs/select.c (poll_select_finish).
"""

import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
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
"""By the number of the system call: which argument points to the time, and how many of its parts are a second."""

_TIME = struct.Struct("=qq")
_ENTRY = struct.Struct("=Q")
_PRESENT = 1 << 63
_ABOVE_32_BIT = 1 << 32


class Pending(NamedTuple):
    """A thread that is blocked with a timeout."""

    pid: int
    address: int
    """Of its timeval or timespec."""
    parts: int
    """Units of the structure's second field in a second."""


def shorten(pids: Sequence[int], init: int, frozen_seconds: float) -> int:
    """Take the time frozen, at most what is left, off the timeouts of all workers; return how many were shortened.

    Call it just before the thaw, while all are frozen. `init` is no worker, nor is a process that has a child among
    `pids`. What has vanished, or may not be looked at, is left out. `math.inf` makes all of them end at once: for
    pages that are about to be moved out, of which it cannot be told for how long.
    """
    return shorten_found(find(pids, init), frozen_seconds)


def lengthen(pids: Sequence[int], init: int, at_least: float) -> int:
    """Have all masters wait for so many seconds after the thaw, if nothing comes; return how many it made wait longer.

    A master is every process that `shorten` leaves out. What waits for longer, or for ever, is left as it is.
    """
    return sum(
        _change(pending, partial(lengthened, parts=pending.parts, at_least=at_least))
        for pending in _find(pids, init, masters=True)
    )


def shorten_found(found: Iterable[Pending], frozen_seconds: float) -> int:
    """Do the same for what `find` has found since the freeze; the finding is the longer part (0.03 ms a process)."""
    return sum(_change(pending, partial(shortened, parts=pending.parts, by=frozen_seconds)) for pending in found)


def find(pids: Sequence[int], init: int) -> Iterator[Pending]:
    """Yield the threads of workers that are blocked with a timeout; none where there is only one process."""
    return _find(pids, init, masters=False)


def _find(pids: Sequence[int], init: int, *, masters: bool) -> Iterator[Pending]:
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
                    if found := _blocked(_read(f"/proc/{pid}/task/{task}/syscall"), calls):
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
        memory = os.open(f"/proc/{pending.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            old = os.pread(memory, _TIME.size, pending.address)
            seconds, rest = _TIME.unpack(old)
            if new := change(seconds, rest):
                return os.pwrite(memory, _TIME.pack(*new), pending.address) == _TIME.size
        finally:
            os.close(memory)
    return False


def shortened(seconds: int, rest: int, parts: int, by: float) -> tuple[int, int] | None:
    """Return a time less `by` seconds, at least 0; None when it is 0 already, or is not a time."""
    if seconds < 0 or not 0 <= rest < parts or not seconds + rest or by <= 0:
        return None
    if by >= seconds + 1:
        return 0, 0
    return divmod(max(0, seconds * parts + rest - round(by * parts)), parts)


def lengthened(seconds: int, rest: int, parts: int, at_least: float) -> tuple[int, int] | None:
    """Return a time of so many seconds; None when it is as long already, or is not a time."""
    if seconds < 0 or not 0 <= rest < parts or seconds + rest / parts >= at_least:
        return None
    return divmod(round(at_least * parts), parts)


def _is_present(pending: Pending) -> bool:
    first, last = pending.address // mmap.PAGESIZE, (pending.address + _TIME.size - 1) // mmap.PAGESIZE
    with suppress(OSError):
        pagemap = os.open(f"/proc/{pending.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            entries = os.pread(pagemap, (last - first + 1) * _ENTRY.size, first * _ENTRY.size)
        finally:
            os.close(pagemap)
        return bool(entries) and all(entry & _PRESENT for (entry,) in _ENTRY.iter_unpack(entries))
    return False


def _parent(pid: int) -> int:
    with suppress(OSError):
        return proc_stat.read(pid).parent
    return 0


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
