"""Listeners of zeropod in a pod's network namespace, one per family, to which the sk_lookup program steers connections.

Owns the sockets and the accepting: the limit of concurrent connections, and what happens when descriptors run out. The
caller serves the accepted connections.
"""

import errno
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Self

import trio

from zeropod.kernel import namespace

log = logging.getLogger(__name__)

_BACKLOG = 65535  # the kernel takes the smaller of this and net.core.somaxconn: 4096
_ATTEMPTS = 8
_PAUSE = 0.1  # seconds
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_IP_FREEBIND = 15  # include/uapi/linux/in.h
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

Serve = Callable[[trio.SocketStream], Awaitable[None]]
"""Serves one connection, which is closed afterwards."""


class Listeners:
    """The listeners; they listen from their creation on, never on one of `ports`. Raises OSError: no such namespace, or
    no free port."""

    def __init__(self, netns: str | os.PathLike[str], ports: Collection[int]) -> None:
        self._netns = netns
        self._slots = trio.Semaphore(_share_of_descriptors())
        with ExitStack() as undo:
            self.sockets = [undo.enter_context(listener) for listener in _listen(netns, ports)]
            self._owned = undo.pop_all()
        self._listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in self.sockets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._owned.close()

    async def accept(self, connections: trio.Nursery, serve: Serve) -> None:
        """Accept until cancelled, and serve each connection in the nursery."""
        async with trio.open_nursery() as accepting:
            for listener in self._listeners:
                accepting.start_soon(self._accept_all, listener, connections, serve)

    async def accept_waiting(self, connections: trio.Nursery, serve: Serve) -> None:
        """Accept the connections that are in the queues now."""
        for listener in self._listeners:
            while listener.socket.is_readable():
                await self._accept(listener, connections, serve)

    async def _accept_all(self, listener: trio.SocketListener, connections: trio.Nursery, serve: Serve) -> None:
        while True:
            await self._accept(listener, connections, serve)

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery, serve: Serve) -> None:
        await self._slots.acquire()
        stream = None
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.warning("cannot accept a connection in %s: %s; it waits", self._netns, error.strerror)
            await trio.sleep(_PAUSE)
        finally:
            if stream is None:
                self._slots.release()
        if stream is not None:
            connections.start_soon(self._serve, stream, serve)

    async def _serve(self, stream: trio.SocketStream, serve: Serve) -> None:
        try:
            async with stream:
                await serve(stream)
        except Exception:
            # Whatever a client has sent, the failure ends its own connection and nothing else.
            log.exception("closed a connection in %s after an unexpected error", self._netns)
        finally:
            self._slots.release()


def _listen(netns: str | os.PathLike[str], ports: Collection[int]) -> Iterator[socket.socket]:
    """Listen with one socket for each address family that the kernel supports."""
    for family, address in _LOOPBACK:
        for _ in range(_ATTEMPTS):
            try:
                with namespace.entered(netns):
                    listener = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                    return
                raise
            with ExitStack() as undo:
                undo.enter_context(listener)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # Steered connections ignore a listener's address. On loopback it is not visible outside of the pod;
                # FREEBIND, because the address may be missing while its family works.
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                listener.bind((address, 0))
                if listener.getsockname()[1] in ports:
                    continue  # the application will need it
                # For the connections, which inherit it and sit on the application's port: without it the
                # application could not bind(2) there. It needs the option too, as for any restart.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.listen(_BACKLOG)
                undo.pop_all()
                yield listener
                break
        else:
            raise OSError(errno.EADDRINUSE, f"no port to listen on in {os.fspath(netns)}, {_ATTEMPTS} tried")


def _share_of_descriptors() -> int:
    """Return the limit of concurrent connections; more wait in the listener's queue.

    A proxied one takes two descriptors. Half of all are left for starting the container.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if limit == resource.RLIM_INFINITY else max(limit // 4, 4)
