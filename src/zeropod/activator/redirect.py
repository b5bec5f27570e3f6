"""Redirect new connections to a container that has no process and whose listeners could not be held.

That is the case if the application is started anew and binds its ports itself. Owns the steering of the container's
ports to listeners of ours. What happens to an accepted connection is forward.py's part; when to redirect, to start the
container and to stop is decided above.

The order that loses no connection: steer, then end the application; start it; once it listens, stop steering;
go on accepting until no handshake that began with us can be unfinished.
"""

import logging
import os
from collections.abc import Collection
from contextlib import ExitStack

import trio

from zeropod.activator.connect import unannounced
from zeropod.activator.forward import forward
from zeropod.activator.listeners import Listeners
from zeropod.activator.probe_inspector import Disposition, Inspection, ProbeInspector
from zeropod.kernel.lookup import Lookup

log = logging.getLogger(__name__)

HANDSHAKE = 64.0
"""Seconds that a handshake can take: with net.ipv4.tcp_synack_retries at its default of 5, the kernel gives up after 63
s."""


class Redirect:
    """One sleep of one container: from before its process ends until its last proxied connection does.

    `lookup` must stay open as long as run() runs. `inspector`: answers probes, which then start nothing.
    `connect_timeout`: seconds that a connection waits for the
    application to take it; `proxy_timeout`: seconds without a byte after which a proxied one is closed; 0 is
    no limit. `linger`: seconds to go on accepting after the last port was handed back.
    """

    def __init__(
        self,
        netns: str | os.PathLike[str],
        ports: Collection[int],
        lookup: Lookup,
        *,
        inspector: ProbeInspector | None = None,
        connect_timeout: float = 0.0,
        proxy_timeout: float = 0.0,
        linger: float = HANDSHAKE,
    ) -> None:
        if not ports:
            raise ValueError("redirect: no ports to redirect")
        self._netns = netns
        self._lookup = lookup
        self._inspector = inspector
        self._connect_timeout = connect_timeout
        self._proxy_timeout = proxy_timeout
        self._linger = linger
        self._up = {port: trio.Event() for port in ports}
        self._arrived = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Redirect, accept and proxy; `start` returns once the ports are steered.

        Run it in the container's nursery: it returns after ready() for all ports, when every connection is over, which
        may be days later, or after close(). Cancellation resets open connections. Raises OSError before it has started
        if the namespace does not exist, or has no room for listeners, or the program's maps have none for ports.
        """
        with self._scope, ExitStack() as redirected:
            listeners = redirected.enter_context(Listeners(self._netns, self._up))
            redirected.callback(self.ready)
            for port in self._up:
                self._lookup.steer(port, listeners.sockets)
            task_status.started()
            async with trio.open_nursery() as connections:
                await self._accept_until_ready(listeners, connections)
                redirected.close()

    async def connection(self) -> None:
        """Return when a first connection has been accepted, which means that the container must start."""
        await self._arrived.wait()

    def ready(self, ports: Collection[int] | None = None) -> None:
        """Stop redirecting these ports (None: all): the application listens on them.

        Connections accepted before are proxied to it. Called earlier, connections would be refused. Ports that are not
        redirected are ignored.
        """
        for port, up in self._up.items():
            # Only once: the next sleep may redirect the port again.
            if (ports is None or port in ports) and not up.is_set():
                self._lookup.unsteer(port)
                up.set()

    def close(self) -> None:
        """End the redirect, and reset its connections: the container is gone for good."""
        self._scope.cancel()

    async def _accept_until_ready(self, listeners: Listeners, connections: trio.Nursery) -> None:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(listeners.accept, connections, self._serve)
            for up in self._up.values():
                await up.wait()
            # A connection is in no queue during its handshake, and one in its handshake when the redirect ended still
            # arrives here.
            await trio.sleep(self._linger)
            accepting.cancel_scope.cancel()
        await listeners.accept_waiting(connections, self._serve)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            port = stream.socket.getsockname()[1]
            if port not in self._up:
                # A process in the pod has connected to zeropod's own port. Proxying that would loop.
                return
            inspection = await self._inspector.inspect(stream) if self._inspector else Inspection(Disposition.PASS_ON)
            if inspection.disposition is Disposition.ANSWERED:
                return
            self._arrived.set()
            if inspection.pending and self._inspector:
                await self._up[port].wait()
                await self._inspector.ask(stream, inspection.pending)
                return
            await forward(
                stream,
                self._netns,
                self._up[port],
                head=inspection.head,
                announced=self._inspector.announced(inspection.disposition, port) if self._inspector else unannounced,
                connect_timeout=self._connect_timeout,
                proxy_timeout=self._proxy_timeout,
            )
        except OSError as error:
            log.warning("a connection in %s could not be proxied: %s", self._netns, error)
