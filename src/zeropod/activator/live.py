"""The sockets of a container that is frozen but whole: watched until one of them has something for the application.

They stay the application's: what arrives waits in them, and is found there after the thaw. Nothing is accepted, read
or changed. All of them are in one epoll set, whose own descriptor trio waits for, so that hundreds of connections cost
one task, and a wake none of the time that it takes to start or cancel one.
"""

import select
import socket
from collections.abc import Collection, Iterable
from enum import Enum, auto

import trio

from zeropod.kernel import sockets
from zeropod.kernel.sock_diag import TcpSocket, TcpState

_ARRIVALS = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP
"""Data, a lone urgent byte (EPOLLPRI only), a FIN. Errors and resets are reported unasked."""


class Arrived(Enum):
    """What the application is wanted for."""

    CONNECTION = auto()
    """A connection in a listener's accept queue."""
    DATA = auto()
    """Data on a connection, its end or its failure, a connect(2) that has finished, or room to write in where there
    was none."""


class LiveSockets:
    """Duplicates of one frozen container's TCP sockets; without any, nothing ever arrives."""

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self.connections: list[socket.socket] = []
        self._epoll: select.epoll | None = None

    @classmethod
    def take(cls, pids: Collection[int], watched: Iterable[TcpSocket]) -> "LiveSockets":
        """Duplicates these sockets out of the processes, which are frozen, and watches them from now on.

        To be called while the connections' packets are still held up: an other end that makes room before this call
        is not noticed. A socket that none of the processes has is left out. Raises OSError where the kernel refuses,
        or when this process may not have as many descriptors; then nothing stays open.
        """
        states = {sock.inode: sock.state for sock in watched}
        live, connecting = cls(), []
        try:
            for inode, duplicate in sockets.duplicate(pids, states).items():
                (live.listeners if states[inode] is TcpState.LISTEN else live.connections).append(duplicate)
                if states[inode] is TcpState.SYN_SENT:
                    connecting.append(duplicate)
            live._watch(connecting)
        except BaseException:
            live.close()
            raise
        return live

    def __bool__(self) -> bool:
        return bool(self.listeners or self.connections)

    def ready(self, ports: Collection[int] = ()) -> bool:
        """Whether something has arrived already; `ports` as in `event`."""
        self._choose(ports)
        return self._arrived() is not None

    async def event(self, ports: Collection[int] = ()) -> Arrived:
        """Waits until something has arrived, and leaves it there; one task at a time.

        Of the listeners only those on one of the ports count (empty: all); connections always do. Where there are
        both a new connection and data, it is DATA, of which there is no doubt that it is for the application.
        """
        self._choose(ports)
        while (arrived := self._arrived()) is None:
            if self._epoll is None:
                await trio.sleep_forever()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
        return arrived

    def quiet(self) -> list[socket.socket]:
        """The connections on which nothing has arrived."""
        busy = {descriptor for descriptor, _ in self._poll()}
        return [connection for connection in self.connections if connection.fileno() not in busy]

    def close(self) -> None:
        """Lets go of the sockets, which the application still has; when nobody is waiting for an event."""
        if self._epoll:
            # First: a closed duplicate stays in the set for as long as the application has the socket open.
            self._epoll.close()
            self._epoll = None
        for duplicate in (*self.listeners, *self.connections):
            duplicate.close()
        self.listeners, self.connections = [], []

    def _watch(self, connecting: Collection[socket.socket]) -> None:
        if not self:
            return
        self._epoll = select.epoll()
        for listener in self.listeners:
            self._epoll.register(listener, select.EPOLLIN)
        for connection in self.connections:
            self._epoll.register(connection, _ARRIVALS | select.EPOLLOUT)
        kept = {connection.fileno() for connection in connecting}
        # Whoever could write all along does not wait for that. Where there is no room the application may be waiting
        # for the other end to make some.
        for descriptor, events in self._poll():
            if events & select.EPOLLOUT and descriptor not in kept:
                self._epoll.modify(descriptor, _ARRIVALS)

    def _choose(self, ports: Collection[int]) -> None:
        if self._epoll is None:
            return
        for listener in self.listeners:
            counts = not ports or listener.getsockname()[1] in ports
            self._epoll.modify(listener, select.EPOLLIN if counts else 0)

    def _arrived(self) -> Arrived | None:
        ready = {descriptor for descriptor, _ in self._poll()}
        if not ready:
            return None
        listeners = {listener.fileno() for listener in self.listeners}
        return Arrived.DATA if ready - listeners else Arrived.CONNECTION

    def _poll(self) -> list[tuple[int, int]]:
        if self._epoll is None:
            return []
        return self._epoll.poll(0, len(self.listeners) + len(self.connections))
