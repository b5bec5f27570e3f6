"""Health probes of one container: answered while it sleeps, where that is possible without it.

Owns when it is asked what probes ask, and when its gate is shut and opened. Without eBPF, or where the pod does not
want it, there is no gate: probes are then connections like any other.
"""

import socket
from enum import Enum, auto

import trio

from zeropod.activator.connect import OurConnections
from zeropod.activator.examiner import Examiner
from zeropod.activator.gate import Gate
from zeropod.activator.inspector import Inspector
from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.probing.discovery import Lesson
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import NotIdle, Workload

UNDER_WAY = 1.0
"""Seconds that a container which is about to sleep is given to answer the probes that it has received."""

LOOK = 0.005
"""Seconds between looks whether it has."""

RECOVERY = 5.0
"""Seconds in which a container that would fail a probe is not asked again."""


class Keep(Enum):
    """What came of keeping probes from a container that napped."""

    KEPT = auto()
    PROBED = auto()
    """Another probe waits for it, or is with it."""
    WANTED = auto()
    """A connection that is no probe's waits for it."""


class Probes:
    def __init__(self, container: Workload, network: PodNetwork, nursery: TaskStarter) -> None:
        self._container = container
        self._network = network
        self._nursery = nursery
        self.inspector: Inspector | None = None
        self._gate: Gate | None = None
        self._is_running = False
        self._starting = trio.Lock()
        self._lesson: Lesson | None = None
        self._examiner: Examiner | None = None
        self._unwell = ""
        self._asked_at = 0.0
        settings = container.settings
        if network.lookup and network.probers and not settings.disable_probe_detection:
            ours = OurConnections(network.lookup)
            self._examiner = Examiner(network.path, ours)
            self.inspector = Inspector(
                network.lookup, settings.probe_buffer_size, network.probers, self._examiner, ours
            )
            self.inspector.on_answer = lambda: container.life.tell()
            self._gate = Gate(
                network.path,
                network.lookup,
                self.inspector,
                connect_timeout=settings.connect_timeout,
                proxy_timeout=settings.proxy_timeout,
            )
            self._learn()

    @property
    def answered(self) -> int:
        """Probes so far."""
        return self.inspector.answered if self.inspector else 0

    @property
    def are_known(self) -> bool:
        """Whether there has been one, as far as that was looked at."""
        return bool(self._gate and self._gate.was_probed)

    async def _start(self) -> None:
        assert self._gate is not None
        async with self._starting:
            if not self._is_running:
                await self._nursery.start(self._gate.run)
                self._is_running = True

    def _learn(self) -> None:
        self._end_lesson()
        if self._gate:
            self._lesson = Lesson(self._container, self._network, self._gate)
            self._nursery.start_soon(self._lesson.run, self._start)

    def _end_lesson(self) -> None:
        if self._lesson:
            self._lesson.end()

    async def pass_all(self) -> None:
        """Returns when the container has answered all that probes are known to ask of it, and well.

        Raises NotIdle: asleep it could not become well, and would be reported as well.
        """
        if not self._examiner:
            return
        if not self._unwell or trio.current_time() > self._asked_at + RECOVERY:
            failures = await self._examiner.ask_all()
            self._asked_at = trio.current_time()
            if failures and not self._unwell:
                self._learn()  # whether it is still asked what it fails
            self._unwell = "; ".join(failures)
        if self._unwell:
            raise NotIdle(Reason.UNHEALTHY.because(self._unwell))

    async def intercept(self, init_process: InitProcess, ports: frozenset[int]) -> None:
        """From now on probes come to the gate; returns when those before have been dealt with. Raises OSError."""
        if not self._gate:
            return
        self._end_lesson()
        await self._start()
        self._gate.shut(ports)
        with trio.move_on_after(UNDER_WAY):
            # The kernel has no event for it.
            while self._network.of_probers(init_process.socket_inodes, ports):  # noqa: ASYNC110
                await trio.sleep(LOOK)

    def open(self) -> None:
        """The container runs: probes are its own business again."""
        if self._gate:
            self._end_lesson()
            self._gate.open()

    def look_at_nodes(self, *, on: bool) -> None:
        """Whether all that comes from the node is looked at first, as is due while the container naps."""
        if not self._gate:
            return
        try:
            self._gate.look_at_nodes(on=on)
        except OSError as error:
            self._container.log.warning("who comes from the node during a nap may not be counted: %s", error)

    def let_through(self) -> None:
        """The container naps: the probes that need it may have it."""
        if self._gate:
            self._gate.application_runs()

    async def let_all_through(self) -> None:
        """Returns when the container has answered them."""
        if self._gate:
            await self._gate.idle()

    def take(self, connection: socket.socket) -> None:
        """Answers a prober's connection that has come past the gate, which is shut."""
        assert self._gate is not None
        self._gate.take(connection)

    def keep(self) -> "Keep":
        """Keep probes from the container again, which is about to be frozen; if anything waits, nothing changes."""
        if self._gate:
            if self._gate.wanted:
                return Keep.WANTED
            if self._gate.busy:
                return Keep.PROBED
            self._gate.application_sleeps()
        return Keep.KEPT

    async def connection(self) -> Event:
        """Returns when what came to the gate turned out to be somebody's connection."""
        if not self._gate:
            await trio.sleep_forever()
            raise AssertionError("sleep_forever returned")
        await self._gate.somebody()
        return Event.CONNECTION

    async def probe(self) -> Event:
        """Returns when a probe has come that only the application can answer."""
        if not self._gate:
            await trio.sleep_forever()
            raise AssertionError("sleep_forever returned")
        await self._gate.probe()
        return Event.PROBE
