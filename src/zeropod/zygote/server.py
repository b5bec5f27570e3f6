"""The zygote's own process: has one idle fork ready for the next order, and ends soon after the last of its shims.

It runs no event loop and does nothing between two orders. The idle fork takes an order, says so, and is a shim from
then on; the zygote makes the next idle fork. Neither is a child of the zygote: it does not have to wait for their end,
and a shim lives on when the zygote dies.

Three pipes tell which processes are there, by their ends alone. `taken`: the idle fork has the write end, and writes
when it takes an order. `shims`: each shim has the write end; when none has it, the last one is gone, and if no other is
asked for within `LINGER` seconds, the zygote ends: pods that are run one after the other all find it warm. `zygote`:
the zygote has the write end; when it is gone, the idle fork ends, too.
"""

import os
import select
import socket
from contextlib import suppress

from zeropod.kernel import pidfd
from zeropod.launch import logfile, zygote_client
from zeropod.launch.flags import Flags
from zeropod.launch.start import SOCKET_FD
from zeropod.zygote import idle_fork, preparation
from zeropod.zygote.idle_fork import Ends

NAME = "zeropod-zygote"

FIRST = 60.0
"""Seconds for the first order to come: the `start` that began this process may have been killed before it could ask."""

LINGER = 10.0
"""Seconds for the next order to come when no shim is left."""


def main(flags: Flags) -> int:
    """Runs in the bundle of the container whose `start` began it."""
    del flags
    log = os.path.abspath("log")
    os.chdir("/")
    pidfd.set_name(NAME)
    with socket.socket(fileno=SOCKET_FD) as listener:
        path = listener.getsockname()
        own = os.lstat(path).st_ino
        try:
            report = preparation.prepare()
            with suppress(OSError), logfile.configured(log):  # the bundle may be gone
                report()
            run(listener)
        finally:
            retire(path, own)
    return 0


def run(listener: socket.socket) -> None:
    """Has an idle fork ready until no shim is left for `LINGER`, or an idle fork dies. Raises OSError."""
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
    """Leaves no socket behind. A `start` that asks right now finds out, and begins another zygote."""
    try:
        lock = zygote_client.locked()
    except FileNotFoundError:
        return  # uninstalled meanwhile
    with suppress(FileNotFoundError):
        if lock is not None and os.lstat(path).st_ino == own:
            os.unlink(path)
    if lock is not None:
        os.close(lock)


def _fork_off(ends: Ends, not_its: tuple[int, ...]) -> None:
    """Leaves an idle fork behind, an orphan, which init reaps. Raises OSError."""
    # For some seconds after the warm-up a worker thread of trio's waits for work. Forks do not have it, and trio, which
    # is told of forks, does not count on it there.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.fork() == 0:
                for descriptor in not_its:
                    if descriptor >= 0:
                        os.close(descriptor)
                status = idle_fork.wait(ends)
            else:
                status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise OSError("there can be no more processes")
