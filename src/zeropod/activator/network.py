"""A pod's network: new and open connections, and whether listeners can be handed over.

Not all connections count: probers' never do, and the pod's own only if set. One object for each network namespace,
shared by the containers of a pod. Features that the kernel lacks are determined here once, in words, and callers do
without them.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address

import trio

from zeropod.activator.established import EstablishedConnections
from zeropod.activator.probe_sources import ProbeSources
from zeropod.kernel import namespace
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.lookup import Activity, Lookup, LookupUnavailable
from zeropod.kernel.sock_diag import SockDiag, TcpSocket, TcpState

_MIGRATE = "net/ipv4/tcp_migrate_req"
_MPTCP = "net/mptcp/enabled"

CONNECTED = frozenset(TcpState) - {TcpState.LISTEN, TcpState.CLOSE, TcpState.TIME_WAIT, TcpState.NEW_SYN_RECV}


def combined(seen: Mapping[int, Activity], ports: Collection[int]) -> Activity:
    """Return the activity of several ports as one."""
    wanted = [activity for port, activity in seen.items() if port in ports]
    last = max((activity.last_ns for activity in wanted), default=0)
    return Activity(last, sum(activity.connections for activity in wanted))


def _unaccepted(connections: Iterable[TcpSocket], ports: Collection[int]) -> list[TcpSocket]:
    """Return connections that were not accepted yet. One without an inode in any other state was closed by its
    process."""
    states = (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)
    return [sock for sock in connections if sock.local[1] in ports and not sock.inode and sock.state in states]


def avoid_multipath(path: str) -> None:
    """Disable MPTCP in the namespace; call it before anything listens there.

    Go opens MPTCP listeners, which CRIU refuses (Unsupported proto 262); without MPTCP, Go falls back to TCP.
    """
    with suppress(OSError):  # a kernel without MPTCP
        namespace.set_sysctl(path, _MPTCP, "0")


class PodNetwork:
    """A network; create it in a thread in the node's network namespace. After `close` nothing watches the namespace.

    `established` has a close of its own, which blocks. `probers`: names of processes whose connections are probes; if
    empty, all connections count. `own`: whether the pod's own connections count, too.
    """

    def __init__(self, path: str, probers: Collection[str] = (), *, own: bool = True) -> None:
        self.path = path
        self._own = own
        self._scope = trio.CancelScope()
        self._diag = SockDiag(path)
        self.established = EstablishedConnections(path)
        self.lookup: Lookup | None = None
        self.probe_sources: ProbeSources | None = None
        self.limits: list[str] = []
        """Features that this kernel lacks, and the consequence, in words."""
        try:
            self.lookup = Lookup.attach(path)
            self.probe_sources = self._know(probers)
        except LookupUnavailable as reason:
            self.limits.append(
                f"new connections are not seen by eBPF ({reason}); going by the count of all of the pod's connections: "
                "one to any of its containers keeps them all awake"
            )
        self._counted = Activity(0, self._passive_opens())
        self.cannot_hand_over = self._allow_migration()
        """Why waiting connections cannot be moved between listeners; empty if they can."""

    def _know(self, probers: Collection[str]) -> ProbeSources | None:
        assert self.lookup is not None
        try:
            return ProbeSources(self.lookup, probers)
        except OSError as error:
            self.limits.append(f"health probes cannot be told from other connections ({error}); they wake, and count")
            return None

    async def run(self) -> None:
        """Follow the node's addresses until close()."""
        with self._scope:
            if self.probe_sources:
                await self.probe_sources.follow()

    def _allow_migration(self) -> str:
        try:
            namespace.set_sysctl(self.path, _MIGRATE, "1")
        except OSError as error:
            words = f"connections cannot be handed over ({_MIGRATE}: {error.strerror})"
            self.limits.append(f"{words}; containers do not go COLD")
            return words
        return ""

    def activity(self, ports: Collection[int]) -> Activity:
        """Return the new connections to these ports: the time of the last, and their number.

        Without the eBPF program, the kernel's counter only tells that there was one since the last call, not when or to
        which port.
        """
        if self.lookup:
            return combined(self.lookup.activity(own=self._own), ports)
        if (opens := self._passive_opens()) != self._counted.connections:
            self._counted = Activity(time.monotonic_ns(), opens)
        return self._counted

    def _passive_opens(self) -> int:
        """Return the number of connections accepted in the namespace (RFC 1213's tcpPassiveOpens)."""
        with namespace.entered(self.path), open("/proc/thread-self/net/snmp") as file:
            names, values = [line.split() for line in file if line.startswith("Tcp:")]
        return int(values[names.index("PassiveOpens")])

    def connections(self) -> list[TcpSocket]:
        return self._diag.tcp(CONNECTED)

    def counting(self) -> list[TcpSocket]:
        """Return the connections that count: data on them is activity."""
        return [sock for sock in self.connections() if self._counts(sock)]

    def _counts(self, sock: TcpSocket) -> bool:
        if not self.probe_sources:
            return True
        if sock.remote[0] == sock.local[0] or ip_address(sock.remote[0]).is_loopback:
            return self.probe_sources.for_client(sock) or (self._own and not self.probe_sources.made(sock))
        return not self.probe_sources.made(sock)

    def from_probe_sources(self, inodes_now: Callable[[], Collection[int]], ports: Collection[int]) -> list[TcpSocket]:
        """Return probers' connections to these ports that were not accepted yet, or have one of these inodes."""
        if not self.probe_sources:
            return []
        connections = self.connections()
        # Read afterwards: a connection accepted meanwhile had no inode yet in the list.
        inodes = inodes_now()
        accepted = [sock for sock in connections if sock.local[1] in ports and sock.inode in inodes]
        return [sock for sock in (*accepted, *_unaccepted(connections, ports)) if self.probe_sources.made(sock)]

    def listeners(self) -> list[TcpSocket]:
        return self._diag.tcp({TcpState.LISTEN})

    def listening_ports(self, inodes: Collection[int]) -> frozenset[int]:
        """Return the ports on which sockets with these inodes listen."""
        return frozenset(listener.local[1] for listener in self.listeners() if listener.inode in inodes)

    def close(self) -> None:
        self._scope.cancel()
        self._diag.close()
        if self.probe_sources:
            self.probe_sources.close()
        if self.lookup:
            self.lookup.close()


