"""The spare: a fork of the zygote that waits for an order, says that it takes it, and is a shim from then on.

An order comes over the zygote's socket, from a `start` that has bound the shim's own, or through the spare's door, from
the script that would have become this `start`: then the spare does what `start` does as well.
"""

import gc
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from zeropod import built
from zeropod.kernel import process_title
from zeropod.shim import bootstrap, serve, start, zygote
from zeropod.shim.bootstrap import Flags, UsageError
from zeropod.shim.door import Door, order_of
from zeropod.shim.zygote import Order

ORDER = 10
"""Seconds for who has connected to say what it wants, and for what comes through the door to be answered."""

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
        # Who waits already has not found a door.
        door = None if poll.poll(0) else _door()
        with closing(door) if door else nullcontext():
            if door:
                poll.register(door.question, select.POLLIN)
            ready = dict(poll.poll())
            if door:
                poll.unregister(door.question)
            if ends.zygote in ready:
                return 0
            shim = _asked(door, ends) if door and door.question in ready else _connected(ends, door)
        if shim:
            return serve.shim(*shim)


def _door() -> Door | None:
    # In a checkout, what has been imported may be of yesterday.
    with suppress(OSError):  # the socket is there all the same
        return Door(built.TREE) if built.TREE else None
    return None


# By the socket


def _connected(ends: Ends, door: Door | None) -> Shim | None:
    """None if who has connected has asked for nothing. Raises OSError, ValueError, UsageError."""
    connection, _ = ends.listener.accept()
    with closing(connection):
        if (received := _receive(connection)) is None:
            return None
        if door:
            door.close()
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


# Through the door


def _asked(door: Door, ends: Ends) -> Shim | None:
    """None if there is a shim already, or nothing has been done. Raises OSError if it can be neither spare nor shim."""
    made: list[Shim] = []
    with ExitStack() as stack:
        # Who has asked cannot give up by itself: whatever keeps this process, its end is an answer.
        signal.alarm(ORDER)
        stack.callback(signal.alarm, 0)
        try:
            asker = door.asker()
            order = order_of(asker)
            if not _would_be_ours(door.build, asker, ends):
                return None
            flags = enter(order)
            protocol = start.remembered(flags.publish_binary)

            def take(listener: int) -> None:
                own = socket.socket(fileno=os.dup(listener))
                stack.enter_context(leaving(ends))
                made.append((flags, own))  # from here on it can be a spare no more
                become(order)

            address = start.start(flags, take)
            signal.alarm(0)  # what is promised now must come
            door.answer(start.answer(address, protocol))
        except (OSError, ValueError, UsageError):
            if made:
                raise
        else:
            door.close()
            if made:
                settle(order)
        finally:
            door.close()
        if made:
            return made[0]
        os.chdir("/")
    return None


def _would_be_ours(build: str, asker: int, ends: Ends) -> bool:
    """Whether Python would ask this zygote. Raises OSError."""
    if zygote.place(build, asker) != ends.listener.getsockname():
        return False
    return os.path.samestat(os.stat(sys.executable), os.stat("/proc/self/exe"))  # it may have been replaced since


# Either way


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
