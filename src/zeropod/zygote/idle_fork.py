"""The spare: a fork of the zygote that waits for an order, says that it takes it, and is a shim from then on.

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

from zeropod.kernel import process_title
from zeropod.shim import bootstrap, serve, zygote
from zeropod.shim.bootstrap import Flags, UsageError
from zeropod.shim.zygote import Order

ORDER = 10
"""Seconds for a client that has connected to send its order."""

COLLECT = 1_000
"""New objects after which a shim looks for garbage: after two or three sleeps. With ten times as many it would keep a
megabyte of it."""

MESSAGE = 1 << 20
"""Bytes that an order may have: the kernel takes much less as one message."""

Shim = tuple[Flags, socket.socket]
"""What a spare has become: what containerd has passed, and the socket to serve at."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors that a spare has from the zygote."""

    listener: socket.socket
    taken: int
    shims: int
    """The read end, of which a shim makes its own write end: the zygote keeps none."""
    zygote: int


def wait(ends: Ends) -> int:
    """Until it has been a shim, or the zygote is gone; returns the exit status. Raises OSError if it cannot be one."""
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
    """None if who has connected has asked for nothing. Raises OSError, ValueError, UsageError."""
    connection, _ = ends.listener.accept()
    with closing(connection):
        if (received := _receive(connection)) is None:
            return None
        return _take(connection, ends, *received)


def _receive(connection: socket.socket) -> tuple[bytes, int] | None:
    """An order and the socket that comes with it; None if who has connected says nothing, or has no right to."""
    # Who is not us cannot get here, unless the directory's mode was changed.
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
    """Makes the spare a shim, and says so before it serves anybody; raises after having said why it cannot be one."""
    with leaving(ends):
        try:
            listener = socket.socket(fileno=descriptor)
            flags = enter(order := Order.decode(message))
            become(order)
        except (OSError, ValueError, UsageError) as error:
            connection.send(f"the order cannot be followed: {error}".encode()[: zygote.WORDS])
            raise
        # Nothing more than that before the answer, for which containerd waits.
        connection.send(b"%d" % os.getpid())
        settle(order)
        return flags, listener


@contextmanager
def leaving(ends: Ends) -> Iterator[None]:
    """While a spare becomes a shim. Afterwards the zygote makes the next one, which would be in the way before."""
    os.open(f"/proc/self/fd/{ends.shims}", os.O_WRONLY | os.O_CLOEXEC)  # and stays so for life
    ends.listener.close()
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # the zygote is dead, and who was promised a shim gets it
            os.write(ends.taken, b"1")
        for inherited in (ends.taken, ends.shims, ends.zygote):
            os.close(inherited)


def enter(order: Order) -> Flags:
    """Goes to the bundle, and says what containerd has passed. Raises OSError, UsageError."""
    os.chdir(order.directory)
    _, flags = bootstrap.parse([os.fsdecode(word) for word in order.arguments[1:]])
    return flags


def become(order: Order) -> None:
    """Makes this process, in its bundle, what `start` would have started."""
    os.environb.clear()
    os.environb.update(order.environment)
    sys.argv[:] = map(os.fsdecode, order.arguments)


def settle(order: Order) -> None:
    """The rest of it, which cannot be in the way of a shim."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) != order.oom_score:
            file.write(str(order.oom_score))
    with suppress(OSError):  # a kernel that does not allow it: it has the zygote's words, then
        process_title.show(order.arguments)
    gc.set_threshold(COLLECT)
    gc.enable()
