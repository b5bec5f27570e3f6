"""Which connections to a sleeping container count: those that were not there when it was frozen, and are no probes.

Owns the counts from before the freeze. The `sk_lookup` program counts on while the container sleeps or naps; what turns
out to be a probe's, or what is left of a connection that is gone, is added to the counts that do not matter.
"""

from zeropod.activator.network import PodNetwork
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.strategy import Workload


class Baseline:
    def __init__(self, workload: Workload, network: PodNetwork) -> None:
        self._workload = workload
        self._network = network
        self._ports: frozenset[int] = frozenset()
        self._before = Activity(0, 0)
        """Connections to these ports from before the freeze, and later ones that are known not to count."""
        self._ended: frozenset[Connection] = frozenset()
        """Connections that the peers had ended before, and of which nothing more can come."""

    def take(self, init_process: InitProcess, ports: frozenset[int]) -> None:
        """Remember what there is now, while the container, which listens on `ports`, is frozen."""
        own = init_process.socket_inodes()
        self._ports = self._workload.settings.ports or ports
        self._before = self._network.activity(self._ports)
        self._ended = frozenset(
            connection_of(sock)
            for sock in self._network.connections()
            if sock.inode in own and sock.state is TcpState.CLOSE_WAIT
        )

    def seen(self) -> Activity:
        """Return the new connections to its ports, so far."""
        return self._network.activity(self._ports)

    def has_connected(self) -> bool:
        """Return whether there is a new connection."""
        return self.seen() != self._before

    def disregard(self, seen: Activity) -> None:
        """What was seen is a part of a handshake, say, or what is left of a connection that is gone."""
        self._before = seen

    def waits_in_listeners(self, init_process: InitProcess) -> bool:
        """Return whether a connection is not accepted yet."""
        own = init_process.socket_inodes()
        counted = (listener for listener in self._network.listeners() if listener.local[1] in self._ports)
        return any(listener.receive_queue for listener in counted if listener.inode in own)

    def ending(self, init_process: InitProcess) -> bool:
        """Return whether a peer has ended a connection since the freeze which the container has not ended itself."""
        own = init_process.socket_inodes()
        ended = (sock for sock in self._network.connections() if sock.state is TcpState.CLOSE_WAIT)
        return any(sock.inode in own and connection_of(sock) not in self._ended for sock in ended)


def connection_of(sock: TcpSocket) -> Connection:
    """Return both ends of a connection."""
    return Connection(sock.local, sock.remote)
