"""What probes ask a container is found out while it runs, so that no first probe needs it when it sleeps.

Owns the time in which its gate is ajar: from when it listens until it sleeps for the first time; and again while it
fails a probe. Not for ever, since that leads the probes of a running container through this process.
"""

from collections.abc import Awaitable, Callable

import trio

from zeropod.activator.examiner import STALE
from zeropod.activator.gate import Gate
from zeropod.activator.network import PodNetwork
from zeropod.lifecycle.strategy import Workload

LONGEST = STALE + 60.0
"""Seconds of a lesson, for a container that does not sleep: a few periods of a probe."""

SHORTEST_LOOK, LONGEST_LOOK = 0.1, 30.0
"""Seconds between looks whether a container that was started listens: a tenth of the time that it has taken so far."""


class Lesson:
    def __init__(self, container: Workload, network: PodNetwork, gate: Gate) -> None:
        self._container = container
        self._network = network
        self._gate = gate
        self._scope = trio.CancelScope()

    def end(self) -> None:
        """From now on the gate is left as it is."""
        self._scope.cancel()

    async def run(self, start: Callable[[], Awaitable[None]]) -> None:
        """`start` has the gate listen."""
        with self._scope:
            try:
                await start()
                self._gate.ajar(await self._ports())
            except OSError as error:
                self._container.log.warning("its first probes may wake it: what they ask is not found out: %s", error)
                return
            await trio.sleep(LONGEST)
            self._gate.open()

    async def _ports(self) -> frozenset[int]:
        """On which the container listens, when it does."""
        started = trio.current_time()
        while True:
            init_process = self._container.init_process
            ports = self._network.listening_ports(init_process.socket_inodes()) if init_process else frozenset()
            if ports:
                return ports
            taken = trio.current_time() - started
            await trio.sleep(min(max(SHORTEST_LOOK, taken / 10), LONGEST_LOOK))
