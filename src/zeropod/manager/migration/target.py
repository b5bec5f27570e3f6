"""The target's side of a move: pods of this node that take over from others.

A pod claims a Migration as soon as it is scheduled to this node; of two that want the same one the API lets one win.
Its shim asks before it creates a container (`restore`): that is answered at once where nothing is to come, else when
what the source has left behind is there. What the source needs of this node is looked at before it is frozen.
"""

import logging
import time
from collections.abc import Awaitable, Callable

import trio

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.follow import Follower
from zeropod.manager.migration import needs, resource, telling
from zeropod.manager.migration.matching import choose, claimed_by, fits
from zeropod.manager.migration.names import COMPLETED, FAILED, FINAL, RUNNING, UNCLAIMED
from zeropod.manager.migration.pods import Pod
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.telling import Teller
from zeropod.rpc.messages.node_pb2 import (
    FinishRestoreRequest,
    FinishRestoreResponse,
    RestoreRequest,
    RestoreResponse,
)

log = logging.getLogger(__name__)

SEEN = 2.0
"""Seconds for the API to tell here, too, of a pod that the kubelet creates."""
CREATION = 100.0
"""Seconds that a container's creation may take: the kubelet gives it up after two minutes."""
PROGRESS = 5.0
"""Seconds between writes of how far a transfer is."""
MOST_TOLD = 1000
LOOK = 15.0
"""Seconds between looks without a change."""

Connect = Callable[[Migration], Awaitable[str]]
"""Makes sure that a source's node can be reached, and is that node; returns why not."""