class Baseline:
    """The connections to a sleeping container that do not count: those from before the freeze.

    The `sk_lookup` program keeps counting while the container sleeps or naps. `chosen`: the ports of its settings.
    """

    def __init__(self, network: PodNetwork, chosen: frozenset[int]) -> None:
        self._network = network
        self._chosen = chosen
        self._ports: frozenset[int] = frozenset()
        self._before = Activity(0, 0)
        """Counts of connections to these ports from before the freeze, and later ones that do not count."""
        self._ended: frozenset[Connection] = frozenset()
        """Connections that the peers had ended before, and on which nothing more can arrive."""

    def take(self, own: Collection[int], ports: frozenset[int]) -> None:
        """Record the connections of the frozen container, which listens on `ports`; `own`: its inodes."""
        self._ports = self._chosen or ports
        self._before = self._network.activity(self._ports)
        self._ended = frozenset(
            connection_of(sock)
            for sock in self._network.connections()
            if sock.inode in own and sock.state is TcpState.CLOSE_WAIT
        )

    def seen(self) -> Activity:
        """Return the counts of connections to its ports so far."""
        return self._network.activity(self._ports)

    def has_connected(self) -> bool:
        """Return whether there is a new connection."""
        return self.seen() != self._before

    def disregard(self, seen: Activity) -> None:
        """Disregard these connections: a part of a handshake, for example, or the rest of a closed connection."""
        self._before = seen

    def waits_in_listeners(self, own: Collection[int]) -> bool:
        """Return whether a connection is not accepted yet."""
        counted = (listener for listener in self._network.listeners() if listener.local[1] in self._ports)
        return any(listener.receive_queue for listener in counted if listener.inode in own)

    def ending(self, own: Collection[int]) -> bool:
        """Return whether a peer has ended a connection since the freeze, and the container has not closed it yet."""
        ended = (sock for sock in self._network.connections() if sock.state is TcpState.CLOSE_WAIT)
        return any(sock.inode in own and connection_of(sock) not in self._ended for sock in ended)


def connection_of(sock: TcpSocket) -> Connection:
    """Return both ends of a connection."""
    return Connection(sock.local, sock.remote)
