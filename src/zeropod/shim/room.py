"""Whether the disk has room for a container's image: asked before each dump, by the configuration of the node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from zeropod.runtime import budget, node_config
from zeropod.shim.way import SleepFailed

if TYPE_CHECKING:
    from zeropod.shim.container import Container


class NoRoom(SleepFailed):
    """Its image would take too much of the disk: it stays awake, and nothing was tried."""


@asynccontextmanager
async def room(container: "Container") -> AsyncIterator[None]:
    """Inside, room for the image of the container, which runs, is reserved. Raises NoRoom."""
    incarnation = container.incarnation
    assert incarnation is not None
    need = incarnation.cgroup.resident_bytes()
    words, complaints = await trio.to_thread.run_sync(_reserve, container.id, need)
    container.host.complain(complaints, container.log)
    if words:
        raise NoRoom(f"the disk has no room for it: {words}")
    try:
        yield
    finally:
        budget.release(container.id)


def _reserve(id: str, need: int) -> tuple[str, list[str]]:
    config, complaints = node_config.read()
    try:
        return budget.reserve(id, need, config), complaints
    except OSError as error:
        return "", [*complaints, f"the room on disk cannot be looked at, it is taken to be enough: {error}"]
