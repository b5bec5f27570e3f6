"""A container's init process, from its start or restore to its exit, with everything that lives in its cgroup.

A container that sleeps and wakes has many, one after the other. The exit of one is the container's own exit, unless it
was said beforehand that it is expected.
"""

import os
import select
from collections.abc import Callable

import trio

from zeropod.kernel import pidfd, sockets
from zeropod.kernel.pidfd import ExitStatus
from zeropod.runtime import cgroups
from zeropod.runtime.cgroups import CgroupNotFound


class InitProcess:
    def __init__(self, pid: int, before: "InitProcess | None") -> None:
        """Raises ProcessLookupError where the process is gone, CgroupNotFound when the first is dead already."""
        self.pid = pid
        try:
            self.cgroup = cgroups.of(pid)
        except CgroupNotFound:
            if before is None:
                raise
            self.cgroup = before.cgroup  # it died at once, in the cgroup in which it had lived
        self.exit_expected = False
        """Set before it is ended on purpose; the container then lives on without processes."""
        self.exit: ExitStatus | None = None
        self.exited = trio.Event()
        self._handle = os.pidfd_open(pid)

    async def run(self, out_of_memory: Callable[[], None]) -> ExitStatus:
        """Watch until it has ended, and reap it."""
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
        if self.cgroup.oom_kills() > reported:  # the kernel tells of the last one later than of the death
            report()
        self.exit = status
        self.exited.set()
        return status

    async def ended_by_itself(self) -> None:
        """Return when it has ended, but never where it was ended on purpose: what has done so goes on from there."""
        await self.exited.wait()
        if self.exit_expected:
            await trio.sleep_forever()

    def is_dead(self) -> bool:
        """Return whether it has ended, if only an instant ago."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return self.exit is not None or bool(poll.poll(0))

    def pids(self) -> list[int]:
        return self.cgroup.pids()

    def socket_inodes(self) -> frozenset[int]:
        """Return the inodes of all sockets that the processes in its cgroup have open."""
        return frozenset(inode for pid in self.pids() for _, inode in sockets.sockets_of(pid))
