"""The gate of a sleeping container: what may be a prober's connection is looked at here before it reaches anybody.

Owns listeners of ours, the handing over of a prober's connections to them while the container sleeps, and what becomes
of each: a probe is answered; whatever else it is is passed on to the application, which is asked for. All other
connections never come here; only while the container naps do all from the node, since the application could have
answered and closed one before anybody knows whose it is.

Ajar, it lets everything through, and finds out what probes ask.
"""

import logging
import os
import socket
from collections.abc import Collection

import trio

from zeropod.activator.forward import forward
from zeropod.activator.inspector import Inspector, Wants
from zeropod.activator.listeners import Listeners
from zeropod.kernel.lookup import Lookup

log = logging.getLogger(__name__)


class Gate:
    """One container's. `lookup` must stay open as long as run() runs; timeouts as in forward()."""

    def __init__(
        self,
        netns: str | os.PathLike[str],
        lookup: Lookup,
        inspector: Inspector,
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
        self._connections: trio.Nursery | None = None
        self._ports: frozenset[int] = frozenset()
        self._answers = False
        self._up = trio.Event()
        self._up.set()
        self._somebody, self._probe = trio.Event(), trio.Event()
        self._probes: set[trio.SocketStream] = set()
        """Connections of probers that are the application's business."""
        self._over = trio.Event()
        self.was_probed = False
        """Whether there has been a probe."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens until it is cancelled. Raises OSError before it has started."""
        with Listeners(self._netns, ()) as self._listeners:
            task_status.started()
            try:
                async with trio.open_nursery() as self._connections:
                    await self._listeners.accept(self._connections, self._serve)
            finally:
                self._connections = None
                self.open()

    def shut(self, ports: Collection[int]) -> None:
        """The application is about to sleep: from now on new connections of probers to these ports come here.

        Raises OSError when there is no room for the ports in the program's maps.
        """
        self.application_sleeps()
        self._answers = True
        self._inspect(ports)

    def ajar(self, ports: Collection[int]) -> None:
        """New connections of probers come here, and get to the application, which runs. Raises OSError as shut()."""
        self._inspect(ports, named=True)

    def _inspect(self, ports: Collection[int], *, named: bool = False) -> None:
        assert self._listeners is not None
        for port in ports:
            self._ports |= {port}
            self._lookup.inspect(port, self._listeners.sockets, named=named)

    def open(self) -> None:
        """The application is awake: connections go straight to it again, and what waits here is passed on."""
        for port in self._ports:
            self._lookup.uninspect(port)
        self._ports, self._answers = frozenset(), False
        self.application_runs()

    def look_at_nodes(self, *, on: bool) -> None:
        """Whether everybody's new connections from the node come here, while it is shut. Raises OSError."""
        for port in self._ports:
            self._lookup.inspect_nodes(port, on=on)

    def application_runs(self) -> None:
        """What waits here is passed on; what comes is still looked at."""
        self._up.set()

    def application_sleeps(self) -> None:
        self._up = trio.Event()
        self._somebody, self._probe = trio.Event(), trio.Event()

    def take(self, connection: socket.socket) -> None:
        """A prober's connection that was led past the gate; while run() runs."""
        assert self._listeners is not None
        assert self._connections is not None
        self._connections.start_soon(self._listeners.adopt, connection, self._serve)

    async def somebody(self) -> None:
        """Returns when somebody has come who wants the application."""
        await self._somebody.wait()

    async def probe(self) -> None:
        """Returns when a probe has come that only the application can answer."""
        await self._probe.wait()

    @property
    def wanted(self) -> bool:
        """Whether somebody has come."""
        return self._somebody.is_set()

    async def idle(self) -> None:
        """Returns when no probe waits here for the application, or is with it."""
        while self._probes:
            await self._over.wait()

    @property
    def busy(self) -> bool:
        """Whether a probe here waits for the application, or is with it."""
        return bool(self._probes)

    async def _serve(self, stream: trio.SocketStream) -> None:
        port = stream.socket.getsockname()[1]
        assert self._listeners is not None
        if port in (listener.getsockname()[1] for listener in self._listeners.sockets):
            # Somebody in the pod found our own port. Passing that on would lead back here.
            return
        finding = await self._inspector.inspect(stream, answers=self._answers)
        if finding.wants is not Wants.APPLICATION:
            self.was_probed = True
        if finding.wants is Wants.NOTHING:
            return
        if finding.wants is Wants.PROBE:
            self._probes.add(stream)
            self._probe.set()
        else:
            self._somebody.set()
        try:
            if finding.asked:
                await self._up.wait()
                if not await self._inspector.ask(stream, finding.asked):
                    self._somebody.set()  # it needs to run to become well
                return
            await forward(
                stream,
                self._netns,
                self._up,
                head=finding.head,
                announced=self._inspector.announced(finding.wants, port),
                connect_timeout=self._connect_timeout,
                proxy_timeout=self._proxy_timeout,
            )
        except OSError as error:
            log.warning("a connection in %s could not be passed on: %s", self._netns, error)
        finally:
            self._probes.discard(stream)
            self._over.set()
            self._over = trio.Event()
