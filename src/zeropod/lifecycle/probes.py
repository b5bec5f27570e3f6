"""Health probes of one container: answered in its place while it sleeps, as far as possible.

Owns when the application is asked for its answers, and when probes are intercepted: while the container sleeps, from
when it listens until it first sleeps (to learn its probes), and while it fails one. Interception is limited in time,
because intercepted probes pass through this process. Without eBPF, or with `disable-probe-detection`, probes are
ordinary connections.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from zeropod.activator.connect import OurConnections
from zeropod.activator.interceptor import ProbeInterceptor
from zeropod.activator.network import PodNetwork
from zeropod.activator.probe_inspector import ProbeInspector
from zeropod.activator.probe_results import STALE, ProbeResults
from zeropod.concurrency import TaskStarter
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import NotIdle, Workload

DISCOVERY = STALE + 60.0
"""Seconds of interception for a container that does not sleep: a few periods of a probe."""

SHORTEST_LOOK, LONGEST_LOOK = 0.1, 30.0
"""Seconds between checks whether a started container listens: a tenth of the elapsed time, within these bounds."""

UNDER_WAY = 1.0
"""Seconds that a container about to sleep has to answer the probes that it has received."""

LOOK = 0.005
"""Seconds between checks whether it has answered them."""

RECOVERY = 5.0
"""Seconds until a container that fails a probe is asked again."""


class Probes:
    def __init__(self, workload: Workload, network: PodNetwork, nursery: TaskStarter) -> None:
        self._workload = workload
        self._network = network
        self._nursery = nursery
        self.inspector: ProbeInspector | None = None
        self._interceptor: ProbeInterceptor | None = None
        self._is_running = False
        self._starting = trio.Lock()
        self._discovery: ProbeDiscovery | None = None
        self._results: ProbeResults | None = None
        self._unwell = ""
        self._asked_at = 0.0
        settings = workload.settings
        if network.lookup and network.probe_sources and not settings.disable_probe_detection:
            ours = OurConnections(network.lookup)
            self._results = ProbeResults(network.path, ours)
            self.inspector = ProbeInspector(
                network.lookup, settings.probe_buffer_size, network.probe_sources, self._results, ours
            )
            self.inspector.on_answer = lambda: workload.life.tell()
            self._interceptor = ProbeInterceptor(
                network.path,
                network.lookup,
                self.inspector,
                connect_timeout=settings.connect_timeout,
                proxy_timeout=settings.proxy_timeout,
            )
            self._learn()

    @property
    def answered(self) -> int:
        """The number of probes answered so far."""
        return self.inspector.answered if self.inspector else 0

    async def _start(self) -> None:
        assert self._interceptor is not None
        async with self._starting:
            if not self._is_running:
                await self._nursery.start(self._interceptor.run)
                self._is_running = True

    def _learn(self) -> None:
        self._end_discovery()
        if self._interceptor:
            self._discovery = ProbeDiscovery(self._workload, self._network, self._interceptor)
            self._nursery.start_soon(self._discovery.run, self._start)

    def _end_discovery(self) -> None:
        if self._discovery:
            self._discovery.end()

    async def pass_all(self) -> None:
        """Return when the container has passed all its known probes.

        Raises NotIdle if it fails one: it could not recover while asleep.
        """
        if not self._results:
            return
        if not self._unwell or trio.current_time() > self._asked_at + RECOVERY:
            failures = await self._results.ask_all()
            self._asked_at = trio.current_time()
            if failures and not self._unwell:
                self._learn()  # whether the probe that it fails is still being sent
            self._unwell = "; ".join(failures)
        if self._unwell:
            raise NotIdle(Reason.UNHEALTHY.because(self._unwell))

    async def intercept(self, init_process: InitProcess, ports: frozenset[int]) -> None:
        """Intercept probes from now on, and return when earlier ones have been answered. Raises OSError."""
        if not self._interceptor:
            return
        self._end_discovery()
        await self._start()
        self._interceptor.engage(ports)
        with trio.move_on_after(UNDER_WAY):
            # The kernel has no event for it.
            while self._network.from_probe_sources(init_process.socket_inodes, ports):  # noqa: ASYNC110
                await trio.sleep(LOOK)

    def release(self) -> None:
        """Let probes reach the container, which runs."""
        if self._interceptor:
            self._end_discovery()
            self._interceptor.disengage()

    def intercept_node(self, *, on: bool) -> None:
        """Intercept all connections from the node, for a nap; or, with `on=False`, only probes."""
        if not self._interceptor:
            return
        try:
            self._interceptor.intercept_node(on=on)
        except OSError as error:
            self._workload.log.warning(
                "cannot intercept connections from the node, some may not be counted during this nap: %s", error
            )

    def let_through(self) -> None:
        """Pass on the probes that wait for the container, which naps."""
        if self._interceptor:
            self._interceptor.application_runs()

    async def let_all_through(self) -> None:
        """Return when the container has answered the probes that waited for it."""
        if self._interceptor:
            await self._interceptor.idle()

    def hold(self) -> Event | None:
        """Keep probes from the container again, which is about to be frozen.

        Returns PROBE or CONNECTION, and changes nothing, if another probe or a client's connection waits for the
        container or is being served by it.
        """
        if self._interceptor:
            if self._interceptor.client_came.is_set():
                return Event.CONNECTION
            if self._interceptor.has_probe:
                return Event.PROBE
            self._interceptor.application_sleeps()
        return None

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        """Return the waits for events of the interceptor."""
        return (self._connection, self._probe) if self._interceptor else ()

    async def _connection(self) -> Event:
        """Return when an intercepted connection turns out to be a client's."""
        assert self._interceptor is not None
        await self._interceptor.client_came.wait()
        return Event.CONNECTION

    async def _probe(self) -> Event:
        """Return when a probe has arrived that only the application can answer."""
        assert self._interceptor is not None
        await self._interceptor.probe_came.wait()
        return Event.PROBE


class ProbeDiscovery:
    def __init__(self, workload: Workload, network: PodNetwork, interceptor: ProbeInterceptor) -> None:
        self._workload = workload
        self._network = network
        self._interceptor = interceptor
        self._scope = trio.CancelScope()

    def end(self) -> None:
        """Leave the interceptor as it is from now on."""
        self._scope.cancel()

    async def run(self, start: Callable[[], Awaitable[None]]) -> None:
        """Intercept for some seconds; `start` returns when the interceptor listens."""
        with self._scope:
            try:
                await start()
                self._interceptor.intercept_kubelet(await self._ports())
            except OSError as error:
                self._workload.log.warning("cannot learn its probes, the first ones may wake it: %s", error)
                return
            await trio.sleep(DISCOVERY)
            self._interceptor.disengage()

    async def _ports(self) -> frozenset[int]:
        """Return the ports of the container once it listens."""
        started = trio.current_time()
        while True:
            init_process = self._workload.init_process
            ports = self._network.listening_ports(init_process.socket_inodes()) if init_process else frozenset()
            if ports:
                return ports
            taken = trio.current_time() - started
            await trio.sleep(min(max(SHORTEST_LOOK, taken / 10), LONGEST_LOOK))
