"""The sources of probes: processes of this node, by name, and the node's current addresses.

Owns the entries for the sk_lookup program, and the two rules that correct its hint: a flow that lasts longer or carries
more than a probe is a client's; and the process at its other end can be looked up.
"""

import logging
import time
from collections.abc import Callable, Collection

from zeropod.kernel.addresses import NodeAddresses
from zeropod.kernel.local_peer import LocalPeers
from zeropod.kernel.lookup import Flow, FlowOrigin, Lookup
from zeropod.kernel.sock_diag import Address, TcpSocket

log = logging.getLogger(__name__)

NAMES = frozenset({"kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent"})
"""Names of the kubelet's process in Kubernetes, MicroK8s and K3s."""

DEFERRED = frozenset({"ksoftirqd"})
"""The kernel thread that receives packets for other tasks when a CPU has too many."""

FORWARDERS = frozenset({"containerd"})
"""Processes that connect to a port from within the pod for a client outside: `kubectl port-forward`."""

PROBE_SECONDS = 10.0
"""Seconds after which an open connection counts as a client's."""

PROBE_BYTES = 16 << 10
"""Received bytes from which a connection counts as a client's. The ClientHello of an HTTPS probe alone has 2,000."""


class ProbeSources:
    """The sources of probes; create it in the node's network namespace. Raises OSError.

    `is_probe_source` and `has_closed` block while they search the node's processes: call them in a thread.
    """

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
        """Keep the addresses up to date until cancelled."""
        try:
            while True:
                await self._addresses.changed()
                self._set_addresses()
        except OSError as error:
            log.warning("cannot follow the node's addresses any more: %s", error)

    def _set_addresses(self) -> None:
        try:
            self._lookup.set_node_addresses(self._addresses.all())
        except OSError as error:
            log.warning("probes from some of this node's addresses count as traffic: %s", error)

    def is_probe_source(self, own: Address, other: Address) -> bool:
        """Return whether a prober's process on this node has the end `own` of a connection to `other`."""
        return self._known(self._peers.is_named, own, other)

    def has_closed(self, own: Address, other: Address) -> bool:
        """Return whether the process on this node with the end `own` of a connection to `other` has closed it."""
        return self._known(self._peers.has_closed, own, other)

    def _known(self, ask: Callable[[Address, Address], bool], own: Address, other: Address) -> bool:
        try:
            return ask(own, other)
        except OSError as error:
            log.warning("cannot look up the process at %s port %d, taking it for a client: %s", *own, error)
            return False

    def made(self, sock: TcpSocket) -> bool:
        """Return whether this connection, seen from the pod, still counts as a prober's."""
        origin = self._lookup.flow(Flow(sock.remote, sock.local[1]))
        if origin is None or origin in (FlowOrigin.CLIENT, FlowOrigin.FORWARDED):
            return False
        short = (sock.bytes_received or 0) <= PROBE_BYTES and time.monotonic_ns() - origin <= PROBE_SECONDS * 1e9
        return origin == FlowOrigin.PROBE or short

    def for_client(self, sock: TcpSocket) -> bool:
        """Return whether this connection from within the pod serves a client outside."""
        return self._lookup.flow(Flow(sock.remote, sock.local[1])) in (FlowOrigin.CLIENT, FlowOrigin.FORWARDED)
