"""A nap: a container in STANDBY runs for a probe or an exec, and is frozen again or has to stay awake.

A client that comes meanwhile finds an application that answers, and must not see it freeze in the middle of that: any
use by a client turns the nap into a wake. No client is missed, even one that is gone again: before and after the nap,
while the application cannot answer, what waits is looked at; in between everything from the node is intercepted.
"""

import os
from collections.abc import Callable, Collection

import trio

from zeropod.activator.network import Baseline, PodNetwork
from zeropod.kernel import proc_stat
from zeropod.kernel.sock_diag import TcpSocket
from zeropod.lifecycle.idle.monitor import quiet_ms
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import Workload

SETTLE = 2.0
"""Seconds for the application to close connections that the other end has closed, as those of a probe are. On a machine
whose CPUs are busy it needs some tenths of one, and frozen before that it would be woken by them at once."""

WORKS = 0.3
"""Seconds for what the nap has set off, such as the handling of a signal that an exec has sent; one that computes all
the time would nap for longer otherwise."""

LOOKS = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between looks whether it has, which take a millisecond or two each; the last one for all further ones."""


class Nap:
    """Made before the container is thawed."""

    def __init__(self, workload: Workload, network: PodNetwork, baseline: Baseline) -> None:
        init_process = workload.init_process
        assert init_process is not None
        self._init_process = init_process
        self._network = network
        self._baseline = baseline
        self.awaited: Explanation | None = None
        """That a connection waits for the container as it begins to run."""
        self._ports = workload.settings.ports or network.listening_ports(init_process.socket_inodes())
        self._since = trio.current_time()

    def begins(self) -> None:
        """Look at what waits; to be called before each thaw, when probes are intercepted already."""
        if not self._baseline.has_connected():
            return
        seen = self._baseline.seen()
        if self._baseline.waits_in_listeners(self._init_process.socket_inodes()):
            self.awaited = Reason.CONNECTION_BEFORE_NAP.because()
        else:
            self._baseline.disregard(seen)

    async def settled(self) -> None:
        """Return when nothing is left of what the nap was for.

        Connections of probers that came to the container itself are answered, and what they have closed has a moment;
        so have signals that an exec has sent, and what follows from them.
        """
        await self._while(self._is_probed)
        with trio.move_on_after(SETTLE):
            await self._while(lambda: self._baseline.ending(self._init_process.socket_inodes()))
            await self._while(lambda: any(map(proc_stat.has_due_signal, self._init_process.pids())))
        with trio.move_on_after(WORKS):
            await self._while(lambda: any(map(_runs, self._init_process.pids())))

    async def _while(self, condition: Callable[[], bool]) -> None:
        looks = 0
        # The kernel has no event for it.
        while condition():
            await trio.sleep(LOOKS[min(looks, len(LOOKS) - 1)])
            looks += 1

    def _is_probed(self) -> bool:
        """A probe that came to the container itself is still with it; for PROBE_SECONDS, after which it is none."""
        return bool(self._network.from_probe_sources(self._init_process.socket_inodes, self._ports))

    def use(self) -> Explanation | None:
        """Return how a connection of the container, which is frozen again, was used; None if none was."""
        if sock := used_since(self._network, self._init_process.socket_inodes(), self._ports, self._since):
            return Reason.USED_IN_NAP.because(*sock.remote, sock.state.name)
        return None


def _runs(pid: int) -> bool:
    """Return whether a thread of the process uses a CPU, or waits for one."""
    try:
        return any(proc_stat.read(pid, int(task)).state == "R" for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False


def used_since(network: PodNetwork, own: Collection[int], ports: Collection[int], since: float) -> TcpSocket | None:
    """Return a connection to these ports, of one of these inodes, on which data went either way since then."""
    passed_ms = (trio.current_time() - since) * 1000
    for sock in network.connections():
        if sock.inode in own and sock.local[1] in ports and quiet_ms(sock) <= passed_ms:
            return sock
    return None
