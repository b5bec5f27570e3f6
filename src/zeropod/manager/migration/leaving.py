"""Pods of this node that leave: each has its Migration, or a reason why not, before its containers are ended.

A pod that is being deleted gets its Migration as soon as that is heard of, so that its replacement can claim it while
the kubelet still sends signals. What a person asks for by name is prepared as well, and what has come to nothing is
given its end. All that is known is in the Migrations: a manager that is started anew goes on where the last one was.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.follow import Follower
from zeropod.manager.kube.pacing import Backoff
from zeropod.manager.migration import owners, resource, telling
from zeropod.manager.migration.deadlines import decided_by
from zeropod.manager.migration.names import FAILED, FINAL, RUNNING, UNCLAIMED
from zeropod.manager.migration.owners import Replacement
from zeropod.manager.migration.pods import Pod, read_pod
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.telling import Teller
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import RpcError

log = logging.getLogger(__name__)

SILENT = 60.0
"""Seconds after the end of a pod for its target to say what became of what it has left behind."""
LOOK = 15.0
"""Seconds between looks without a change: some things end by the time alone."""


class Shims(Protocol):
    """The node's containers."""

    def by_pod(self) -> Mapping[str, Sequence[ContainerStatus]]:
        """Return what all shims say, by the pods' uids."""

    @property
    def ready(self) -> bool:
        """Whether all shims have been heard of."""

    async def changed(self) -> None:
        """Return at the next change."""

    async def leave(self, id: str) -> None:
        """Have a container move at its next stop although no annotation says so. Raises RpcError."""


@dataclass(slots=True)
class Case:
    """A pod that leaves."""

    pod: Pod
    begun: float
    """By the clock on the wall."""
    decided: trio.Event = field(default_factory=trio.Event)
    migration: Migration | None = None
    """As it was made."""
    why: str = ""
    """Why there is none."""


