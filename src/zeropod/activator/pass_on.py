"""Connections that reach the address of a pod whose container has moved: passed on to the pod that it is in now.

Clients and load balancers go on using the old address until the pod's endpoints have changed everywhere. The listeners
that were held as the container left accept them, here, with those that waited meanwhile. It is over when no new
connection has come for a while and none is left, or the time is up; what is open then is reset.
"""

import logging
import socket
from collections.abc import Collection

import trio

from zeropod.activator.forward import reset_on_close
from zeropod.activator.proxy import End, relay
from zeropod.kernel import namespace

log = logging.getLogger(__name__)

CONNECT = 5.0
"""Seconds for a connection to the new pod."""
BUSY = 0.05
"""Seconds until the next attempt to accept where the process has no descriptor left for it."""


class PassingOn:
    """The listeners of one container that has moved to `address`."""

    def __init__(self, listeners: Collection[socket.socket], netns: namespace.PathOrFd, address: str) -> None:
        """Take duplicates of listeners; `netns` is the old pod's network namespace, from which the new one is asked."""
        self._listeners = listeners
        self._netns = netns
        self._address = address
        self._open = 0
        self._last = trio.current_time()
        self.passed = 0
        """Connections so far."""

    async def run(self, *, quiet: float, at_most: float) -> None:
        """Return when nothing has come for `quiet` seconds and nothing is open, or after `at_most` seconds."""
        with trio.move_on_after(at_most):
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                while (now := trio.current_time()) < self._last + quiet or self._open:  # noqa: ASYNC110 - silence is no event
                    await trio.sleep_until(max(self._last, now) + quiet)
                nursery.cancel_scope.cancel()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                continue  # its client has given up
            except OSError as error:
                log.warning("cannot accept a connection that is to be passed on to %s: %s", self._address, error)
                await trio.sleep(BUSY)
                continue
            accepted.setblocking(False)
            self._open += 1
            self.passed += 1
            self._last = trio.current_time()
            nursery.start_soon(self._pass, trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))

    async def _pass(self, client: trio.SocketStream) -> None:
        port = client.socket.getsockname()[1]
        try:
            async with client:
                # Until both sides have ended in order: an answer that is cut off must not look complete.
                reset_on_close(client, True)
                async with await self._connect(port) as target:
                    reset_on_close(target, True)
                    if await relay(client, target) is not End.BROKEN:
                        for stream in (client, target):
                            reset_on_close(stream, False)
        except (OSError, trio.TooSlowError) as error:
            log.warning(
                "a connection to port %d is reset, it cannot be passed on to %s: %s", port, self._address, error
            )
        finally:
            self._open -= 1
            self._last = trio.current_time()

    async def _connect(self, port: int) -> trio.SocketStream:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        with namespace.entered(self._netns):
            sock = trio.socket.from_stdlib_socket(socket.socket(family, socket.SOCK_STREAM))
        try:
            with trio.fail_after(CONNECT):
                await sock.connect((self._address, port))
            return trio.SocketStream(sock)
        except BaseException:  # cancelled, too: no descriptor is left
            sock.close()
            raise
