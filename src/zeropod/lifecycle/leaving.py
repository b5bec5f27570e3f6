"""The part of a suspended container's sleep that ends elsewhere: from the wish to leave to the export, and back.

Owns what has been exported, and that it comes back by one way only: `withdraw`, which decides on disk first. A
container that was given never runs here again.

    STANDBY: look for what CRIU would lose ▶ move memory to files ▶ dump
    running: the same look, frozen for a moment ▶ move memory to files, frozen for moments ▶ freeze ▶ dump
    COLD:    export ▶ given: it has left; or withdraw ▶ restore
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from zeropod.lifecycle.cold.cold_sleep import ColdSleep
from zeropod.lifecycle.departure import Departure
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Event
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.standby.memory import StandbyMemory
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, Departed, Workload, sigkilled
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.memory.backend import MemoryFailed

Arrivals = Sequence[Callable[[], Awaitable[Event]]]


class Leaving:
    def __init__(self, workload: Workload, memory: StandbyMemory, cold: ColdSleep) -> None:
        self._workload = workload
        self._memory = memory
        self._cold = cold
        self._exported: Departure | None = None

    @property
    def has_exported(self) -> bool:
        """Whether its image and memory are in an export."""
        return self._exported is not None

    async def standby_over(self) -> Event:
        """Return when a container in STANDBY may be dumped, to leave; or has to wake up, since it ran and may not."""
        life = self._workload.life
        while True:
            await life.leave_wanted.wait()
            init_process = self._workload.init_process
            assert init_process is not None
            was_awake = life.leaves_awake
            if not self._is_wanted() or (against := await self._against(init_process)):
                self.refuse(against if self._is_wanted() else None)
                if was_awake:
                    return Event.WANTED
                continue
            self._workload.portable = True
            await self._memory.to_files(init_process)
            return Event.STANDBY_OVER

    async def or_stay(self, dump: Callable[[], Awaitable[Event]]) -> Event:
        """Dump it; what does not become an image does not leave, and runs again if it ran."""
        event, why, was_awake = Event.FAILED, None, self._workload.life.leaves_awake
        try:
            event = await dump()
        except CheckpointFailed as failure:
            why = failure.explanation
            raise
        finally:
            if event is not Event.DUMPED:
                self.refuse(why or (self._workload.life.explanation if event is Event.KEPT else None))
        return Event.WANTED if event is Event.KEPT and was_awake else event

    def _is_wanted(self) -> bool:
        departure = self._workload.life.departure
        return departure is not None and not departure.is_over

    async def _against(self, init_process: InitProcess) -> Explanation | None:
        await self._memory.moved()  # a process that is being moved is traced, by us
        return await self._cold.prospect.examine(init_process, self._memory.descriptors)

    def refuse(self, why: Explanation | None) -> None:
        """It stays here, where it was to leave."""
        life = self._workload.life
        if life.departure and not self.has_exported:
            life.departure.refuse(why or Reason.CAME.because())
            self._workload.log.warning("does not leave: %s", life.departure.why)
            life.stay()
            self._memory.stays()

    async def bring_to_rest(self, freeze: Callable[[], Awaitable[None]], thaw: Callable[[], None]) -> Event:
        """Freeze a container that runs, once what CRIU would lose was looked for and little memory is left to move.

        Raises CheckpointFailed, and it does not leave.
        """
        life, init_process = self._workload.life, self._workload.init_process
        assert life.departure is not None
        assert init_process is not None
        life.departure.was_awake = True
        try:
            await freeze()
            against = await self._against(init_process)
            thaw()
            if against:
                raise CheckpointFailed(against)
            self._workload.portable = True
            await self._memory.shrink(init_process, freeze, thaw)
            await freeze()
        except BaseException as error:  # cancelled, too: what waits for the export is told
            if isinstance(error, OSError | CgroupError | MemoryFailed):
                error = CheckpointFailed(Reason.CANNOT_LEAVE.because(error))
            self.refuse(error.explanation if isinstance(error, CheckpointFailed) else None)
            raise error
        return Event.FROZEN

    async def wanted(self) -> Event:
        """Return when a container that is COLD is to leave."""
        await self._workload.life.leave_wanted.wait()
        return Event.LEAVE

    async def export(self) -> None:
        """Make the export, or say why not: it is COLD as before then, or comes back if it ran."""
        departure = self._workload.life.departure
        assert departure is not None
        was_awake, why = departure.was_awake, None
        if not departure.is_over:
            try:
                manifest = await trio.to_thread.run_sync(self._cold.export, departure)
            except CheckpointFailed as failure:
                why = failure.explanation
            except (BadExport, OSError, ValueError) as error:
                why = Reason.CANNOT_LEAVE.because(error)
            else:
                self._exported = departure
                departure.has_exported(manifest)
                self._workload.log.info("is exported to %s", departure.export.directory)
                return
        self.refuse(why)
        if was_awake:
            self._workload.life.wake_wanted.set()

    def arrivals(self, usual: Arrivals) -> Arrivals:
        """What can happen to it once it is exported; `usual` is what wakes from COLD."""
        assert self._exported
        return (self._ended, *(usual if self._exported.wakes else ()))

    async def _ended(self) -> Event:
        departure = self._exported
        assert departure
        if not await departure.ended():
            return Event.WANTED
        if departure.address:
            await self._cold.traffic.pass_on(departure.address, departure.passes_on_for)
        raise self._departed(departure)

    def _departed(self, departure: Departure) -> Departed:
        return Departed(f"it goes on from {departure.export.directory}", self._workload.init.pid)

    async def withdraw(self) -> None:
        """Before a restore: take back what was exported. Raises Departed where it was given, ContainerLost."""
        if (departure := self._exported) is None:
            return
        try:
            decision = await trio.to_thread.run_sync(departure.export.decide, Decision.WITHDRAWN)
            if decision is Decision.WITHDRAWN:
                await trio.to_thread.run_sync(self._cold.take_back, departure)
        except (BadExport, OSError) as error:
            # Whether it runs elsewhere cannot be known: then it must not run here.
            raise ContainerLost(
                f"its export cannot be taken back: {error}", sigkilled(self._workload.init.pid)
            ) from error
        if decision is Decision.GIVEN:
            raise self._departed(departure)
        self._exported = None
        departure.end(given=False)
        self._workload.log.info("has taken back its export")
        self._workload.life.stay()
        self._memory.stays()

    def close(self) -> None:
        """The container ends: an export that nothing has taken, and nothing may take later, goes with it. Blocks."""
        departure, self._exported = self._exported, None
        if departure is None or departure.wakes or departure.is_kept:
            return
        try:
            if departure.export.decide(Decision.WITHDRAWN) is Decision.WITHDRAWN:
                departure.export.remove()
        except (BadExport, OSError) as error:
            self._workload.log.warning("its export is left: %s", error)
