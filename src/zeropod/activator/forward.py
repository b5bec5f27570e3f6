"""Forward one accepted connection to the application, at the address to which its client connected.

Owns the wait for the application to listen, and how both connections are closed. redirect.py and interceptor.py decide
which connections come here, and when the application may be contacted; connect.py connects, proxy.py copies.

Until both sides have ended, closing a socket resets it, even if this process is killed: a client must not take a
truncated response for a complete one.
"""

import errno
import fcntl
import logging
import math
import select
import socket
import struct
import termios
from contextlib import ExitStack

import trio

from zeropod.activator.connect import Announce, asked_for, connect, unannounced
from zeropod.activator.proxy import End, relay
from zeropod.kernel import namespace

log = logging.getLogger(__name__)

_RESET_LOOK = 1.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1  # seconds
_NOT_YET = frozenset(
    {
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT),  # without a listener, or with a full queue
        *(errno.EADDRNOTAVAIL, errno.EADDRINUSE),  # run out of something
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    }
)


async def forward(
    client: trio.SocketStream,
    netns: namespace.PathOrFd,
    up: trio.Event,
    *,
    head: bytes = b"",
    announced: Announce = unannounced,
    connect_timeout: float = 0.0,
    proxy_timeout: float = 0.0,
) -> None:
    """Connect an accepted connection with the application, and proxy until both sides are done.

    `netns` is the pod's network namespace. Nothing is tried before `up` is set: until then that address leads back
    here. `head` was read from the client before. `connect_timeout` (seconds from now until the application has the
    connection) and `proxy_timeout` (seconds without a byte) are no limits if 0.

    Closes `client` in any case. Raises OSError if the application can never be reached: the namespace is gone, or a
    firewall rule forbids it.
    """
    async with client:
        reset_on_close(client, True)
        # Only here can a vanished client be noticed: the application's connection ends in this node.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with ExitStack() as known:
            application = None
            with trio.move_on_after(connect_timeout if connect_timeout > 0 else math.inf) as waiting:
                application = await _application(client.socket, netns, up, announced, known)
            if waiting.cancelled_caught:
                address, port = client.socket.getsockname()[:2]
                log.warning("no listener on %s port %d within %g s: connection reset", address, port, connect_timeout)
            if application is not None:
                async with application:
                    await _proxy(client, application, head, proxy_timeout)


async def _proxy(client: trio.SocketStream, application: trio.SocketStream, head: bytes, proxy_timeout: float) -> None:
    reset_on_close(application, True)
    ends = (client, application)
    try:
        await application.send_all(head)
    except trio.BrokenResourceError:
        return
    end = await relay(*ends, timeout=proxy_timeout, unsent=lambda: sum(map(_unsent, ends)))
    if end is not End.BROKEN:
        for stream in ends:
            reset_on_close(stream, False)


async def _application(
    client: trio.socket.SocketType,
    netns: namespace.PathOrFd,
    up: trio.Event,
    announced: Announce,
    known: ExitStack,
) -> trio.SocketStream | None:
    """Connect to the application, announced in `known`; None if the client has given up meanwhile."""
    while not up.is_set():
        with trio.move_on_after(_RESET_LOOK):
            await up.wait()
        if _is_reset(client):
            return None
    pause = _FIRST_PAUSE
    while not _is_reset(client):
        try:
            with ExitStack() as attempt:
                stream = await connect(asked_for(client), netns, announced, attempt)
                known.push(attempt.pop_all())
                return stream
        except OSError as error:
            if error.errno not in _NOT_YET:
                raise
        await trio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return None


def _is_reset(sock: trio.socket.SocketType) -> bool:
    # POLLERR and POLLHUP are always reported. A half-close is neither.
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return bool(poll.poll(0))


def reset_on_close(stream: trio.SocketStream, reset: bool) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))


def _unsent(stream: trio.SocketStream) -> int:
    # SIOCOUTQ, bytes not sent or not acknowledged yet: tcp(7).
    return int(struct.unpack("i", fcntl.ioctl(stream.socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
