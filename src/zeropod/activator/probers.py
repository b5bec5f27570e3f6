"""Who may be a prober: processes of this node, by their name and the addresses that the node has at the moment.

Owns what the sk_lookup program is told about that, and the two rules by which its hint is made good later: a connection
that lasts, or carries more than a probe does, is somebody's after all; and who is at its other end can be looked up.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping

from zeropod.kernel.addresses import NodeAddresses
from zeropod.kernel.local_peer import LocalPeers
from zeropod.kernel.lookup import Arrival, Flow, Lookup, Said
from zeropod.kernel.sock_diag import CLOSED, Address, SockDiag, TcpSocket, TcpState

log = logging.getLogger(__name__)

NAMES = frozenset({"kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent"})
"""What the kubelet is called in Kubernetes, MicroK8s and K3s."""

DEFERRED = frozenset({"ksoftirqd"})
"""The kernel's thread that receives for others when a processor has too much to receive."""

FORWARDERS = frozenset({"containerd"})
"""Who connects to a port from within the pod for somebody outside: `kubectl port-forward`."""

LONGEST = 10.0
"""Seconds beyond which an open connection is no probe's."""

MOST = 16 << 10
"""Bytes received beyond which a connection is no probe's. The ClientHello of an HTTPS probe alone takes 2,000."""


class Probers:
    """To be made in the node's network namespace. Raises OSError."""

    def __init__(self, lookup: Lookup, names: Collection[str]) -> None:
        self._lookup = lookup
        lookup.set_tasks(names, DEFERRED if names else (), FORWARDERS)
        self._peers = LocalPeers(names)
        try:
            self._addresses = NodeAddresses()
        except OSError:
            self._peers.close()
            raise
        self._set_addresses()

    def close(self) -> None:
        self._peers.close()
        self._addresses.close()

    async def follow(self) -> None:
        """Keeps the addresses up to date, for ever."""
        try:
            while True:
                await self._addresses.changed()
                self._set_addresses()
        except OSError as error:
            log.warning("the node's addresses are not followed any more: %s", error)

    def _set_addresses(self) -> None:
        try:
            self._lookup.set_node_addresses(self._addresses.all())
        except OSError as error:
            log.warning("probes from some of this node's addresses count as traffic: %s", error)

    def is_probers(self, own: Address, other: Address) -> bool:
        """Whether the process at the `own` end, on this node, of a connection to `other` is a prober."""
        return self._known(self._peers.is_named, own, other)

    def has_closed(self, own: Address, other: Address) -> bool:
        """Whether the process at the `own` end, on this node, has closed the connection to `other`."""
        return self._known(self._peers.has_closed, own, other)

    def _known(self, ask: Callable[[Address, Address], bool], own: Address, other: Address) -> bool:
        try:
            return ask(own, other)
        except OSError as error:
            log.warning("who is at %s port %d is unknown, so it is somebody: %s", *own, error)
            return False

    def came_late(self, unsure: Mapping[Flow, Arrival], pod: SockDiag) -> bool:
        """Whether all of these, from Lookup.unsure(), are probers' after all; from now on they are taken for that.

        To be asked while nobody answers in the `pod`: one that was closed without a word wants nothing. Raises OSError.
        """
        for flow, arrival in unsure.items():
            own, other = (arrival.local, flow.port), flow.remote
            if self._lookup.flow(flow) == arrival.ns:
                continue  # it has been before, and may have been answered since
            if not _waits(pod, own, other) or self.is_probers(other, own):
                continue
            # A prober may close it while its owner is looked for, and then it has none.
            if _waits(pod, own, other, left=self.has_closed(other, own)):
                return False
        for flow, arrival in unsure.items():
            self._lookup.take_for_a_probers(flow, arrival)
        return True

    def made(self, sock: TcpSocket) -> bool:
        """Whether this connection, at its end in the pod, is still to be taken for a prober's."""
        said = self._lookup.flow(Flow(sock.remote, sock.local[1]))
        if said is None or said in (Said.SOMEBODYS, Said.FORWARDED):
            return False
        short = (sock.bytes_received or 0) <= MOST and time.monotonic_ns() - said <= LONGEST * 1e9
        return said == Said.A_PROBES or short

    def for_somebody(self, sock: TcpSocket) -> bool:
        """Whether this connection from within the pod was made for somebody outside."""
        return self._lookup.flow(Flow(sock.remote, sock.local[1])) in (Said.SOMEBODYS, Said.FORWARDED)


def _waits(pod: SockDiag, own: Address, other: Address, *, left: bool = False) -> bool:
    """Whether somebody at the other end of a connection may want something that he has not got.

    `left`: he is known to have closed it, though that may be on its way still.
    """
    end = pod.connection(own, other)
    if end is None or end.state in CLOSED:  # by the application, during a nap
        return False
    # Closed without a word: for the kernel the end is a byte of data.
    return not ((left or end.state is TcpState.CLOSE_WAIT) and (end.bytes_received or 0) <= 1)
