"""How much of the CPU and the disk a program gets beside others: little, or as much as anybody.

Owns setpriority(2) and ioprio_set(2) for a program with its threads and its descendants. Programs that are started
afterwards inherit what their parent has. It counts among the processes of one cgroup, and leaves those of others alone.

Source of facts: ioprio_set(2), include/uapi/linux/ioprio.h, the system call tables as in `libc`.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from zeropod.kernel import libc

BACKGROUND: Final = 5
"""The nice value of work for which nobody waits: a third of what anybody else gets. With 10, a tenth, a container
stands still for seconds on a node whose CPUs are all busy."""

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
_NONE, _IDLE = 0, 3


def lower(pid: int, *, disk: bool) -> None:
    """Little from now on, also of the `disk`; for a program that has just been started. It may have ended."""
    with suppress(ProcessLookupError):
        for thread in _threads(pid):
            os.setpriority(os.PRIO_PROCESS, thread, BACKGROUND)
            if disk:
                _set_disk(thread, _IDLE)


def raise_all(pid: int) -> None:
    """The usual for a program and its descendants in its process group; others are not ours to touch."""
    for process in _family(pid, pid):
        for thread in _threads(process):
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, 0)
                _set_disk(thread, _NONE)


def _set_disk(thread: int, kind: int) -> None:
    if number := _IOPRIO_SET.get(platform.machine()):
        libc.syscall("ioprio_set", number, _WHO_PROCESS, thread, kind << _CLASS_SHIFT)


def _family(pid: int, group: int) -> Iterator[int]:
    try:
        if os.getpgid(pid) != group:
            return
    except ProcessLookupError:
        return
    yield pid
    for thread in _threads(pid):
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                yield from _family(int(child), group)


def _threads(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []
