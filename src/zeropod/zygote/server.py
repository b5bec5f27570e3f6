"""The zygote's own process: has one fork ready for the next order, and ends soon after the last of its shims.

It runs no event loop, has no thread and does nothing between two orders. The fork that waits, the spare, takes an
order, says so, and is a shim from then on; the zygote makes the next spare. Neither is a child of the zygote's: nobody
here has to wait for its end, and a shim lives on when the zygote dies.

Three pipes tell who is there, by their ends alone. `taken`: the spare has the write end, and writes when it takes an
order. `shims`: each shim has the write end; when nobody has, the last one is gone, and if no other is asked for within
`LINGER` seconds, so is the zygote: pods that are run one after the other all find it warm. `zygote`: the zygote has the
write end; when it is gone, so is the spare.
"""

import os
import select
import socket
from contextlib import suppress

from zeropod.kernel import pidfd
from zeropod.shim import freeze, layout, rehearsal, spare, zygote
from zeropod.shim.bootstrap import Flags
from zeropod.shim.spare import Ends
from zeropod.shim.start import SOCKET_FD

NAME = "zeropod-zygote"

FIRST = 60.0
"""Seconds for the first order to come: who has begun this process may have been killed before it could ask."""

LINGER = 10.0
"""Seconds for the next order to come when no shim is left."""


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
    for step in (_pack, freeze.immortalize, rehearsal.rehearse):
        with suppress(Exception):  # each is worth some memory, no more
            step()
    freeze.freeze()


def _pack() -> None:
    with layout.recorded() as ran:
        rehearsal.rehearse(1)
    layout.pack(ran)


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
                status = spare.wait(ends)
            else:
                status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise OSError("there can be no more processes")
