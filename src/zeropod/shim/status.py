"""zeropod's own service of a shim, for `zeropod` and the manager, at a second socket.

containerd's socket belongs to containerd; this one is in a directory in which every shim of the node can be found.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio
from google.protobuf.message import Message

from zeropod import paths
from zeropod.launch.flags import Flags
from zeropod.lifecycle.idle.monitor import look_at_life
from zeropod.lifecycle.idle.policy import Awake, decide
from zeropod.lifecycle.machine import ASLEEP, Request, State
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import MemoryReport
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.server import Services, streaming, unary
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime import spec
from zeropod.shim.container import Container
from zeropod.shim.pod import Pod
from zeropod.shim.why import explain

SERVICE = "zeropod.v1.Status"

BACKLOG = 16
"""Connections in the listen backlog."""

LONGEST_GATHER = 10_000
"""Most milliseconds for which a watch may collect changes."""

SLEEPS = (State.STANDBY, State.COLD)
ON_THE_WAY = (State.CHECKPOINTING, State.RESTORING, State.DOZING)


@contextmanager
def status_listener(flags: Flags) -> Iterator[socket.socket]:
    """Listen at this shim's path in the directory, for root and the manager, inside the block.

    The socket gets its name only when it listens, replacing a dead shim's: each socket that exists accepts connections.
    """
    paths.make_status_sockets()
    path = paths.status_socket(flags.namespace, flags.id)
    nameless = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(nameless)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(nameless)
        paths.open_to_manager(nameless)
        listener.listen(BACKLOG)
        os.rename(nameless, path)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)


class StatusService:
    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def services(self) -> Services:
        return {
            SERVICE: {
                "List": unary(status_pb2.ListRequest, self.list),
                "Watch": streaming(status_pb2.WatchRequest, self.watch),
                "Why": unary(status_pb2.WhyRequest, self.why),
                "Leave": unary(status_pb2.LeaveRequest, self.leave),
                "Sleep": unary(status_pb2.SleepRequest, self.sleep, cancel_on_disconnect=True),
                "Wake": unary(status_pb2.WakeRequest, self.wake, cancel_on_disconnect=True),
                "Hibernate": unary(status_pb2.HibernateRequest, self.hibernate),
            }
        }

    async def list(self, request: status_pb2.ListRequest) -> status_pb2.ListResponse:
        containers = self._pod.containers.values()
        wanted = [entry for entry in containers if request.id in ("", entry.id)]
        return status_pb2.ListResponse(containers=[describe(container) for container in wanted])

    async def watch(self, request: status_pb2.WatchRequest, send: Callable[[Message], Awaitable[None]]) -> None:
        revisions, containers = self._pod.revisions, self._pod.containers
        gather = min(request.gather_milliseconds, LONGEST_GATHER) / 1000

        def told(container: Container) -> status_pb2.ContainerStatus:
            status = describe(container)
            if request.reasons:
                status.reasons.extend(reasons_of(container))
            return status

        heard, known = 0, set(containers)
        update = status_pb2.Update(sequence=revisions.last, snapshot=True, containers=map(told, containers.values()))
        while True:
            heard = update.sequence
            await send(update)
            await revisions.wait_after(heard)
            await trio.sleep(gather)
            changed = [containers[name] for name in revisions.since(heard)]
            update = status_pb2.Update(
                sequence=revisions.last,
                after=heard,
                containers=map(told, changed),
                removed=sorted(known - set(containers)),
            )
            known = set(containers)

    async def why(self, request: status_pb2.WhyRequest) -> status_pb2.WhyResponse:
        container = self._find(request.id)
        return status_pb2.WhyResponse(status=describe(container), reasons=reasons_of(container))

    async def sleep(self, request: status_pb2.SleepRequest) -> status_pb2.ContainerStatus:
        container = self._find(request.id)
        life = container.life
        while life.state in ON_THE_WAY:
            await life.changed()
        if life.state in SLEEPS:
            return describe(container)
        if refusal := cannot_sleep(container):
            raise RpcError(Code.FAILED_PRECONDITION, f"cannot put {container.id} to sleep: {refusal}")
        before, wanted = container.metrics.checkpoints, life.sleep_wanted
        wanted.set()
        while life.sleep_wanted is wanted and life.state in (State.RUNNING, State.CHECKPOINTING):
            await life.changed()
        if container.metrics.checkpoints == before:
            why = life.why if life.state is State.RUNNING else Reason.STATE.because(life.state.name.lower())
            raise RpcError(Code.FAILED_PRECONDITION, f"could not put {container.id} to sleep: {why}")
        if not container.settings.standby:
            # On its way to COLD, unless something stands against that.
            while life.state in (State.STANDBY, State.CHECKPOINTING) and not life.why:
                await life.changed()
        return describe(container)

    async def wake(self, request: status_pb2.WakeRequest) -> status_pb2.ContainerStatus:
        container = self._find(request.id)
        async with container.allowed(Request.WAKE):
            return describe(container)

    async def leave(self, request: status_pb2.LeaveRequest) -> status_pb2.ContainerStatus:
        container = self._find(request.id)
        if container.controller is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"cannot move {container.id}: {container.life.why}")
        container.asked_to_leave = True
        return describe(container)

    async def hibernate(self, request: status_pb2.HibernateRequest) -> status_pb2.HibernateResponse:
        container = self._find(request.id)
        from zeropod.shim import departure  # only what is to come back ever needs it

        exported = await departure.hibernate(container)
        return status_pb2.HibernateResponse(
            status=describe(container), key=exported.export.key, bytes=sum(exported.manifest.files.values())
        )

    def _find(self, id: str) -> Container:
        try:
            return self._pod.containers[id]
        except KeyError:
            raise RpcError(Code.NOT_FOUND, f"this shim has no container {id}") from None


def cannot_sleep(container: Container) -> Explanation | None:
    """Return why trying to put it to sleep is pointless; None if it is not."""
    if container.settings.dry_run:
        return Reason.IN_DRY_RUN.because()
    if not container.controller:
        return container.life.explanation or Reason.NEVER.because()
    decision = decide(look_at_life(container.life))
    return decision.why if isinstance(decision, Awake) else None


def reasons_of(container: Container) -> list[status_pb2.Reason]:
    """Return all reasons for the container's current state."""
    return [status_pb2.Reason(kind=each.kind, text=each.text, remedy=each.remedy) for each in explain(container)]


