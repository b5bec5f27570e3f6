"""The running containers of zeropod on this node, as their shims report them; and waking those that sleep."""

from collections.abc import Iterable

import trio

from zeropod import paths, shims
from zeropod.installer.root import Root
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State, WakeRequest
from zeropod.rpc.status import RpcError
from zeropod.shims import Found

ANSWER = 5.0
"""Seconds for one response."""
WAKING = 120.0
"""Seconds for one sleeping container to wake."""
ASLEEP = frozenset({State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD, State.RESTORING})


def name(container: ContainerStatus) -> str:
    """Return a container's name for messages: that of its pod, if it has one."""
    if container.pod:
        return f"{container.pod_namespace}/{container.pod}/{container.container or container.id[:13]}"
    return f"{container.namespace}/{container.id}"


def look(root: Root) -> tuple[list[Found], list[str]]:
    """Return all of them, and the sockets of shims that do not answer but are listened on."""
    there = [root.outside(path) for path in root.glob(f"{paths.STATUS_SOCKETS}/*.sock")]
    found, silent = trio.run(shims.look, there, ANSWER)
    return found, [complaint for complaint in silent if "refused" not in complaint]  # one that was killed refuses


def wake(sleeping: Iterable[Found]) -> list[str]:
    """Wake these containers; return what could not be woken, and why."""
    return trio.run(_wake, sleeping)


async def _wake(sleeping: Iterable[Found]) -> list[str]:
    failures: list[str] = []

    async def wake_one(each: Found) -> None:
        try:
            await shims.call(each.path, "Wake", WakeRequest(id=each.status.id), ContainerStatus, WAKING)
        except RpcError as error:
            failures.append(f"{name(each.status)}: {error}")

    async with trio.open_nursery() as nursery:
        for each in sleeping:
            nursery.start_soon(wake_one, each)
    return failures
