"""Scheduling attributes of a thread that CRIU 4.2 does not restore: reading and setting them from outside."""

import os
import platform
from dataclasses import dataclass

from zeropod.kernel import libc

_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "loongarch64": 31, "ppc64le": 274, "s390x": 283}
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "ppc64le": 273, "s390x": 282}
_PROCESS = 1
"""IOPRIO_WHO_PROCESS, which in fact names a thread."""
_CLASS_SHIFT = 13
_BEST_EFFORT = 2 << _CLASS_SHIFT | 4


@dataclass(frozen=True, slots=True)
class Attributes:
    affinity: frozenset[int]
    io_priority: int
    """0 while it follows from the nice value."""
    timer_slack: int
    """Nanoseconds; 0 for a real-time thread."""


def read(tid: int) -> Attributes:
    """Return the attributes of a thread. Raises OSError."""
    return Attributes(frozenset(os.sched_getaffinity(tid)), _io_priority(tid), _timer_slack(tid))


def write(tid: int, attributes: Attributes) -> None:
    """Set the attributes of a thread, except those that it has already. Raises OSError."""
    now = read(tid)
    if now.affinity != attributes.affinity:
        os.sched_setaffinity(tid, attributes.affinity)
    if now.io_priority != attributes.io_priority:
        libc.syscall("ioprio_set", _IOPRIO_SET[platform.machine()], _PROCESS, tid, attributes.io_priority)
    if now.timer_slack != attributes.timer_slack:
        with open(f"/proc/{tid}/timerslack_ns", "w") as file:
            file.write(str(attributes.timer_slack))


def _io_priority(tid: int) -> int:
    number = _IOPRIO_GET.get(platform.machine())
    if number is None:
        return 0
    value = libc.syscall("ioprio_get", number, _PROCESS, tid)
    # A thread without a priority of its own has no class or, on some kernels, the middle level of best effort.
    return 0 if value >> _CLASS_SHIFT == 0 or value == _BEST_EFFORT else value


def _timer_slack(tid: int) -> int:
    with open(f"/proc/{tid}/timerslack_ns") as file:
        return int(file.read())
