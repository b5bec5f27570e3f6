"""Connections of ours to the application, in the place of the client that connected to us.

They are made from the pod's own address, the one that was asked for, and the kernel's program is told beforehand what
they are: it would take them for the pod's own.
"""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from ipaddress import IPv6Address, ip_address
from typing import Any

import trio

from zeropod.kernel import namespace
from zeropod.kernel.lookup import Flow, FlowOrigin, Lookup

CLOSED_REMEMBERED = 32
"""Closed connections that are remembered."""

SocketAddress = tuple[Any, ...]
"""What getsockname() returns: address, port, and for IPv6 two numbers more."""

Announce = Callable[[tuple[str, int]], AbstractContextManager[None]]
"""Says what a connection to the application from this address of the pod is, for as long as it exists."""


def asked_for(connection: trio.socket.SocketType) -> SocketAddress:
    """The address that a connection came to. An application's IPv6 listener takes IPv4, too: that is IPv4 here."""
    address: SocketAddress = connection.getsockname()
    mapped = ip_address(address[0].partition("%")[0])
    if isinstance(mapped, IPv6Address) and mapped.ipv4_mapped:
        return (str(mapped.ipv4_mapped), address[1])
    return address


def unannounced(_: tuple[str, int]) -> AbstractContextManager[None]:
    return nullcontext()


class OurConnections:
    """Tags connections of ours to one pod with what they stand for: a probe, or a client.

    Of a probe's it still does when they are closed, for a while: the application may be slow to close its ends, and a
    segment that was sent twice would be taken for a new connection.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._closed: dict[Flow, None] = {}

    def announced(self, origin: FlowOrigin, port: int) -> Announce:
        """That the next one to this port is that."""

        @contextmanager
        def announce(address: tuple[str, int]) -> Iterator[None]:
            flow = Flow(address, port)
            self._lookup.tag_flow(flow, origin)
            self._closed.pop(flow, None)
            try:
                yield
            finally:
                if origin is FlowOrigin.PROBE:
                    self._closed[flow] = None
                else:
                    self._lookup.untag_flow(flow)
                if len(self._closed) > CLOSED_REMEMBERED:
                    oldest = next(iter(self._closed))
                    del self._closed[oldest]
                    self._lookup.untag_flow(oldest)

        return announce


async def connect(
    target: SocketAddress, netns: namespace.PathOrFd, announce: Announce, known: ExitStack
) -> trio.SocketStream:
    """A connection to one of the pod's own addresses. Raises OSError.

    `known`, in which it is announced, is to be closed when the connection has been.
    """
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with namespace.entered(netns):
        sock = trio.socket.from_stdlib_socket(socket.socket(family, socket.SOCK_STREAM))
    try:
        await sock.bind((target[0], 0, *target[2:]))
        known.enter_context(announce(sock.getsockname()[:2]))
        await sock.connect(target)
        if sock.getsockname() == sock.getpeername():
            # Nobody listens, and the kernel happened to choose that very port as ours: TCP's simultaneous
            # open then connects a socket with itself, and would keep the port from the application.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise
