"""A nap: a container in STANDBY runs for a probe or an exec, and is then frozen again or stays awake.

A client that connects meanwhile reaches a running application, which must not freeze while serving it: any use by a
client turns the nap into a wake. No client is missed, even if it has disconnected again: waiting connections are
checked before and after the nap, while the application cannot accept any, and during it all connections from the node
are intercepted.
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
"""Seconds for the application to close connections that the client has closed, as a prober does. On a busy machine this
takes some tenths of a second; if it were frozen before, these connections would wake it at once."""

WORKS = 0.3
"""Seconds for follow-up work, such as handling a signal that an exec has sent; it bounds the nap of a container that
always computes."""

LOOKS = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between checks of these conditions, which take a millisecond or two each; the last value repeats."""


class Nap:
    """One nap; create it before the container is thawed."""

    def __init__(self, workload: Workload, network: PodNetwork, baseline: Baseline) -> None:
        init_process = workload.init_process
        assert init_process is not None
        self._init_process = init_process
        self._network = network
        self._baseline = baseline
        self.awaited: Explanation | None = None
        """Why it must stay awake: a connection waited when the nap began."""
        self._ports = workload.settings.ports or network.listening_ports(init_process.socket_inodes())
        self._since = trio.current_time()

    def begins(self) -> None:
        """Check for waiting connections. Call this before each thaw, after probes are intercepted."""
        if not self._baseline.has_connected():
            return
        seen = self._baseline.seen()
        if self._baseline.waits_in_listeners(self._init_process.socket_inodes()):
            self.awaited = Reason.CONNECTION_BEFORE_NAP.because()
        else:
            self._baseline.disregard(seen)

    async def settled(self) -> None:
        """Return when the nap's probe or exec is complete.

        Probes on the container's own sockets are answered, then closed connections and pending signals are handled (for
        SETTLE seconds at most), then no thread runs (for WORKS seconds at most).
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
        """Return whether a probe on the container's own sockets is open. After PROBE_SECONDS it does not count as
        one."""
        return bool(self._network.from_probe_sources(self._init_process.socket_inodes, self._ports))

    def use(self) -> Explanation | None:
        """Return how a client used a connection during the nap, or None; the container is frozen again."""
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
    """Return a connection with one of these inodes and ports that has carried data since `since` (trio's time), or
    None."""
    passed_ms = (trio.current_time() - since) * 1000
    for sock in network.connections():
        if sock.inode in own and sock.local[1] in ports and quiet_ms(sock) <= passed_ms:
            return sock
    return None
