"""Dump a container in STANDBY to an image on disk: what is held, in which order, and how that is undone.

    start runc and CRIU ▶ hold the listeners ▶ lock established connections ▶ look once more ▶ dump

The container is frozen and watched all the time. Until the last look, any event ends the attempt, and leaves the
container in STANDBY. After it, connections wait for the restored container, or for the same one if CRIU fails.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from zeropod.activator.hold.frozen import FrozenSockets
from zeropod.concurrency import TaskStarter, race
from zeropod.lifecycle.cold.background import BackgroundPriority
from zeropod.lifecycle.cold.dump import DUMP, Dump
from zeropod.lifecycle.cold.terminate import terminate
from zeropod.lifecycle.cold.traffic import Traffic
from zeropod.lifecycle.idle.monitor import require_idle
from zeropod.lifecycle.idle.policy import Snapshot
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.reservation import disk_reservation
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle, Workload
from zeropod.runtime import criu, ipcns
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.command import nothing
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.images import Inventory
from zeropod.runtime.tmpfs import KeptMounts


class Checkpointer:
    """The checkpointer of one container; `kept` are mounts that do not go through the image."""

    def __init__(self, workload: Workload, nursery: TaskStarter, traffic: Traffic, kept: KeptMounts) -> None:
        self._workload = workload
        self._nursery = nursery
        self._traffic = traffic
        self._kept = kept

    async def checkpoint(self, init_process: InitProcess, sockets: FrozenSockets) -> Inventory:
        """Dump the frozen container, and end its processes; their connections stay held.

        Raises NotIdle if an event arrived or the state does not allow a dump, CheckpointFailed if CRIU failed: the
        container is frozen as before. Raises ContainerLost if its processes are gone without an image.
        """
        background = BackgroundPriority(self._nursery, self._workload.log)
        try:
            async with disk_reservation(self._workload):
                return await self._checkpoint(init_process, sockets, background)
        finally:
            await background.end()

    async def _checkpoint(
        self, init_process: InitProcess, sockets: FrozenSockets, background: BackgroundPriority
    ) -> Inventory:
        workload = self._workload
        dump: Dump | None = None
        try:
            workload.store.prepare()
            workload.configure_criu()
            options = criu.checkpoint_options(tcp_established=workload.keeps_connections)
            options += await self._pre_dump(background)
            self._keep_mounts(init_process)
            started = background.lower if workload.life.departure is None else nothing
            dump = Dump(workload, options, workload.criu_options(more=self._kept.for_dump()), started)
            self._nursery.start_soon(dump.run)
            await self._begun(dump, partial(sockets.event, workload.settings.ports))
            self._traffic.hold(init_process)
            if not workload.life.leaves_awake:
                self._look_once_more(sockets)
                self._watch(background)
            init_process.exit_expected = True
            return await self._dump(init_process, dump)
        except BaseException as error:  # on cancellation, too: release everything that is held
            with trio.CancelScope(shield=True):
                await self._undo(init_process, dump)
            if init_process.exit:
                raise ContainerLost(f"died in a checkpoint that failed: {error}", init_process.exit) from error
            if isinstance(error, OSError | CgroupError | CriuError):
                raise CheckpointFailed(Reason.DUMP_FAILED.because(error)) from error
            raise

    def _look_once_more(self, sockets: FrozenSockets) -> None:
        """Raises NotIdle when something has come for it."""
        life, ports = self._workload.life, self._workload.settings.ports
        is_wanted = life.wake_wanted.is_set() or life.nap_wanted.is_set()
        pending = Reason.SOMETHING.because() if sockets.ready(ports) else None
        require_idle(Snapshot(pending=pending, is_wanted=is_wanted))

    def _watch(self, background: BackgroundPriority) -> None:
        life = self._workload.life
        background.watch(self._traffic.connection, self._traffic.data, life.wake_wanted.wait, life.inhibited)

    async def _undo(self, init_process: InitProcess, dump: Dump | None) -> None:
        workload = self._workload
        if dump:
            await dump.stop()
            with suppress(OSError):  # options of this dump must not affect the next one
                workload.configure_criu()
        if init_process.exit_expected:
            self._traffic.leave_repair(init_process)
        self._traffic.hand_over()
        workload.store.drop_images()
        init_process.exit_expected = False

    def _keep_mounts(self, init_process: InitProcess) -> None:
        workload, kept = self._workload, self._kept
        pids = init_process.pids()
        if not pids:
            raise NotIdle(Reason.ENDING.because())
        try:
            if workload.portable:
                kept.close()
            elif "user" not in workload.spec.namespaces:
                kept.keep(pids, workload.spec.bind_mounts)
        except OSError as error:
            workload.log.warning("cannot keep its tmpfs mounts, they go to the image: %s", error)
            kept.close()

    async def _begun(self, dump: Dump, arrival: Callable[[], Awaitable[object]]) -> None:
        """Return when CRIU waits to begin. Raises NotIdle if an event arrives before."""
        life = self._workload.life
        try:
            if life.leaves_awake:
                await dump.ready()
                return
            await race(dump.ready, arrival, life.inhibited, life.wake_wanted.wait, life.nap_wanted.wait)
        except RuncError as error:
            raise criu.explain(self._workload.store.work / "dump.log", error) from error
        if not dump.is_ready:
            raise NotIdle(Reason.SOMETHING.because())

    async def _pre_dump(self, background: BackgroundPriority) -> list[str]:
        """Write most of the memory while the container can still be thawed, if set and possible; return CRIU's
        options."""
        workload, store = self._workload, self._workload.store
        if not workload.settings.pre_dump:
            return []
        try:
            await workload.runc.checkpoint(
                workload.id, store.predump, store.work, ["--pre-dump"], DUMP, background.lower
            )
        except RuncError as error:
            failure = criu.explain(store.work / "dump.log", error)
            workload.log.warning("the pre-dump failed, the checkpoint is taken without it: %s", failure)
            return []
        return ["--parent-path", "../predump"]

    async def _dump(self, init_process: InitProcess, dump: Dump) -> Inventory:
        workload, store = self._workload, self._workload.store
        stats = workload.stats_awake()
        ipc = workload.spec.namespaces.get("ipc")
        segments = ipcns.attached(init_process.pids(), ipc) if ipc else frozenset()
        try:
            await dump.go()
        except RuncError as error:
            if not criu.has_dumped(store.work / "dump.log"):
                raise criu.explain(store.work / "dump.log", error) from error
            workload.log.warning("CRIU died after the dump, before it had ended the processes; ending them: %s", error)
            await terminate(workload, init_process)
        await init_process.exited.wait()
        workload.slept = stats
        if ipc:
            ipcns.separate(store.images, ipc, segments)
        inventory = store.inventory()
        self._traffic.processes_are_gone()
        return inventory
