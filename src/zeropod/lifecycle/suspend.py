"""The strategy that keeps a container's state: STANDBY, frozen in place; COLD, on disk; and the way back.

Owns the order of steps between its parts, which are independent of each other:

    STANDBY: watch its open files ▶ intercept probes ▶ freeze ▶ look once more ▶ move memory out
             thaw, at any moment ▶ stop watching ▶ let probes through
             or, for a probe: thaw ▶ freeze ▶ look once more ▶ move out again
    COLD:    examine it ▶ begin the dump ▶ hold its traffic ▶ look once more ▶ dump
             restore ▶ hand over connections ▶ the pager brings memory back ▶ delete the image
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

import trio

from zeropod.activator.hold.frozen import Arrived, FrozenSockets
from zeropod.activator.network import Baseline, PodNetwork
from zeropod.concurrency import TaskStarter, race
from zeropod.lifecycle.admission import AdmissionSlot, AdmissionSlots
from zeropod.lifecycle.arrival import Coming
from zeropod.lifecycle.cold.cold_sleep import ColdSleep
from zeropod.lifecycle.cold.prospect import AFTER_BUSY, AFTER_FAILURE, EXAMINE_AGAIN
from zeropod.lifecycle.cold.terminate import terminate
from zeropod.lifecycle.idle.monitor import counted_ports, look_at_traffic, require_idle
from zeropod.lifecycle.idle.policy import Snapshot
from zeropod.lifecycle.init_process import InitProcess, let_workers_go_first
from zeropod.lifecycle.leaving import Leaving
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.probes import Probes
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.reservation import DiskBudgetExceeded
from zeropod.lifecycle.standby.memory import StandbyMemory
from zeropod.lifecycle.standby.nap import Nap, used_since
from zeropod.lifecycle.strategy import (
    CheckpointFailed,
    ContainerLost,
    MemoryReport,
    NotIdle,
    Workload,
    sigkilled,
)
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import CriuError
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost, bring_back_within

FREEZE = 2.0
"""Seconds for all tasks to freeze. It takes a millisecond unless one of them hangs in a system call."""

_EVENTS = {Arrived.CONNECTION: Event.CONNECTION, Arrived.DATA: Event.DATA}


class SuspendStrategy:
    def __init__(self, workload: Workload, network: PodNetwork, nursery: TaskStarter) -> None:
        self._workload = workload
        self._network = network
        self._baseline = Baseline(network, workload.settings.ports)
        self._probes = Probes(workload, network, nursery)
        self.memory = StandbyMemory(workload, nursery)
        self._cold = ColdSleep(workload, network, nursery, self.memory)
        self._traffic, self._prospect = self._cold.traffic, self._cold.prospect
        self._leaving = Leaving(workload, self.memory, self._cold)
        self._slots = AdmissionSlots()
        self._slot: AdmissionSlot | None = None
        self._sockets = FrozenSockets()
        self._unread: Mapping[int, int] = {}
        """Bytes unread at the last attempt to sleep, by inode. The same unread data does not keep the container awake
        again."""
        self._frozen = False
        self._since = 0.0
        self._nap: Nap | None = None
        self.why_kept: Explanation | None = None
        self.frozen_at = 0.0

    @property
    def answered(self) -> int:
        return self._probes.answered

    @property
    def obstacles(self) -> Sequence[Obstacle]:
        return self._prospect.obstacles

    @property
    def image_bytes(self) -> int:
        return self._cold.image_bytes

    @property
    def ended(self) -> bool:
        return self._cold.is_cold

    def memory_report(self) -> MemoryReport | None:
        init_process = self._workload.init_process
        return None if self._cold.is_cold or init_process is None else self.memory.report(init_process)

    def memory_needed(self) -> int:
        if self._cold.is_cold:
            return self._cold.memory_needed
        init_process = self._workload.init_process
        return self.memory.needed(init_process) if init_process and self.memory.usage.out else 0

    def _init_process(self) -> InitProcess:
        init_process = self._workload.init_process
        assert init_process is not None
        return init_process

    # Falling asleep

    async def ready(self) -> None:
        try:
            await self._cold.complete()
        except CriuError as error:
            await self._lose(str(error))

    async def make_whole(self) -> None:
        await self.ready()
        try:
            await self.memory.bring_back()
        except MemoryLost as error:
            await self._lose(str(error))

    async def _lose(self, why: str) -> NoReturn:
        """End a container that cannot get all of its memory back. Raises ContainerLost."""
        init_process = self._init_process()
        if init_process.is_dead():
            await trio.sleep_forever()  # its exit ends this task, too
        await terminate(self._workload, init_process)
        raise ContainerLost(f"has lost a part of its memory: {why}", sigkilled(init_process.pid))

    async def pass_probes(self) -> None:
        await self._probes.pass_all()

    async def freeze(self) -> Event:
        init_process = self._init_process()
        self.why_kept, self._prospect.obstacles = None, ()
        await self.memory.moved()  # of the sleep before, which may have been cut just now
        try:
            pids = init_process.pids()
            self._sockets = FrozenSockets.take(pids, known_unread=self._unread)
            ports = self._network.listening_ports(init_process.socket_inodes())
            before = self._network.activity(ports)
            await self._probes.intercept(init_process, ports)
            self.frozen_at = time.monotonic()
            await init_process.cgroup.freeze(trio.current_time() + FREEZE)
            self._frozen = True
            pids = init_process.pids()
            self._sockets.renew(pids)
            self._look_once_more(ports, before != self._network.activity(ports))
            self._baseline.take(init_process.socket_inodes(), ports)
            let_workers_go_first(pids, init_process.pid)
        except BaseException as error:
            self.thaw()
            self.awake()
            if isinstance(error, OSError | CgroupError):
                raise CheckpointFailed(Reason.CANNOT_FREEZE.because(error)) from error
            raise
        self._since = trio.current_time()
        return Event.FROZEN

    def _look_once_more(self, ports: frozenset[int], has_connected: bool) -> None:
        """Raise NotIdle if something arrived before the freeze that the application has not handled."""
        workload, sockets = self._workload, self._sockets
        chosen = workload.settings.ports
        unread = sockets.pending(chosen)
        self._unread = unread.amounts
        pending = None
        if has_connected or sockets.ready(chosen):
            pending = Reason.ARRIVAL.because()
        elif unread:
            pending = Reason.UNREAD.because(unread)
        require_idle(look_at_traffic(workload, self._network, counted_ports(workload, ports), pending))

    # In STANDBY

    def move_out(self) -> None:
        if self._workload.settings.standby:
            self.memory.begin(self._init_process())

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        if self._cold.is_cold:
            usual = (self._traffic.connection, self._traffic.data, *self._probes.arrivals())
            return self._leaving.arrivals(usual) if self._leaving.has_exported else (*usual, self._leaving.wanted)
        if self._workload.life.leaves_awake:
            return (self._leaving.standby_over,)
        return (self._arrival, self._missed, self._standby_over, self._leaving.standby_over, *self._probes.arrivals())

    async def _arrival(self) -> Event:
        return _EVENTS[await self._sockets.event(self._workload.settings.ports)]

    async def _missed(self) -> Event:
        """Return when a process that could not be stopped during a move has handled an event meanwhile.

        It may have been frozen again in the middle of that, and the event has left its queue.
        """
        while True:
            since = await self.memory.ran()
            init_process, ports = self._init_process(), self._workload.settings.ports
            self._sockets.renew(init_process.pids())
            if self._baseline.has_connected():
                return Event.CONNECTION
            if arrived := self._sockets.ready(ports):
                return _EVENTS[arrived]
            own = init_process.socket_inodes()
            if used_since(self._network, own, ports or self._network.listening_ports(own), since):
                return Event.DATA

    async def watch_memory(self) -> NoReturn:
        await self._lose(await self.memory.lost())

    async def _standby_over(self) -> Event:
        """Return when the container is due for COLD, and nothing stands against it."""
        self._keep(await self._prospect.until_over(self.memory.moved, self._since))
        if self._prospect.is_postponed:
            self._keep(self._prospect.why_postponed)
            await self._prospect.until_due()
        while against := await self._prospect.examine(self._init_process(), self.memory.descriptors):
            self.memory.begin(self._init_process())
            self._keep(against)
            await trio.sleep(EXAMINE_AGAIN)
        if not self._workload.settings.standby:
            # Memory in the page store by then need not be dumped; and a move can be interrupted, a dump cannot.
            self.memory.begin(self._init_process())
            await self.memory.moved()
        while (slot := self._slots.try_acquire()) is None:
            await self._slots.wait_free()
        self._slot = slot
        return Event.STANDBY_OVER

    def _keep(self, why: Explanation | None) -> None:
        if why:
            self.why_kept = self._workload.life.explanation = why

    def thaw(self) -> None:
        init_process = self._workload.init_process
        if self._frozen and init_process:
            self.memory.cut()
            init_process.cgroup.thaw()
        self._frozen = False

    def awake(self) -> None:
        self.memory.woke()
        self._release_slot()
        self._sockets.close()
        self._nap = None
        self._probes.release()

    def _release_slot(self) -> None:
        if self._slot:
            self._slot.release()
        self._slot = None

    # A nap

    def nap(self) -> None:
        if self._nap is None:
            self._nap = Nap(self._workload, self._network, self._baseline)
        self._probes.intercept_node(on=True)
        self._nap.begins()
        self.thaw()
        self._probes.let_through()

    async def napped(self) -> Explanation | None:
        assert self._nap is not None
        if not self._nap.awaited:
            await self._probes.let_all_through()
            await self._nap.settled()
        return self._nap.awaited

    async def refreeze(self) -> Event:
        init_process = self._init_process()
        assert self._nap is not None
        match self._probes.hold():
            case Event.PROBE:
                return Event.PROBE
            case Event.CONNECTION:
                raise NotIdle(Reason.CONNECTION_FROM_NODE.because())
        try:
            await init_process.cgroup.freeze(trio.current_time() + FREEZE)
            self._frozen = True
            pids = init_process.pids()
            self._sockets.renew(pids)
            self._sockets.disregard()
            let_workers_go_first(pids, init_process.pid)
            self._probes.intercept_node(on=False)
            # Anything that arrives after this is not intercepted, and is seen by the watch.
            connected = self._baseline.has_connected()
            require_idle(Snapshot(pending=Reason.CONNECTION_IN_NAP.because() if connected else self._nap.use()))
            unread = self._sockets.pending(self._workload.settings.ports)
            if any(self._unread.get(inode) != amount for inode, amount in unread.amounts.items()):
                require_idle(Snapshot(pending=Reason.UNREAD_IN_NAP.because(unread)))
        except (CgroupError, OSError) as error:
            raise CheckpointFailed(Reason.CANNOT_REFREEZE.because(error)) from error
        self._nap = None
        return Event.FROZEN

    # COLD

    # Elsewhere, and from there

    async def bring_to_rest(self) -> Event:
        return await self._leaving.bring_to_rest(self._freeze_at_once, self.thaw)

    async def _freeze_at_once(self) -> None:
        """Freeze it, whatever it does. Raises CgroupError."""
        self.frozen_at = time.monotonic()
        self._frozen = True
        await self._init_process().cgroup.freeze(trio.current_time() + FREEZE)

    async def dump(self) -> Event:
        return await self._leaving.or_stay(self._dump)

    async def _dump(self) -> Event:
        """End it, which is frozen and watched all the time; nothing is lost if anything fails before CRIU begins."""
        init_process, sockets, ports = self._init_process(), self._sockets, self._workload.settings.ports
        try:
            await self._cold.prepare(init_process, sockets)
            if not self._workload.life.leaves_awake:  # that keeps requests waiting since it was frozen
                self.frozen_at = time.monotonic()
            await self._cold.dump(init_process, sockets)
        except NotIdle as reason:
            if arrived := self._sockets.ready(ports):
                return _EVENTS[arrived]
            if self._workload.life.wake_wanted.is_set():
                return Event.WANTED
            return self._stay(AFTER_BUSY, reason)
        except DiskBudgetExceeded as refusal:
            self._workload.metrics.refused_sleeps += 1
            self._workload.log.warning("stays in STANDBY: %s", refusal)
            return self._stay(EXAMINE_AGAIN, refusal)
        except CheckpointFailed as failure:
            self._prospect.postpone(AFTER_FAILURE, failure)
            raise
        except MemoryFailed as error:
            raise CheckpointFailed(Reason.MEMORY_FAILED.because(error)) from error
        except MemoryLost as error:
            await self._lose(str(error))
        finally:
            self._release_slot()
        self._frozen = False
        sockets.close()
        await self.memory.ended()
        return Event.DUMPED

    def _stay(self, seconds: float, why: NotIdle | CheckpointFailed) -> Event:
        """Stay in STANDBY for some seconds, and move its memory out again."""
        self._keep(self._prospect.postpone(seconds, why))
        self.memory.begin(self._init_process())
        return Event.KEPT

    async def export(self) -> None:
        await self._leaving.export()

    async def adopt(self, coming: Coming) -> None:
        await self._cold.adopt(coming)
        self._frozen = coming.manifest.asleep

    async def restore(self) -> None:
        await self._leaving.withdraw()
        await self._cold.restore()
        self._probes.release()
        self._cold.finish_restore()

    # The end

    async def release(self) -> None:
        async with AsyncExitStack() as rest:  # each step runs even if another one fails
            rest.push_async_callback(self._let_go_of_memory)
            for step in (self._leaving.close, self._cold.close, self._traffic.hand_over, self.awake, self.thaw):
                rest.callback(step)
        self._workload.store.drop_images()

    async def _let_go_of_memory(self) -> None:
        """Bring all memory back before the strategy, which serves it, ends. Raises ContainerLost.

        Ignores cancellation by the caller: if pages are lost, the container must end, and its exit must be reported.
        """
        init_process = self._workload.init_process
        with trio.CancelScope(shield=True):
            try:
                if init_process and not self._cold.is_cold and not init_process.is_dead():
                    await self._become_whole(init_process)
            finally:
                await self.memory.moved()
                await self.memory.close()

    async def _become_whole(self, init_process: InitProcess) -> None:
        seconds = bring_back_within(max(self.memory.needed(init_process), self.image_bytes))
        with trio.move_on_after(seconds) as patience:
            await race(self.make_whole, init_process.ended_by_itself)
        if patience.cancelled_caught:
            await self._lose(f"not all of it has come back within {seconds:.0f} s of letting go of its sleep")
