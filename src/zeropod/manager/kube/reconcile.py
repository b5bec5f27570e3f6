"""Brings the API in line with the shims of this node's pods: labels, events, requests and custom resources.

The wanted state follows from the present state of both, by `wanted` and `zeropods`, without any history. So a missed
change does no harm: after a gap, a restart or a refused write both are compared again, and differences are written.

Rules:
1. A change of state causes three writes at most. Changes that follow within a moment are written with it. A higher
count
   of an event waits for a change of state with fewer writes, or for SERIES seconds.
2. Writes to one pod are sequential, annotations before the requests that they record; pods do not wait for each other.
3. A pod is identified by its uid, which its shim has from the kubelet and a custom resource from its owner. No text in
a
   resource or an annotation can name another pod.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from zeropod.manager.kube import events, resize, zeropods
from zeropod.manager.kube.carry_out import Shims
from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.crd import GROUP_VERSION, KIND, NODE_LABEL, PLURAL
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.events import Reporter, Told
from zeropod.manager.kube.follow import Follower, Key
from zeropod.manager.kube.pods import Pod, Statuses, read_pod
from zeropod.manager.kube.resize import Notice
from zeropod.manager.kube.work import Changes, Known, Options, Work, wanted
from zeropod.manager.kube.zeropods import Resource
from zeropod.rpc.messages.status_pb2 import RUNNING, ContainerStatus
from zeropod.rpc.status import RpcError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

PAUSE = 0.2
"""Seconds between two passes over all pods."""
INTERVAL = 1.0
"""Seconds between writes to one pod: changes in between are written together."""
MOVE = 2.0
"""Seconds for the sizes of a move in progress to be reported together with its sleep."""
LASTING = 5.0
"""Seconds after which a changed reason or size is not considered transient any more."""
DETAILS = 60.0
"""Seconds after which changed reasons and sizes of memory are written without a change of state."""
SERIES = 300.0
"""Seconds after which a higher count of an event is written, even if that needs a further write."""
REASONS = 120.0
"""Seconds after which the reasons of an awake container are queried again."""
RECHECK = 20.0
"""Seconds after which a pod with a pending resize is checked without a change, because that depends on time."""
AT_ONCE = 4
"""Pods that are written to at the same time."""
EACH = 3
"""Writes for one change of state (rule 1)."""
SAVED = 1
"""Writes that earlier changes of a pod may leave for later ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes to make now, and when to check again."""

    changes: Changes
    events: Sequence[Told]
    resource: bool
    """Whether to write the custom resource."""
    due: float


class Reconciler:
    """Writes all differences as soon as they are known."""

    def __init__(
        self,
        client: Client,
        shims: Shims,
        options: Options,
        reporter: Reporter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._shims, self._options, self._reporter, self._now = client, shims, options, reporter, now
        on_node = {"fieldSelector": f"spec.nodeName={reporter.node}"}
        self.pods = Follower(client, path_of("v1", "pods"), read_pod, on_node)
        labelled = {"labelSelector": f"{NODE_LABEL}={zeropods.label_value(reporter.node)}"}
        self.resources = Follower(client, path_of(GROUP_VERSION, PLURAL), zeropods.keep, labelled)
        self.writes: Counter[tuple[str, str]] = Counter()
        """Counts by kind (metadata, resize, event, zeropod) and outcome (ok, conflict, throttled, refused, failed)."""
        self._works: dict[str, Work] = {}
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._wake = trio.Event()

    @property
    def notices(self) -> list[tuple[Key, Notice]]:
        """Return why requests are not as they should be, by pod."""
        return [(work.key, notice) for work in self._works.values() for notice in work.notices]

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pods.run)
            if self._options.zeropods:
                nursery.start_soon(self.resources.run)
            for changed in (self._shims.changed, self.pods.changed, self.resources.changed):
                nursery.start_soon(self._forward, changed)
            while True:
                await trio.sleep(PAUSE)
                self._wake = trio.Event()
                # Before everything is known, missing objects would look like deleted ones.
                due = self._round(nursery) if self.pods.ready and self._shims.ready else math.inf
                with trio.move_on_at(due):
                    await self._wake.wait()

    async def _forward(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await changed()
            self._wake.set()

    def _round(self, nursery: trio.Nursery) -> float:
        """Handle every changed pod; return when to check again."""
        said, works = self._shims.by_pod(), dict[str, Work]()
        for key, pod in self.pods.items.items():
            found = said.get(pod.uid, ()) if pod.uid else ()
            work = self._works.get(pod.uid) or (Work(key) if found or pod.labels else None)
            if work:
                works[pod.uid] = work
                self._look(pod, found, work, nursery)
        self._works = works
        return min((work.due for work in works.values() if not work.is_busy), default=math.inf)

    def _look(self, pod: Pod, said: Sequence[ContainerStatus], work: Work, nursery: trio.Nursery) -> None:
        if work.is_busy:
            return
        now, api = trio.current_time(), (pod, self.resources.items.get(pod.key), self.resources.ready)
        if now < work.due and api == work.api and (said is work.said or _are_same(said, work.said)):
            return
        work.api, work.said = api, said
        plan = self._plan(pod, pod.statuses(said), work, now)
        if self._keeps(pod):
            work.requests.carry_out(
                pod, pod.statuses(said), self._resource(pod), self._shims, nursery, self._again(work)
            )
        work.due = max(plan.due, work.retry)
        if work.due <= now:
            work.is_busy = True
            nursery.start_soon(self._write, pod.uid, work)

    def _keeps(self, pod: Pod) -> bool:
        """Return whether a pod has a custom resource."""
        return self._options.zeropods and self.resources.ready and not pod.is_deleted

    def _resource(self, pod: Pod) -> Resource | None:
        """Return the pod's custom resource; None for one of another pod of the same name."""
        found = self.resources.items.get(pod.key)
        return found if found and zeropods.is_of(found, pod, self._reporter.node) else None

    def _again(self, work: Work) -> Callable[[], None]:
        def again() -> None:
            work.api = ()
            self._wake.set()

        return again

    def _plan(self, pod: Pod, statuses: Statuses, work: Work, now: float) -> Plan:
        """Return the writes to make to a pod, and when."""
        ours = {container.name: statuses[container.name] for container in pod.containers if container.name in statuses}
        changes = wanted(pod, ours, self._options, self._now(), work.refused)
        work.notices = changes.notices
        moves = sum(status.restores + (status.standby_sleeps or status.cold_sleeps) for status in ours.values())
        if work.moves is not None and moves > work.moves:
            work.room = min(work.room + EACH * (moves - work.moves), EACH + SAVED)
        work.moves = moves
        times = [now + RECHECK] if pod.pending else []
        has_metadata = bool(changes.labels or changes.annotations)
        if has_metadata or changes.requests:
            times.append(work.written + INTERVAL)
        resource = self._resource_due(pod, statuses, work, now) if self._keeps(pod) and statuses else math.inf
        times.append(resource)
        left = work.room - has_metadata - bool(changes.requests) - (work.seen is not None)
        fresh = []
        for told in changes.events:
            known = work.told.get(told.name)
            if known and known.mark == told.mark:
                continue
            waits = known and told.is_counted and not told.is_warning and left <= 0
            due = max(work.written + INTERVAL, known.at + SERIES if known and waits else now)
            times.append(due)
            if due <= now:
                fresh.append(told)
                left -= 1
        return Plan(changes, fresh, resource <= now, min(times))

    def _resource_due(self, pod: Pod, statuses: Statuses, work: Work, now: float) -> float:
        """Return when the custom resource has to be checked."""
        # Reasons change without a change of state.
        again = work.asked + REASONS if any(each.state == RUNNING for each in statuses.values()) else math.inf
        resource, difference = self._resource(pod), "state"
        if resource:
            difference = zeropods.differs(resource.status, self._status(pod, statuses, resource, work))
        if difference != "state":
            work.seen = None
            work.details = (now if work.details is None else work.details) if difference else None
            pause = INTERVAL if difference == "resize" else DETAILS
            return again if work.details is None else min(again, max(work.shown + pause, work.details + LASTING))
        work.details = None
        work.seen = now if work.seen is None else work.seen
        if resource and work.requests.has_news(statuses, resource):
            return now
        settled = work.seen + (MOVE if any(each.memory_moving for each in statuses.values()) else 0)
        return min(again, max(settled, work.shown + INTERVAL))

    def _status(self, pod: Pod, statuses: Statuses, resource: Resource, work: Work) -> Object:
        """Return the present status of the resource."""
        before, said = resource.containers, []
        for name, status in statuses.items():
            known = before.get(name, {})
            newer_than, answer = work.answers.get(status.id, (None, []))
            reasons = (
                answer if newer_than is status else [(each.kind, each.text, each.remedy) for each in status.reasons]
            )
            records = work.requests.records(pod, name, resource.spec, known.get("requests") or ())
            reasons = zeropods.reasons_of(pod, reasons)
            said.append(zeropods.container_status(status, known, reasons, records))
        return zeropods.pod_status(said, self._reporter.node, resource.generation, pod.problem)

    async def _write(self, uid: str, work: Work) -> None:
        """Make the writes of a plan, in the order of the pod's writes."""
        failures: list[ApiError] = []
        try:
            async with self._limiter:
                pod = self.pods.items.get(work.key)
                if pod and pod.uid == uid:
                    await self._write_all(pod, work, failures)
                    work.written = trio.current_time()
        finally:
            work.is_busy, work.api = False, ()
        if failures:
            # A deleted pod needs no log line; the watch reports it.
            if not work.backoff.failures and failures[0].reason != "NotFound":
                log.warning("cannot update %s, trying again: %s", "/".join(work.key), failures[0])
            pause = work.backoff.failed(max(failure.retry_after for failure in failures))
            work.retry = trio.current_time() + pause
        else:
            work.backoff.succeeded()
        self._wake.set()

    async def _write_all(self, pod: Pod, work: Work, failures: list[ApiError]) -> None:
        """Make all writes that can be made, and return the failures."""
        plan = self._plan(pod, self._said(pod), work, trio.current_time())
        changes, path, latest = plan.changes, path_of(*pod.path), pod
        if changes.labels or changes.annotations:
            metadata: Object = {"uid": pod.uid}
            metadata |= {"labels": dict(changes.labels)} if changes.labels else {}
            metadata |= {"annotations": dict(changes.annotations)} if changes.annotations else {}
            patch = self._client.merge_patch(path, {"metadata": metadata})
            answered = await self._attempt("metadata", patch, self.pods.learn, work, failures)
            latest = answered or pod
            if changes.requests and (not answered or _requests(answered) != _requests(pod)):
                changes = Changes()
        if changes.requests:
            before = len(failures)
            patch = self._client.strategic_patch(f"{path}/resize", resize.patch_of(latest, changes.requests))
            await self._attempt("resize", patch, self.pods.learn, work, failures)
            answers = failures[before:]
            work.refused = next((each.message for each in answers if each.status in (403, 404, 422)), "")
        elif not plan.changes.requests:
            work.refused = ""
        if plan.resource:
            await self._write_resource(pod, work, failures)
        for told in plan.events:
            await self._tell(told, pod, work, failures)

    def _said(self, pod: Pod) -> dict[str, ContainerStatus]:
        return pod.statuses(self._shims.by_pod().get(pod.uid, ()))

    async def _write_resource(self, pod: Pod, work: Work, failures: list[ApiError]) -> None:
        """Update a pod's custom resource, unless the pod has ended meanwhile."""
        path, resource, statuses = path_of(GROUP_VERSION, PLURAL, *pod.key), self._resource(pod), self._said(pod)
        if trio.current_time() >= work.asked + REASONS:
            await self._ask_why(statuses.values(), work)
        if resource is None:
            create = self._client.apply(path, zeropods.identity(pod, self._reporter.node))
            resource = await self._attempt("zeropod", create, self._learn_resource, work, failures)
        # Includes changes from before this point.
        statuses = self._said(pod)
        if resource is None or not statuses:
            return
        status = self._status(pod, statuses, resource, work)
        difference = zeropods.differs(resource.status, status)
        if not difference:
            return
        body = {
            "apiVersion": GROUP_VERSION,
            "kind": KIND,
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": resource.uid},
            "status": {**status, "lastUpdateTime": zeropods.timestamp(int(self._now() * 1e9))},
        }
        before = len(failures)
        write = self._client.apply(f"{path}/status", body)
        if await self._attempt("zeropod", write, self._learn_resource, work, failures):
            work.shown, work.seen = trio.current_time(), None
            work.room += difference != "state"  # not for a change of state
        elif failures[before].status in (404, 409):
            # It was deleted, or another has its name, and the watch has not reported that yet.
            self.resources.items.pop(pod.key, None)

    def _learn_resource(self, body: Object) -> Resource:
        return self.resources.learn(body, is_new=True)

    async def _ask_why(self, containers: Iterable[ContainerStatus], work: Work) -> None:
        """Query the reasons of awake containers; if a query fails, the last ones stay."""
        work.asked, answers = trio.current_time(), work.answers
        work.answers = {}
        for each in containers:
            if each.state == RUNNING:
                try:
                    work.answers[each.id] = (each, await self._shims.why(each.id))
                except RpcError:
                    work.answers |= {each.id: answers[each.id]} if each.id in answers else {}

    async def _tell(self, told: Told, pod: Pod, work: Work, failures: list[ApiError]) -> None:
        """Write an event, unless it exists: a manager that has just started does not know."""
        path = path_of("v1", "events", pod.namespace, told.name)
        if told.name not in work.told:
            try:
                stored = await self._client.get(path)
                work.told[told.name] = Known(events.mark_of(stored, told), str(stored.get("firstTimestamp") or ""))
            except ApiError as error:
                if error.status != 404:
                    failures.append(error)
                    return
        known = work.told.get(told.name)
        if known and known.mark == told.mark:
            return
        body = events.body_of(told, pod, self._reporter, known.first if known else "")
        if await self._attempt("event", self._client.apply(path, body), dict, work, failures) is not None:
            work.told[told.name] = Known(told.mark, body["firstTimestamp"], trio.current_time())

    async def _attempt(
        self, kind: str, write: Awaitable[Object], take: Callable[[Object], _T], work: Work, failures: list[ApiError]
    ) -> _T | None:
        """Return the result of `take` for the response, None if the write has failed."""
        try:
            stored = take(await write)
        except ApiError as error:
            outcome = {409: "conflict", 429: "throttled"}.get(error.status) or (
                "refused" if 400 <= error.status < 500 else "failed"
            )
            self.writes[kind, outcome] += 1
            failures.append(error)
            return None
        self.writes[kind, "ok"] += 1
        # Writes before a pod first sleeps do not count against its changes.
        work.room -= bool(work.moves)
        return stored


def _are_same(one: Sequence[ContainerStatus], other: Sequence[ContainerStatus]) -> bool:
    """Return whether these are the same objects: each change makes new ones, and comparing contents takes long."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _requests(pod: Pod) -> list[Mapping[str, str]]:
    return [container.requests for container in pod.containers]
