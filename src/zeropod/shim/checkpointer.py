"""From a container that runs to its image: what has to be held still, in which order, and how it is undone.

    freeze ▶ hold the listeners ▶ lock established connections ▶ look again ▶ dump

Each step up to the dump's end can be undone: then the container goes on as if nothing had been.
"""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.activator.first import first_of
from zeropod.activator.network import PodNetwork
from zeropod.kernel import mapped_files
from zeropod.kernel.mapped_files import Noted
from zeropod.runtime import criu, ipcns
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.images import Inventory
from zeropod.runtime.tmpfs import KeptMounts
from zeropod.shim.dump import DUMP, Dump
from zeropod.shim.ending import end
from zeropod.shim.incarnation import Incarnation
from zeropod.shim.pace import Pace
from zeropod.shim.probes import Probes
from zeropod.shim.stages import Stages
from zeropod.shim.standby import FREEZE
from zeropod.shim.traffic import Traffic
from zeropod.shim.way import Lost, SleepFailed, StillBusy

if TYPE_CHECKING:
    from zeropod.shim.container import Container


class Checkpointer:
    """One container's; `kept` is what does not go through the image."""

    def __init__(
        self,
        container: "Container",
        network: PodNetwork,
        nursery: trio.Nursery,
        traffic: Traffic,
        probes: Probes,
        kept: KeptMounts,
    ) -> None:
        self._container = container
        self._network = network
        self._nursery = nursery
        self._traffic = traffic
        self._probes = probes
        self._kept = kept
        self.still_since = 0.0
        """When requests began to wait, the last time; of time.monotonic()."""
        self.programs: Noted = {}
        """What its processes had used of their programs when they fell asleep."""

    async def checkpoint(self, pace: Pace, stages: Stages) -> Inventory:
        """Its processes are gone then, and what comes for them is held. Raises StillBusy or SleepFailed when they run
        on, Lost when they do not."""
        container, incarnation = self._container, self._container.incarnation
        assert incarnation is not None
        dump: Dump | None = None
        ports = self._network.listening_ports(incarnation.socket_inodes())
        before = self._network.activity(ports)
        try:
            container.store.prepare()
            container.configure_criu()
            options = criu.checkpoint_options(tcp_established=container.settings.tcp_established)
            options += await self._pre_dump(pace)
            self._keep_mounts(incarnation)
            if container.settings.standby:
                self.programs = await trio.to_thread.run_sync(mapped_files.note, incarnation.pids())
            kept = self._kept
            dump = Dump(container, options, container.criu_options(more=kept.for_dump()), pace.dumps)
            self._nursery.start_soon(dump.run)
            await self._begun(dump)
            await self._probes.shut(incarnation, ports)
            self.still_since = time.monotonic()
            stages.end("prepare")
            await incarnation.cgroup.freeze(trio.current_time() + FREEZE)
            stages.end("freeze")
            await self._traffic.hold(incarnation, ports, before)
            if kept.changed(incarnation.pids()):
                raise StillBusy("it has just mounted or unmounted something")
            life = container.life
            pace.watch(self._traffic.connection, self._traffic.data, life.wake_wanted.wait, life.held)
            incarnation.exit_expected = True
            stages.end("hold")
            inventory = await self._dump(incarnation, dump, stages)
            stages.end("inventory")
        except BaseException as error:  # cancelled, too: whatever is held is let go of
            if dump:
                await dump.stop()
                with suppress(OSError):  # what was for this dump alone must not get into anybody else's
                    container.configure_criu()
            await pace.end()
            if incarnation.exit_expected:
                self._traffic.leave_repair(incarnation)
            self._traffic.hand_over()
            self._probes.open()
            container.store.drop_images()
            incarnation.exit_expected = False
            if incarnation.exit:
                raise Lost(f"died in a checkpoint that failed: {error}", incarnation.exit) from error
            if isinstance(error, OSError | CgroupError | CriuError):
                raise SleepFailed(f"its checkpoint failed: {error}") from error
            raise
        finally:
            # However it went, cancelled too: nothing may stay frozen.
            incarnation.cgroup.thaw()
        return inventory

    def _keep_mounts(self, incarnation: Incarnation) -> None:
        container, kept = self._container, self._kept
        pids = incarnation.pids()
        if not pids:
            raise StillBusy("it is about to end")
        try:
            if "user" not in container.spec.namespaces:
                kept.keep(pids, container.spec.bind_mounts)
        except OSError as error:
            container.log.warning("its tmpfs mounts go to the image, since they cannot be kept: %s", error)
            kept.close()

    async def _begun(self, dump: Dump) -> None:
        """Until CRIU waits for the freeze, or somebody waits for the container, which still runs."""
        life = self._container.life
        try:
            await first_of(dump.ready, life.held, life.wake_wanted.wait)
        except RuncError as error:
            raise criu.explain(self._container.store.work / "dump.log", error) from error
        if not dump.is_ready:
            raise StillBusy("a request came at the last moment")

    async def _pre_dump(self, pace: Pace) -> list[str]:
        """Writes most of the memory while the container still runs, where that is wanted and possible."""
        container, store = self._container, self._container.store
        if not container.settings.pre_dump:
            return []
        try:
            await container.runc.checkpoint(container.id, store.predump, store.work, ["--pre-dump"], DUMP, pace.dumps)
        except RuncError as error:
            failure = criu.explain(store.work / "dump.log", error)
            container.log.warning("the pre-dump failed, the checkpoint is taken without it: %s", failure)
            return []
        return ["--parent-path", "../predump"]

    async def _dump(self, incarnation: Incarnation, dump: Dump, stages: Stages) -> Inventory:
        container, store = self._container, self._container.store
        stats = container.stats_awake()
        ipc = container.spec.namespaces.get("ipc")
        segments = ipcns.attached(incarnation.pids(), ipc) if ipc else frozenset()
        try:
            await dump.go()
        except RuncError as error:
            if not criu.has_dumped(store.work / "dump.log"):
                raise criu.explain(store.work / "dump.log", error) from error
            container.log.warning("CRIU did not live to end what it had dumped: %s", error)
            await end(container, incarnation)
        stages.end("dump")
        await incarnation.exited.wait()
        container.slept = stats
        if ipc:
            ipcns.sort_out(store.images, ipc, segments)
        inventory = store.inventory()
        self._traffic.processes_are_gone()
        return inventory
