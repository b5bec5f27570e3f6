"""All processes of a frozen container, held by ptrace instead of by the freezer.

Owns the order of freezing, seizing and letting go, so that nothing of them runs in between: `stopped` has the rules.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from zeropod.runtime.memory.userfault import proc
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.stopped import LET_GO_WITHIN, STOP_WITHIN, StoppedProcess, Unsuitable


@dataclass(slots=True)
class Held:
    """The processes of a container, all stopped."""

    injections: list[Injection] = field(default_factory=list)
    """Those whose threads can be borrowed."""
    unsuitable: dict[int, str] = field(default_factory=dict)
    """Those that cannot, and why; they are stopped all the same, or ended, or held by a stop signal."""


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

    Raises Unsuitable where a process that could run cannot be held, because it has another tracer; nothing has been
    thawed then. Must run in `own_thread`: that is what undoes a `seize` of what is still frozen.
    """
    result = Held()
    seized: list[StoppedProcess] = []
    thawed = False
    try:
        for pid in pids:
            try:
                seized.append(StoppedProcess.seize(pid))
            except Unsuitable as unsuitable:
                if not _cannot_run(pid):
                    raise
                result.unsuitable[pid] = unsuitable.reason
        thawed = True
        thaw()
        until = time.monotonic() + STOP_WITHIN if deadline is None else deadline
        for process in seized:
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
