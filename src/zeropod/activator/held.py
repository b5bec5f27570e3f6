"""Listening sockets held for a container without processes: its next connection waits there.

A held socket is a duplicate of the application's own listener from before the checkpoint: bound, listening, with its
accept queue and backlog. Connections complete their handshake in it and may send. When the restored application
listens, closing the duplicate moves them to its listener (net.ipv4.tcp_migrate_req), so the application accepts them
itself. Held sockets answer nothing.
"""

import select
import socket
from collections.abc import Collection, Iterable
from functools import partial

import trio

from zeropod.activator.pass_on import PassingOn
from zeropod.concurrency import race
from zeropod.kernel import namespace, sockets


class HeldListeners:
    """The listeners of one sleeping container."""

    def __init__(self, held: Iterable[socket.socket] = ()) -> None:
        self._held = list(held)

    @classmethod
    def take(cls, pids: Collection[int], inodes: Collection[int]) -> "HeldListeners":
        """Duplicate the listeners with these inodes from the processes. Raises OSError."""
        return cls(sockets.duplicate(pids, inodes).values())

    def __bool__(self) -> bool:
        return bool(self._held)

    def waiting(self) -> bool:
        """Return whether a connection is in an accept queue now."""
        poll = select.poll()
        for listener in self._held:
            poll.register(listener, select.POLLIN)
        return bool(poll.poll(0))

    async def connection(self, ports: Collection[int] = ()) -> None:
        """Return when a connection to one of the ports (empty: any) has arrived."""
        wanted = [held for held in self._held if not ports or held.getsockname()[1] in ports]
        await race(*(partial(trio.lowlevel.wait_readable, listener) for listener in wanted))

    async def pass_on(self, netns: namespace.PathOrFd, address: str, *, quiet: float, at_most: float) -> None:
        """Pass on what comes to `address`, instead of handing it over. See `PassingOn`."""
        for listener in self._held:
            listener.setblocking(False)
        await PassingOn(self._held, netns, address).run(quiet=quiet, at_most=at_most)

    def prepare_hand_over(self) -> None:
        """Let restored listeners bind beside these. Call it only after the application's processes have ended."""
        for listener in self._held:
            sockets.hand_over_ready(listener)

    def close(self) -> None:
        """Hand waiting connections over to the restored listeners; if there are none, they are reset."""
        while self._held:
            self._held.pop().close()
