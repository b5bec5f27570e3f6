"""To sleep with everything kept: in STANDBY frozen in place, later perhaps in COLD, ended and on disk; and back.

Owns the order of things between the parts, none of which knows another:

    STANDBY: watch what it has open ▶ stand in for it before probes ▶ freeze ▶ look once more ▶ move memory out
             thaw, at any moment ▶ watch no more ▶ probes are its own business again
             or, for a probe: thaw ▶ freeze ▶ look whether anything has come ▶ move out what came back in
    COLD:    look for what CRIU would lose ▶ begin the dump ▶ hold its traffic ▶ look once more ▶ dump
             restore ▶ hand over what waits ▶ the pager fills memory ▶ drop the image
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import NoReturn

import trio

from zeropod.activator.hold.frozen import Arrived, FrozenSockets
from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter, race
from zeropod.kernel import pending_timeouts
from zeropod.lifecycle.admission import Turn, Turns
from zeropod.lifecycle.baseline import Baseline
from zeropod.lifecycle.cold.checkpointer import Checkpointer
from zeropod.lifecycle.cold.restorer import Restorer
from zeropod.lifecycle.cold.terminate import end
from zeropod.lifecycle.cold.traffic import Traffic
from zeropod.lifecycle.idle.activity import quiet_for
from zeropod.lifecycle.init_process import Incarnation
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.probing.probes import Keep, Probes
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
from zeropod.runtime.image import reapplied, unsupported
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.images import Inventory
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost, bring_back_within

FREEZE = 2.0
"""Seconds for all tasks to freeze; they take a millisecond unless one hangs in a system call."""

MASTER_WAITS = 1.0
"""Seconds that a process with children waits after a thaw at least, if nothing comes for it: its workers need pages of
theirs before they can report to it."""

ATTEMPTS = (True, False, False)
"""Whether each attempt to restore from COLD is with lazy pages."""

COLD_AGAIN = 600.0
"""Seconds after a dump that failed until COLD is tried again."""

BUSY_AGAIN = 5.0
"""Seconds after a dump that was given up, since something was under way, until COLD is tried again."""

EXAMINE_AGAIN = 60.0
"""Seconds until a container in STANDBY is examined again for what stands against COLD."""

MEBIBYTE = 1 << 20

_EVENTS = {Arrived.CONNECTION: Event.CONNECTION, Arrived.DATA: Event.DATA}


class SuspendStrategy:
    def __init__(self, workload: Workload, network: PodNetwork, nursery: TaskStarter) -> None:
        self._workload = workload
        self._network = network
        self._baseline = Baseline(workload, network)
        self._probes = Probes(workload, network, nursery)
        self._traffic = Traffic(workload, network, nursery)
        self._restorer = Restorer(workload, nursery, self._traffic.silence)
        self._checkpointer = Checkpointer(workload, nursery, self._traffic, self._restorer.kept)
        self.memory = StandbyMemory(workload, nursery)
        self._turns = Turns()
        self._turn: Turn | None = None
        self._sockets = FrozenSockets()
        self._unread: Mapping[int, int] = {}
        """What lay unread when it was last about to sleep, by inode: as long as it is the same, it may sleep."""
        self._frozen = False
        self._since = 0.0
        self._nap: Nap | None = None
        self._inventory: Inventory = {}
        self._ended = False
        self._needed = 0
        """Bytes of memory that it takes once all of it is back from COLD."""
        self._carried = False
        """Whether the image leaves out what is in the page store."""
        self._noted = reapplied.Noted()
        """What CRIU loses, and is set again."""
        self._no_cold_before, self._why_no_cold = -math.inf, ""
        self.why_kept = ""
        self.obstacles: Sequence[Obstacle] = ()
        self.frozen_at = 0.0

    @property
    def answered(self) -> int:
        return self._probes.answered

    @property
    def image_bytes(self) -> int:
        return sum(file.size for file in self._inventory.values())

    @property
    def ended(self) -> bool:
        return self._ended

    def memory_report(self) -> MemoryReport | None:
        incarnation = self._workload.incarnation
        return None if self._ended or incarnation is None else self.memory.report(incarnation)

    def memory_needed(self) -> int:
        if self._ended:
            return self._needed
        incarnation = self._workload.incarnation
        return self.memory.needed(incarnation) if incarnation and self.memory.usage.out else 0

    def _incarnation(self) -> Incarnation:
        incarnation = self._workload.incarnation
        assert incarnation is not None
        return incarnation

    # Falling asleep

    async def ready(self) -> None:
        try:
            await self._restorer.complete()
        except CriuError as error:
            await self._lose(str(error))
        self._inventory = {}

    async def make_whole(self) -> None:
        await self.ready()
        try:
            await self.memory.bring_back()
        except MemoryLost as error:
            await self._lose(str(error))

    async def _lose(self, why: str) -> NoReturn:
        """End what cannot get all of its memory back any more. Raises ContainerLost."""
        incarnation = self._incarnation()
        if incarnation.is_dead():
            await trio.sleep_forever()  # its exit ends this task, too
        await end(self._workload, incarnation)
        raise ContainerLost(f"has lost a part of its memory: {why}", sigkilled(incarnation.pid))

    async def pass_probes(self) -> None:
        await self._probes.pass_all()

    async def freeze(self) -> Event:
        incarnation = self._incarnation()
        self.why_kept, self.obstacles = "", ()
        await self.memory.moved()  # of the sleep before, which may have been cut just now
        try:
            pids = incarnation.pids()
            self._sockets = FrozenSockets.take(pids, known_unread=self._unread)
            ports = self._network.listening_ports(incarnation.socket_inodes())
            before = self._network.activity(ports)
            await self._probes.intercept(incarnation, ports)
            self.frozen_at = time.monotonic()
            await incarnation.cgroup.freeze(trio.current_time() + FREEZE)
            self._frozen = True
            pids = incarnation.pids()
            self._sockets.renew(pids)
            self._look_once_more(ports, before != self._network.activity(ports))
            self._baseline.take(incarnation, ports)
            _let_workers_go_first(pids, incarnation.pid)
        except BaseException as error:
            self.thaw()
            self.awake()
            if isinstance(error, OSError | CgroupError):
                raise CheckpointFailed(f"it cannot be frozen: {error}") from error
            raise
        self._since = trio.current_time()
        return Event.FROZEN

    def _look_once_more(self, ports: frozenset[int], has_connected: bool) -> None:
        """Raises NotIdle if anything has come until the freeze that the application has still to deal with."""
        workload = self._workload
        counted = workload.settings.ports or ports
        pending = self._sockets.pending(workload.settings.ports)
        self._unread = pending.amounts
        if has_connected or self._sockets.ready(workload.settings.ports):
            raise NotIdle("a connection or data came at the last moment")
        if pending:
            raise NotIdle(f"it has not dealt with everything yet: {pending}")
        if workload.life.wake_wanted.is_set() or workload.life.inhibited_by:
            raise NotIdle("a request came at the last moment")
        if quiet_for(counted, self._network.activity(counted), self._network.counting()) < workload.idle_threshold:
            raise NotIdle("a request came at the last moment")

    # In STANDBY

    def move_out(self) -> None:
        if self._workload.settings.standby:
            self.memory.begin(self._incarnation())

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        if self._ended:
            return (self._connection, self._traffic.data, self._probes.connection, self._probes.probe)
        return (self._arrival, self._missed, self._standby_over, self._probes.connection, self._probes.probe)

    async def _arrival(self) -> Event:
        while True:
            event = _EVENTS[await self._sockets.event(self._workload.settings.ports)]
            if event is Event.CONNECTION and self._is_late_probe():
                return Event.PROBE
            return event

    async def _missed(self) -> Event:
        """Return when a process that could not be stopped for a move has had something to deal with meanwhile.

        It was frozen again in the middle of that, perhaps, and what woke it is in no queue any more.
        """
        while True:
            since = await self.memory.ran()
            incarnation, ports = self._incarnation(), self._workload.settings.ports
            self._sockets.renew(incarnation.pids())
            if self._baseline.has_connected():
                return Event.PROBE if self._is_late_probe() else Event.CONNECTION
            if arrived := self._sockets.ready(ports):
                return _EVENTS[arrived]
            own = incarnation.socket_inodes()
            if used_since(self._network, own, ports or self._network.listening_ports(own), since):
                return Event.DATA

    def _is_late_probe(self) -> bool:
        """Return whether what has come are probes that the kernel did not receive when they were sent.

        Only a prober on this node waits for that, and not before there has been a probe.
        """
        return self._probes.are_known and self._baseline.only_probes()

    async def watch_memory(self) -> NoReturn:
        await self._lose(await self.memory.lost())

    async def _standby_over(self) -> Event:
        """Return when the container is to go on to COLD, and may."""
        await self._until_too_deep()
        if trio.current_time() < self._no_cold_before:
            self._keep(self._why_no_cold)
            await trio.sleep_until(self._no_cold_before)
        while True:
            obstacles = await trio.to_thread.run_sync(self._examine, abandon_on_cancel=True)
            if not obstacles:
                break
            self.memory.begin(self._incarnation())
            self._keep(f"stays in STANDBY, since COLD would lose something of it: {'; '.join(obstacles)}")
            await trio.sleep(EXAMINE_AGAIN)
        if not self._workload.settings.standby:
            # What is in the page store by then need not be dumped; and a move can be broken off, a dump cannot.
            self.memory.begin(self._incarnation())
            await self.memory.moved()
        while (turn := self._turns.take()) is None:
            await self._turns.free()
        self._turn = turn
        return Event.STANDBY_OVER

    async def _until_too_deep(self) -> None:
        """Return when STANDBY has lasted long enough, or takes more memory than it may."""
        settings = self._workload.settings
        if not settings.standby:
            return
        duration = settings.standby_duration or math.inf
        await self.memory.moved()
        resident = self._incarnation().cgroup.resident_bytes()
        if resident <= settings.standby_max_resident:
            await trio.sleep_until(self._since + duration)
            return
        self._keep(
            f"{mebibytes(resident)} stay in memory, standby-max-resident is {mebibytes(settings.standby_max_resident)}"
        )

    def _keep(self, why: str) -> None:
        self.why_kept = self._workload.life.why = why

    def _examine(self) -> Sequence[str]:
        """What stands against COLD, each in words. Blocks for some tens of milliseconds."""
        facts = unsupported.Facts.of(self._workload.spec.content)
        facts = replace(facts, ours=self.memory.descriptors, reapplied=True)
        pids = self._incarnation().pids()
        self.obstacles = unsupported.find(pids, facts)
        try:
            self._noted = reapplied.note(pids)
        except OSError as error:
            self.obstacles = [*self.obstacles, unsupported.Kind.UNREADABLE.found(str(error))]
        return [
            *filter(None, [self._network.cannot_hand_over]),
            *(f"{each.text} ({each.remedy})" if each.remedy else each.text for each in self.obstacles),
        ]

    def thaw(self) -> None:
        incarnation = self._workload.incarnation
        if self._frozen and incarnation:
            self.memory.cut()
            incarnation.cgroup.thaw()
        self._frozen = False

    def awake(self) -> None:
        self._end_turn()
        self._sockets.close()
        self._nap = None
        self._probes.open()
        self.memory.woke()

    def _end_turn(self) -> None:
        if self._turn:
            self._turn.end()
        self._turn = None

    # A nap

    def nap(self) -> None:
        if self._nap is None:
            self._nap = Nap(self._workload, self._network, self._baseline, self._is_late_probe)
        self._probes.look_at_nodes(on=True)
        self._nap.begins()
        self.thaw()
        self._probes.let_through()

    async def napped(self) -> str:
        assert self._nap is not None
        if not self._nap.somebody:
            await self._probes.let_all_through()
            await self._nap.settled()
        return self._nap.somebody

    async def refreeze(self) -> Event:
        incarnation = self._incarnation()
        assert self._nap is not None
        match self._probes.keep():
            case Keep.PROBED:
                return Event.PROBE
            case Keep.WANTED:
                raise NotIdle("a connection came from the node while it ran for a probe")
        try:
            await incarnation.cgroup.freeze(trio.current_time() + FREEZE)
            self._frozen = True
            pids = incarnation.pids()
            self._sockets.renew(pids)
            self._sockets.disregard()
            _let_workers_go_first(pids, incarnation.pid)
            self._probes.look_at_nodes(on=False)
            # What comes later than this is not answered, and found by the watch.
            connected = self._baseline.has_connected()
            if connected and self._is_late_probe():
                return Event.PROBE
            if used := "a connection came while it ran for a probe" if connected else self._nap.use():
                raise NotIdle(used)
            pending = self._sockets.pending(self._workload.settings.ports)
            if any(self._unread.get(inode) != amount for inode, amount in pending.amounts.items()):
                raise NotIdle(f"something came while it ran for a moment: {pending}")
        except (CgroupError, OSError) as error:
            raise CheckpointFailed(f"it cannot be frozen again: {error}") from error
        self._nap = None
        return Event.FROZEN

    # COLD

    async def dump(self) -> Event:
        """From STANDBY, frozen and watched all the time; nothing is lost if anything fails before CRIU begins."""
        incarnation, sockets, ports = self._incarnation(), self._sockets, self._workload.settings.ports
        try:
            self._needed = self.memory.needed(incarnation)
            self._carried = await self.memory.leave(incarnation)
            if not self._carried:
                await self._bring_back(ports)
            await self._restorer.dropped()
            self.frozen_at = time.monotonic()
            self._inventory = await self._checkpointer.checkpoint(
                incarnation,
                lambda: sockets.event(ports),
                lambda: bool(sockets.ready(ports)),
            )
        except NotIdle as reason:
            if arrived := self._sockets.ready(ports):
                return _EVENTS[arrived]
            if self._workload.life.wake_wanted.is_set():
                return Event.WANTED
            return self._stay(BUSY_AGAIN, reason)
        except DiskBudgetExceeded as refusal:
            self._workload.tally.refused_sleeps += 1
            self._workload.log.warning("stays in STANDBY: %s", refusal)
            return self._stay(EXAMINE_AGAIN, refusal)
        except CheckpointFailed as failure:
            self._postpone(COLD_AGAIN, failure)
            raise
        except MemoryFailed as error:
            raise CheckpointFailed(str(error)) from error
        except MemoryLost as error:
            await self._lose(str(error))
        finally:
            self._end_turn()
        self._frozen, self._ended = False, True
        self._sockets.close()
        await self.memory.ended()
        return Event.DUMPED

    async def _bring_back(self, ports: frozenset[int]) -> None:
        """Have all of its memory back in, for CRIU. Raises NotIdle when something comes before that is done."""
        life, back = self._workload.life, trio.Event()

        async def bring_back() -> None:
            await self.memory.bring_back()
            back.set()

        arrival = partial(self._sockets.event, ports)
        await race(bring_back, arrival, life.inhibited, life.wake_wanted.wait, life.doze_wanted.wait)
        if not back.is_set():
            raise NotIdle("something came at the last moment")

    def _stay(self, seconds: float, why: Exception) -> Event:
        """Stay in STANDBY, and save its memory there."""
        self._postpone(seconds, why)
        self._keep(self._why_no_cold)
        self.memory.begin(self._incarnation())
        return Event.KEPT

    def _postpone(self, seconds: float, why: Exception) -> None:
        self._no_cold_before, self._why_no_cold = trio.current_time() + seconds, f"stays in STANDBY: {why}"

    async def _connection(self) -> Event:
        """Return when there is a new connection to the container, which is COLD."""
        while True:
            event = await self._traffic.connection()
            if not self._is_late_probe():
                return event
            try:
                # One at a time: the next one that waits may have come since, and be no probe's.
                if connection := self._traffic.accept():
                    self._probes.take(connection)
            except OSError as error:
                self._workload.log.warning("cannot answer a probe, waking it: %s", error)
                return event

    async def restore(self) -> None:
        workload = self._workload
        failures = []
        if damage := workload.store.damage(self._inventory):
            failures.append(f"the checkpoint was damaged while the container slept: {damage}")
        else:
            # What the application could notice is there before it runs.
            stopped = self._carried or self._noted.options or self._noted.groups
            before_it_runs = self._complete if stopped else None
            for lazy in ATTEMPTS:
                try:
                    # What the image leaves out comes from the page store, by a pager of its own.
                    await self._restorer.restore(lazy=lazy and not self._carried, before_it_runs=before_it_runs)
                except Exception as error:  # noqa: BLE001 - nothing is left of it, and the next attempt may work
                    failures.append(str(error) if isinstance(error, CriuError) else f"{type(error).__name__}: {error}")
                    workload.log.warning("%s restore failed: %s", "lazy" if lazy else "eager", error)
                else:
                    self._ended = False
                    self._traffic.hand_over()
                    self._probes.open()
                    self._restorer.drain()
                    self._restorer.tidy()
                    if not stopped:
                        self._reapply(self._incarnation())
                    return
        kept = workload.store.keep()
        raise ContainerLost(
            f"cannot be restored: {'; then '.join(dict.fromkeys(failures))}. Its image is kept in {kept}",
            sigkilled(workload.init.pid),
        )

    async def _complete(self, incarnation: Incarnation) -> None:
        """Give restored processes, which are stopped, what the image has left out."""
        if self._carried:
            await self.memory.rejoin(incarnation)
        self._reapply(incarnation)

    def _reapply(self, incarnation: Incarnation) -> None:
        for complaint in reapplied.reapply(incarnation.pids(), self._noted):
            self._workload.log.warning("cannot be set again after its restore: %s", complaint)

    # The end

    async def release(self) -> None:
        async with AsyncExitStack() as rest:  # whatever fails of it, the rest is done
            rest.push_async_callback(self._let_go_of_memory)
            for step in (self._restorer.kept.close, self._traffic.hand_over, self.awake, self.thaw):
                rest.callback(step)
        self._workload.store.drop_images()

    async def _let_go_of_memory(self) -> None:
        """Have it run with all of its memory: what brings that ends with the strategy. Raises ContainerLost.

        However long the caller would wait: pages that are given up are the end of the container, and that is told.
        """
        incarnation = self._workload.incarnation
        with trio.CancelScope(shield=True):
            try:
                if incarnation and not self._ended and not incarnation.is_dead():
                    await self._become_whole(incarnation)
            finally:
                await self.memory.moved()
                await self.memory.close()

    async def _become_whole(self, incarnation: Incarnation) -> None:
        seconds = bring_back_within(max(self.memory.needed(incarnation), self.image_bytes))
        with trio.move_on_after(seconds) as patience:
            await race(self.make_whole, incarnation.ended_by_itself)
        if patience.cancelled_caught:
            await self._lose(f"not all of it has come back within {seconds:.0f} s of letting go of its sleep")


def _let_workers_go_first(pids: Sequence[int], init: int) -> None:
    """See to it that workers report to their master after the thaw before it finds that they have not for long."""
    if len(pids) > 1:
        pending_timeouts.shorten(pids, init, math.inf)
        pending_timeouts.lengthen(pids, init, MASTER_WAITS)


def mebibytes(size: int) -> str:
    """Return a size in words."""
    return f"{size / MEBIBYTE:.0f} MiB"
