"""A container's way from STANDBY to its image on disk, and back.

Owns the image, and the order of a restore: memory that the image leaves out, and state that CRIU loses, are back before
the processes run; held connections are handed over once they run.
"""

import time
from collections.abc import Collection
from functools import partial
from typing import Protocol

import trio

from zeropod import paths
from zeropod.activator.hold.frozen import FrozenSockets
from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter, race
from zeropod.lifecycle.arrival import AdoptionFailed, Coming
from zeropod.lifecycle.cold.checkpointer import Checkpointer
from zeropod.lifecycle.cold.prospect import ColdProspect
from zeropod.lifecycle.cold.restorer import Restorer
from zeropod.lifecycle.cold.traffic import Traffic
from zeropod.lifecycle.departure import Departure
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.reservation import key_of
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle, Workload, sigkilled
from zeropod.runtime.errors import CriuError
from zeropod.runtime.exports.manifest import Manifest
from zeropod.runtime.exports.needs import of_this_node
from zeropod.runtime.images import Inventory
from zeropod.runtime.memory.backend import Stored
from zeropod.runtime.memory.backends import PAGES

ATTEMPTS = (True, False, False)
"""For each attempt to restore, whether it uses lazy pages."""


class Memory(Protocol):
    """The operations on STANDBY memory that a dump and a restore need."""

    def needed(self, init_process: InitProcess) -> int:
        """Return the bytes of memory needed once all of it is back."""

    async def leave(self, init_process: InitProcess) -> bool:
        """Prepare the processes for a dump that leaves out memory in the page store. Returns False if there is none."""

    async def bring_back(self) -> None:
        """Bring all memory back."""

    async def rejoin(self, init_process: InitProcess) -> None:
        """Give restored, stopped processes the memory that the image has left out."""

    def stored(self) -> Stored:
        """Return where the memory is that the image leaves out."""

    async def adopt(self, init_process: InitProcess, coming: Coming) -> None:
        """Give restored processes, which are stopped, their memory in an export."""

    def settle_in(self) -> None:
        """The files of the export are the container's own now."""

    async def let_go_of_export(self) -> None:
        """The restored processes are gone, and the export's files stay what they are."""


