"""The containers on this node that run on zeropod, asked of their shims; and how those that sleep are woken."""

import signal
import time
from collections.abc import Sequence

import trio
from google.protobuf.empty_pb2 import Empty

from zeropod import paths
from zeropod.installer.root import Root
from zeropod.rpc import grpc
from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse, State
from zeropod.rpc.messages.tasks_service_pb2 import KillRequest
from zeropod.rpc.status import RpcError

PATIENCE = 5.0
"""Seconds for one answer."""
WAKING = 120.0
"""Seconds for all that sleep to be awake."""
ASLEEP = frozenset({State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD, State.RESTORING})


def name(container: ContainerStatus) -> str:
    """As people know it: by its pod, if it has one."""
    if container.pod:
        return f"{container.pod_namespace}/{container.pod}/{container.container or container.id[:13]}"
    return f"{container.namespace}/{container.id}"


def containers(root: Root) -> tuple[list[ContainerStatus], list[str]]:
    """All of them, and the sockets of shims that do not answer but are listened on."""
    return trio.run(_containers, root)


async def _containers(root: Root) -> tuple[list[ContainerStatus], list[str]]:
    found: list[ContainerStatus] = []
    silent: list[str] = []

    async def ask(path: str) -> None:
        try:
            async with open_client(root.outside(path)) as client:
                answer = await client.call("zeropod.v1.Status", "List", ListRequest(), ListResponse, timeout=PATIENCE)
                found.extend(answer.containers)
        except RpcError as error:
            if "refused" not in error.message:  # the socket of a shim that was killed
                silent.append(f"{path}: {error}")

    async with trio.open_nursery() as nursery:
        for path in root.glob(f"{paths.STATUS_SOCKETS}/*.sock"):
            nursery.start_soon(ask, path)
    return sorted(found, key=name), silent


def wake(root: Root, containerd: str, sleeping: Sequence[ContainerStatus]) -> list[str]:
    """Wakes these containers by a signal that changes nothing else. Returns what could not be woken, and why."""
    return trio.run(_wake, root, containerd, sleeping)


async def _wake(root: Root, containerd: str, sleeping: Sequence[ContainerStatus]) -> list[str]:
    failures: list[str] = []

    async def signal_one(container: ContainerStatus) -> None:
        # SIGCONT does nothing to a process that is not stopped, and like every signal it wakes one that sleeps.
        request = KillRequest(container_id=container.id, signal=signal.SIGCONT)
        path, metadata = "/containerd.services.tasks.v1.Tasks/Kill", {"containerd-namespace": container.namespace}
        try:
            await grpc.call(containerd, path, request, Empty, timeout=WAKING, metadata=metadata)
        except RpcError as error:
            failures.append(f"{name(container)}: {error}")

    async with trio.open_nursery() as nursery:
        for container in sleeping:
            nursery.start_soon(signal_one, container)
    deadline = time.monotonic() + WAKING
    wanted = {(container.namespace, container.id) for container in sleeping}
    while True:
        now, _ = await _containers(root)
        asleep = [container for container in now if container.state in ASLEEP]
        still = [container for container in asleep if (container.namespace, container.id) in wanted]
        if not still or time.monotonic() > deadline:
            break
        await trio.sleep(0.1)
    return failures + [f"{name(container)} is still {State.Name(container.state)}" for container in still]
