"""The shims of this node, found by their sockets, and calls of their status service."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import trio
from google.protobuf.message import Message

from zeropod import paths
from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse
from zeropod.rpc.payload import AnyMessage
from zeropod.rpc.status import RpcError

SERVICE = "zeropod.v1.Status"

PATIENCE = 2.0
"""Seconds for a shim to answer; a healthy one takes a millisecond."""

DEADLINE = 150.0
"""Seconds for a shim to put to sleep or wake: longer than the longest dump and the longest restore take."""


@dataclass(frozen=True, slots=True)
class Found:
    """A container, and the socket of its shim."""

    status: ContainerStatus
    path: str


def is_socket(name: str) -> bool:
    """Return whether this is the final name of a shim's socket, not the temporary one while it is created."""
    return name.endswith(".sock")


def sockets() -> list[str]:
    """Return the sockets of all shims, possibly of dead ones too. Raises PermissionError without access to them."""
    try:
        return sorted(entry.path for entry in os.scandir(paths.STATUS_SOCKETS) if is_socket(entry.name))
    except FileNotFoundError:
        return []


def in_order(status: ContainerStatus) -> tuple[str, ...]:
    """Return a container's sort key for listings."""
    return (status.pod_namespace, status.pod, status.container, status.id, status.namespace)


async def look(there: Iterable[str] | None = None, patience: float = PATIENCE) -> tuple[list[Found], list[str]]:
    """Return every container of the shims at these sockets, sorted by name, and the shims that did not answer in time.

    `there`: all shims' by default; raises PermissionError without the right to list them. `patience` in seconds.
    """
    found: list[Found] = []
    silent: list[str] = []
    there = sockets() if there is None else there

    async def ask(path: str) -> None:
        try:
            response = await call(path, "List", ListRequest(), ListResponse, patience)
            found.extend(Found(status, path) for status in response.containers)
        except RpcError as error:
            silent.append(f"{path}: {error}")

    async with trio.open_nursery() as nursery:
        for path in there:
            nursery.start_soon(ask, path)
    found.sort(key=lambda entry: in_order(entry.status))
    return found, silent


async def call(path: str, method: str, request: Message, answer: type[AnyMessage], timeout: float) -> AnyMessage:
    """Call a method of the shim at this socket; `timeout` in seconds. Raises RpcError."""
    async with open_client(path) as client:
        return await client.call(SERVICE, method, request, answer, timeout=timeout)
