"""All processes of a frozen container, held by ptrace instead of by the freezer.

Owns the order of freezing, seizing and letting go, so that nothing of them runs in between: `stopped` has the rules.

What has another tracer (a debugger, or a parent that traces its child) cannot be held, and runs while the others are.
Its memory stays where it is, and so does that of every process which shares an address space with it: it could write to
a page between the last look at it and its drop. Nothing else of the others can change by that, but for one case that is
left out here: a process that writes to another one's memory (process_vm_writev(2), /proc/PID/mem) as it is moved.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from zeropod.kernel import kcmp
from zeropod.runtime.memory.userfault import proc
from zeropod.runtime.memory.userfault.freezer import Freezer
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.stopped import LET_GO_WITHIN, STOP_WITHIN, StoppedProcess, Unsuitable


@dataclass(slots=True)
class Held:
    """The processes of a container, all stopped but for those that are `running`."""

    injections: list[Injection] = field(default_factory=list)
    """Those whose threads can be borrowed; if there is none, nothing was thawed."""
    unsuitable: dict[int, str] = field(default_factory=dict)
    """The others, and why."""
    running: set[int] = field(default_factory=set)
    """Those of the others that are not stopped, nor ended, nor held by a stop signal."""


class Hold:
    """The processes of one container, to be stopped once or more in the course of one task."""

    def __init__(self, freezer: Freezer, pids: Iterable[int] = ()) -> None:
        """`pids` are stopped besides those that are in the freezer's cgroup."""
        self.freezer = freezer
        self.left: dict[int, str] = {}
        """Processes that cannot be borrowed from, and why."""
        self.ran = False
        """Whether any of them has run while the others were stopped."""
        self._pids = frozenset(pids)

    @contextmanager
    def stopped(self) -> Iterator[list[Injection]]:
        """Those whose threads can be borrowed. Must run in `own_thread`. Raises Cut."""
        freezer = self.freezer
        everything = sorted({*self._pids, *freezer.cgroup.pids()})
        with held(everything, thaw=freezer.thaw, freeze=freezer.freeze, while_waiting=freezer.check) as found:
            self.ran = self.ran or bool(found.running)
            self.left.update(found.unsuitable)
            freezer.check()
            yield found.injections


@contextmanager
def held(
    pids: Sequence[int],
    *,
    thaw: Callable[[], None],
    freeze: Callable[[], None],
    deadline: float | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Iterator[Held]:
    """All processes of a frozen cgroup, held by ptrace instead of by the freezer; afterwards by the freezer again.

    `thaw` is called once all are seized; `freeze` before they are let go of, on every way out after `thaw`. Freezing
    tasks that are stopped is a matter of microseconds, and it need not be waited for until it is complete: a task that
    is let go of freezes before it runs. If the container is to run on, `freeze` does nothing. `while_waiting` is
    called until all are stopped, and may raise in order to give up.

    Must run in `own_thread`: that is what undoes a `seize` of what is still frozen.
    """
    result = Held()
    seized: list[StoppedProcess] = []
    running: set[int] = set()
    thawed = False
    try:
        for pid in pids:
            try:
                seized.append(StoppedProcess.seize(pid))
            except Unsuitable as unsuitable:
                result.unsuitable[pid] = unsuitable.reason
                if not _cannot_run(pid):
                    running.add(pid)
        alone = []
        for process in seized:
            if (other := _shares_memory(process.pid, running)) is None:
                alone.append(process)
            else:
                result.unsuitable[process.pid] = f"shares its memory with process {other}, which cannot be stopped"
        if alone:
            thawed, result.running = True, running
            thaw()
        until = time.monotonic() + STOP_WITHIN if deadline is None else deadline
        for process in alone:
            try:
                process.wait_stopped(until, while_waiting)
                result.injections.append(Injection(process))
            except Unsuitable as unsuitable:
                result.unsuitable[process.pid] = unsuitable.reason
        yield result
    finally:
        try:
            if thawed:
                freeze()
        finally:
            for process in seized:
                # What is still frozen does not stop, however long that is waited for.
                process.release(LET_GO_WITHIN if thawed else 0)
            for injection in result.injections:
                injection.calls.close()


def _cannot_run(pid: int) -> bool:
    """Whether a process that has not been seized executes nothing when it is thawed."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(
            proc.wchan(pid, int(tid)) == "do_signal_stop"
            or proc.status(f"/proc/{pid}/task/{tid}/status")["State"][0] in "ZXT"
            for tid in threads
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def _shares_memory(pid: int, others: Iterable[int]) -> int | None:
    """Return the one of the others that has the same address space, or of which that cannot be told."""
    for other in others:
        try:
            if kcmp.shared(pid, other, kcmp.Resource.ADDRESS_SPACE):
                return other
        except ProcessLookupError:
            continue
        except OSError:
            return other
    return None
