"""One container: containerd's requests to it, in any state.

Owns the order: no event before its cause, no runc command in a state that does not allow it (by the table of
`lifecycle`), the exit of the init process last. The controller puts it to sleep and wakes it; `create` creates it.
"""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from google.protobuf.message import Message

from zeropod import paths
from zeropod.kernel import mount, namespace
from zeropod.kernel.pidfd import ExitStatus
from zeropod.launch.start import group_of
from zeropod.lifecycle.arrival import Arrival
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.defaults import Resolution
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Answer, Event, Life, Request, State, decide
from zeropod.lifecycle.reasons import Reason
from zeropod.rpc.messages import events_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime import cgroups, criu
from zeropod.runtime.cgroups import Metrics
from zeropod.runtime.command import Started
from zeropod.runtime.errors import RuncError
from zeropod.runtime.images import ImageStore
from zeropod.runtime.runc import Runc
from zeropod.runtime.spec import CONTAINER_NAME, Spec
from zeropod.shim import adoption, limits
from zeropod.shim.delete import REMOVED
from zeropod.shim.errors import FINISHED, refused, reported
from zeropod.shim.execs import Execs
from zeropod.shim.pod import Pod
from zeropod.shim.process import Command, Process
from zeropod.shim.stop import Stop

log = logging.getLogger(__name__)

CONTROLLER_STARTS = 0.05
"""Seconds after the start. The kernel takes milliseconds to load the eBPF program, and containerd should get its
response first. Nothing is missed, because the start itself counts as activity."""

LAST_EXECS = 10.0
"""Seconds that the exit of the init process waits for those of its execs, which the kernel has killed by then."""

LAST_KILLS = 10.0
"""Seconds that the exit of the init process waits for signals that runc is delivering."""

LAST_EVENTS = 1.0
"""Seconds that the exit waits until containerd has received the event that memory ran out."""

RESTORE = 120.0
"""Seconds for a restore from a checkpoint that containerd supplies."""

CHECKPOINT = 300.0
"""Seconds for a checkpoint by containerd, whatever its size."""


