"""The source's side of a move: what the shim of a container that leaves asks, and what it waits for.

It asks twice: before the container is frozen for good (`prepare`), which is answered when the replacement is ready,
and when what it leaves behind is there (`evacuate`), which is answered when it was taken. Until then it can come back.
"""

import logging
import time
from collections.abc import Callable, Sequence

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.follow import Follower
from zeropod.manager.migration import needs, resource, telling
from zeropod.manager.migration.deadlines import decided_by
from zeropod.manager.migration.leaving import Case, Leaving
from zeropod.manager.migration.matching import fits
from zeropod.manager.migration.names import COMPLETED, FAILED, FINAL, RUNNING, UNCLAIMED
from zeropod.manager.migration.pods import Pod, read_pod
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.store import Store
from zeropod.rpc.messages import node_pb2
from zeropod.rpc.messages.node_pb2 import (
    GIVEN,
    PARKED,
    WITHDRAW,
    EvacRequest,
    EvacResponse,
    PrepareEvacRequest,
    PrepareEvacResponse,
)

log = logging.getLogger(__name__)


MOST_KNOWN = 1000
"""Claims whose verdict is remembered."""
SEEN = 5.0
"""Seconds for a manager that has just begun to know what there is."""


class Source:
    """Answers the shims of containers that leave."""

    def __init__(
        self,
        client: Client,
        store: Store,
        pods: Follower[Pod],
        leaving: Leaving,
        settings: Settings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._store, self._pods, self._leaving = client, store, pods, leaving
        self._settings, self._now = settings, now
        self._verified: dict[tuple[str, str], str] = {}
        """Why a claim is none, by the uids of the Migration and the pod; empty if it is one."""

    async def prepare(self, request: PrepareEvacRequest) -> PrepareEvacResponse:
        """Answer when a container may be frozen for good, or with why it may not."""
        moving, name = request.container, request.container.container
        try:
            pod = await self._pod_of(moving)
        except ApiError as error:
            return PrepareEvacResponse(why=f"the API server says: {error}")
        if pod is None:
            return PrepareEvacResponse(why="its pod is not being deleted")
        case = self._leaving.case(pod)
        await case.decided.wait()
        if case.migration is None:
            return PrepareEvacResponse(why=case.why)
        migration = self._store.get(case.migration.key) or case.migration
        if not migration.wanted(name):
            return PrepareEvacResponse(why="its Migration does not name it")
        why = request.obstacle or _refusal_of_state(request)
        if not why and self._leaving.left(pod) <= 0:
            why = "the grace period leaves no time for it"
        if not why:
            try:
                why = await self._until_ready(case, pod, migration, request)
            except ApiError as error:
                why = f"the API server says: {error}"
        if why:
            await self._leaving.settle(migration, [name], FAILED, why)
            return PrepareEvacResponse(why=why)
        text = _leaves(self._store.get(migration.key) or migration, pod.empty_dirs.get(name, ()))
        await self._leaving.tell(migration, name, telling.STARTED, text)
        answer = PrepareEvacResponse(go=True, key=resource.key_of_export(pod, name), park=migration.parks)
        assert pod.deadline is not None
        answer.deadline.FromMilliseconds(int(decided_by(pod.deadline, pod.grace) * 1000))
        return answer

    async def _until_ready(self, case: Case, pod: Pod, migration: Migration, request: PrepareEvacRequest) -> str:
        """Return "" when a container may go, else why it may not. Raises ApiError."""
        name, key, uid = request.container.container, migration.key, migration.uid
        wanted = needs.as_object(request.needs)
        await self._store.change(
            key,
            uid,
            lambda now: (
                None
                if now.wanted(name).get("needs") == wanted
                else resource.container_change(now, name, needs=wanted, asleep=request.asleep)
            ),
        )
        if migration.parks:
            return ""

        def claimed() -> Migration | None:
            now = self._current(migration)
            return now if now is None or now.is_claimed or now.phase(name) in FINAL else None

        begun, timeout = case.begun, self._settings.claim_timeout
        await self._store.until(claimed, min(begun + timeout - self._now(), self._leaving.left(pod)))
        if claimed() is None and self._current(migration) is not None:
            text = f"no replacement has come within {self._now() - begun:.0f} s"
            if (
                left := await self._leaving.settle(migration, migration.names, UNCLAIMED, text)
            ) and not left.is_claimed:
                return text
        if (now := self._current(migration)) and now.is_claimed and (why := await self.claim_obstacle(now)):
            return why

        def ready() -> str | None:
            now = self._current(migration)
            if now is None:
                return "its Migration was deleted"
            if now.phase(name) in FINAL:
                return now.reason(name) or "its target has given up"
            return "" if now.wanted(name).get("restoreReady") else None

        answer = await self._store.until(ready, min(self._settings.ready_timeout, self._leaving.left(pod)))
        return "its replacement was not ready in time" if answer is None else answer

    def _current(self, migration: Migration) -> Migration | None:
        now = self._store.get(migration.key)
        return now if now and now.uid == migration.uid else None

    async def claim_obstacle(self, migration: Migration) -> str:
        """Return why the pod that has claimed a Migration has no right to it; empty if it has. Raises ApiError."""
        known = (migration.uid, migration.target_uid)
        if known not in self._verified:
            path = path_of("v1", "pods", migration.namespace, str(migration.spec.get("targetPod")))
            why = ""
            try:
                pod = read_pod(await self._client.get(path))
                if pod.uid != migration.target_uid or pod.node != migration.target_node:
                    why = "it was claimed for a pod that is not there"
                elif not fits(migration, pod):
                    why = f"it was claimed for {pod.name}, which does not replace it"
            except ApiError as error:
                if error.status != 404:
                    raise
                why = "its replacement is gone"
            if len(self._verified) >= MOST_KNOWN:
                self._verified.clear()
            self._verified[known] = why
            if why:
                log.warning("%s/%s, claimed by node %s: %s", *migration.key, migration.target_node, why)
        return self._verified[known]

    async def evacuate(self, request: EvacRequest) -> EvacResponse:
        """Answer when what a container has left behind was taken, is kept for later, or has to be withdrawn."""
        moving, name = request.container, request.container.container
        await self._store.known(SEEN)
        found = self._store.get((moving.pod_namespace, moving.pod))
        if found is None or found.source_uid != moving.pod_uid or not found.wanted(name):
            return EvacResponse(outcome=WITHDRAW, why="there is no Migration of it any more")
        paused = request.paused_at.ToMilliseconds() / 1000 or self._now()
        fields = {
            "pausedAt": resource.timestamp(paused),
            "imageBytes": request.image_bytes,
            "storedBytes": request.stored_bytes,
        }

        def edit(current: Migration) -> Object | None:
            return resource.status_change(current, [name], self._now(), RUNNING, fields=fields)

        try:
            migration = await self._store.change(found.key, found.uid, edit, "status")
        except ApiError as error:
            return EvacResponse(outcome=WITHDRAW, why=f"the API server says: {error}")
        if migration and migration.parks and migration.phase(name) == RUNNING:
            return EvacResponse(outcome=PARKED)

        def ended() -> EvacResponse | None:
            now = self._current(found)
            if now is None:
                return EvacResponse(outcome=WITHDRAW, why="its Migration was deleted")
            match now.phase(name):
                case status if status == COMPLETED:
                    return EvacResponse(outcome=GIVEN, address=str(now.spec.get("targetPodIP") or ""))
                case status if status in FINAL:
                    return EvacResponse(outcome=WITHDRAW, why=now.reason(name) or "its target has given up")
            return None

        pod = self._pods.items.get(found.key)
        left = self._leaving.left(pod) if pod and pod.uid == moving.pod_uid else 0.0
        late = EvacResponse(outcome=WITHDRAW, why="its target has not taken it in time")
        answer = await self._store.until(ended, left) or late
        if answer.outcome == GIVEN and not answer.address:
            answer.address = await self._address_of(found)
        return answer

    async def _address_of(self, migration: Migration) -> str:
        """Return where the pod that has taken over is reached; empty if that is not known."""
        now = self._current(migration)
        try:
            name = str(now.spec.get("targetPod")) if now else ""
            return read_pod(await self._client.get(path_of("v1", "pods", migration.namespace, name))).address
        except ApiError as error:
            log.info("%s/%s: connections do not follow it: %s", *migration.key, error)
            return ""

    async def _pod_of(self, moving: node_pb2.Moving) -> Pod | None:
        """Return the pod of a container, if it is being deleted. Raises ApiError."""
        key = (moving.pod_namespace, moving.pod)
        pod = self._pods.items.get(key)
        if pod is None or pod.uid != moving.pod_uid or pod.deadline is None:
            # The kubelet may have heard of that before.
            try:
                pod = read_pod(await self._client.get(path_of("v1", "pods", *key)))
            except ApiError as error:
                if error.status != 404:
                    raise
                return None
        return pod if pod.uid == moving.pod_uid and pod.deadline is not None else None


def _refusal_of_state(request: PrepareEvacRequest) -> str:
    if request.live or (request.offline and request.asleep):
        return ""
    return "it is awake, and may move only while it sleeps" if request.offline else "it may not move"


def _leaves(migration: Migration, left: Sequence[str]) -> str:
    behind = f"; what is in {', '.join(left)} (emptyDir) stays behind" if left else ""
    if migration.parks:
        return f"its memory is kept for the pod that comes in its place{behind}"
    return f"moves to {migration.spec.get('targetPod')} on {migration.target_node}{behind}"
