"""The status of all containers on the node, kept up to date by one stream from each shim, without polling.

New shims are found when their sockets appear. A shim that is dead, hangs or sends invalid messages counts as one
without containers; it does not delay others, and is retried: when its socket is created again, and at intervals if it
hangs. Only the latest status of each container is kept.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio
from google.protobuf.message import Message

from zeropod import paths, shims
from zeropod.kernel.inotify import Change, DirectoryWatch
from zeropod.rpc.client import open_client
from zeropod.rpc.messages.status_pb2 import (
    ContainerStatus,
    LeaveRequest,
    SleepRequest,
    Update,
    WakeRequest,
    WatchRequest,
    WhyRequest,
    WhyResponse,
)
from zeropod.rpc.payload import AnyMessage
from zeropod.rpc.status import Code, RpcError

log = logging.getLogger(__name__)

GATHER = 300
"""Milliseconds in which a shim gathers changes: a sleep or a wake is one update, not one for each of its steps."""

RETRY = (0.1, 1.0, 5.0, 15.0, 60.0)
"""Seconds until the next attempts at a shim that hangs or ends its stream; the last value repeats."""


@dataclass(slots=True)
class Shim:
    """The last known state of one shim."""

    path: str
    containers: dict[str, ContainerStatus] = field(default_factory=dict)
    by_pod: dict[str, tuple[ContainerStatus, ...]] = field(default_factory=dict)
    """Its containers by the uid of their pod, of which it has one."""
    problem: str = ""
    """Why it is not watched, as text; empty while it is."""
    heard: bool = False
    """Whether it has answered, or failed to."""
    appeared: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Node:
    def __init__(self, *, reasons: bool = False) -> None:
        """With `reasons`, each status includes all that keeps a container awake or out of COLD."""
        self._request = WatchRequest(gather_milliseconds=GATHER, reasons=reasons)
        self._shims: dict[str, Shim] = {}
        self._by_pod: dict[str, tuple[ContainerStatus, ...]] | None = None
        """The result of `by_pod`, until the next change."""
        self._changed = trio.Event()
        self._watching = False

    @property
    def containers(self) -> list[ContainerStatus]:
        """Return all containers, sorted by name."""
        found = (status for shim in self._shims.values() for status in shim.containers.values())
        return sorted(found, key=shims.in_order)

    def by_pod(self) -> dict[str, tuple[ContainerStatus, ...]]:
        """Return all containers by the uids of their pods, in no order."""
        if self._by_pod is None:
            found: dict[str, tuple[ContainerStatus, ...]] = {}
            for shim in self._shims.values():
                for uid, statuses in shim.by_pod.items():
                    # A pod has two shims only for a moment; an unchanged tuple stays the same object.
                    found[uid] = found[uid] + statuses if uid in found else statuses
            self._by_pod = found
        return self._by_pod

    @property
    def found(self) -> list[shims.Found]:
        """All containers with the sockets of their shims, in no order."""
        return [shims.Found(status, shim.path) for shim in self._shims.values() for status in shim.containers.values()]

    @property
    def answering(self) -> int:
        """The number of shims that are watched."""
        return sum(not shim.problem and shim.heard for shim in self._shims.values())

    @property
    def silent(self) -> list[str]:
        """The problems of the shims that are not watched."""
        return [f"{shim.path}: {shim.problem}" for shim in self._shims.values() if shim.problem]

    @property
    def ready(self) -> bool:
        """Whether every known shim has answered, or has failed for now."""
        return self._watching and all(shim.heard for shim in self._shims.values())

    async def changed(self) -> None:
        """Return when something has changed."""
        await self._changed.wait()

    async def why(self, id: str) -> list[tuple[str, str, str]]:
        """Return kind, text and remedy of each reason for what a container does. Raises RpcError."""
        answer = await self._call(id, "Why", WhyRequest(id=id), WhyResponse, shims.PATIENCE)
        return [(reason.kind, reason.text, reason.remedy) for reason in answer.reasons]

    async def sleep(self, id: str) -> None:
        """Put a container to sleep. Raises RpcError where it may not."""
        await self._call(id, "Sleep", SleepRequest(id=id), ContainerStatus, shims.DEADLINE)

    async def wake(self, id: str) -> None:
        """Wake a container. Raises RpcError."""
        await self._call(id, "Wake", WakeRequest(id=id), ContainerStatus, shims.DEADLINE)

    async def leave(self, id: str) -> None:
        """Have a container move at its next stop although no annotation says so. Raises RpcError."""
        await self._call(id, "Leave", LeaveRequest(id=id), ContainerStatus, shims.PATIENCE)

    async def _call(
        self, id: str, method: str, request: Message, answer: type[AnyMessage], timeout: float
    ) -> AnyMessage:
        path = next((shim.path for shim in self._shims.values() if id in shim.containers), None)
        if path is None:
            raise RpcError(Code.NOT_FOUND, f"there is no container {id} here")
        return await shims.call(path, method, request, answer, timeout)

    async def run(self) -> None:
        """Watch until cancelled. Raises OSError if the sockets' directory cannot be watched."""
        async with trio.open_nursery() as nursery:
            while True:
                paths.make_status_sockets()
                with DirectoryWatch(paths.STATUS_SOCKETS) as watch:
                    self._look(nursery)
                    await self._follow_directory(watch, nursery)

    async def _follow_directory(self, watch: DirectoryWatch, nursery: trio.Nursery) -> None:
        """Follow changes until the directory itself is gone."""
        while True:
            for event in await watch.events():
                path = os.path.join(paths.STATUS_SOCKETS, event.name)
                match event.change:
                    case Change.APPEARED if shims.is_socket(event.name):
                        self._appeared(path, nursery)
                    case Change.VANISHED if path in self._shims:
                        self._forget(path)
                    case Change.LOST_TRACK:
                        self._look(nursery)
                    case Change.DIRECTORY_GONE:
                        return

    def _look(self, nursery: trio.Nursery) -> None:
        """Compare the known shims with the sockets in the directory."""
        there = shims.sockets()
        for path in self._shims.keys() - set(there):
            self._forget(path)
        for path in there:
            self._appeared(path, nursery)
        self._watching = True
        self._tell()

    def _appeared(self, path: str, nursery: trio.Nursery) -> None:
        if shim := self._shims.get(path):
            shim.appeared.set()
        else:
            shim = self._shims[path] = Shim(path)
            nursery.start_soon(self._follow, shim)

    def _forget(self, path: str) -> None:
        self._shims.pop(path).scope.cancel()
        self._tell()

    async def _follow(self, shim: Shim) -> None:
        failures = 0
        with shim.scope:
            while True:
                shim.appeared = trio.Event()
                error = await self._watch(shim)
                if error.code is Code.DATA_LOSS and shim.containers:
                    # Keep the known status until the next snapshot, so that readers do not see a gap.
                    log.warning("%s: %s; watching it again", shim.path, error)
                    await trio.sleep(RETRY[0])
                    continue
                failures = 0 if shim.containers else failures
                shim.containers, shim.by_pod = {}, {}
                shim.problem, shim.heard = str(error), True
                self._tell()
                # A socket that refuses connections never listens again; a new one at its path is reported as such.
                final = isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError)
                log.log(logging.INFO if failures else logging.WARNING, "%s: %s", shim.path, error)
                pause = RETRY[min(failures, len(RETRY) - 1)]
                failures += 1
                with trio.CancelScope() if final else trio.move_on_after(pause):
                    await shim.appeared.wait()

    async def _watch(self, shim: Shim) -> RpcError:
        """Follow the shim's stream until it fails; return the error."""
        try:
            async with open_client(shim.path) as client:
                async with client.stream(shims.SERVICE, "Watch", self._request, Update) as receive:
                    known = 0
                    with trio.move_on_after(shims.PATIENCE) as patience:
                        update = await receive()
                    if patience.cancelled_caught:
                        text = f"no answer within {shims.PATIENCE:g} s"
                        return RpcError(Code.DEADLINE_EXCEEDED, text)
                    while update:
                        known = self._apply(shim, update, known)
                        update = await receive()
        except RpcError as error:
            return error
        return RpcError(Code.UNAVAILABLE, "it has ended the stream")

    def _apply(self, shim: Shim, update: Update, known: int) -> int:
        """Apply an update; return the number of the last known change. Raises RpcError DATA_LOSS if one was missed."""
        if update.snapshot:
            shim.containers = {}
        elif update.after != known:
            raise RpcError(Code.DATA_LOSS, f"changes {known + 1} to {update.after} were missed")
        for name in update.removed:
            shim.containers.pop(name, None)
        shim.containers |= {status.id: status for status in update.containers}
        shim.by_pod = _by_pod(shim.containers.values())
        shim.problem, shim.heard = "", True
        self._tell()
        return update.sequence

    def _tell(self) -> None:
        self._by_pod = None
        self._changed.set()
        self._changed = trio.Event()


def _by_pod(statuses: Iterable[ContainerStatus]) -> dict[str, tuple[ContainerStatus, ...]]:
    found: dict[str, tuple[ContainerStatus, ...]] = {}
    for status in statuses:
        found[status.pod_uid] = (*found.get(status.pod_uid, ()), status)
    return found
