"""Where one container's memory goes in STANDBY: its backend, and the move in the background.

Owns the choice at each sleep, the task that moves memory out, and the report of it. A backend that still holds pages of
the container is kept: another one is chosen only when all memory is back.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from zeropod import paths
from zeropod.concurrency import TaskStarter, race
from zeropod.lifecycle.admission import AdmissionSlots
from zeropod.lifecycle.arrival import Coming
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.reservation import key_of, reserve
from zeropod.lifecycle.standby.shrinking import shrink
from zeropod.lifecycle.strategy import MemoryReport, Workload
from zeropod.runtime import budget
from zeropod.runtime.memory import backends, choice
from zeropod.runtime.memory.backend import Backend, Kind, LeftOut, MemoryFailed, MemoryLost, Stored, Usage
from zeropod.runtime.memory.store import StoreBackend
from zeropod.runtime.memory.userfault.cold import InStore
from zeropod.runtime.memory.userfault.store import PageStore

GROWN = 8 << 20
"""Bytes of memory that a nap may bring back without another move: a move costs some milliseconds of CPU."""


class StandbyMemory:
    def __init__(self, workload: Workload, nursery: TaskStarter) -> None:
        self._workload = workload
        self._nursery = nursery
        self._backend: Backend | None = None
        self._slots = AdmissionSlots()
        self._scope = trio.CancelScope()
        self._idle = trio.Event()
        self._idle.set()
        self._left = 0
        self._faults_counted = 0
        self._choice = ""
        self._changed = trio.Event()
        self._left_out: LeftOut | None = None
        """What the image, or the one that is being made, leaves out."""
        self._adopted: InStore | None = None
        """The memory of an export, whose files are not its own yet."""
        self._ran_since = 0.0
        self._has_run = trio.Event()
        self._leaves = False
        """Whether it is about to leave: its memory has to be in files, not in this node's swap."""
        self.why: Explanation | None = None
        """Why this backend was chosen, or why the memory stays."""

    @property
    def kind(self) -> Kind:
        """The backend that the container has."""
        return self._backend.kind if self._backend else Kind.RESIDENT

    @property
    def usage(self) -> Usage:
        """The amounts that the backend has moved."""
        return self._backend.usage if self._backend else Usage()

    @property
    def descriptors(self) -> frozenset[tuple[int, int]]:
        """The descriptors that the backend has opened in the processes: (pid, number)."""
        return self._backend.descriptors if self._backend else frozenset()

    def report(self, init_process: InitProcess) -> MemoryReport | None:
        """Return where the memory is; None before the first move. Reads a file or two of the cgroup."""
        if self.why is None:
            return None
        usage = self.usage
        self._count_faults(usage)
        return MemoryReport(self.kind, self.why, usage, init_process.cgroup.resident_bytes(), self.moves)

    def needed(self, init_process: InitProcess) -> int:
        """Return the bytes of memory needed once all is back. Memory that is out is charged to no cgroup."""
        return self.usage.out + init_process.cgroup.resident_bytes()

    def _count_faults(self, usage: Usage) -> None:
        # A backend counts from 0 again after each move.
        new = usage.faults - self._faults_counted if usage.faults >= self._faults_counted else usage.faults
        self._workload.metrics.memory_faults_total += new
        self._faults_counted = usage.faults

    def begin(self, init_process: InitProcess) -> None:
        """Start to move out the memory of the frozen processes, unless the last nap brought back little of it."""
        if self._left and init_process.cgroup.resident_bytes() < self._left + GROWN:
            return
        self._left = 0
        before, self._scope, self._idle = self._idle, trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._move, init_process, before, self._scope, self._idle)

    async def _move(
        self, init_process: InitProcess, before: trio.Event, scope: trio.CancelScope, idle: trio.Event
    ) -> None:
        try:
            with trio.CancelScope(shield=True):
                await before.wait()  # for the end of a move that was cut just now
            began = trio.current_time()
            with scope:
                await self._move_out(init_process)
            if self._backend and self._backend.ran and not scope.cancel_called:
                self._ran_since = began
                self._has_run.set()
        finally:
            idle.set()
            self._workload.life.tell()

    async def _move_out(self, init_process: InitProcess) -> None:
        while (slot := self._slots.try_acquire()) is None:
            await self._slots.wait_free()
        try:
            backend = await self._choose(init_process)
            self.why = Reason.MEMORY_BACKEND.because(self._choice)
            self._count_faults(backend.usage)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await backend.move_out(init_process.pids())
            finally:
                self._workload.metrics.memory_written_bytes_total += backend.usage.written
            await backend.fill()
            self._left = max(1, init_process.cgroup.resident_bytes())
            left = (f"process {pid} stays in memory: it {why}" for pid, why in backend.left.items())
            self.why = Reason.MEMORY_BACKEND.because("; ".join([self._choice, *left]))
        except MemoryLost as error:
            # `watch_memory` raises this, too, and ends the container.
            self._workload.log.error("its memory cannot be brought back: %s", error)
        except (MemoryFailed, OSError) as error:
            self.why = Reason.MEMORY_STAYS.because(error)
            self._workload.log.warning("in STANDBY, but its memory stays: %s", error)
        finally:
            slot.release()
            budget.release(key_of(self._workload))

    async def _choose(self, init_process: InitProcess) -> Backend:
        present = init_process.cgroup.resident_bytes()
        in_swap = self._leaves and self.kind is Kind.SWAP
        if self._backend is None or not self._backend.usage.out or in_swap:
            facts = await trio.to_thread.run_sync(choice.facts)
            settings = self._workload.settings
            for_a_dump = self._leaves or not settings.standby
            kind, self._choice = choice.choose(settings.standby_memory, facts, present, for_a_dump=for_a_dump)
            if self._backend is None or self._backend.kind is not kind:
                if self._backend:  # closing alone would end the pager, and page faults would wait for ever
                    await self._backend.bring_back()
                await self.close()
                self._backend = self._make(kind, init_process)
        return self._backend

    async def shrink(
        self, init_process: InitProcess, freeze: Callable[[], Awaitable[None]], thaw: Callable[[], None]
    ) -> None:
        """Move the memory of a container that runs to files, frozen for moments, until little is left to move.

        Raises MemoryFailed, MemoryLost, OSError, CgroupError; it runs then.
        """
        self._leaves, self._left = True, 0
        await self._idle.wait()
        backend = await self._choose(init_process)
        self.why = Reason.MEMORY_BACKEND.because(self._choice)
        if isinstance(backend, StoreBackend):
            backend.renews = False
            await shrink(init_process, backend, freeze, thaw)

    async def to_files(self, init_process: InitProcess) -> None:
        """Move the memory of the frozen container to where an image may leave it out, as far as that is possible."""
        if self._leaves and self._left and not self.moves:
            return  # it was on its way out already when it was frozen
        self._leaves, self._left = True, 0
        self.begin(init_process)
        await self.moved()

    def stays(self) -> None:
        """It does not leave, after all."""
        self._leaves = False
        if isinstance(self._backend, StoreBackend):
            self._backend.renews = True

    def stored(self) -> Stored:
        """Return where the memory is that the image leaves out."""
        assert self._left_out
        return self._left_out.stored()

    async def adopt(self, init_process: InitProcess, coming: Coming) -> None:
        """Give restored processes, which are stopped, their memory in an export. Raises MemoryFailed, MemoryLost.

        Until `settle_in` the export's files are not this container's.
        """
        backend = self._make(Kind.STORE, init_process)
        assert isinstance(backend, StoreBackend)
        self._backend, self._choice = backend, "page store, as it came"
        self._adopted = backend.adopt(
            PageStore(coming.store, coming.open_files()), coming.indexes, coming.manifest.working_set
        )
        self.why = Reason.MEMORY_BACKEND.because(self._choice)
        await self._adopted.rejoin(init_process.pids())

    def settle_in(self) -> None:
        """The files of the export are in this container's own directory now."""
        if self._adopted:
            self._adopted.has_moved(self._directory / backends.PAGES)
        self._adopted = None

    async def let_go_of_export(self) -> None:
        """The restored processes are gone, and the export's files stay what they are."""
        if self._adopted:
            await self._adopted.processes_ended()
            self._adopted.detach()
        self._adopted = None
        await self.close()

    @property
    def _directory(self) -> Path:
        return paths.store(self._workload.runc.namespace, self._workload.id)

    def _make(self, kind: Kind, init_process: InitProcess) -> Backend:
        workload, directory = self._workload, self._directory
        paths.make_private(directory)
        backend = backends.make(
            kind, init_process.cgroup, directory, self._nursery, say=workload.log.warning, reserve=self._reserve
        )
        self._changed.set()
        self._changed = trio.Event()
        return backend

    def _reserve(self, need: int) -> str:
        words, _ = reserve(key_of(self._workload), need, "its memory", beside=True)
        return words

    @property
    def moves(self) -> bool:
        """Whether memory is being moved out now."""
        return not self._idle.is_set()

    async def moved(self) -> None:
        """Return when no memory is being moved out any more."""
        await self._idle.wait()

    async def ran(self) -> float:
        """Return when a move has let a process run that it could not stop; the result is since when (trio's time)."""
        await self._has_run.wait()
        self._has_run = trio.Event()
        return self._ran_since

    def cut(self) -> None:
        """Interrupt a move: the container is about to run. Returns at once."""
        self._has_run = trio.Event()
        self._scope.cancel()
        if self._backend:
            self._backend.cut()
        if not self._idle.is_set():
            self._left = 0

    def woke(self) -> None:
        """Record a wake: the next sleep begins with a move."""
        self._left = 0
        if self._backend:
            self._backend.woke()

    async def bring_back(self) -> None:
        """Bring everything back in. Raises MemoryLost."""
        await self._idle.wait()
        if self._backend:
            await self._backend.bring_back()

    async def leave(self, init_process: InitProcess) -> bool:
        """Prepare the frozen processes for a dump without the memory in the page store. Returns False if there is none.

        Raises MemoryFailed, MemoryLost.
        """
        await self._idle.wait()
        self._left_out = await self._backend.leave(init_process.pids()) if self._backend else None
        return self._left_out is not None

    async def ended(self) -> None:
        """Record that the processes have ended, and are in an image."""
        if self._left_out:
            await self._left_out.processes_ended()
        else:
            await self.close()

    async def rejoin(self, init_process: InitProcess) -> None:
        """Give restored, stopped processes the memory that the image left out. Raises MemoryFailed, MemoryLost."""
        assert self._left_out
        await self._left_out.rejoin(init_process.pids())

    async def lost(self) -> str:
        """Wait until pages that were moved out are lost, and return why."""
        while True:
            backend, changed = self._backend, self._changed
            if backend is None:
                await changed.wait()
            elif lost := await race(backend.lost, partial(_changed, changed)):
                return lost

    async def close(self) -> None:
        """Release the backend: the processes are gone, or have all their memory."""
        backend, self._backend = self._backend, None
        self.why = None
        if backend:
            await backend.close()


async def _changed(changed: trio.Event) -> str:
    await changed.wait()
    return ""
