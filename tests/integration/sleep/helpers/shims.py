"""What the shims of the node say about their containers, as `zeropod ps` asks them."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import trio
from tests.integration.patience import FACTOR, patient

from zeropod import shims
from zeropod.rpc.messages.status_pb2 import ContainerStatus, SleepRequest, State, WakeRequest
from zeropod.rpc.status import Code, RpcError

ASKED = 1 if FACTOR == 1 else 5
"""Times, of two seconds each, that a shim is given to answer: more than one on an emulated node alone."""


def statuses() -> dict[str, ContainerStatus]:
    """By id; only of shims that answer."""
    found, _ = trio.run(shims.look)
    return {each.status.id: each.status for each in found}


def status(id: str) -> ContainerStatus:
    """Raises KeyError when no shim has it, or when the one that has it does not answer."""
    for _ in range(ASKED - 1):
        if found := statuses().get(id):
            return found
    return statuses()[id]


def state(id: str) -> str:
    """RUNNING, COLD, …; empty when no shim has it."""
    found = statuses().get(id)
    return State.Name(found.state) if found else ""


def until_state(id: str, wanted: str | tuple[str, ...], timeout: float = 15.0) -> ContainerStatus:
    """The status once the container is in that state, or one of those. Raises TimeoutError with the last one."""
    names = (wanted,) if isinstance(wanted, str) else wanted
    return until(id, lambda status: State.Name(status.state) in names, " or ".join(names), timeout)


def until(
    id: str, holds: Callable[[ContainerStatus], object], what: str = "as wanted", timeout: float = 15.0
) -> ContainerStatus:
    """The status once this holds for it. Raises TimeoutError with the last one."""
    timeout = patient(timeout)
    deadline = time.monotonic() + timeout
    while True:
        found = statuses().get(id)
        if found and holds(found):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{id[:12]} is not {what} after {timeout} s but {found}")
        time.sleep(0.01)


def sleep(id: str) -> ContainerStatus:
    """As `zeropod sleep` does. Raises RpcError when it cannot sleep now."""
    return _asked(id, "Sleep", SleepRequest(id=id))


def wake(id: str) -> ContainerStatus:
    """As `zeropod wake` does. Raises RpcError."""
    return _asked(id, "Wake", WakeRequest(id=id))


def _asked(id: str, method: str, request: SleepRequest | WakeRequest) -> ContainerStatus:
    async def ask() -> ContainerStatus:
        found, _ = await shims.look()
        path = next((one.path for one in found if one.status.id == id), "")
        if not path:
            raise RpcError(Code.NOT_FOUND, "no shim has it")
        return await shims.call(path, method, request, ContainerStatus, shims.DEADLINE)

    return trio.run(ask)


def row(id: str) -> dict[str, Any]:
    """What `zeropod ps --json` prints about one container. Raises StopIteration when it has no such container."""
    return next(row for row in ps() if row["id"] == id)


def ps() -> list[dict[str, Any]]:
    """What `zeropod ps --json` prints."""
    printed = subprocess.run(
        ["zeropod", "ps", "--json"], capture_output=True, text=True, timeout=patient(20), check=True
    ).stdout
    rows: list[dict[str, Any]] = json.loads(printed)
    return rows
