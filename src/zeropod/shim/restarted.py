"""To sleep by being ended, and to wake by being started afresh: containers with `disable-checkpointing`.

Their state is lost, which is what the user asked for. The application binds its ports itself when it starts again, so
its listeners cannot be held: new connections are redirected to the activator meanwhile and proxied when it is up.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.activator.network import PodNetwork
from zeropod.activator.redirect import Redirect
from zeropod.rpc.status import RpcError
from zeropod.runtime.errors import RuncError
from zeropod.shim.idle import quiet_for
from zeropod.shim.lifecycle import Event, State
from zeropod.shim.probes import Probes
from zeropod.shim.way import Lost, SleepFailed, StillBusy, killed

if TYPE_CHECKING:
    from zeropod.shim.container import Container

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

FIRST_LOOK, LAST_LOOK = 0.002, 0.1
"""Seconds between looks whether the started application listens, from the first on doubling to the last."""


class Restarted:
    why_cold = why_awake = ""
    still_since = 0.0
    image_bytes = 0

    def __init__(self, container: "Container", network: PodNetwork, nursery: trio.Nursery) -> None:
        self._container = container
        self._network = network
        self._nursery = nursery
        self._redirect: Redirect | None = None
        self._ports: frozenset[int] = frozenset()
        self._probes = Probes(container, network, nursery)

    @property
    def answered(self) -> int:
        return self._probes.answered

    async def ready(self) -> None:
        """Waits until the started application listens, and sends new connections straight to it from then on."""
        pause = FIRST_LOOK
        while self._redirect and self._ports:
            incarnation = self._container.incarnation
            assert incarnation is not None
            up = self._ports & self._network.listening_ports(incarnation.socket_inodes())
            self._redirect.ready(up)
            self._ports -= up
            await trio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK)
        self._redirect = None  # what it still proxies goes on in the nursery

    def may_begin(self) -> bool:
        return True

    async def turn(self) -> None:
        raise AssertionError("it never waits for others")

    async def pass_probes(self) -> None:
        await self._probes.pass_all()

    async def sleep(self) -> State:
        container, network, incarnation = self._container, self._network, self._container.incarnation
        assert incarnation is not None
        if not network.lookup:
            raise SleepFailed("connections cannot be redirected without eBPF, so it is not ended")
        self._probes.open()
        self._ports = container.settings.ports or network.listening_ports(incarnation.socket_inodes())
        before = network.activity(self._ports)
        if not self._ports:
            raise StillBusy("nothing in it listens on a TCP port")
        redirect = Redirect(
            network.path,
            self._ports,
            network.lookup,
            connect_timeout=container.settings.connect_timeout,
            proxy_timeout=container.settings.proxy_timeout,
            inspector=self._probes.inspector,
        )
        try:
            await self._nursery.start(redirect.run)
        except OSError as error:
            raise SleepFailed(f"its connections cannot be redirected: {error}") from error
        last_moment = quiet_for(self._ports, network.activity(self._ports), network.counting())
        if network.activity(self._ports) != before or last_moment < container.quiet_wanted:
            redirect.ready()
            raise StillBusy("a connection came at the last moment")
        self._redirect = redirect
        container.slept = container.stats_awake()
        incarnation.exit_expected = True
        await self._end()
        return State.COLD

    async def _end(self) -> None:
        container, incarnation = self._container, self._container.incarnation
        assert incarnation is not None
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, float("inf"))):
            for pid in [incarnation.pid] if number == signal.SIGTERM else incarnation.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            with trio.move_on_after(patience):
                await incarnation.exited.wait()
                break
        with suppress(RuncError):
            await container.runc.delete(container.id, force=True)

    def events(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        return (self._connection,)

    async def _connection(self) -> Event:
        assert self._redirect is not None
        await self._redirect.connection()
        return Event.CONNECTION

    async def cool(self) -> State:
        return State.COLD

    # It has no standby to doze in.

    def doze(self) -> None:
        raise AssertionError("there is no standby")

    async def dozed(self) -> None:
        raise AssertionError("there is no standby")

    async def lie_down(self) -> State:
        raise AssertionError("there is no standby")

    def hurry(self) -> None:
        pass

    async def wake(self) -> None:
        try:
            await self._container.start_afresh()
        except RpcError as error:
            raise Lost(f"cannot be started again: {error.message}", killed(self._container.init.pid)) from error

    def abandon(self) -> None:
        if self._redirect:
            self._redirect.close()
