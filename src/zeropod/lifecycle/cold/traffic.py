"""The connections of a container that cannot answer: none is refused, no data is lost.

From the freeze until its processes are back, new connections complete their handshake in duplicates of its listeners,
and packets of its established connections wait in the pod's lock. `hand_over` gives both to the restored sockets.
"""

import socket
from collections.abc import Collection, Iterable
from contextlib import suppress

import trio

from zeropod.activator.held import HeldListeners
from zeropod.activator.network import PodNetwork
from zeropod.kernel import sockets
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.idle.monitor import require_idle
from zeropod.lifecycle.idle.policy import Snapshot
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import CheckpointFailed, Workload

SETTLE = 1.0
"""Seconds after the lock during which bare acknowledgements of earlier data do not wake."""

QUIET = 2.0
"""Seconds without a new connection after which none is expected any more, once the container has moved."""


class Traffic:
    def __init__(self, workload: Workload, network: PodNetwork) -> None:
        self._workload = workload
        self._network = network
        self._held = HeldListeners()
        self._locked: frozenset[Connection] = frozenset()
        self._locked_at = 0.0
        self._data_came = False

    def hold(self, init_process: InitProcess) -> None:
        """Hold connections and packets from now on; the container is frozen. Raises NotIdle, CheckpointFailed,
        OSError."""
        own = init_process.socket_inodes()
        listening = {sock.inode for sock in self._network.listeners() if sock.inode in own}
        self._held = HeldListeners.take(init_process.pids(), listening)
        if not self._workload.life.departure:
            require_idle(Snapshot(listens=bool(self._held)))
        if words := self._network.cannot_hand_over:
            raise CheckpointFailed(Reason.CANNOT_HAND_OVER.because(words))
        self._lock(self._network.connections(), own)
        if self._workload.life.leaves_awake:
            return  # its connections end with its address: what lies in them is asked for again
        # Not before: now nothing runs, and nothing more reaches a connection, so what is seen remains true.
        require_idle(Snapshot(pending=self._pending(own)))

    def _pending(self, own: Collection[int]) -> Explanation | None:
        """Return why connections are not idle, or None; they do not change any more."""
        if self._held.waiting():
            return Reason.CONNECTION.because()
        mine = [sock for sock in self._network.connections() if sock.inode in own]
        if any(sock.receive_queue for sock in mine):
            return Reason.NOT_YET_READ.because()
        if any(sock.send_queue for sock in mine if sock.state is not TcpState.SYN_SENT):
            return Reason.NOT_YET_TAKEN.because()
        return None

    def _lock(self, connections: Iterable[TcpSocket], own: Collection[int]) -> None:
        if self._workload.keeps_connections:
            mine = (sock for sock in connections if sock.inode in own)
            self._locked = self._network.established.lock(mine)
            self._locked_at = trio.current_time()

    def processes_are_gone(self) -> None:
        """Let restored listeners bind beside the held ones."""
        self._held.prepare_hand_over()

    async def connection(self) -> Event:
        """Return CONNECTION when a connection has arrived at a held listener."""
        await self._held.connection(self._workload.settings.ports)
        return Event.CONNECTION

    async def data(self) -> Event:
        """Return DATA when a packet has arrived for a locked connection.

        Until the hand-over, later calls return at once.
        """
        while not self._data_came:
            held = await self._network.established.packet(self._locked)
            # After SETTLE a bare acknowledgement wakes, too: it may be a keep-alive, which must be answered.
            if held.incoming and (held.carries_data or trio.current_time() > self._locked_at + SETTLE):
                self._data_came = True
        return Event.DATA

    def hand_over(self) -> None:
        """Give held connections and packets to the container's own sockets; if it has none, they are refused."""
        self._held.close()
        self._data_came = False
        self._network.established.release(self._locked)
        self._locked = frozenset()

    async def pass_on(self, address: str, at_most: float) -> None:
        """Pass on what comes to another pod, which the container is in now, until nothing comes any more."""
        await self._held.pass_on(self._network.path, address, quiet=QUIET, at_most=at_most)

    def silence(self, pids: Collection[int]) -> None:
        """Their connections vanish without a word to the peers when they are killed. To be restored they have to."""
        if not self._workload.keeps_connections:
            return
        try:
            for connection in self._connections_of(pids):
                with connection, suppress(OSError):  # CRIU has not connected it yet, so closing it sends nothing
                    sockets.enter_repair(connection)
        except OSError as error:
            self._workload.log.warning("its connections may be lost: %s", error)

    def leave_repair(self, init_process: InitProcess) -> None:
        """Take connections out of repair mode: a killed CRIU leaves them there, unreadable for the application."""
        try:
            for connection in self._connections_of(init_process.pids()):
                with connection:
                    sockets.leave_repair(connection)
        except OSError as error:
            self._workload.log.warning("its connections may be unusable after the failed checkpoint: %s", error)

    def _connections_of(self, pids: Collection[int]) -> Iterable[socket.socket]:
        """Return duplicates of the connected sockets of these processes. Raises OSError."""
        own = {inode for pid in pids for _, inode in sockets.sockets_of(pid)}
        connected = {sock.inode for sock in self._network.connections() if sock.inode in own}
        return sockets.duplicate(pids, connected).values()