class Leaving:
    """The node's pods that leave."""

    def __init__(
        self,
        client: Client,
        store: Store,
        pods: Follower[Pod],
        shims: Shims,
        teller: Teller,
        settings: Settings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._store, self._pods, self._shims = client, store, pods, shims
        self._teller, self._settings, self._now = teller, settings, now
        self._cases: dict[str, Case] = {}
        self._busy: set[str] = set()
        """Uids of Migrations that something is written to from here, so that nothing is written twice."""
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()

    async def run(self) -> None:
        """Prepare for pods that leave, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for changed in (self._pods.changed, self._store.followed.changed, self._shims.changed):
                nursery.start_soon(self._forward, changed)
            while True:
                self._wake = trio.Event()
                if self._pods.ready and self._store.followed.ready and self._shims.ready:
                    self._look()
                due = [left for case in self._cases.values() if (left := self.left(case.pod)) > 0]
                with trio.move_on_after(min([LOOK, *due])):
                    await self._wake.wait()

    async def _forward(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await changed()
            self._wake.set()

    def _look(self) -> None:
        said, there = self._shims.by_pod(), {pod.uid for pod in self._pods.items.values()}
        for pod in list(self._pods.items.values()):
            if pod.deadline is not None and pod.uid in said and (pod.leaving or self._asked_by_name(pod)):
                self.case(pod)
        self._cases = {uid: case for uid, case in self._cases.items() if uid in there}
        for each in self._store.all:
            if each.source_node == self._settings.node and not each.is_final:
                self._look_after(each, each.source_uid in there)

    def _look_after(self, migration: Migration, is_there: bool) -> None:
        pod, work = self._pods.items.get(migration.key), list[Callable[[], Awaitable[object]]]()
        servers = [migration.wanted(name).get("imageServer") or {} for name in migration.names]
        if any(each.get("host") != self._settings.host for each in servers):
            work.append(partial(self._move_server, migration))
        if migration.by_name and not migration.status and is_there and pod:
            work.append(partial(self._adopt, migration, pod))
        if not is_there and (end := self._end_of(migration)):
            work.append(partial(self.settle, migration, *end))
        elif pod and is_there and self.left(pod) <= 0 and (late := _not_out(migration)):
            # Their shim ends them in order, and their replacements begin anew.
            text = "its memory was not out before the end of its grace period came near"
            work.append(partial(self.settle, migration, late, FAILED, text))
        if work and migration.uid not in self._busy:
            assert self._nursery is not None
            self._busy.add(migration.uid)
            self._nursery.start_soon(self._write, migration.uid, work)

    async def _write(self, uid: str, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        try:
            for each in work:
                await each()
        finally:
            self._busy.discard(uid)

    def _end_of(self, migration: Migration) -> tuple[list[str], str, str] | None:
        """Return what ends, how and why, of a pod that is gone: not what it has left behind for another one to take."""
        left = [name for name in migration.names if migration.phase(name) == RUNNING]
        ended = _not_out(migration)
        age = self._now() - migration.touched
        if ended:
            return ended, FAILED, "the pod ended before it could move"
        if left and migration.parks and not migration.is_claimed and age > self._settings.ready_timeout:
            return left, UNCLAIMED, f"no pod has come in its place within {self._settings.ready_timeout:g} s"
        if left and not migration.parks and age > SILENT:
            return left, FAILED, f"its target has not said within {SILENT:g} s what became of it"
        return None

    def _asked_by_name(self, pod: Pod) -> bool:
        known = self._store.get(pod.key)
        return known is not None and known.by_name and known.source_uid == pod.uid

    async def _adopt(self, migration: Migration, pod: Pod) -> None:
        """Have the containers that a person wants to move do so at their stop, and say that this is known."""
        failures = []
        for status in self._shims.by_pod().get(pod.uid, ()):
            if migration.wanted(status.container):
                try:
                    await self._shims.leave(status.id)
                except RpcError as error:
                    failures.append(f"{status.container}: {error.message}")
        if failures or not self._shims.by_pod().get(pod.uid):
            text = "; ".join(failures) or "zeropod does not run it"
            await self.settle(migration, migration.names, FAILED, text)
        else:
            await self.settle(migration, migration.names, "", "")

    async def settle(self, migration: Migration, names: Sequence[str], phase: str, reason: str) -> Migration | None:
        """Write what became of containers; what cannot be written is written at the next look."""

        def edit(current: Migration) -> Object | None:
            if phase == UNCLAIMED and current.is_claimed:
                return None
            return resource.status_change(current, names, self._now(), phase, reason)

        try:
            changed = await self._store.change(migration.key, migration.uid, edit, "status")
        except ApiError as error:
            log.warning("cannot say what became of %s: %s", "/".join(migration.key), error)
            return None
        if changed and phase in (FAILED, UNCLAIMED):
            for name in names:
                if changed.phase(name) == phase:
                    await self.tell(changed, name, telling.FAILED if phase == FAILED else telling.KEPT, reason)
        return changed

    async def _move_server(self, migration: Migration) -> None:
        """Say where this manager is now: it has another address than the one that wrote the Migration."""
        server = {"host": self._settings.host, "port": self._settings.port}

        def edit(current: Migration) -> Object:
            containers = [{**each, "imageServer": server} for each in current.spec.get("containers") or ()]
            return {"metadata": {"resourceVersion": current.version}, "spec": {"containers": containers}}

        try:
            await self._store.change(migration.key, migration.uid, edit)
        except ApiError as error:
            log.warning("cannot say where %s is served: %s", "/".join(migration.key), error)

    def case(self, pod: Pod) -> Case:
        """Return what is known of a pod that leaves, which is decided soon."""
        case = self._cases.get(pod.uid)
        if case is None:
            assert self._nursery is not None
            case = self._cases[pod.uid] = Case(pod, self._now())
            self._nursery.start_soon(self._decide, case)
        return case

    async def _decide(self, case: Case) -> None:
        """Make a pod's Migration, or say why there is none, in any case."""
        backoff = Backoff(0.1, 2.0)
        try:
            await self._store.known(self.left(case.pod))
            while True:
                try:
                    case.migration, case.why = await self._begin(case.pod)
                    break
                except ApiError as error:
                    case.why = f"the API server says: {error}"
                    if 400 <= error.status < 500 and error.status not in (409, 429):
                        break
                    if self.left(case.pod) < 1.0:
                        break
                    await trio.sleep(backoff.failed(error.retry_after))
            if case.why:
                log.info("%s/%s does not move: %s", *case.pod.key, case.why)
        finally:
            case.decided.set()

    async def _begin(self, pod: Pod) -> tuple[Migration | None, str]:
        """Return a pod's Migration, or why there is none. Raises ApiError."""
        known = self._store.get(pod.key)
        if known and known.source_uid != pod.uid:
            if not known.is_done:
                return None, "its last move has not ended"
            await self._store.delete(known)
            known = None
        by_name = known is not None and known.by_name
        if why := owners.refusal(pod, by_name=by_name):
            return None, why
        chosen = known is not None and known.is_claimed
        comes = owners.AT_ONCE if chosen else await self._replacement(pod)
        if not comes.comes:
            if known:
                await self.settle(known, known.names, FAILED, comes.why)
            return None, comes.why
        if known:
            return known, ""
        settings = self._settings
        body = resource.body_of(pod, pod.leaving, settings.host, settings.port, parks=comes.parks)
        return await self._store.create(body), ""

    async def _replacement(self, pod: Pod) -> Replacement:
        """Ask what takes a pod's place. Raises ApiError."""
        if pod.owner is None or pod.owner.kind not in owners.READ:
            return owners.replacement(pod, {"metadata": {"uid": pod.owner.uid}} if pod.owner else None, (), ())
        path = path_of(pod.owner.version, owners.PLURALS[pod.owner.kind], pod.namespace, pod.owner.name)
        try:
            owner: Object | None = await self._client.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            owner = None
        pods: list[Pod] = []
        if pod.owner.kind == "ReplicaSet" and pod.template_hash:
            query = {"labelSelector": f"pod-template-hash={pod.template_hash}"}
            pods = (await self._client.list(path_of("v1", "pods", pod.namespace), read_pod, query)).items
        return owners.replacement(pod, owner, pods, [each.target_uid for each in self._store.all if each.is_claimed])

    def left(self, pod: Pod) -> float:
        """Return the seconds in which it has to be decided."""
        return math.inf if pod.deadline is None else decided_by(pod.deadline, pod.grace) - self._now()

    async def tell(self, migration: Migration, name: str, reason: str, text: str) -> None:
        """Tell the pod that leaves of a container by an event."""
        pod = str(migration.spec.get("sourcePod"))
        await self._teller.tell(migration.namespace, pod, migration.source_uid, name, reason, text)


def _not_out(migration: Migration) -> list[str]:
    """Return the containers that have neither left anything behind yet nor come to an end."""
    return [name for name in migration.names if migration.phase(name) not in (*FINAL, RUNNING)]
