"""All shims of this node: found through their sockets, asked side by side, none of them waited for long."""

import os

import trio

from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse
from zeropod.rpc.status import RpcError

SOCKETS = "/run/zeropod/s"
"""Where shims listen (`zeropod.shim.status`)."""

SERVICE = "zeropod.v1.Status"

PATIENCE = 2.0
"""Seconds for a shim to answer; a healthy one takes a millisecond."""


def sockets() -> list[str]:
    """The sockets of all shims, dead ones perhaps among them. Raises PermissionError for anybody but root."""
    try:
        return sorted(entry.path for entry in os.scandir(SOCKETS) if entry.name.endswith(".sock"))
    except FileNotFoundError:
        return []


async def containers() -> tuple[list[ContainerStatus], list[str]]:
    """Every container of the runtime on this node, in the order of their names, and the shims that did not answer.

    Raises PermissionError for anybody but root.
    """
    paths = sockets()
    found: list[ContainerStatus] = []
    silent: list[str] = []

    async def ask(path: str) -> None:
        try:
            async with open_client(path) as client:
                response = await client.call(SERVICE, "List", ListRequest(), ListResponse, timeout=PATIENCE)
                found.extend(response.containers)
        except RpcError as error:
            silent.append(f"{path}: {error}")

    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(ask, path)
    found.sort(key=lambda status: (status.pod_namespace, status.pod, status.container, status.id))
    return found, silent
