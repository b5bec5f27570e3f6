"""Background or normal priority for a program, for CPU and disk.

Owns the priority of a program with its threads and its descendants. Programs that they start later
inherit the priority. It takes effect among the processes of one cgroup and does not affect other cgroups.

Source of facts: ioprio_set(2).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from zeropod.kernel import task_attributes

BACKGROUND: Final = 5
"""Nice value of background work: a third of a normal process's share. With 10, a tenth, a container stands still for
seconds on a node whose CPUs are all busy."""


def lower(pid: int) -> None:
    """Give a program that was just started background priority. It may have ended already."""
    with suppress(ProcessLookupError):
        for thread in _threads(pid):
            os.setpriority(os.PRIO_PROCESS, thread, BACKGROUND)
            task_attributes.set_io_priority(thread, task_attributes.IDLE)


def raise_all(pid: int) -> None:
    """Restore normal priority for a program and its descendants in its process group; others are left alone."""
    for process in _family(pid, pid):
        for thread in _threads(process):
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, 0)
                task_attributes.set_io_priority(thread, task_attributes.BY_NICE)


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