class Target:
    """Claims for the node's pods, and answers the shims of those that have claimed."""

    def __init__(
        self,
        store: Store,
        pods: Follower[Pod],
        teller: Teller,
        settings: Settings,
        connect: Connect,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._pods, self._teller = store, pods, teller
        self._settings, self._connect, self._now = settings, connect, now
        self._claiming = trio.Lock()
        self._written: dict[tuple[str, str], float] = {}
        """When progress was written last, by Migration and container."""
        self._told: set[tuple[str, str, str]] = set()
        """Outcomes that were told, by Migration, container and phase: two reports of one may come at once."""
        self._ended: set[tuple[str, str]] = set()
        """Migrations and containers of which the last report has come: an earlier one says nothing any more."""
        self._wake = trio.Event()
        self.count, self.seconds = 0, 0.0
        """Containers that came here, and how long they have answered to nothing, together."""

    async def run(self) -> None:
        """Claim, until cancelled."""
        async with trio.open_nursery() as nursery:
            for changed in (self._pods.changed, self._store.followed.changed):
                nursery.start_soon(self._forward, changed)
            while True:
                self._wake = trio.Event()
                if self._pods.ready and self._store.followed.ready:
                    await self._look()
                with trio.move_on_after(LOOK):
                    await self._wake.wait()

    async def _forward(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await changed()
            self._wake.set()

    async def _look(self) -> None:
        if any(each.is_open for each in self._store.all):
            for pod in list(self._pods.items.values()):
                if choose(pod, self._store.all):
                    await self._claim(pod)
                else:
                    await self._close_outdated(pod)
        there = {pod.uid for pod in self._pods.items.values() if pod.deadline is None}
        for each in self._store.all:
            if each.target_node == self._settings.node and each.target_uid not in there and not each.is_final:
                left = [name for name in each.names if each.phase(name) not in FINAL]
                await self._settle(each, left, FAILED, "its replacement has ended, too, before it could take over")

    async def _close_outdated(self, pod: Pod) -> None:
        """Let nothing come back that is older than what runs: a pod of this name has begun without it."""
        if pod.phase != "Running":
            return
        found = self._store.get(pod.key)
        if found and found.parks and found.is_open and pod.uid != found.source_uid and fits(found, pod):
            await self._settle(found, found.names, UNCLAIMED, "a pod in its place has begun without it")

    async def _claim(self, pod: Pod) -> Migration | None:
        """Return what a pod takes over, claiming it if need be."""
        lost: set[str] = set()
        async with self._claiming:
            if known := claimed_by(pod, self._store.all):
                return known
            while found := choose(pod, (each for each in self._store.all if each.uid not in lost)):
                lost.add(found.uid)
                try:
                    now = await self._store.change(found.key, found.uid, lambda now: _claim_of(now, pod))
                except ApiError as error:
                    # 422 is the schema's answer to a second claim.
                    log.info("%s/%s cannot claim %s: %s", *pod.key, found.name, error)
                    continue
                if now and now.target_uid == pod.uid:
                    log.info("%s/%s takes over from %s on %s", *pod.key, found.name, found.source_node)
                    return now
        return None

    async def restore(self, request: RestoreRequest) -> RestoreResponse:
        """Answer when there is something for a container to come back from, or that there is nothing."""
        moving, name = request.container, request.container.container
        pod = await self._pod_of(moving.pod_namespace, moving.pod, moving.pod_uid)
        migration = await self._claim(pod) if pod else None
        if pod is None or migration is None or not migration.wanted(name) or migration.phase(name) == COMPLETED:
            return RestoreResponse()
        try:
            why = await self._until_there(pod, migration, request)
        except ApiError as error:
            why = f"the API server says: {error}"
        if why:
            await self._settle(migration, [name], FAILED, why)
            await self._teller.tell(*pod.key, pod.uid, name, telling.FAILED, f"starts anew: {why}")
            return RestoreResponse(why=why)
        return RestoreResponse(
            found=True,
            migration="/".join(migration.key),
            key=f"{migration.source_uid}.{name}",
            live=not (self._store.get(migration.key) or migration).wanted(name).get("asleep"),
        )

    async def _until_there(self, pod: Pod, migration: Migration, request: RestoreRequest) -> str:
        """Return "" when the source has left something behind, else why it has not. Raises ApiError."""
        name, end = request.container.container, trio.current_time() + CREATION

        def left() -> float:
            return end - trio.current_time()

        def asked() -> str | None:
            if (now := self._current(migration)) is None or now.phase(name) in FINAL:
                return self._why(migration, name)
            return "" if "needs" in now.wanted(name) or now.phase(name) == RUNNING else None

        why = await self._store.until(asked, min(self._settings.ready_timeout, left()))
        if why is None:
            return "its source has not stopped in time"
        now = self._current(migration)
        if why or now is None:
            return why or self._why(migration, name)
        if now.source_node != pod.node and (there_alone := pod.node_paths.get(name)):
            return f"it writes to {', '.join(there_alone)} of its node, which does not move"
        if why := needs.obstacle(needs.from_object(now.wanted(name).get("needs") or {}), request.has):
            return why
        if why := await self._connect(now):
            return why

        def ready(now: Migration) -> Object:
            return resource.container_change(now, name, {"targetPodIP": request.address}, restoreReady=True)

        await self._store.change(migration.key, migration.uid, ready)

        def there() -> str | None:
            if (now := self._current(migration)) is None or now.phase(name) in FINAL:
                return self._why(migration, name)
            return "" if now.phase(name) == RUNNING else None

        # Its memory may be on its way out for long while it still runs; all the while its node has to be there.
        while left() > 0:
            why = await self._store.until(there, min(self._settings.servers_timeout, left()))
            if why is None and (now := self._current(migration)):
                why = await self._connect(now) or None
            if why is not None:
                return why
        return f"its source was not out within {CREATION:g} s"

    async def finish(self, request: FinishRestoreRequest) -> FinishRestoreResponse:
        """Write how a restore goes on."""
        moving, name = request.container, request.container.container
        namespace, _, migration_name = request.migration.partition("/")
        found = self._store.get((namespace, migration_name))
        if found is None or found.target_uid != moving.pod_uid or not found.wanted(name):
            return FinishRestoreResponse()
        key, now = (found.uid, name), trio.current_time()
        phase = request.phase if request.phase in (RUNNING, COMPLETED, FAILED) else ""
        outcome = (found.uid, name, phase)
        is_news = phase in FINAL and phase != found.phase(name) and outcome not in self._told
        if not is_news and not request.is_final and now < self._written.get(key, 0.0) + PROGRESS:
            return FinishRestoreResponse()
        self._written[key] = now
        if is_news:
            if len(self._told) >= MOST_TOLD:
                self._told.clear()
                self._ended.clear()
            self._told.add(outcome)
        if request.is_final:
            self._written.pop(key, None)
            self._ended.add(key)
        fields: Object = {
            "bytesReceived": request.bytes_received,
            "pagesToCome": 0 if request.is_final else request.pages_to_come,
        }
        if request.HasField("restored_at"):
            fields["restoredAt"] = resource.timestamp(request.restored_at.ToMilliseconds() / 1000)

        def is_late() -> bool:
            return not request.is_final and key in self._ended

        written = await self._settle(found, [name], phase, request.why, fields, knows=True, is_late=is_late)
        if is_news and not written:
            self._told.discard(outcome)
        elif is_news and written:
            await self._tell_outcome(written, name, phase, request)
        return FinishRestoreResponse()

    async def _tell_outcome(self, migration: Migration, name: str, phase: str, request: FinishRestoreRequest) -> None:
        spec, moving = migration.spec, request.container
        source = (migration.namespace, str(spec.get("sourcePod")), migration.source_uid, name)
        target = (moving.pod_namespace, moving.pod, moving.pod_uid, name)
        if phase == FAILED:
            await self._teller.tell(*target, telling.FAILED, request.why or "its shim does not say why")
            await self._teller.tell(*source, telling.FAILED, request.why or "its target does not say why")
            return
        if took := migration.said(name).get("migrationDuration"):
            self.count, self.seconds = self.count + 1, self.seconds + resource.milliseconds(took) / 1000
        within = f" in {took}" if took else ""
        await self._teller.tell(*target, telling.MOVED, f"came from {migration.source_node}{within}")
        await self._teller.tell(*source, telling.MOVED, f"goes on as {moving.pod} on {migration.target_node}")

    async def _settle(
        self,
        migration: Migration,
        names: list[str] | tuple[str, ...],
        phase: str,
        reason: str = "",
        fields: Object | None = None,
        *,
        knows: bool = False,
        is_late: Callable[[], bool] = lambda: False,
    ) -> Migration | None:
        def edit(now: Migration) -> Object | None:
            if is_late() or (phase == UNCLAIMED and now.is_claimed):
                return None
            return resource.status_change(now, names, self._now(), phase, reason, fields, knows=knows)

        try:
            return await self._store.change(migration.key, migration.uid, edit, "status")
        except ApiError as error:
            log.warning("cannot say what became of %s/%s: %s", *migration.key, error)
            return None

    async def _pod_of(self, namespace: str, name: str, uid: str) -> Pod | None:
        with trio.move_on_after(SEEN):
            await self._store.known(SEEN)
            while True:
                pod = self._pods.items.get((namespace, name))
                if pod and pod.uid == uid:
                    return pod
                await self._pods.changed()
        return None

    def _current(self, migration: Migration) -> Migration | None:
        now = self._store.get(migration.key)
        return now if now and now.uid == migration.uid else None

    def _why(self, migration: Migration, name: str) -> str:
        now = self._current(migration)
        return (now and now.reason(name)) or "its source has ended without leaving anything behind"


def _claim_of(now: Migration, pod: Pod) -> Object | None:
    return resource.claim(now, pod) if now.is_open and fits(now, pod) else None
