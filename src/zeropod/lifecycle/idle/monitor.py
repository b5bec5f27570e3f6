"""Waits until a container may sleep: nobody has used it for the scale-down duration, and nobody holds it awake.

Between activity and the end of the duration it sleeps, too: it looks again when the container could be idle at the
earliest. What it found last, in words, is what `zeropod ps` shows as the reason why a container is not asleep.
"""

import time
from datetime import UTC, datetime

import trio

from zeropod.activator.network import PodNetwork
from zeropod.lifecycle.idle.activity import last_activity, unanswered
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.strategy import Workload

LISTENING = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between looks for listening sockets; the last one for all further ones."""

LOOK = 0.25
"""Seconds between looks at the CPU time of a container that owes an answer."""

GLANCES = 5
"""In the duration of one such look, at what its tasks are doing."""

SHORTEST = 0.1
"""Seconds in which CPU time says something."""

WORKING = 0.2
"""Of one CPU. A runtime that only keeps itself busy, a JVM say, uses less."""


class IdleWatch:
    def __init__(self, container: Workload, network: PodNetwork) -> None:
        self._container = container
        self._network = network
        self.awake_since = time.monotonic_ns()
        """The start, the first look that found it listening, or the last wake, which count as activity; in nanoseconds
        of CLOCK_MONOTONIC."""
        self._just_woke = False
        """So that it listens is known."""

    def woke(self) -> None:
        """The container has just woken up. The kernel is not asked again in the moment in
        which others of the node may be waking up, too, and takes some milliseconds of a CPU to answer."""
        self.awake_since = time.monotonic_ns()
        self._just_woke = True

    async def idle(self) -> None:
        """Returns when there was no activity for the scale-down duration and nothing holds the container awake."""
        duration, looks, quiet, rests = self._container.settings.scaledown, 0, self._quiet_from_now(), False
        while True:
            life = self._container.life
            if life.state is not State.RUNNING or life.inhibited_by:
                life.why = life.inhibited_by or life.state.name.lower()
                rests = False
                await life.changed()
                continue
            if self._just_woke:
                self._just_woke = False
                await self._rest(duration, self.awake_since)
                continue
            ports = self._ports()
            if not ports:
                life.why = "nothing in it listens on a TCP port"
                await trio.sleep(LISTENING[min(looks, len(LISTENING) - 1)])
                looks += 1
                self.awake_since = time.monotonic_ns()  # whoever starts slowly is not asleep as soon as it has
                continue
            now, connections = time.monotonic_ns(), self._network.counting()
            last = max(self.awake_since, last_activity(ports, self._network.activity(ports), connections, now))
            remaining = duration - (now - last) / 1e9
            if remaining <= 0:
                if rests or not unanswered(ports, connections):
                    return
                rests = not self._worked_since(quiet) and not await self._is_busy()
                if rests:
                    continue  # that took a moment, so all else is looked at once more
                life.why = "it works on the answer to a request"
                quiet = self._quiet_from_now()
                await trio.sleep(LOOK)
                continue
            rests = False
            quiet = self._quiet_from_now()
            await self._rest(duration, last)

    async def _rest(self, duration: float, last: int) -> None:
        """Until the container could be idle at the earliest, `duration` seconds after its `last` activity."""
        ago = (time.monotonic_ns() - last) / 1e9
        clock = datetime.fromtimestamp(time.time() - ago, UTC)
        self._container.life.why = f"last active at {clock:%H:%M:%S} UTC, sleeps {duration:g} s after that"
        await trio.sleep(max(0.0, duration - ago))

    async def used(self, since: int) -> None:
        """Returns when its ports have seen activity after `since` (CLOCK_MONOTONIC), at the next look at the latest."""
        while True:
            await trio.sleep(max(self._container.settings.scaledown, SHORTEST))
            ports = self._ports()
            now, connections = time.monotonic_ns(), self._network.counting()
            if last_activity(ports, self._network.activity(ports), connections, now) > since:
                return

    def _ports(self) -> frozenset[int]:
        return self._container.settings.ports or self._listening_ports()

    def _quiet_from_now(self) -> tuple[float, float]:
        """The time, and the CPU time that the container has used so far, both in seconds."""
        incarnation = self._container.incarnation
        return time.monotonic(), incarnation.cgroup.cpu_seconds() if incarnation else 0.0

    def _worked_since(self, quiet: tuple[float, float]) -> bool:
        """Whether it has used the CPU since then, while nothing came in or went out.

        A request that takes longer than the scale-down duration must not be put to sleep in its middle. That a client
        has spoken last is not enough to go by: on a one-way stream it always has.
        """
        now, used = self._quiet_from_now()
        elapsed = now - quiet[0]
        return elapsed < SHORTEST or used - quiet[1] > WORKING * elapsed

    async def _is_busy(self) -> bool:
        """Whether it wants a CPU or a disk most of the time, however little it gets.

        With a limit of 100m, or on a busy node, a request may use less of the CPU than an idle runtime elsewhere.
        """
        busy = 0
        for _ in range(GLANCES):
            await trio.sleep(LOOK / GLANCES)
            busy += bool(self._container.incarnation and self._container.incarnation.cgroup.busy())
        return busy > GLANCES / 2

    def _listening_ports(self) -> frozenset[int]:
        incarnation = self._container.incarnation
        return self._network.listening_ports(incarnation.socket_inodes()) if incarnation else frozenset()