class ColdSleep:
    def __init__(self, workload: Workload, network: PodNetwork, nursery: TaskStarter, memory: Memory) -> None:
        self._workload = workload
        self._memory = memory
        self.traffic = Traffic(workload, network)
        self.prospect = ColdProspect(workload, network)
        self._restorer = Restorer(workload, nursery, self.traffic.silence)
        self._checkpointer = Checkpointer(workload, nursery, self.traffic, self._restorer.kept)
        self._inventory: Inventory = {}
        self.is_cold = False
        """Whether the processes have ended, and are not restored yet."""
        self.memory_needed = 0
        """Bytes of memory that it takes once all of it is back."""
        self._portable = False
        """Whether the image may be restored in another container."""
        self._carried = False
        """Whether the image leaves out memory in the page store."""

    @property
    def image_bytes(self) -> int:
        """Bytes of its image on disk; 0 if there is none."""
        return sum(file.size for file in self._inventory.values())

    async def complete(self) -> None:
        """Return when all memory is back after a restore. Raises CriuError if that fails."""
        await self._restorer.complete()
        self._inventory = {}

    # Down

    async def prepare(self, init_process: InitProcess, sockets: FrozenSockets) -> None:
        """Prepare the memory of the frozen container for a dump: CRIU leaves it out, or it is brought back. No request
        waits yet.

        Raises NotIdle when an event arrives meanwhile; MemoryFailed, MemoryLost.
        """
        self.memory_needed = self._memory.needed(init_process)
        self._carried = await self._memory.leave(init_process)
        if not self._carried:
            await self._bring_back(sockets)
        await self._restorer.dropped()

    async def _bring_back(self, sockets: FrozenSockets) -> None:
        life, back = self._workload.life, trio.Event()
        if life.leaves_awake:
            await self._memory.bring_back()
            return

        async def bring_back() -> None:
            await self._memory.bring_back()
            back.set()

        arrival = partial(sockets.event, self._workload.settings.ports)
        await race(bring_back, arrival, life.inhibited, life.wake_wanted.wait, life.nap_wanted.wait)
        if not back.is_set():
            raise NotIdle(Reason.SOMETHING.because())

    async def dump(self, init_process: InitProcess, sockets: FrozenSockets) -> None:
        """Dump the frozen container, whose memory is prepared, and end it. Raises the same as
        `Checkpointer.checkpoint`."""
        self._inventory = await self._checkpointer.checkpoint(init_process, sockets)
        self._portable = self._workload.portable
        self.is_cold = True

    # Elsewhere, and from there

    def export(self, departure: Departure) -> Manifest:
        """Make an export of it, which is COLD. Blocks. Raises BadExport, OSError; then it is COLD as before."""
        if not self._portable:
            raise CheckpointFailed(Reason.NOT_PORTABLE.because())
        return departure.make(
            images=self._workload.store.images,
            stored=self._memory.stored() if self._carried else None,
            rootfs=self._workload.runc.bundle / "rootfs",
            made=Manifest(
                source=departure.source,
                needs=of_this_node(),
                asleep=not departure.was_awake,
                noted=self.prospect.noted,
                memory_needed=self.memory_needed,
                made_at=time.time_ns(),
            ),
            data=not self._workload.settings.disable_migrate_data,
        )

    def take_back(self, departure: Departure) -> None:
        """Undo the export, which was withdrawn. Blocks. Raises OSError."""
        stored = self._memory.stored().directory if self._carried else None
        departure.export.give_back(self._workload.store.images, stored)

    async def adopt(self, coming: Coming) -> None:
        """Bring back the processes of an export, stopped. Raises AdoptionFailed; nothing is left of them then."""
        manifest = coming.manifest
        self.prospect.noted = manifest.noted

        async def complete(init_process: InitProcess) -> None:
            if manifest.carried:
                await self._memory.adopt(init_process, coming)
            self.prospect.reapply(init_process)
            await coming.commit()

        workload, may_move = self._workload, self._workload.portable
        workload.portable = True  # its connections are closed in the image, whatever this container's settings say
        try:
            await self._restorer.restore(lazy=False, before_it_runs=complete, images=coming.images, runs=False)
        except Exception as error:  # whatever it is, the container starts anew instead
            await self._memory.let_go_of_export()
            raise AdoptionFailed(str(error) or type(error).__name__) from error
        finally:
            workload.portable = may_move
        try:
            coming.settle(self._workload.store.images, paths.store(*key_of(self._workload)) / PAGES)
            self._memory.settle_in()
        except OSError as error:
            self._workload.log.error("what it came back from stays beside its own directory: %s", error)

    # Back

    async def restore(self) -> None:
        """Restore the processes, and hand over held connections. Raises ContainerLost if every attempt fails."""
        store, log = self._workload.store, self._workload.log
        if damage := store.damage(self._inventory):
            raise self._lost([f"the checkpoint was damaged while the container slept: {damage}"])
        failures = []
        before_they_run = self._complete if self._is_completed_before else None
        for lazy in ATTEMPTS:
            try:
                # Memory that the image leaves out comes from the page store, by a pager of its own.
                await self._restorer.restore(lazy=lazy and not self._carried, before_it_runs=before_they_run)
            except Exception as error:  # noqa: BLE001 - nothing is left of it, and the next attempt may work
                failures.append(str(error) if isinstance(error, CriuError) else f"{type(error).__name__}: {error}")
                log.warning("%s restore failed: %s", "lazy" if lazy else "eager", error)
            else:
                self.is_cold = False
                self.traffic.hand_over()
                return
        raise self._lost(failures)

    def finish_restore(self) -> None:
        """Clean up after a restore, once the processes run and no request waits."""
        self._restorer.drain()
        self._restorer.tidy()
        init_process = self._workload.init_process
        if init_process and not self._is_completed_before:
            self.prospect.reapply(init_process)

    @property
    def _is_completed_before(self) -> bool:
        """Return whether restored processes need something that the image lacks before they run."""
        return self._carried or self.prospect.loses_something

    async def _complete(self, init_process: InitProcess) -> None:
        """Give restored, stopped processes what the image lacks."""
        if self._carried:
            await self._memory.rejoin(init_process)
        self.prospect.reapply(init_process)

    def _lost(self, failures: Collection[str]) -> ContainerLost:
        kept = self._workload.store.keep()
        return ContainerLost(
            f"cannot be restored: {'; then '.join(dict.fromkeys(failures))}. Its image is kept in {kept}",
            sigkilled(self._workload.init.pid),
        )

    # The end

    def close(self) -> None:
        """Release the kept mounts."""
        self._restorer.kept.close()
