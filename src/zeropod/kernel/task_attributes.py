"""Scheduling attributes of a thread that CRIU 4.2 does not restore: reading and setting them from outside.

Source of facts: ioprio_set(2), include/uapi/linux/ioprio.h.
"""

import os
from dataclasses import dataclass

from zeropod.kernel import libc

_PROCESS = 1
"""IOPRIO_WHO_PROCESS, which in fact names a thread."""
_CLASS_SHIFT = 13
_BEST_EFFORT = 2 << _CLASS_SHIFT | 4
IDLE = 3 << _CLASS_SHIFT
BY_NICE = 0
"""The I/O priority follows from the nice value."""


@dataclass(frozen=True, slots=True)
class Attributes:
    affinity: frozenset[int]
    io_priority: int
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
        set_io_priority(tid, attributes.io_priority)
    if now.timer_slack != attributes.timer_slack:
        with open(f"/proc/{tid}/timerslack_ns", "w") as file:
            file.write(str(attributes.timer_slack))


def set_io_priority(tid: int, priority: int) -> None:
    """Set the I/O priority of a thread. Raises OSError."""
    libc.syscall("ioprio_set", _PROCESS, tid, priority)


def _io_priority(tid: int) -> int:
    value = libc.syscall("ioprio_get", _PROCESS, tid)
    # A thread without a priority of its own has no class or, on some kernels, the middle level of best effort.
    return BY_NICE if value >> _CLASS_SHIFT == 0 or value == _BEST_EFFORT else value


def _timer_slack(tid: int) -> int:
    with open(f"/proc/{tid}/timerslack_ns") as file:
        return int(file.read())