class Container:
    def __init__(self, id: str, spec: Spec, resolution: Resolution, runc: Runc, init: Process, pod: Pod) -> None:
        self.id = id
        self.spec = spec
        self.resolution = resolution
        self.settings = resolution.settings
        self.runc = runc
        self.init = init
        self.pod = pod
        self.life = Life()
        self.metrics = pod.metrics_of(self.name)
        self.log = logging.LoggerAdapter(log, {"container": id})
        self.execs = Execs(self)
        self.store = ImageStore.of(runc.namespace, id)
        self.controller: Controller | None = None
        self.init_process: InitProcess | None = None
        """The present one, or the last one while it is COLD."""
        self.portable = self.settings.may_move
        """Whether what it leaves on disk may come back in another container."""
        self.slept: Metrics | None = None
        """The accumulated statistics of its earlier init processes, up to the last sleep."""
        self.io_owner = (0, 0)
        """User and group that own its pipes."""
        self.criu_configuration = ""
        """CRIU options of the user."""
        self.restore_from: Path | None = None
        """An image from which it starts, as asked by containerd, instead of running its program from the start."""
        self.pinned_network: Path | None = None
        """The network namespace that was made for it and goes with it."""
        self.asked_to_leave = False
        """Whether a person wants it to move at its next stop."""
        self._stop = Stop(self)
        self.has_started = trio.Event()
        """Set when it was started, if it has come back."""
        self.arrival: Arrival | None = None
        """What it has come back with, instead of being created."""
        self._starting = trio.Lock()
        """Held from before the program starts until that is announced, so that no exit is announced before."""
        self._ran_out_of_memory = False

    def publish(self, event: Message) -> None:
        self.pod.publisher.publish(event)

    @property
    def name(self) -> str:
        """Its name in the pod; empty without a pod."""
        return self.spec.annotations.get(CONTAINER_NAME, "")

    @property
    def keeps_connections(self) -> bool:
        """Whether established connections go through its image. Elsewhere they would have another address."""
        return self.settings.tcp_established and not self.portable

    @property
    def probes_answered(self) -> int:
        """The number of probes answered in its place, its predecessors of the same name included."""
        return self.metrics.probes_answered + (self.controller.probes_answered if self.controller else 0)

    @property
    def group(self) -> str:
        """The common name of this shim's containers: the pod's sandbox, or what ctr calls a group."""
        return group_of(self.id, self.spec.annotations)

    @property
    def pid_file(self) -> Path:
        return self.runc.bundle / "init.pid"

    @asynccontextmanager
    async def allowed(self, request: Request) -> AsyncIterator[Answer]:
        """Allow a request, after waiting or waking by the table; the state does not change inside the block. Raises
        RpcError if the state does not allow it."""
        with self.life.inhibit(Reason.REQUEST.because(request.name.lower())):
            while (answer := decide(self.life.state, request)) in (Answer.WAIT, Answer.WAKE, Answer.NAP):
                if answer is Answer.WAKE:
                    self.life.wake_wanted.set()
                if answer is Answer.NAP:
                    self.life.nap_wanted.set()
                await self.life.changed()
            if self.life.pretended and decide(self.life.pretended, request) is Answer.WAKE:
                self.life.wake_wanted.set()
            if answer is Answer.GONE:
                raise RpcError(Code.NOT_FOUND, FINISHED)
            if answer is Answer.REFUSE:
                raise refused(request, self.life.state)
            yield answer

    # Start and exit

    async def create(self) -> None:
        """Create it in runc, without starting its program. Raises RpcError."""
        with reported("OCI runtime create failed"):
            await self._begin(lambda console: self.runc.create(self.id, self.init.io.streams, self.pid_file, console))

    @property
    def has_come_back(self) -> bool:
        """Whether its processes came back out of an export, instead of being created."""
        return self.arrival is not None

    async def start(self) -> int:
        """Start the init process, and return its pid. Raises RpcError."""
        async with self.allowed(Request.START), self._starting:
            if self.arrival:
                return await adoption.start(self, self.arrival)
            if self.restore_from:
                await self._restore_given_checkpoint(self.restore_from)
            else:
                with reported("OCI runtime start failed"):
                    await self.runc.start(self.id)
            self.life.happen(Event.START)
            self.publish(events_pb2.TaskStart(container_id=self.id, pid=self.init.pid))
        if self.controller:
            self.pod.nursery.start_soon(self._sleep_from_now_on, self.controller)
        return self.init.pid

    async def _sleep_from_now_on(self, controller: Controller) -> None:
        await trio.sleep(CONTROLLER_STARTS)
        if self.life.state is not State.STOPPED:
            await controller.run()

    async def _restore_given_checkpoint(self, images: Path) -> None:
        work = self.runc.bundle / "criu-work"
        work.mkdir(mode=0o700, exist_ok=True)
        with reported("OCI runtime restore failed"):
            await self._begin(
                lambda console: self.runc.restore(
                    self.id, images, work, self.init.io.streams, self.pid_file, (), RESTORE, console
                )
            )

    async def _begin(self, command: Command) -> None:
        """Let runc create the first init process. Raises StdioError, RuncError."""
        await self.run_command(self.init, command)
        self.live()
        self.begin_copying()

    def begin_copying(self) -> None:
        """Copy its streams from now on, until they end."""
        self.pod.nursery.start_soon(self.init.io.copy, self._input)

    async def run_command(self, process: Process, command: Command) -> None:
        """Let runc create a process in it, with its streams. Raises StdioError, RuncError."""
        await process.create(command, self.io_owner, self.id, self.runc.namespace)

    async def start_afresh(self) -> None:
        """Start its program anew, with the same streams. Raises RpcError."""
        with reported("OCI runtime create failed"):
            await self.runc.create(self.id, self.init.io.streams, self.pid_file)
            self.live()
            await self.runc.start(self.id)

    def configure_criu(self, *, stopped: bool = False, more: Sequence[str] = ()) -> None:
        """Write CRIU's configuration for its next dump or restore. Raises OSError."""
        self.store.config.write_text(self.criu_options(stopped=stopped, more=more))

    def criu_options(self, *, stopped: bool = False, more: Sequence[str] = ()) -> str:
        """Return the text of that configuration."""
        return criu.configuration(
            self.criu_configuration, tcp_established=self.keeps_connections, stopped=stopped, more=more
        )

    async def restore(
        self, images: Path, work: Path, options: Sequence[str], timeout: float, started: Started
    ) -> InitProcess:
        """Restore its processes from an image, with the same streams. Raises RuncError."""
        await self.runc.restore(
            self.id, images, work, self.init.io.streams, self.pid_file, options, timeout, started=started
        )
        return self.live()

    def live(self) -> InitProcess:
        """Watch a new init process, from a creation or a restore."""
        self.init_process = InitProcess(int(self.pid_file.read_text()), self.init_process)
        self.init.pid = self.init_process.pid
        self.pod.nursery.start_soon(self._watch, self.init_process)
        return self.init_process

    async def _watch(self, init_process: InitProcess) -> None:
        status = await init_process.run(self._out_of_memory)
        if not init_process.exit_expected:
            await self.finish(status)

    def _input(self) -> None:
        """Wake it when its standard input has data."""
        self.life.wake_wanted.set()

    def _out_of_memory(self) -> None:
        self._ran_out_of_memory = True
        self.publish(events_pb2.TaskOOM(container_id=self.id))

    async def finish(self, status: ExitStatus) -> None:
        """Release everything of a container that has ended, awake or asleep, and announce its exit.

        A cancellation waits until that is done, which takes a bounded time.
        """
        with trio.CancelScope(shield=True):
            await self._finish(status)

    async def _finish(self, status: ExitStatus) -> None:
        async with self._starting:
            if self.life.state is State.STOPPED:
                return
            if self.spec.shares_pids:
                await self._kill_everyone()
            if self.controller:
                self.controller.stop()
            with trio.move_on_after(LAST_EXECS):
                await self.execs.all_exited()
            with trio.move_on_after(LAST_KILLS):
                await self._stop.delivered()
            if self._ran_out_of_memory:
                # The answer to `Wait` may overtake it, and the kubelet would be told of another reason.
                await self.pod.publisher.flush(LAST_EVENTS)
            self.life.happen(Event.EXIT)
            self.init.ended(status)
            self.announce_exit(self.id, status)

    async def _kill_everyone(self) -> None:
        try:
            await self.runc.kill(self.id, 9, everyone=True)
        except RuncError as error:
            self.log.debug("nothing left to kill: %s", error)

    def announce_exit(self, id: str, status: ExitStatus) -> None:
        event = events_pb2.TaskExit(container_id=self.id, id=id, pid=status.pid, exit_status=status.code)
        event.exited_at.FromNanoseconds(status.at_ns)
        self.publish(event)

    # Signals, pause, limits, checkpoints

    async def kill(self, number: int, everyone: bool) -> None:
        if everyone and self.life.state is State.STOPPED:
            await self._kill_everyone()  # processes that init has left behind, if it shared its pid namespace
            return
        await self._stop.kill(number, everyone)

    async def pause(self) -> None:
        async with self.allowed(Request.PAUSE):
            with reported("OCI runtime pause failed"):
                await self.runc.pause(self.id)
            self.life.happen(Event.PAUSE)
        self.publish(events_pb2.TaskPaused(container_id=self.id))

    async def resume(self) -> None:
        async with self.allowed(Request.RESUME):
            with reported("OCI runtime resume failed"):
                await self.runc.resume(self.id)
            self.life.happen(Event.RESUME)
        self.publish(events_pb2.TaskResumed(container_id=self.id))

    async def update(self, resources: bytes) -> None:
        """Change limits (JSON of OCI's LinuxResources), now and for every later restore."""
        changes = limits.parse(resources)
        async with self.allowed(Request.UPDATE) as answer:
            with reported("OCI runtime update failed"):
                strategy = self.controller.strategy if self.controller else None
                limits.check_memory(changes, strategy.memory_needed() if strategy else 0)
                if answer is Answer.PASS:
                    await self.runc.update(self.id, resources)
                self.spec = self.spec.with_resources(changes)
                self.spec.write()

    async def checkpoint(self, path: Path, work: Path | None, options: list[str]) -> None:
        """Write a checkpoint for containerd, to which the container is running."""
        async with self.allowed(Request.CHECKPOINT):
            if self.controller:
                await self.controller.make_whole()
            directory = work or self.runc.bundle / "criu-work"
            directory.mkdir(mode=0o700, exist_ok=True)
            with reported("OCI runtime checkpoint failed"):
                await self.runc.checkpoint(self.id, path, directory, options, CHECKPOINT)

    # Queries

    def pids(self) -> list[int]:
        """Return the pids of all its processes; none while it sleeps."""
        asleep = decide(self.life.state, Request.PIDS) is Answer.RECORD
        return [] if asleep or not self.init_process else self.init_process.pids()

    def stats(self) -> Metrics:
        """Return its resource usage over all its init processes. Raises RpcError if it never had a cgroup."""
        if self.slept is not None and decide(self.life.state, Request.STATS) is Answer.RECORD:
            return cgroups.asleep(self.slept)
        return self.stats_awake()

    def stats_awake(self) -> Metrics:
        if not self.init_process:
            raise RpcError(Code.NOT_FOUND, "cgroup does not exist: not found")
        current = self.init_process.cgroup.stats()
        return current if self.slept is None else cgroups.accumulate(self.slept, current)

    def process(self, exec_id: str) -> Process:
        return self.execs.get(exec_id) if exec_id else self.init

    # The end

    async def delete(self) -> ExitStatus:
        """Remove everything of it on the node: mounts, image, network namespace. Raises RpcError."""
        async with self.allowed(Request.DELETE):
            await self.init.release()
            self.execs.close()
            try:
                await self.runc.delete(self.id, force=self.life.state is State.CREATED)
            except RuncError as error:
                if "does not exist" not in str(error):  # runc forgets a container at its checkpoint
                    raise RpcError(Code.UNKNOWN, f"failed to delete task: {error}") from error
            await self.remove()
        status = self.init.exit or ExitStatus(self.init.pid, 0, time.time_ns())
        event = events_pb2.TaskDelete(container_id=self.id, pid=status.pid, exit_status=status.code)
        event.exited_at.FromNanoseconds(status.at_ns)
        self.publish(event)
        return status

    async def remove(self) -> None:
        """Remove its files on the node. A cancellation waits until that is done. Raises OSError."""
        mount.unmount_below(self.runc.bundle / "rootfs")
        # gigabytes take some hundred milliseconds, in which other containers may have to wake
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.store.remove)
        if self.settings.keep_on_restart:
            from zeropod.shim import arrival  # only what is to come back ever needs it

            arrival.ends(self)
        if self.pinned_network:
            namespace.unpin(self.pinned_network)
        pod = paths.pod(self.runc.namespace, self.group)
        (pod / self.id).unlink(missing_ok=True)
        with suppress(OSError):  # the pod has other containers
            pod.rmdir()
        if self.id != self.group or not pod.exists():
            (self.runc.bundle / REMOVED).touch()
        self.pod.remove(self)
