"""Standby: the container lies frozen beside its image, with live sockets, and a thaw away from running.

It was restored without running, so that it is still what the image says: either of the two can be given up for the
other. The kernel goes on serving its sockets (handshakes, acknowledgements, keep-alives); duplicates of them say when
something has come that only the application can deal with.
"""

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.activator.live import Arrived, LiveSockets
from zeropod.kernel import sockets
from zeropod.shim.ending import end
from zeropod.shim.incarnation import Incarnation
from zeropod.shim.lifecycle import Event
from zeropod.shim.traffic import Traffic

if TYPE_CHECKING:
    from zeropod.shim.container import Container

FREEZE = 2.0
"""Seconds for all tasks to freeze; they take a millisecond unless one hangs in a system call."""

_EVENTS = {Arrived.CONNECTION: Event.CONNECTION, Arrived.DATA: Event.DATA}


class Standby:
    """One stay in standby, of one incarnation."""

    def __init__(self, container: "Container", incarnation: Incarnation, traffic: Traffic) -> None:
        self._container = container
        self._incarnation = incarnation
        self._traffic = traffic
        self._live = LiveSockets()
        self.runs = False
        """Whether it was thawed, and so is not what the image says any more."""

    async def lie_down(self) -> None:
        """Freezes the processes that CRIU has left stopped. Raises CgroupError."""
        await self._incarnation.cgroup.freeze(trio.current_time() + FREEZE)
        for pid in self._incarnation.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # which takes effect when they are thawed

    async def lie_down_again(self) -> None:
        """Freezes the processes after a doze. Raises CgroupError."""
        await self._incarnation.cgroup.freeze(trio.current_time() + FREEZE)
        self.runs = False

    def watch(self) -> None:
        """Begins to look at its sockets, while what may come for them is still held. Raises OSError."""
        self._live = LiveSockets.take(self._incarnation.pids(), self._traffic.live(self._incarnation))

    async def event(self) -> Event:
        return _EVENTS[await self._live.event(self._container.settings.ports)]

    def thaw(self) -> None:
        """Lets it run, from where on it is not what the image says; to be followed by `rise`."""
        self._incarnation.cgroup.thaw()
        self.runs = True

    def rise(self) -> None:
        """Lets it run, and looks at its sockets no more."""
        if not self.runs:
            self.thaw()
        self._live.close()

    async def vanish(self, *, whatever_comes: bool = False) -> bool:
        """Ends the processes without their peers noticing. Raises Lost when they do not die, OSError before.

        When something has come meanwhile they are left as they are, and the answer is False; unless they must end
        `whatever_comes`: then a connection which has received something that the image does not know of is closed.
        """
        container, incarnation = self._container, self._incarnation
        self._traffic.hold_again(incarnation)
        if self._live.ready(container.settings.ports) and not whatever_comes:
            self._traffic.hand_over()
            return False
        if container.settings.tcp_established:
            for connection in self._live.quiet():
                sockets.enter_repair(connection)
        container.slept = container.stats_awake()
        await end(container, incarnation)
        self._live.close()
        self._traffic.processes_are_gone()
        return True