def describe(container: Container) -> status_pb2.ContainerStatus:
    """Return all that is known of a container. Reads one or two files of its cgroup if memory is out."""
    life, controller, annotations = container.life, container.controller, container.spec.annotations
    status = status_pb2.ContainerStatus(
        id=container.id,
        namespace=container.runc.namespace,
        pod_namespace=annotations.get(spec.SANDBOX_NAMESPACE, ""),
        pod=annotations.get(spec.SANDBOX_NAME, ""),
        pod_uid=annotations.get(spec.SANDBOX_UID, ""),
        container=container.name,
        sandbox=annotations.get(spec.SANDBOX_ID, ""),
        state=life.state.name,
        pid=container.init.pid if container.pids() else 0,
        why=life.why,
        message=life.message,
        may_sleep=controller is not None,
        dry_run=container.settings.dry_run,
        dry_run_asleep=life.pretended is not None,
        keep_on_restart=container.settings.keep_on_restart,
    )
    status.since.FromNanoseconds(life.since_ns)
    if strategy := controller.strategy if controller else None:
        status.image_bytes = strategy.image_bytes
        status.why_kept = str(strategy.why_kept or "") if life.state in ASLEEP else ""
        if report := strategy.memory_report():
            _describe_memory(report, status)
    container.metrics.describe(status)
    status.probes_answered = container.probes_answered
    return status


def _describe_memory(report: MemoryReport, status: status_pb2.ContainerStatus) -> None:
    usage = report.usage
    status.memory_backend, status.memory_why = report.kind, str(report.why)
    status.memory_out_bytes, status.memory_left_bytes = usage.out, report.left
    status.memory_written_bytes = usage.written
    status.memory_moving = report.moving
    status.memory_faults, status.memory_brought_in_bytes = usage.faults, usage.brought_in
