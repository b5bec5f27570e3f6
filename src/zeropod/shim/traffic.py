"""What comes for a container that cannot answer: nothing of it is refused, and nothing lost.

From the freeze until its processes are back, new connections complete their handshake in duplicates of its listeners,
packets of its established connections wait in the pod's lock. `hand_over` gives both to the restored sockets.
"""

import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.activator.held import HeldListeners
from zeropod.activator.network import PodNetwork
from zeropod.activator.redirect import Redirect
from zeropod.kernel import sockets
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.shim.idle import quiet_for
from zeropod.shim.incarnation import Incarnation
from zeropod.shim.lifecycle import Event
from zeropod.shim.way import SleepFailed, StillBusy

if TYPE_CHECKING:
    from zeropod.shim.container import Container

SETTLE = 1.0
"""Seconds after the lock in which bare acknowledgements, the echo of what was sent before, do not wake."""


class Traffic:
    def __init__(self, container: "Container", network: PodNetwork, nursery: trio.Nursery) -> None:
        self._container = container
        self._network = network
        self._nursery = nursery
        self._held = HeldListeners()
        self._redirect: Redirect | None = None
        """Instead of held listeners, on a kernel that cannot move their connections."""
        self._locked: frozenset[Connection] = frozenset()
        self._locked_at = 0.0
        self._data_came = False
        self._ports: frozenset[int] = frozenset()
        self._before = Activity(0, 0)
        """Who had connected to these ports before it slept, and who has since that is known to want nothing."""
        self._ended: frozenset[Connection] = frozenset()
        """Connections that the peers had ended before, and of which nothing more can come."""

    async def hold(self, incarnation: Incarnation, ports: frozenset[int], before: Activity) -> None:
        """Holds everything from now on; the container is frozen. Raises StillBusy, OSError.

        `before`: what had connected to its `ports` when it was found idle.
        """
        own = incarnation.socket_inodes()
        self._hold_listeners(incarnation, own)
        if not self._held:
            raise StillBusy("nothing in it listens on a TCP port")
        if not self._network.can_hand_over:
            await self._start_redirect(ports)
        connections = self._network.connections()
        self._lock(connections, own)
        counted = self._container.settings.ports or ports
        counted_before = self._network.activity(counted)
        # Not before: now nothing runs, and nothing more reaches a connection, so what is seen remains true.
        if self._held.waiting() or self._network.activity(ports) != before:
            raise StillBusy("a connection came at the last moment")
        if self._locked:
            connections = self._network.connections()
        mine = [sock for sock in connections if sock.inode in own]
        if any(sock.receive_queue for sock in mine):
            raise StillBusy("it has not yet read what a connection has sent")
        if any(sock.send_queue for sock in mine if sock.state is not TcpState.SYN_SENT):
            raise StillBusy("a peer has not yet taken what it has sent")
        quiet = quiet_for(counted, counted_before, self._network.that_count(connections))
        if quiet < self._container.quiet_wanted:
            raise StillBusy("a request came at the last moment")
        self._ended = frozenset(_connection(sock) for sock in mine if sock.state is TcpState.CLOSE_WAIT)
        self._ports, self._before = counted, counted_before

    def hold_again(self, incarnation: Incarnation) -> None:
        """The same for a container whose sockets are about to go away once more. Raises OSError."""
        own = incarnation.socket_inodes()
        self._hold_listeners(incarnation, own)
        self._lock(self._network.connections(), own)

    def _hold_listeners(self, incarnation: Incarnation, own: Collection[int]) -> None:
        listening = {sock.inode for sock in self._network.listeners() if sock.inode in own}
        self._held = HeldListeners.take(incarnation.pids(), listening)

    def _lock(self, connections: Iterable[TcpSocket], own: Collection[int]) -> None:
        if self._container.settings.tcp_established:
            mine = (sock for sock in connections if sock.inode in own)
            self._locked = self._network.established.lock(mine)
            self._locked_at = trio.current_time()

    async def _start_redirect(self, ports: frozenset[int]) -> None:
        if not self._network.lookup:
            raise SleepFailed("this kernel can neither hand over nor redirect its connections")
        settings = self._container.settings
        self._redirect = Redirect(
            self._network.path,
            ports,
            self._network.lookup,
            connect_timeout=settings.connect_timeout,
            proxy_timeout=settings.proxy_timeout,
        )
        await self._nursery.start(self._redirect.run)

    def processes_are_gone(self) -> None:
        """Lets restored listeners bind beside those that are held."""
        if self._redirect:
            self._held.close()  # nothing has come to it since the redirect
        self._held.prepare_hand_over()

    def waits(self) -> bool:
        """Whether a connection waits in a held listener right now, or data on an established one."""
        return self._data_came or self._held.waiting()

    async def connection(self) -> Event:
        """Returns when somebody has connected to the container, for which all is held."""
        if self._redirect:
            await self._redirect.connection()
        else:
            await self._held.connection(self._container.settings.ports)
        return Event.CONNECTION

    def has_come(self) -> bool:
        """Whether anything has come since it fell asleep, or since it was last known to be nobody who counts."""
        return self.seen() != self._before

    def has_connected(self) -> bool:
        """Whether anybody has: not what was left of a connection that is gone."""
        return self.seen().connections != self._before.connections

    def seen(self) -> Activity:
        """The new connections to its ports."""
        return self._network.activity(self._ports)

    def waits_in_listeners(self, incarnation: Incarnation) -> bool:
        """Whether anybody who has connected is not accepted yet."""
        own = incarnation.socket_inodes()
        counted = (listener for listener in self._network.listeners() if listener.local[1] in self._ports)
        return any(listener.receive_queue for listener in counted if listener.inode in own)

    def disregard(self, seen: Activity) -> None:
        """Who was seen wants nothing: a part of a handshake, say, or what is left of a connection that is gone."""
        self._before = seen

    def is_probers_alone(self) -> bool:
        """Whether since then probers have connected, and nobody else; if so, they are nobody who counts."""
        if self._redirect:
            return False
        try:
            now = self._network.only_probers_since(self._ports, self._before)
        except OSError as error:
            self._container.log.warning("who has connected is unknown, so it was somebody: %s", error)
            return False
        self._before = now or self._before
        return now is not None

    def accept(self) -> socket.socket | None:
        """The first connection that waits for the container, whose own it is not any more. Raises OSError."""
        return self._held.accept(self._container.settings.ports)

    async def data(self) -> Event:
        """Returns when a packet has come for one of the connections that sleep with the container.

        It is true until the hand-over: whoever waits later is told, too.
        """
        while not self._data_came:
            held = await self._network.established.packet(self._locked)
            # Later on even a bare acknowledgement wakes: a keep-alive that nobody answers ends the connection.
            if held.incoming and (held.carries_data or trio.current_time() > self._locked_at + SETTLE):
                self._data_came = True
        return Event.DATA

    def hand_over(self) -> None:
        """Gives what has come to the container's own sockets; without any, it is refused."""
        self._held.close()
        self._data_came = False
        if self._redirect:
            self._redirect.ready()
            self._redirect = None  # what it still proxies goes on in the nursery
        self._network.established.release(self._locked)
        self._locked = frozenset()

    def live(self, incarnation: Incarnation) -> list[TcpSocket]:
        """The sockets on which something may come that the container, which is frozen, has not seen yet."""
        own = incarnation.socket_inodes()
        found = [sock for sock in (*self._network.listeners(), *self._network.connections()) if sock.inode in own]
        return [sock for sock in found if sock.state is not TcpState.CLOSE_WAIT or _connection(sock) not in self._ended]

    def ending(self, incarnation: Incarnation) -> bool:
        """Whether a peer has ended a connection since the container fell asleep which it has not ended itself yet."""
        own = incarnation.socket_inodes()
        ended = (sock for sock in self._network.connections() if sock.state is TcpState.CLOSE_WAIT)
        return any(sock.inode in own and _connection(sock) not in self._ended for sock in ended)

    def silence(self, pids: Collection[int]) -> None:
        """Their connections vanish without a word to the peers when they are killed. To be restored they have to."""
        if not self._container.settings.tcp_established:
            return
        try:
            for connection in self._connections_of(pids):
                with connection, suppress(OSError):  # one that CRIU has not connected yet has nothing to say
                    sockets.enter_repair(connection)
        except OSError as error:
            self._container.log.warning("its connections may be lost: %s", error)

    def leave_repair(self, incarnation: Incarnation) -> None:
        """A CRIU that was killed leaves connections behind on which the application can not even read."""
        try:
            for connection in self._connections_of(incarnation.pids()):
                with connection:
                    sockets.leave_repair(connection)
        except OSError as error:
            self._container.log.warning("its connections may be unusable after the failed checkpoint: %s", error)

    def _connections_of(self, pids: Collection[int]) -> Iterable[socket.socket]:
        """Duplicates of their sockets. Raises OSError."""
        own = {inode for pid in pids for _, inode in sockets.sockets_of(pid)}
        connected = {sock.inode for sock in self._network.connections() if sock.inode in own}
        return sockets.duplicate(pids, connected).values()


def _connection(sock: TcpSocket) -> Connection:
    return Connection(sock.local, sock.remote)
