"""Finds out what probes ask a container while it runs, so that it need not run for the first of them when it sleeps.

Owns the time in which a running container's probes are intercepted: from when it listens until it sleeps for the first
time, and again while it fails one. Not for ever, since they go through this process meanwhile.
"""

from collections.abc import Awaitable, Callable

import trio

from zeropod.activator.interceptor import ProbeInterceptor
from zeropod.activator.network import PodNetwork
from zeropod.activator.probe_results import STALE
from zeropod.lifecycle.strategy import Workload

LONGEST = STALE + 60.0
"""Seconds for a container that does not sleep: a few periods of a probe."""

SHORTEST_LOOK, LONGEST_LOOK = 0.1, 30.0
"""Seconds between looks whether a container that was started listens: a tenth of the time that it has taken so far."""


class ProbeDiscovery:
    def __init__(self, container: Workload, network: PodNetwork, interceptor: ProbeInterceptor) -> None:
        self._container = container
        self._network = network
        self._interceptor = interceptor
        self._scope = trio.CancelScope()

    def end(self) -> None:
        """Leave the interceptor as it is from now on."""
        self._scope.cancel()

    async def run(self, start: Callable[[], Awaitable[None]]) -> None:
        """Intercept for a while; `start` has the interceptor listen."""
        with self._scope:
            try:
                await start()
                self._interceptor.intercept_kubelet(await self._ports())
            except OSError as error:
                self._container.log.warning("its first probes may wake it: what they ask is not found out: %s", error)
                return
            await trio.sleep(LONGEST)
            self._interceptor.disengage()

    async def _ports(self) -> frozenset[int]:
        """Return the ports on which the container listens, when it does."""
        started = trio.current_time()
        while True:
            init_process = self._container.init_process
            ports = self._network.listening_ports(init_process.socket_inodes()) if init_process else frozenset()
            if ports:
                return ports
            taken = trio.current_time() - started
            await trio.sleep(min(max(SHORTEST_LOOK, taken / 10), LONGEST_LOOK))
