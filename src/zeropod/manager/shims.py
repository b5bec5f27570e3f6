"""All shims of this node: found through their sockets, asked side by side, none of them waited for long."""

import os
from dataclasses import dataclass
from typing import TypeVar

import trio
from google.protobuf.message import Message

from zeropod import paths
from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse
from zeropod.rpc.status import RpcError

SERVICE = "zeropod.v1.Status"

PATIENCE = 2.0
"""Seconds for a shim to answer; a healthy one takes a millisecond."""

_Answer = TypeVar("_Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Found:
    """A container, and the socket of its shim."""

    status: ContainerStatus
    path: str


def is_socket(name: str) -> bool:
    """Whether a shim listens under this name, and not yet another one that it has while it is made."""
    return name.endswith(".sock")


def sockets() -> list[str]:
    """The sockets of all shims, dead ones perhaps among them. Raises PermissionError for anybody but root."""
    try:
        return sorted(entry.path for entry in os.scandir(paths.STATUS_SOCKETS) if is_socket(entry.name))
    except FileNotFoundError:
        return []


def in_order(status: ContainerStatus) -> tuple[str, ...]:
    """A sort key: the order in which containers are shown."""
    return (status.pod_namespace, status.pod, status.container, status.id, status.namespace)


async def look() -> tuple[list[Found], list[str]]:
    """Every container of the runtime on this node, in the order of their names, and the shims that did not answer.

    Raises PermissionError for anybody but root.
    """
    found: list[Found] = []
    silent: list[str] = []
    there = sockets()

    async def ask(path: str) -> None:
        try:
            response = await call(path, "List", ListRequest(), ListResponse, PATIENCE)
            found.extend(Found(status, path) for status in response.containers)
        except RpcError as error:
            silent.append(f"{path}: {error}")

    async with trio.open_nursery() as nursery:
        for path in there:
            nursery.start_soon(ask, path)
    found.sort(key=lambda entry: in_order(entry.status))
    return found, silent


async def containers() -> tuple[list[ContainerStatus], list[str]]:
    """The same without the sockets."""
    found, silent = await look()
    return [entry.status for entry in found], silent


async def call(path: str, method: str, request: Message, answer: type[_Answer], timeout: float) -> _Answer:
    """One call to the shim at this socket; `timeout` in seconds. Raises RpcError."""
    async with open_client(path) as client:
        return await client.call(SERVICE, method, request, answer, timeout=timeout)
