"""The established connections of a pod's sleeping containers: locked while their sockets do not exist.

The kernel has one lock for the whole pod; this module assigns its packets to containers.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress

import trio

from zeropod.kernel.connection_lock import ConnectionLock, Held
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.sock_diag import TcpSocket

TABLE = "zeropod"


class EstablishedConnections:
    """The lock; opened at its first use, because most containers sleep without a connection."""

    def __init__(self, network_path: str) -> None:
        self._network_path = network_path
        self._lock: ConnectionLock | None = None
        self._unclaimed: list[Held] = []
        self._receiving = trio.Lock()

    def lock(self, sockets: Iterable[TcpSocket]) -> frozenset[Connection]:
        """Hold all packets of these connections from now on. Raises OSError if nf_tables refuses."""
        connections = frozenset(Connection(sock.local, sock.remote) for sock in sockets)
        if connections:
            self._lock = self._lock or ConnectionLock(self._network_path, TABLE)
            self._lock.lock(connections)
        return connections

    async def packet(self, connections: Collection[Connection]) -> Held:
        """Return the next packet of one of these connections; wait for ever if there are none."""
        if not connections or not self._lock:
            await trio.sleep_forever()
            raise AssertionError("sleep_forever returned")
        while True:
            # The task that holds the lock receives packets for all others, too.
            async with self._receiving:
                for held in self._unclaimed:
                    if held.connection in connections:
                        self._unclaimed.remove(held)
                        return held
                received = await self._lock.receive()
                self._unclaimed += received  # only now: a `release` meanwhile has replaced the list

    def release(self, connections: Collection[Connection]) -> None:
        """Let the connections' packets pass, the held ones first."""
        if connections and self._lock:
            self._unclaimed = [held for held in self._unclaimed if held.connection not in connections]
            self._lock.release(connections)

    def close(self) -> None:
        """Let all packets pass. Blocks for up to 40 ms if a connection was ever held: call it in a thread."""
        if self._lock:
            # A namespace that is being destroyed has lost its tables already.
            with suppress(OSError):
                self._lock.close()
