"""All processes of a frozen container, stopped by ptrace instead of by the freezer.

Owns the order of freezing, seizing and releasing, so that they run nothing in between: `stopped` has the rules. A

process with another tracer (a debugger, or a parent that traces its child) cannot be stopped, and runs meanwhile. Its
memory stays in place, and so does that of every process which shares an address space with it: it could write to a page
between the last check of the page and its drop. The memory of other processes cannot change, with one exception that is
not handled: a process that writes to another's memory (process_vm_writev(2), /proc/PID/mem) while that is moved.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from zeropod.kernel import kcmp, proc_stat
from zeropod.runtime.memory.userfault.freezer import Freezer
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.stopped import LET_GO_WITHIN, STOP_WITHIN, StoppedProcess, Unsuitable


@dataclass(slots=True)
class Held:
    """The processes of a container, all stopped but for those that are `running`."""

    injections: list[Injection] = field(default_factory=list)
    """The processes whose threads can be borrowed; if there are none, nothing was thawed."""
    unsuitable: dict[int, str] = field(default_factory=dict)
    """The other processes, with the reason."""
    running: set[int] = field(default_factory=set)
    """The unsuitable processes that run: neither stopped by ptrace or a signal, nor ended."""


class Hold:
    """The processes of one container, to be stopped once or more during one operation."""

    def __init__(self, freezer: Freezer, pids: Iterable[int] = ()) -> None:
        """Stop `pids` in addition to the processes in the freezer's cgroup."""
        self.freezer = freezer
        self.left: dict[int, str] = {}
        """Processes whose threads cannot be borrowed, with the reason."""
        self.ran = False
        """Whether any of them has run while the others were stopped."""
        self._pids = frozenset(pids)

    @contextmanager
    def stopped(self) -> Iterator[list[Injection]]:
        """Stop the processes; yield those whose threads can be borrowed. Must run in `own_thread`. Raises Cut."""
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
    """Stop all processes of a frozen cgroup by ptrace instead of by the freezer; freeze them again afterwards.

    `thaw` is called once all are seized; `freeze` before they are released, on every path after `thaw`. Freezing
    stopped tasks takes microseconds, and need not complete before the release: a released task freezes before it runs.
    If the container is to run on, `freeze` does nothing. `while_waiting` is called until all are stopped, and may raise
    in order to give up.

    Must run in `own_thread`, whose end undoes a `seize` of a process that is still frozen.
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
                # A process that is still frozen does not stop, however long one waits.
                process.release(LET_GO_WITHIN if thawed else 0)
            for injection in result.injections:
                injection.calls.close()


def _cannot_run(pid: int) -> bool:
    """Return whether a process that was not seized executes nothing when it is thawed."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(
            proc_stat.wchan(pid, int(tid)) == "do_signal_stop" or proc_stat.status(pid, int(tid))["State"][0] in "ZXT"
            for tid in threads
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def _shares_memory(pid: int, others: Iterable[int]) -> int | None:
    """Return one of the others that shares, or may share, the address space of a process; None if none does."""
    for other in others:
        try:
            if kcmp.shared(pid, other, kcmp.Resource.ADDRESS_SPACE):
                return other
        except ProcessLookupError:
            continue
        except OSError:
            return other
    return None
