"""To sleep by checkpoint: memory to disk, traffic held, processes frozen beside their image or gone; and back.

The order matters:

    either:  checkpoint (see `Checkpointer`), which leaves the image and what is held for the container
    STANDBY: restore without running ▶ freeze ▶ hand over what waits ▶ unlock ▶ watch the sockets
             thaw ▶ the pager fills memory ▶ drop the image
            or, for a probe: thaw ▶ freeze ▶ look whether anybody came ▶ watch the sockets
    COLD:    restore ▶ hand over what waits ▶ unlock ▶ the pager fills memory ▶ drop the image

Somebody who has come during the dump is not kept waiting for a standby that would end at once.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import trio

from zeropod.activator.network import PodNetwork
from zeropod.runtime import pagemap
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import CriuError
from zeropod.runtime.images import Inventory
from zeropod.shim.checkpointer import Checkpointer
from zeropod.shim.doze import Doze
from zeropod.shim.ending import end
from zeropod.shim.lifecycle import Event, State
from zeropod.shim.pace import Pace
from zeropod.shim.probes import Probes
from zeropod.shim.restorer import Restorer
from zeropod.shim.room import room
from zeropod.shim.stages import Stages
from zeropod.shim.standby import Standby
from zeropod.shim.traffic import Traffic
from zeropod.shim.turns import Turn, Turns
from zeropod.shim.way import Lost, SleepFailed, StillBusy, killed

if TYPE_CHECKING:
    from zeropod.shim.container import Container

ATTEMPTS = (True, False, False)
"""Whether each attempt to restore from COLD is with lazy pages."""

MEBIBYTE = 1 << 20


class Checkpointed:
    def __init__(self, container: "Container", network: PodNetwork, nursery: trio.Nursery) -> None:
        self._container = container
        self._network = network
        self._nursery = nursery
        self._traffic = Traffic(container, network, nursery)
        self._restorer = Restorer(container, nursery, self._traffic.silence)
        self._probes = Probes(container, network, nursery)
        self._checkpointer = Checkpointer(container, network, nursery, self._traffic, self._probes, self._restorer.kept)
        self._turns = Turns()
        self._turn: Turn | None = None
        self._standby: Standby | None = None
        self._standby_since = 0.0
        self._doze: Doze | None = None
        self._dozed = False
        """It has run in standby: it is not what its image says any more."""
        self._inventory: Inventory = {}
        self.why_cold = ""
        self.why_awake = ""
        self._stages = Stages()

    @property
    def answered(self) -> int:
        return self._probes.answered

    @property
    def still_since(self) -> float:
        return self._checkpointer.still_since

    @property
    def image_bytes(self) -> int:
        return sum(file.size for file in self._inventory.values())

    # Falling asleep

    async def ready(self) -> None:
        try:
            await self._restorer.complete()
        except CriuError as error:
            await self._lose(str(error))
        self._inventory = {}

    async def _lose(self, why: str) -> NoReturn:
        """Ends what cannot get all of its memory back any more. Raises Lost."""
        incarnation = self._container.incarnation
        assert incarnation is not None
        if incarnation.is_dead():
            await trio.sleep_forever()  # nobody needs the pages any more; the exit ends this task, too
        await end(self._container, incarnation)
        raise Lost(f"has lost a part of its memory: {why}", killed(incarnation.pid))

    async def pass_probes(self) -> None:
        await self._probes.pass_all()

    async def sleep(self) -> State:
        self._stages, pace = Stages(), Pace(self._nursery)
        try:
            await self._restorer.dropped()
            async with room(self._container):
                self._inventory = await self._checkpointer.checkpoint(pace, self._stages)
                state = await self._stand_by(pace)
        finally:
            await pace.end()
            if self._turn:
                self._turn.end()
        self._container.log.debug("stages of the sleep: %s", self._stages)
        return state

    def may_begin(self) -> bool:
        self._turn = self._turns.take()
        return self._turn is not None

    async def turn(self) -> None:
        await self._turns.free()

    # Standby

    async def _stand_by(self, pace: Pace) -> State:
        """From the image to standby; to COLD where that is not possible or makes no sense. Raises Lost."""
        container = self._container
        self.why_cold = self._no_standby() or self._too_large(pagemap.eager_bytes(container.store.images))
        if self.why_cold or self._traffic.waits():
            return State.COLD
        try:
            incarnation = await self._restorer.restore(lazy=True, stopped=True, started=pace.restores)
        except CriuError as error:
            return self._cold_instead(error)
        self._stages.end("restore")
        self._standby = Standby(container, incarnation, self._traffic)
        try:
            await self._standby.lie_down()
            self._stages.end("lie down")
            self._standby.watch()
            self._stages.end("watch")
        except (CgroupError, OSError) as error:
            self._traffic.silence(incarnation.pids())
            await end(container, incarnation)
            await self._leave_standby()
            self._traffic.processes_are_gone()
            return self._cold_instead(error)
        self._dozed, self._doze = False, None
        self._standby_since = trio.current_time()
        await pace.end()
        self._traffic.hand_over()
        self._stages.end("hand over")
        self._restorer.tidy()
        self._stages.end("tidy")
        await self._restorer.fill(self._checkpointer.programs)
        self._stages.end("fill")
        self.why_cold = self._too_large(incarnation.cgroup.resident_bytes())
        if self.why_cold:
            surplus = incarnation.cgroup.resident_bytes() - container.settings.standby_max_resident
            await trio.to_thread.run_sync(incarnation.cgroup.reclaim, surplus)
            self.why_cold = self._too_large(incarnation.cgroup.resident_bytes())
        return await self.cool() if self.why_cold else State.STANDBY

    def _no_standby(self) -> str:
        if not self._container.settings.standby:
            return "standby is switched off"
        if not self._network.can_hand_over:
            return "no standby: this kernel cannot hand over connections"
        return ""

    def _too_large(self, resident: int) -> str:
        limit = self._container.settings.standby_max_resident
        if resident <= limit:
            return ""
        return f"no standby: {mebibytes(resident)} would stay in memory, standby-max-resident is {mebibytes(limit)}"

    def _cold_instead(self, error: Exception) -> State:
        self.why_cold = f"no standby: {error}"
        self._container.log.warning("sleeps without standby: %s", error)
        return State.COLD

    async def cool(self) -> State:
        assert self._standby is not None
        if self._dozed:
            return await self._dump_again()
        try:
            if not await self._standby.vanish():
                return State.STANDBY
        except OSError as error:
            self._rise()
            raise SleepFailed(f"it cannot leave standby for the disk: {error}") from error
        await self._leave_standby()
        return State.COLD

    async def _dump_again(self) -> State:
        """It has dozed since its dump: it is woken for another one."""
        # After a doze that has left too much in memory it is not waited for a turn: requests wait already.
        pace, turn = Pace(self._nursery), self._turns.take()
        self._rise()
        try:
            await self.ready()
            await self._restorer.dropped()
            self._inventory = await self._checkpointer.checkpoint(pace, self._stages)
        except StillBusy as busy:
            raise SleepFailed(f"it cannot leave standby for the disk: {busy}") from busy
        finally:
            await pace.end()
            if turn:
                turn.end()
        return State.COLD

    async def _leave_standby(self) -> None:
        await self._restorer.kill()
        self._standby = None

    # Asleep

    def events(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        if self._standby:
            return (
                self._arrival,
                self._pager_lost,
                self._standby_over,
                self._probes.somebody,
                self._probes.probe,
            )
        return (self._connection, self._traffic.data, self._probes.somebody, self._probes.probe)

    async def _arrival(self) -> Event:
        """What has come in standby."""
        assert self._standby is not None
        event = await self._standby.event()
        return Event.PROBE if event is Event.CONNECTION and self._is_late_probe() else event

    async def _connection(self) -> Event:
        """Returns when somebody has connected to the container, which is COLD."""
        while True:
            event = await self._traffic.connection()
            if not self._is_late_probe():
                return event
            try:
                # One at a time: the next one that waits may have come since, and be somebody's.
                if connection := self._traffic.accept():
                    self._probes.take(connection)
            except OSError as error:
                self._container.log.warning("is woken for a probe: %s", error)
                return event

    def _is_late_probe(self) -> bool:
        """Whether what has come are probes that the kernel did not receive when they were sent; while nobody answers.

        Only somebody on this node waits for that, and where there are no probes not even he.
        """
        return self._probes.are_known and self._traffic.is_probers_alone()

    async def _pager_lost(self) -> Event:
        await self._restorer.lost()
        return Event.PAGER_LOST

    async def _standby_over(self) -> Event:
        await trio.sleep_until(self._standby_since + (self._container.settings.standby_duration or math.inf))
        if self._dozed:
            await self._turns.free()
        return Event.STANDBY_OVER

    # Dozing

    def doze(self) -> None:
        assert self._standby is not None
        if self._doze is None:
            self._doze = Doze(self._container, self._network, self._traffic, self._is_late_probe)
        self._dozed, self.why_awake = True, ""
        self._probes.look_at_nodes(on=True)
        self._doze.begins()
        self._standby.rise()
        self._probes.let_through()

    async def dozed(self) -> None:
        assert self._doze is not None
        if not self._doze.somebody:
            await self._probes.let_all_through()
            await self._doze.settled()

    async def lie_down(self) -> State:
        incarnation = self._container.incarnation
        assert self._standby is not None
        assert self._doze is not None
        assert incarnation is not None
        self.why_awake = self._doze.somebody
        if self.why_awake:
            return State.RUNNING
        if (state := self._probes.keep()) is not State.STANDBY:
            self.why_awake = "somebody has connected from the node while it ran for a probe"
            return state
        try:
            await self._standby.lie_down_again()
            self._probes.look_at_nodes(on=False)
            # Whoever comes later than this is not answered, and found by the watch.
            somebody = self._traffic.has_connected()
            if somebody and self._is_late_probe():
                return State.DOZING
            self.why_awake = "somebody has connected while it ran for a probe" if somebody else self._doze.use()
            if self.why_awake:
                return State.RUNNING
            self._standby.watch()
        except (CgroupError, OSError) as error:
            self.why_awake = f"it cannot lie down again: {error}"
            self._container.log.warning("is woken: %s", self.why_awake)
            return State.RUNNING
        self._doze = None
        self.why_cold = self._too_large(incarnation.cgroup.resident_bytes())
        return State.COLD if self.why_cold else State.STANDBY

    # Waking

    def hurry(self) -> None:
        if self._standby and not self._restorer.broken():
            self._standby.thaw()

    async def wake(self) -> None:
        if self._standby:
            broken = "" if self._standby.runs else self._restorer.broken()
            if not broken:
                self._rise()
                return
            if self._dozed:
                await self._lose(broken)
            self._container.log.error("cannot go on from standby, restoring it from the image: %s", broken)
            await self._standby.vanish(whatever_comes=True)
            await self._leave_standby()
        await self._restore()

    def _rise(self) -> None:
        assert self._standby is not None
        self._standby.rise()
        self._probes.open()
        self._restorer.drain()
        self._standby = None

    async def _restore(self) -> None:
        container = self._container
        failures = []
        if damage := container.store.damage(self._inventory):
            failures.append(f"the checkpoint was damaged while the container slept: {damage}")
        else:
            for lazy in ATTEMPTS:
                try:
                    await self._restorer.restore(lazy=lazy)
                except CriuError as error:
                    failures.append(str(error))
                    container.log.warning("%s restore failed: %s", "lazy" if lazy else "eager", error)
                else:
                    self._traffic.hand_over()
                    self._probes.open()
                    self._restorer.drain()
                    self._restorer.tidy()
                    return
        raise Lost("cannot be restored: " + "; then ".join(dict.fromkeys(failures)), killed(container.init.pid))

    # The end

    def abandon(self) -> None:
        if self._standby:
            self._standby.rise()
        self._traffic.hand_over()
        self._restorer.kept.close()
        self._container.store.drop_images()


def mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.0f} MiB"
