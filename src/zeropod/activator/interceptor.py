"""Accept probers' connections to a sleeping container before they reach the application.

Owns listeners, the steering of probers' connections to them while the container sleeps, and the outcome of each: a
probe is answered, anything else is passed on to the application and wakes it. Other connections never come here, except
during a nap: then all connections from the node do, because the application could answer and close one before its
source is known. While the container runs, interception serves only to learn probe requests: everything is passed on.
"""

import logging
import os
from collections.abc import Collection

import trio

from zeropod.activator.forward import forward
from zeropod.activator.listeners import Listeners
from zeropod.activator.probe_inspector import Disposition, ProbeInspector
from zeropod.kernel.lookup import Lookup

log = logging.getLogger(__name__)


class ProbeInterceptor:
    """The interceptor of one container. `lookup` must stay open as long as run() runs; timeouts as in forward()."""

    def __init__(
        self,
        netns: str | os.PathLike[str],
        lookup: Lookup,
        inspector: ProbeInspector,
        *,
        connect_timeout: float = 0.0,
        proxy_timeout: float = 0.0,
    ) -> None:
        self._netns = netns
        self._lookup = lookup
        self._inspector = inspector
        self._connect_timeout = connect_timeout
        self._proxy_timeout = proxy_timeout
        self._listeners: Listeners | None = None
        self._ports: frozenset[int] = frozenset()
        self._answers = False
        self._up = trio.Event()
        self._up.set()
        self.client_came = trio.Event()
        """Set when a client's connection has arrived for the application; cleared by `application_sleeps`."""
        self.probe_came = trio.Event()
        """Set when a probe has arrived that only the application can answer; cleared by `application_sleeps`."""
        self._probes: set[trio.SocketStream] = set()
        """Probers' connections that the application has to serve."""
        self._over = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Raises OSError before it has started."""
        with Listeners(self._netns, ()) as self._listeners:
            task_status.started()
            try:
                async with trio.open_nursery() as connections:
                    await self._listeners.accept(connections, self._serve)
            finally:
                self.disengage()

    def engage(self, ports: Collection[int]) -> None:
        """Intercept probers' new connections to these ports, and answer them: the application is about to sleep.

        Raises OSError if the program's maps have no room for the ports.
        """
        self.application_sleeps()
        self._answers = True
        self._inspect(ports)

    def intercept_kubelet(self, ports: Collection[int]) -> None:
        """Intercept the kubelet's new connections, and pass them on to the application. Raises OSError as engage()."""
        self._inspect(ports, named=True)

    def _inspect(self, ports: Collection[int], *, named: bool = False) -> None:
        assert self._listeners is not None
        for port in ports:
            self._ports |= {port}
            self._lookup.inspect(port, self._listeners.sockets, named=named)

    def disengage(self) -> None:
        """Let connections go straight to the running application, and pass on those that wait here."""
        for port in self._ports:
            self._lookup.uninspect(port)
        self._ports, self._answers = frozenset(), False
        self.application_runs()

    def intercept_node(self, *, on: bool) -> None:
        """Intercept all new connections from the node, or only probers' ones again. Raises OSError."""
        for port in self._ports:
            self._lookup.inspect_nodes(port, on=on)

    def application_runs(self) -> None:
        """Pass on waiting connections: the application runs. New ones are still intercepted."""
        self._up.set()

    def application_sleeps(self) -> None:
        """Hold connections for the application from now on: it is about to be frozen."""
        self._up = trio.Event()
        self.client_came, self.probe_came = trio.Event(), trio.Event()

    async def idle(self) -> None:
        """Return when no probe waits here for the application, or is being served by it."""
        while self._probes:
            await self._over.wait()

    @property
    def has_probe(self) -> bool:
        """Whether a probe waits here for the application, or is being served by it."""
        return bool(self._probes)

    async def _serve(self, stream: trio.SocketStream) -> None:
        port = stream.socket.getsockname()[1]
        assert self._listeners is not None
        if port in (listener.getsockname()[1] for listener in self._listeners.sockets):
            # A process in the pod has connected to zeropod's own port. Passing that on would loop.
            return
        inspection = await self._inspector.inspect(stream, answers=self._answers)
        if inspection.disposition is Disposition.ANSWERED:
            return
        if inspection.disposition is Disposition.NEEDS_APPLICATION:
            self._probes.add(stream)
            self.probe_came.set()
        else:
            self.client_came.set()
        try:
            if inspection.pending:
                await self._up.wait()
                if not await self._inspector.ask(stream, inspection.pending):
                    self.client_came.set()  # it can recover only while it runs
                return
            await forward(
                stream,
                self._netns,
                self._up,
                head=inspection.head,
                announced=self._inspector.announced(inspection.disposition, port),
                connect_timeout=self._connect_timeout,
                proxy_timeout=self._proxy_timeout,
            )
        except OSError as error:
            log.warning("a connection in %s could not be passed on: %s", self._netns, error)
        finally:
            self._probes.discard(stream)
            self._over.set()
            self._over = trio.Event()
