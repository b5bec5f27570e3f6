"""The zygote's own process: has one fork ready for the next order, and ends soon after the last of its shims.

It runs no event loop, has no thread and does nothing between two orders. The fork that waits, the spare, takes an
order, says so, and is a shim from then on; the zygote makes the next spare. Neither is a child of the zygote's: nobody
here has to wait for its end, and a shim lives on when the zygote dies.

Three pipes tell who is there, by their ends alone. `taken`: the spare has the write end, and writes when it takes an
order. `shims`: each shim has the write end; when nobody has, the last one is gone, and if no other is asked for within
`LINGER` seconds, so is the zygote: pods that are run one after the other all find it warm. `zygote`: the zygote has the
write end; when it is gone, so is the spare.
"""

import gc
import os
import select
import socket
import struct
import sys
from contextlib import closing, suppress
from dataclasses import dataclass

from zeropod.kernel import lookup, pidfd, process_title
from zeropod.shim import bootstrap, freeze, layout, rehearsal, serve, zygote
from zeropod.shim.bootstrap import Flags, UsageError
from zeropod.shim.start import SOCKET_FD
from zeropod.shim.zygote import Order

NAME = "zeropod-zygote"

FIRST = 60.0
"""Seconds for the first order to come: who has begun this process may have been killed before it could ask."""

LINGER = 10.0
"""Seconds for the next order to come when no shim is left."""

ORDER = 10.0
"""Seconds for who has connected to say what it wants."""

COLLECT = 1_000
"""New objects after which a shim looks for garbage: after two or three sleeps. With ten times as many it would keep a
megabyte of it."""

MESSAGE = 1 << 20
"""Bytes that an order may have: the kernel takes much less as one message."""


def main(flags: Flags) -> int:
    del flags
    os.chdir("/")
    pidfd.set_name(NAME)
    with socket.socket(fileno=SOCKET_FD) as listener:
        path = listener.getsockname()
        own = os.lstat(path).st_ino
        try:
            warm()
            run(listener)
        finally:
            retire(path, own)
    return 0


def warm() -> None:
    """Makes what the forks share as large as it can be, and keeps it shared."""
    with suppress(Exception):  # it is worth some memory, no more
        layout.pack(layout.recorded())
        freeze.immortalize()
        lookup.compiled()
        rehearsal.rehearse()
    freeze.freeze()


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors that a spare has from the zygote."""

    listener: socket.socket
    taken: int
    shims: int
    """The read end, of which a shim makes its own write end: the zygote keeps none."""
    zygote: int


def run(listener: socket.socket) -> None:
    """Has a spare ready until no shim is left for a while, or a spare dies before its time. Raises OSError."""
    shims, writer = os.pipe()
    alive, own = os.pipe()
    patience: float | None = FIRST * 1000
    while True:
        taken, taken_writer = os.pipe()
        try:
            _fork_off(Ends(listener, taken_writer, shims, alive), not_its=(taken, own, writer))
            os.close(taken_writer)
            poll = select.poll()
            poll.register(taken, select.POLLIN)
            poll.register(shims, 0)  # its end is reported all the same
            ready = dict(poll.poll(patience))
            if shims in ready and taken not in ready:
                poll.unregister(shims)
                ready = dict(poll.poll(LINGER * 1000))
            if taken not in ready or not os.read(taken, 1):
                return
        finally:
            os.close(taken)
        if writer >= 0:  # the first shim has one of its own by now
            os.close(writer)
            writer = -1
        patience = None


def retire(path: str, own: int) -> None:
    """Leaves no socket behind. Those that are asking right now find out, and begin another zygote."""
    try:
        lock = zygote.locked()
    except FileNotFoundError:
        return  # uninstalled meanwhile
    with suppress(FileNotFoundError):
        if lock is not None and os.lstat(path).st_ino == own:
            os.unlink(path)
    if lock is not None:
        os.close(lock)


def _fork_off(ends: Ends, not_its: tuple[int, ...]) -> None:
    """Leaves a spare behind, an orphan, which init reaps. Raises OSError."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.fork() == 0:
                for descriptor in not_its:
                    if descriptor >= 0:
                        os.close(descriptor)
                status = _spare(ends)
            else:
                status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise OSError("there can be no more processes")


def _spare(ends: Ends) -> int:
    os.setsid()
    poll = select.poll()
    poll.register(ends.listener, select.POLLIN)
    poll.register(ends.zygote, 0)
    while all(descriptor != ends.zygote for descriptor, _ in poll.poll()):
        connection, _ = ends.listener.accept()
        with closing(connection):
            received = _receive(connection)
            shim = _take(connection, ends, *received) if received else None
        if received:
            return serve.shim(*shim) if shim else 1
    return 0


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


def _take(connection: socket.socket, ends: Ends, message: bytes, descriptor: int) -> tuple[Flags, socket.socket] | None:
    """Makes the spare a shim, and says so before it serves anybody; None if it cannot be the one that is wanted."""
    os.open(f"/proc/self/fd/{ends.shims}", os.O_WRONLY | os.O_CLOEXEC)  # and stays so for life
    ends.listener.close()
    try:
        listener = socket.socket(fileno=descriptor)
        flags = become(order := Order.decode(message))
    except (OSError, ValueError, UsageError) as error:
        connection.send(f"the order cannot be followed: {error}".encode()[: zygote.WORDS])
        return None
    else:
        # Nothing more than that before the answer, for which containerd waits.
        connection.send(b"%d" % os.getpid())
        settle(order)
        return flags, listener
    finally:
        # Nor this: the fork of the next spare would slow it down.
        with suppress(BrokenPipeError):  # the zygote is dead, and who was promised a shim gets it
            os.write(ends.taken, b"1")
        for inherited in (ends.taken, ends.shims, ends.zygote):
            os.close(inherited)


def become(order: Order) -> Flags:
    """Makes this process what `start` would have started. Raises OSError, UsageError, ValueError."""
    os.chdir(order.directory)
    os.environb.clear()
    os.environb.update(order.environment)
    sys.argv[:] = map(os.fsdecode, order.arguments)
    _, flags = bootstrap.parse(sys.argv[1:])
    return flags


def settle(order: Order) -> None:
    """The rest of it, which cannot be in the way of a shim."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) != order.oom_score:
            file.write(str(order.oom_score))
    with suppress(OSError):  # a kernel that does not allow it: it has the zygote's words, then
        process_title.show(order.arguments)
    gc.set_threshold(COLLECT)
    gc.enable()
