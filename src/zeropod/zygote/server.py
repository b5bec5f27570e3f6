"""The zygote process: keeps one idle fork ready for the next order, and ends soon after the last of its shims.

It runs no event loop and does nothing between two orders. The idle fork takes an order, acknowledges it, and is a shim
from then on; the zygote makes the next idle fork. Neither is a child of the zygote, which need not wait for their end;
a shim lives on when the zygote dies.

Three pipes show which processes exist, by their open ends. `taken`: the idle fork has the write end, and writes when it
takes an order. `shims`: each shim has the write end; when the last one is gone and no order arrives within `LINGER`
seconds, the zygote ends, so that pods run one after the other all find it ready. `zygote`: the zygote has the write
end; when it is gone, the idle fork ends, too.
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
"""Seconds for the first order to arrive: the `start` that began this process may have been killed before sending it."""

LINGER = 10.0
"""Seconds for the next order to arrive when no shim is left."""


def main(flags: Flags) -> int:
    """Run the zygote, in the bundle of the container whose `start` began it."""
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
    """Keep an idle fork ready until no shim is left for `LINGER` seconds, or an idle fork dies. Raises OSError."""
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
        if writer >= 0:  # the first shim has its own by now
            os.close(writer)
            writer = -1
        patience = None


def retire(path: str, own: int) -> None:
    """Remove the socket. A `start` that connects right now notices, and begins another zygote."""
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
    """Make an idle fork, orphaned, so that init reaps it. Raises OSError."""
    # After the warm-up a worker thread of trio's waits some seconds for work. Forks do not have it, and trio, which
    # registers for forks, does not expect it there.
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
