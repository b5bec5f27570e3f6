"""Sleep by ending the container, and wake by starting it anew: for `disable-checkpointing`.

Its state is lost, as the user has asked for. The application binds its ports itself when it starts again, so its
listeners cannot be held: new connections are redirected to the activator meanwhile, and proxied once it listens.
"""

import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import trio

from zeropod.activator.network import PodNetwork
from zeropod.activator.redirect import Redirect
from zeropod.concurrency import TaskStarter
from zeropod.kernel.lookup import Activity
from zeropod.lifecycle.arrival import AdoptionFailed, Coming
from zeropod.lifecycle.idle.monitor import counted_ports, look_at_life, look_at_traffic, require_idle
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.probes import Probes
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, Workload, sigkilled
from zeropod.rpc.status import RpcError
from zeropod.runtime.errors import RuncError
from zeropod.runtime.image.obstacle import Obstacle

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

SHORTEST_LOOK, LONGEST_LOOK = 0.002, 10.0
"""Seconds between checks whether the started application listens: a tenth of the elapsed time, within these bounds."""


class RestartStrategy:
    why_kept: Explanation | None = None
    obstacles: Sequence[Obstacle] = ()
    frozen_at = 0.0
    image_bytes = 0

    def __init__(self, workload: Workload, network: PodNetwork, nursery: TaskStarter) -> None:
        self._workload = workload
        self._network = network
        self._nursery = nursery
        self._redirect: Redirect | None = None
        self._ports: frozenset[int] = frozenset()
        self._ended = False
        self._probes = Probes(workload, network, nursery)

    @property
    def answered(self) -> int:
        return self._probes.answered

    @property
    def ended(self) -> bool:
        return self._ended

    def memory_report(self) -> None:
        """Return None: there is no STANDBY."""

    def memory_needed(self) -> int:
        """Return 0: it starts anew."""
        return 0

    async def ready(self) -> None:
        """Wait until the started application listens, and stop redirecting new connections then."""
        started = trio.current_time()
        while self._redirect and self._ports:
            init_process = self._workload.init_process
            assert init_process is not None
            up = self._ports & self._network.listening_ports(init_process.socket_inodes())
            self._redirect.ready(up)
            self._ports -= up
            taken = trio.current_time() - started
            await trio.sleep(min(max(SHORTEST_LOOK, taken / 10), LONGEST_LOOK))
        self._redirect = None  # proxied connections continue in the nursery

    async def make_whole(self) -> None:
        await trio.lowlevel.checkpoint()

    async def pass_probes(self) -> None:
        await self._probes.pass_all()

    async def freeze(self) -> Event:
        workload, network, init_process = self._workload, self._network, self._workload.init_process
        assert init_process is not None
        if not network.lookup:
            raise CheckpointFailed(Reason.NO_EBPF.because())
        self._probes.release()
        listening = network.listening_ports(init_process.socket_inodes())
        # Only ports that it listens on: `ready` would wait for ever for a port of `ports-map` that it never opens.
        self._ports = counted_ports(workload, listening)
        before = network.activity(self._ports)
        require_idle(replace(look_at_life(workload.life), listens=bool(self._ports)))
        redirect = Redirect(
            network.path,
            self._ports,
            network.lookup,
            connect_timeout=workload.settings.connect_timeout,
            proxy_timeout=workload.settings.proxy_timeout,
            inspector=self._probes.inspector,
        )
        try:
            await self._nursery.start(redirect.run)
        except OSError as error:
            raise CheckpointFailed(Reason.CANNOT_REDIRECT.because(error)) from error
        try:
            self._look_once_more(before)
        except BaseException:
            redirect.ready()
            raise
        self._redirect = redirect
        self.frozen_at = time.monotonic()
        workload.slept = workload.stats_awake()
        init_process.exit_expected = True
        self._ended = True
        await self._end()
        return Event.DUMPED

    def _look_once_more(self, before: Activity) -> None:
        """Raise NotIdle if a connection or data arrived before connections were redirected."""
        has_connected = self._network.activity(self._ports) != before
        pending = Reason.CONNECTION.because() if has_connected else None
        require_idle(look_at_traffic(self._workload, self._network, self._ports, pending))

    async def _end(self) -> None:
        workload, init_process = self._workload, self._workload.init_process
        assert init_process is not None
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, float("inf"))):
            if number == signal.SIGKILL:
                init_process.cgroup.kill()
            else:
                with suppress(ProcessLookupError):
                    os.kill(init_process.pid, number)
            with trio.move_on_after(patience):
                await init_process.exited.wait()
                break
        with suppress(RuncError):
            await workload.runc.delete(workload.id, force=True)

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        return (self._connection,)

    async def _connection(self) -> Event:
        assert self._redirect is not None
        await self._redirect.connection()
        return Event.CONNECTION

    def thaw(self) -> None:
        """Do nothing: it is never frozen."""

    def awake(self) -> None:
        """Do nothing: nothing watches it."""

    # Without STANDBY, these are never called.

    def move_out(self) -> NoReturn:
        raise AssertionError("it has no STANDBY")

    nap = move_out

    async def refreeze(self) -> NoReturn:
        raise AssertionError("it has no STANDBY")

    napped = dump = bring_to_rest = refreeze

    async def export(self) -> None:
        raise AssertionError("it has nothing to leave with")

    async def adopt(self, _coming: Coming) -> None:
        raise AdoptionFailed("it is ended to sleep, and has nothing to come back with (disable-checkpointing)")

    async def restore(self) -> None:
        workload = self._workload
        try:
            await workload.start_afresh()
        except RpcError as error:
            raise ContainerLost(f"cannot be started again: {error.message}", sigkilled(workload.init.pid)) from error
        self._ended = False

    async def watch_memory(self) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError("sleep_forever returned")

    async def release(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._redirect:
            self._redirect.close()
