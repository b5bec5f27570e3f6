"""A container's way from STANDBY to its image on disk, and back: what happens in COLD, after it was decided.

Owns the image with what it leaves out, and the order in a restore: memory and what CRIU loses are back before the
processes run, what has waited for them is handed over once they do.
"""

from collections.abc import Collection
from functools import partial
from typing import Protocol

import trio

from zeropod.activator.hold.frozen import FrozenSockets
from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter, race
from zeropod.lifecycle.cold.checkpointer import Checkpointer
from zeropod.lifecycle.cold.prospect import ColdProspect
from zeropod.lifecycle.cold.restorer import Restorer
from zeropod.lifecycle.cold.traffic import Traffic
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import ContainerLost, NotIdle, Workload, sigkilled
from zeropod.runtime.errors import CriuError
from zeropod.runtime.images import Inventory

ATTEMPTS = (True, False, False)
"""Whether each attempt to restore from COLD is with lazy pages."""


class Memory(Protocol):
    """The memory of a container in STANDBY, as far as a dump and a restore have to do with it."""

    def needed(self, init_process: InitProcess) -> int:
        """Return how many bytes it takes once everything is in."""

    async def leave(self, init_process: InitProcess) -> bool:
        """Make the processes ready for a dump that leaves out what is in the page store; False where there is none."""

    async def bring_back(self) -> None:
        """Bring everything back in."""

    async def rejoin(self, init_process: InitProcess) -> None:
        """Give restored processes, which are stopped, what the image has left out."""


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
        """Whether the processes have ended, and were not brought back yet."""
        self.memory_needed = 0
        """Bytes of memory that it takes once all of it is back."""
        self._carried = False
        """Whether the image leaves out what is in the page store."""

    @property
    def image_bytes(self) -> int:
        """What its image takes on disk; 0 if there is none."""
        return sum(file.size for file in self._inventory.values())

    async def complete(self) -> None:
        """Return when all memory is back after a restore. Raises CriuError when it cannot be."""
        await self._restorer.complete()
        self._inventory = {}

    # Down

    async def prepare(self, init_process: InitProcess, sockets: FrozenSockets) -> None:
        """Have the memory of the frozen container where CRIU may leave it out, or back in; no request waits for that.

        Raises NotIdle when something comes meanwhile; MemoryFailed, MemoryLost.
        """
        self.memory_needed = self._memory.needed(init_process)
        self._carried = await self._memory.leave(init_process)
        if not self._carried:
            await self._bring_back(sockets)
        await self._restorer.dropped()

    async def _bring_back(self, sockets: FrozenSockets) -> None:
        life, back = self._workload.life, trio.Event()

        async def bring_back() -> None:
            await self._memory.bring_back()
            back.set()

        arrival = partial(sockets.event, self._workload.settings.ports)
        await race(bring_back, arrival, life.inhibited, life.wake_wanted.wait, life.nap_wanted.wait)
        if not back.is_set():
            raise NotIdle(Reason.SOMETHING.because())

    async def dump(self, init_process: InitProcess, sockets: FrozenSockets) -> None:
        """End the frozen container, whose memory is prepared, into an image. Raises as `Checkpointer.checkpoint`."""
        self._inventory = await self._checkpointer.checkpoint(init_process, sockets)
        self.is_cold = True

    # Back

    async def restore(self) -> None:
        """Bring the processes back, and what has waited to them. Raises ContainerLost when that is not possible."""
        store, log = self._workload.store, self._workload.log
        if damage := store.damage(self._inventory):
            raise self._lost([f"the checkpoint was damaged while the container slept: {damage}"])
        failures = []
        before_they_run = self._complete if self._is_completed_before else None
        for lazy in ATTEMPTS:
            try:
                # What the image leaves out comes from the page store, by a pager of its own.
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
        """Do what is left to do once the processes run, and nothing waits for it."""
        self._restorer.drain()
        self._restorer.tidy()
        init_process = self._workload.init_process
        if init_process and not self._is_completed_before:
            self.prospect.reapply(init_process)

    @property
    def _is_completed_before(self) -> bool:
        """Whether something is missing in the image that the application could notice."""
        return self._carried or self.prospect.loses_something

    async def _complete(self, init_process: InitProcess) -> None:
        """Give restored processes, which are stopped, what the image has left out."""
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
        """Let go of what does not go through the image."""
        self._restorer.kept.close()
