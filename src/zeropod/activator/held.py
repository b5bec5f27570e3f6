"""Listening sockets held for a container that has no process: where its next connection waits.

A held socket is the application's own listener, duplicated before the checkpoint: bound, listening, with its accept
queue and backlog. Connections complete their handshake in it and may send. When the restored application listens again,
closing the duplicate moves them over (net.ipv4.tcp_migrate_req), so the application accepts them itself, in the same
queue as any other.
"""

import select
import socket
from collections.abc import Collection, Iterable
from functools import partial

import trio

from zeropod.concurrency import race
from zeropod.kernel import sockets


class HeldListeners:
    """The listeners of one sleeping container."""

    def __init__(self, held: Iterable[socket.socket] = ()) -> None:
        self._held = list(held)

    @classmethod
    def take(cls, pids: Collection[int], inodes: Collection[int]) -> "HeldListeners":
        """Duplicates the listeners with these inodes out of the processes. Raises OSError."""
        return cls(sockets.duplicate(pids, inodes).values())

    def __bool__(self) -> bool:
        return bool(self._held)

    def waiting(self) -> bool:
        """Whether a connection is in an accept queue right now."""
        poll = select.poll()
        for listener in self._held:
            poll.register(listener, select.POLLIN)
        return bool(poll.poll(0))

    async def connection(self, ports: Collection[int] = ()) -> None:
        """Returns when a connection to one of the ports (empty: any) has arrived."""
        wanted = [held for held in self._held if not ports or held.getsockname()[1] in ports]
        await race(*(partial(trio.lowlevel.wait_readable, listener) for listener in wanted))

    def prepare_hand_over(self) -> None:
        """Lets the restored listeners bind beside these; only once the application's process is gone."""
        for listener in self._held:
            sockets.hand_over_ready(listener)

    def close(self) -> None:
        """Hands what waits over to the restored listeners; without any, the waiting connections are reset."""
        while self._held:
            self._held.pop().close()
