"""The idle fork: a fork of the zygote that waits for an order, says that it takes it, and is a shim from then on.

An order comes over the zygote's socket, from a `start` that has bound the shim's own.
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
"""New objects after which a shim looks for garbage: after two or three sleeps. With ten times as many it would keep a
megabyte of it."""

MESSAGE = 1 << 20
"""Bytes that an order may have: the kernel takes much less as one message."""

Shim = tuple[Flags, socket.socket]
"""What an idle fork has become: what containerd has passed, and the socket to serve at."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors that an idle fork has from the zygote."""

    listener: socket.socket
    taken: int
    shims: int
    """The read end, of which a shim makes its own write end: the zygote keeps none."""
    zygote: int


def wait(ends: Ends) -> int:
    """Returns the exit status when it has been a shim, or the zygote is gone. Raises OSError if it cannot be a shim."""
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
    """Returns None if the client has asked for nothing. Raises OSError, ValueError, UsageError."""
    connection, _ = ends.listener.accept()
    with closing(connection):
        if (received := _receive(connection)) is None:
            return None
        return _take(connection, ends, *received)


def _receive(connection: socket.socket) -> tuple[bytes, int] | None:
    """Returns an order and the socket that comes with it; None if the client sends none, or has no right to."""
    # Other users cannot get here, unless the directory's mode was changed.
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
    """Makes this process a shim, and says so before it serves; raises after having said why it cannot be one."""
    with leaving(ends):
        try:
            listener = socket.socket(fileno=descriptor)
            flags = enter(order := Order.decode(message))
            become(order)
        except (OSError, ValueError, UsageError) as error:
            connection.send(f"the order cannot be followed: {error}".encode()[:WORDS])
            raise
        # Nothing more than that before the answer, for which containerd waits.
        connection.send(b"%d" % os.getpid())
        settle(order)
        return flags, listener


@contextmanager
def leaving(ends: Ends) -> Iterator[None]:
    """While it becomes a shim. Only afterwards the zygote makes the next idle fork, which would compete for the CPU."""
    os.open(f"/proc/self/fd/{ends.shims}", os.O_WRONLY | os.O_CLOEXEC)  # and stays so for life
    ends.listener.close()
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # the zygote is dead: the shim is there all the same
            os.write(ends.taken, b"1")
        for inherited in (ends.taken, ends.shims, ends.zygote):
            os.close(inherited)


def enter(order: Order) -> Flags:
    """Goes to the bundle, and returns what containerd has passed. Raises OSError, UsageError."""
    os.chdir(order.directory)
    _, flags = parse([os.fsdecode(word) for word in order.arguments[1:]])
    return flags


def become(order: Order) -> None:
    """Makes this process, in its bundle, what `start` would have started."""
    os.environb.clear()
    os.environb.update(order.environment)
    sys.argv[:] = map(os.fsdecode, order.arguments)


def settle(order: Order) -> None:
    """Does the rest of it, without which a shim can serve."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) != order.oom_score:
            file.write(str(order.oom_score))
    with suppress(OSError):  # it keeps the zygote's words; the zygote has told that the kernel does not allow it
        title.show(order.arguments)
    gc.set_threshold(COLLECT)
