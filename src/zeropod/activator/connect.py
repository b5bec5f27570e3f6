"""zeropod's own connections to the application, in place of a client.

They come from the pod's own address to which the client connected. The kernel's program is told beforehand what they
stand for; it would take them for the pod's own connections otherwise.
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
"""Closed connections that stay tagged."""

SocketAddress = tuple[Any, ...]
"""The result of getsockname(): address and port, and two more numbers for IPv6."""

Announce = Callable[[tuple[str, int]], AbstractContextManager[None]]
"""Tags the application's connections from this address of the pod, inside the block."""


def asked_for(connection: trio.socket.SocketType) -> SocketAddress:
    """Return the address to which a connection was made; for IPv4 through an IPv6 listener, the IPv4 address."""
    address: SocketAddress = connection.getsockname()
    mapped = ip_address(address[0].partition("%")[0])
    if isinstance(mapped, IPv6Address) and mapped.ipv4_mapped:
        return (str(mapped.ipv4_mapped), address[1])
    return address


def unannounced(_: tuple[str, int]) -> AbstractContextManager[None]:
    return nullcontext()


class OurConnections:
    """Tags for zeropod's connections to one pod: a probe's, or a client's.

    A probe's tag outlives its connection for a while: the application may close its end late, and a retransmitted
    segment would be taken for a new connection.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._closed: dict[Flow, None] = {}

    def announced(self, origin: FlowOrigin, port: int) -> Announce:
        """Tag the next connection to this port with `origin` inside the block."""

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
    """Connect to one of the pod's own addresses. Raises OSError.

    `known`, which tags the connection, must be closed after the connection.
    """
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with namespace.entered(netns):
        sock = trio.socket.from_stdlib_socket(socket.socket(family, socket.SOCK_STREAM))
    try:
        await sock.bind((target[0], 0, *target[2:]))
        known.enter_context(announce(sock.getsockname()[:2]))
        await sock.connect(target)
        if sock.getsockname() == sock.getpeername():
            # Nothing listens, and the kernel chose that very port as the source port: TCP's simultaneous open then
            # connects a socket with itself, and would keep the port from the application.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise
