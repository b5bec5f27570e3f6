"""The containers on this node that run on zeropod, asked of their shims; and how those that sleep are woken."""

from typing import TypeVar

import trio
from google.protobuf.message import Message

from zeropod import paths
from zeropod.installer.root import Root
from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse, State, WakeRequest
from zeropod.rpc.status import RpcError

ANSWER = 5.0
"""Seconds for one answer."""
WAKING = 120.0
"""Seconds for one that sleeps to be awake."""
ASLEEP = frozenset({State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD, State.RESTORING})

_Answer = TypeVar("_Answer", bound=Message)


def name(container: ContainerStatus) -> str:
    """As people know it: by its pod, if it has one."""
    if container.pod:
        return f"{container.pod_namespace}/{container.pod}/{container.container or container.id[:13]}"
    return f"{container.namespace}/{container.id}"


def containers(root: Root) -> tuple[list[ContainerStatus], list[str]]:
    """All of them, and the sockets of shims that do not answer but are listened on."""
    by_socket, silent = trio.run(_containers, root)
    return sorted((each for found in by_socket.values() for each in found), key=name), silent


async def _containers(root: Root) -> tuple[dict[str, list[ContainerStatus]], list[str]]:
    """Return running containers of zeropod by socket of their shim, and the sockets whose shim does not answer."""
    found: dict[str, list[ContainerStatus]] = {}
    silent: list[str] = []

    async def ask(path: str) -> None:
        try:
            answer = await _call(root, path, "List", ListRequest(), ListResponse, ANSWER)
            found[path] = list(answer.containers)
        except RpcError as error:
            if "refused" not in error.message:  # the socket of a shim that was killed
                silent.append(f"{path}: {error}")

    async with trio.open_nursery() as nursery:
        for path in root.glob(f"{paths.STATUS_SOCKETS}/*.sock"):
            nursery.start_soon(ask, path)
    return found, silent


async def _call(root: Root, path: str, method: str, request: Message, answer: type[_Answer], timeout: float) -> _Answer:
    async with open_client(root.outside(path)) as client:
        return await client.call("zeropod.v1.Status", method, request, answer, timeout=timeout)


def wake(root: Root) -> list[str]:
    """Wakes every container that sleeps. Returns what could not be woken, and why."""
    return trio.run(_wake, root)


async def _wake(root: Root) -> list[str]:
    failures: list[str] = []

    async def wake_one(path: str, container: ContainerStatus) -> None:
        try:
            await _call(root, path, "Wake", WakeRequest(id=container.id), ContainerStatus, WAKING)
        except RpcError as error:
            failures.append(f"{name(container)}: {error}")

    by_socket, _ = await _containers(root)
    async with trio.open_nursery() as nursery:
        for path, found in by_socket.items():
            for container in found:
                if container.state in ASLEEP:
                    nursery.start_soon(wake_one, path, container)
    return failures
