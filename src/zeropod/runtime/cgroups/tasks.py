"""Finds the tasks that kept a cgroup from freezing, as well as /proc allows.

/proc does not show which task is frozen. The v1 freezer leaves a frozen task in state D, whether it stopped in
the refrigerator or in the middle of an interruptible sleep; v2 leaves it in state S inside get_signal. A task
that is stuck in the kernel is in D as well, and remains so after the thaw: compare its state before and after.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zeropod.kernel import proc_stat


@dataclass(frozen=True, slots=True)
class Task:
    """A thread; `state` is the letter in its stat, `waits_in` the kernel function it sleeps in."""

    pid: int
    tid: int
    name: str
    state: str
    waits_in: str

    def __str__(self) -> str:
        place = f" in {self.waits_in}" if self.waits_in else ""
        return f"task {self.tid} ({self.name}) of process {self.pid}: state {self.state}{place}"


def tasks_of(pids: Iterable[int]) -> list[Task]:
    """Return every thread of these processes that still exists."""
    found = []
    for pid in pids:
        try:
            threads = sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue
        for tid in threads:
            with suppress(FileNotFoundError, ProcessLookupError):
                stat = proc_stat.read(pid, tid)
                found.append(Task(pid, tid, stat.name, stat.state, proc_stat.wchan(pid, tid)))
    return found


def culprits(before: Iterable[Task], after: Iterable[Task], awake: frozenset[str]) -> list[Task]:
    """Return tasks in one of the `awake` states `before` the thaw, and those stuck in the kernel even `after` it.

    `before` may hold several samples of the same tasks; each task is returned once.
    """
    stuck = {task.tid: task for task in after if task.state == "D"}
    found: dict[int, Task] = {}
    for task in before:
        if task.state in awake or task.tid in stuck:
            found.setdefault(task.tid, stuck.get(task.tid, task))
    return list(found.values())
