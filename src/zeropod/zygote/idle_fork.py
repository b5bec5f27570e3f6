"""The idle fork: a fork of the zygote that waits for an order, acknowledges it, and then is the shim.

An order arrives over the zygote's socket, from a `start` that has bound the shim's own.
"""

import gc
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from zeropod.launch.flags import Flags, UsageError, parse
from zeropod.launch.zygote_client import WORDS, Order
from zeropod.shim import serve
from zeropod.zygote import title

ORDER = 10
"""Seconds for a client that has connected to send its order."""

COLLECT = 1_000
"""New objects after which a shim collects garbage: after two or three sleeps. With ten times as many it would keep a
megabyte of garbage."""

MESSAGE = 1 << 20
"""Most bytes of an order; the kernel accepts much less as one message."""

Shim = tuple[Flags, socket.socket]
"""An idle fork that became a shim: containerd's flags, and the socket to serve at."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors that an idle fork gets from the zygote."""

    listener: socket.socket
    taken: int
    shims: int
    """The read end, of which a shim opens its own write end; the zygote keeps none."""
    zygote: int


def wait(ends: Ends) -> int:
    """Wait for an order. Return the exit status after a life as a shim, or when the zygote is gone. Raises OSError if
    it cannot become a shim."""
    os.setsid()
    poll = select.poll()
    poll.register(ends.listener, select.POLLIN)
    poll.register(ends.zygote, 0)
    while True:
        if ends.zygote in dict(poll.poll()):
            return 0
        if shim := _connected(ends):
            return serve.shim(*shim)


def _connected(ends: Ends) -> Shim | None:
    """Return None if the client has sent no order. Raises OSError, ValueError, UsageError."""
    connection, _ = ends.listener.accept()
    with closing(connection):
        if (received := _receive(connection)) is None:
            return None
        return _take(connection, ends, *received)


def _receive(connection: socket.socket) -> tuple[bytes, int] | None:
    """Return an order and its socket; None if the client sends none, or has no right to."""
    # Other users have no access to the socket, unless the directory's mode was changed.
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.geteuid():
        return None
    connection.settimeout(ORDER)
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    return (message, descriptors[0]) if descriptors else None


def _take(connection: socket.socket, ends: Ends, message: bytes, descriptor: int) -> Shim:
    """Make this process a shim, and acknowledge the order before it serves. If that fails, report the reason to the
    client and raise."""
    with leaving(ends):
        try:
            listener = socket.socket(fileno=descriptor)
            flags = enter(order := Order.decode(message))
            become(order)
        except (OSError, ValueError, UsageError) as error:
            connection.send(f"the order cannot be followed: {error}".encode()[:WORDS])
            raise
        # As little as possible before the response, for which containerd waits.
        connection.send(b"%d" % os.getpid())
        settle(order)
        return flags, listener


@contextmanager
def leaving(ends: Ends) -> Iterator[None]:
    """Become a shim inside the block. The zygote makes the next idle fork only afterwards, because it would compete for
    the CPU."""
    os.open(f"/proc/self/fd/{ends.shims}", os.O_WRONLY | os.O_CLOEXEC)  # and stays so for its life
    ends.listener.close()
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # the zygote is dead; the shim is not affected
            os.write(ends.taken, b"1")
        for inherited in (ends.taken, ends.shims, ends.zygote):
            os.close(inherited)


def enter(order: Order) -> Flags:
    """Change to the bundle's directory, and return containerd's flags. Raises OSError, UsageError."""
    os.chdir(order.directory)
    _, flags = parse([os.fsdecode(word) for word in order.arguments[1:]])
    return flags


def become(order: Order) -> None:
    """Turn this process, in its bundle, into what `start` would have started."""
    os.environb.clear()
    os.environb.update(order.environment)
    sys.argv[:] = map(os.fsdecode, order.arguments)


def settle(order: Order) -> None:
    """Complete the setup; a shim can serve without these steps."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) != order.oom_score:
            file.write(str(order.oom_score))
    # it keeps the zygote's title; the zygote has logged that the kernel does not allow a change
    with suppress(OSError):
        title.show(order.arguments)
    gc.set_threshold(COLLECT)
