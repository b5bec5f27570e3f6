"""One pager process from the shim's side: its pid, the socket to it, and its end.

Owns the descriptors that it leaves open here. It is the seed's child, so its end is known by its pidfd alone. `pager`
interprets its messages and handles its death.
"""

import os
import select
import signal
import socket
import threading
from contextlib import suppress
from typing import Final

import trio

from zeropod.runtime.pager import seed, wire
from zeropod.runtime.pager.child import Inheritance

KILLED_WITHIN: Final = 5000
"""Milliseconds for the end after SIGKILL; it takes one or two."""
_SO_SNDBUFFORCE: Final = 32
_ROOM: Final = 1 << 20


class PagerProcess:
    """A forked pager. `send` and `end_now` may be called from any thread, the rest from trio's."""

    def __init__(self, inheritance: Inheritance) -> None:
        """Fork it. Raises OSError."""
        self.dead = False
        """Whether it is dead, and sends no more messages."""
        self.reaped = False
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Not read while runc restores: the guards of a thousand processes must fit.
        theirs.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        control.setblocking(False)
        try:
            self.pid, self._handle = seed.fork(inheritance, theirs)
        except OSError:
            control.close()
            raise
        finally:
            theirs.close()
        self._control = control
        self._events = select.epoll()
        """Readable when it has sent a message or died: its end of `control` may stay open after its death."""
        for descriptor in (control.fileno(), self._handle):
            self._events.register(descriptor, select.EPOLLIN)
        self._reaping = trio.Lock()
        self._closing = threading.Lock()

    def send(self, what: bytes) -> None:
        """Send it a message; does nothing if it is dead, which `receive` reports."""
        with suppress(OSError):
            self._control.send(what)

    async def receive(self) -> wire.Report | None:
        """Return its next message; None when it is dead, or after a spurious wake-up."""
        await trio.lowlevel.wait_readable(self._events.fileno())
        try:
            report = wire.receive(self._control)
        except BlockingIOError:
            self.dead = self._has_ended()
            return None
        self.dead = report is None
        return report

    def kill(self) -> None:
        """Send SIGKILL."""
        with self._closing, suppress(ProcessLookupError):
            if not self.reaped:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def reap(self) -> None:
        """Wait until it has ended, after which no more is known of it."""
        async with self._reaping:
            if not self.reaped:
                await trio.lowlevel.wait_readable(self._handle)
                self._is_reaped()

    def end_now(self) -> None:
        """From another thread, while no task waits for it: kill it, wait for its end, and hang up.

        One that does not end within `KILLED_WITHIN` hangs in the kernel, and serves nothing more either.
        """
        self.kill()
        self._has_ended(KILLED_WITHIN)
        self._is_reaped()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket. What is left then is for `reap`."""
        self._control.close()
        self._events.close()

    def _has_ended(self, timeout: int = 0) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(timeout))

    def _is_reaped(self) -> None:
        with self._closing:
            self.dead = self.reaped = True
            os.close(self._handle)
