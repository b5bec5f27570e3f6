"""A container's init process, from its start or restore to its exit, with all processes in its cgroup.

A container that sleeps and wakes has several, one after the other. The exit of one is the container's exit, unless
`exit_expected` is set.
"""

import os
import select
from collections.abc import Callable, Sequence

import trio

from zeropod.kernel import pending_timeouts, pidfd, sockets
from zeropod.kernel.pidfd import ExitStatus
from zeropod.runtime import cgroups
from zeropod.runtime.cgroups import CgroupNotFound

MASTER_WAITS = 1.0
"""Seconds that a process with children waits after a thaw at least, if nothing comes for it: its workers need pages of
theirs before they can report to it."""


class InitProcess:
    def __init__(self, pid: int, before: "InitProcess | None") -> None:
        """Raises ProcessLookupError if the process is gone; CgroupNotFound if the first one has died already."""
        self.pid = pid
        try:
            self.cgroup = cgroups.of(pid)
        except CgroupNotFound:
            if before is None:
                raise
            self.cgroup = before.cgroup  # it died at once, in the cgroup of the one before
        self.exit_expected = False
        """Set before zeropod ends it on purpose: its exit is then not the container's exit."""
        self.exit: ExitStatus | None = None
        self.exited = trio.Event()
        self._handle = os.pidfd_open(pid)

    async def run(self, out_of_memory: Callable[[], None]) -> ExitStatus:
        """Wait for its exit, and reap it. Calls `out_of_memory` at each OOM kill in its cgroup."""
        reported = 0

        def report() -> None:
            nonlocal reported
            reported = self.cgroup.oom_kills()
            out_of_memory()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.cgroup.watch_oom, report)
                status = await pidfd.wait_exit(self._handle)
                nursery.cancel_scope.cancel()
        finally:
            os.close(self._handle)
        if self.cgroup.oom_kills() > reported:  # the kernel may report the last OOM kill after the exit
            report()
        self.exit = status
        self.exited.set()
        return status

    async def ended_by_itself(self) -> None:
        """Return when it has ended by itself; never if zeropod ended it on purpose."""
        await self.exited.wait()
        if self.exit_expected:
            await trio.sleep_forever()

    def is_dead(self) -> bool:
        """Return whether it has ended, even if `run` has not noticed yet."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return self.exit is not None or bool(poll.poll(0))

    def pids(self) -> list[int]:
        return self.cgroup.pids()

    def socket_inodes(self) -> frozenset[int]:
        """Return the inodes of all sockets that the processes in its cgroup have open."""
        return frozenset(inode for pid in self.pids() for _, inode in sockets.sockets_of(pid))


def let_workers_go_first(pids: Sequence[int], init: int) -> None:
    """Have workers of the frozen processes wake at once after the thaw, and their master a moment later.

    A master that checks its workers' heartbeats would find them late otherwise.
    """
    if len(pids) > 1:
        pending_timeouts.expire(pids, init)
        pending_timeouts.lengthen(pids, init, MASTER_WAITS)
