"""Keeps the custom resources of a node's pods right, and carries out what is wanted in them.

A pod's resource is compared with what its shim says whenever either changes, and written when it differs: once for each
change of state, since what follows within a moment is written with it. Nothing has to be remembered: whatever was lost
while the manager, the API server or a shim was away, the comparison finds. What fails is tried again, later each time.

A pod is known by its uid, which its shim has from the kubelet and the resource from its owner. No text in a resource or
an annotation names another pod.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from zeropod.manager.kube import on_demand, zeropods
from zeropod.manager.kube.client import Client, path_of
from zeropod.manager.kube.crd import GROUP_VERSION, KIND, NODE_LABEL, PLURAL
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.follow import Follower
from zeropod.manager.kube.on_demand import Outcome, Request, Wanted
from zeropod.manager.kube.pacing import Backoff
from zeropod.manager.kube.zeropods import Object, Pod
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import RpcError

log = logging.getLogger(__name__)

GATHER = 0.2
"""Seconds in which changes are gathered, to be written together."""
MOVE = 2.0
"""Seconds for memory that is on its way out to be counted with the sleep that it belongs to."""
PAUSE = 0.1
"""Seconds between two looks at all pods."""
INTERVAL = 1.0
"""Seconds between two writes of one resource."""
SIZES = 60.0
"""Seconds after which sizes of memory are written by themselves."""
REASONS = 120.0
"""Seconds after which a container that is awake is asked again why."""
WRITERS = 4
"""Resources that are written at once."""

_ACTS_IN = (
    status_pb2.RUNNING,
    status_pb2.CHECKPOINTING,
    status_pb2.STANDBY,
    status_pb2.DOZING,
    status_pb2.COLD,
    status_pb2.RESTORING,
    status_pb2.PAUSED,
)


class Api(Protocol):
    """What of the client is used."""

    async def apply(self, path: str, body: Object) -> Object:
        """Apply an object on the server."""


class Shims(Protocol):
    """The node's containers, and what their shims can be asked."""

    @property
    def containers(self) -> Sequence[ContainerStatus]:
        """Return what all shims say."""

    @property
    def ready(self) -> bool:
        """Whether all shims have been heard of."""

    async def changed(self) -> None:
        """Return at the next change."""

    async def why(self, id: str) -> list[tuple[str, str, str]]:
        """Return kind, text and remedy of each reason for what a container does. Raises RpcError, as these do."""

    async def sleep(self, id: str) -> None:
        """Put a container to sleep."""

    async def wake(self, id: str) -> None:
        """Wake a container."""


class Pods(Protocol):
    """The node's pods as the API has them."""

    ready: bool
    items: dict[tuple[str, str], Pod]

    async def changed(self) -> None:
        """Return at the next change."""


class Resources(Protocol):
    """The node's custom resources as the API has them."""

    ready: bool
    items: dict[tuple[str, str], Object]

    async def changed(self) -> None:
        """Return at the next change."""


@dataclass(slots=True)
class Entry:
    """What is under way for one pod."""

    seen: float | None = None
    """When a difference was noticed that is not written yet."""
    written: float = -math.inf
    retry: float = -math.inf
    """When it may be tried again after a failure."""
    busy: bool = False
    """A task writes it."""
    acting: set[str] = field(default_factory=set)
    """Containers that a task puts to sleep or wakes."""
    outcomes: dict[str, list[Object]] = field(default_factory=dict)
    """What became of requests, by container, whether it is written or not."""
    reasons: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    asked: float = -math.inf
    """When the reasons were asked for."""
    backoff: Backoff = field(default_factory=Backoff)
    inputs: tuple[object, ...] = ()
    """What the last comparison was of."""
    due: float = math.inf
    """When to look again without a change."""


class Controller:
    def __init__(self, api: Api, shims: Shims, pods: Pods, resources: Resources, node: str) -> None:
        self._api, self._shims, self._pods, self._resources = api, shims, pods, resources
        self._node = node
        self._entries: dict[str, Entry] = {}
        self._writers = trio.CapacityLimiter(WRITERS)
        self._changed = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for source in (self._shims, self._pods, self._resources):
                nursery.start_soon(self._hear, source.changed)
            while True:
                self._changed = trio.Event()
                due = self._round(nursery) if self._is_ready() else math.inf
                with trio.move_on_at(due):
                    await self._changed.wait()
                await trio.sleep(PAUSE)

    async def _hear(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await changed()
            self._changed.set()

    def _is_ready(self) -> bool:
        """Before all is known, what is missing would look as if it were gone."""
        return self._shims.ready and self._pods.ready and self._resources.ready

    def _round(self, nursery: trio.Nursery) -> float:
        """Look at every pod of which something has changed; return when to look again."""
        found: dict[str, list[ContainerStatus]] = {}
        for each in self._shims.containers:
            found.setdefault(each.pod_uid, []).append(each)
        uids = set()
        for key, pod in self._pods.items.items():
            uids.add(pod.uid)
            if pod.uid in found:
                self._look(pod, found[pod.uid], self._resources.items.get(key), nursery)
        self._entries = {uid: entry for uid, entry in self._entries.items() if uid in uids}
        return min((entry.due for entry in self._entries.values() if not entry.busy), default=math.inf)

    def _look(self, pod: Pod, found: list[ContainerStatus], resource: Object | None, nursery: trio.Nursery) -> None:
        if (entry := self._entries.get(pod.uid)) is None:
            entry = self._entries[pod.uid] = Entry()
        if entry.busy:
            return
        now, inputs = trio.current_time(), (pod, resource, *found)
        same = len(inputs) == len(entry.inputs) and all(map(_is, inputs, entry.inputs))
        if same and now < entry.due:
            return
        entry.inputs = inputs
        containers = zeropods.containers_of(pod, found)
        if not containers or pod.ends:
            entry.due = math.inf
            return
        self._carry_out(pod, containers, resource, nursery)
        entry.due = self._due(pod, containers, resource, entry, now)
        if entry.due <= now:
            entry.busy = True
            nursery.start_soon(self._write, pod, entry)

    def _due(
        self, pod: Pod, containers: list[ContainerStatus], resource: Object | None, entry: Entry, now: float
    ) -> float:
        """Return when something has to be done for a pod."""
        again = entry.asked + REASONS if any(each.state == status_pb2.RUNNING for each in containers) else math.inf
        if resource is None or not zeropods.is_of(resource, pod, self._node):
            difference = "state"
        else:
            difference = zeropods.differs(resource["status"], self._status(pod, containers, resource, entry))
        if not difference:
            entry.seen = None
            return max(again, entry.retry)
        entry.seen = now if entry.seen is None else entry.seen
        settled = entry.seen + (MOVE if any(each.memory_moving for each in containers) else GATHER)
        interval = SIZES if difference == "memory" else INTERVAL
        if resource and self._has_news(containers, resource, entry):
            settled, interval = now, 0.0
        return max(min(again, max(settled, entry.written + interval)), entry.retry)

    def _has_news(self, containers: list[ContainerStatus], resource: Object, entry: Entry) -> bool:
        """Whether something became of a request that is not written: a person waits for it."""
        written = {each["name"]: each.get("requests") or [] for each in resource["status"].get("containers") or ()}
        return any(
            outcome not in written.get(each.container, ())
            for each in containers
            for outcome in entry.outcomes.get(each.container, ())
        )

    def _status(self, pod: Pod, containers: list[ContainerStatus], resource: Object, entry: Entry) -> Object:
        """Return what a resource has to say now."""
        before = {each["name"]: each for each in resource["status"].get("containers") or ()}
        annotated, problem = _annotated(pod)
        said = []
        for each in containers:
            known = before.get(each.container, {})
            requests = on_demand.wanted_of(each.container, resource["spec"], annotated)
            recorded = [*entry.outcomes.get(each.container, ()), *(known.get("requests") or ())]
            told = entry.reasons.get(each.id) or [_pair(reason) for reason in known.get("reasons") or ()]
            reasons = zeropods.reasons_of(pod, told)
            records = on_demand.standing(requests, recorded)
            said.append(zeropods.container_status(each, known, reasons, records))
        return zeropods.pod_status(said, self._node, int(resource["metadata"].get("generation", 0)), problem)

    def _carry_out(
        self, pod: Pod, containers: list[ContainerStatus], resource: Object | None, nursery: trio.Nursery
    ) -> None:
        """Start what is wanted of the containers, and was not before. A resource of another pod wants nothing here."""
        if resource is None or not zeropods.is_of(resource, pod, self._node):
            return
        before = {each["name"]: each.get("requests") or [] for each in resource["status"].get("containers") or ()}
        annotated, _ = _annotated(pod)
        entry = self._entries[pod.uid]
        for each in containers:
            requests = on_demand.wanted_of(each.container, resource["spec"], annotated)
            outcomes = on_demand.standing(requests, entry.outcomes.get(each.container, ()))
            entry.outcomes[each.container] = outcomes
            left = on_demand.pending(requests, [*outcomes, *before.get(each.container, ())])
            if not left or each.container in entry.acting or each.state not in _ACTS_IN:
                continue
            if left[0].wanted is Wanted.ASLEEP and each.may_sleep and each.container not in pod.ready:
                continue  # asleep it would never become ready
            entry.acting.add(each.container)
            nursery.start_soon(self._act, entry, each, left[0])

    async def _act(self, entry: Entry, status: ContainerStatus, request: Request) -> None:
        outcome, reason = Outcome.DONE, ""
        try:
            await (self._shims.sleep if request.wanted is Wanted.ASLEEP else self._shims.wake)(status.id)
        except RpcError as error:
            outcome = on_demand.outcome_of(error.code)
            reason = error.message.replace(status.id, status.container)[: zeropods.LONGEST_TEXT]
        at = zeropods.timestamp(_now_ns())
        entry.outcomes.setdefault(status.container, []).append(on_demand.record(request, outcome, reason, at))
        entry.acting.discard(status.container)
        entry.inputs = ()
        self._changed.set()
        log.info(
            "%s/%s/%s: %s was wanted: %s%s",
            status.pod_namespace, status.pod, status.container, request.wanted, outcome, reason and f": {reason}",
        )  # fmt: skip

    async def _write(self, pod: Pod, entry: Entry) -> None:
        """Make a pod's resource right, unless it has ended meanwhile."""
        try:
            async with self._writers:
                await self._make_right(pod, entry)
            entry.backoff.succeeded()
        except ApiError as error:
            pause = entry.backoff.failed(error.retry_after)
            entry.retry = trio.current_time() + pause
            if entry.backoff.failures == 1:
                log.warning("%s/%s: cannot write its zeropod, trying again: %s", pod.namespace, pod.name, error)
            if error.status in (404, 409):
                # It was deleted, or another has its name, and the watch has not said so yet.
                self._resources.items.pop((pod.namespace, pod.name), None)
        finally:
            entry.busy, entry.inputs = False, ()
            self._changed.set()

    async def _make_right(self, pod: Pod, entry: Entry) -> None:
        key = pod.namespace, pod.name
        path = path_of(GROUP_VERSION, PLURAL, *key)
        resource = self._resources.items.get(key)
        if resource is None or not zeropods.is_of(resource, pod, self._node):
            resource = zeropods.keep(await self._api.apply(path, zeropods.identity(pod, self._node)))
            self._resources.items[key] = resource
        await self._ask_why(zeropods.containers_of(pod, self._shims.containers), entry)
        # What has changed while it was asked and written is in as well.
        containers = zeropods.containers_of(pod, self._shims.containers)
        if not containers:
            return
        status = self._status(pod, containers, self._resources.items.get(key, resource), entry)
        if not zeropods.differs(resource["status"], status):
            return
        body = {
            "apiVersion": GROUP_VERSION,
            "kind": KIND,
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": resource["metadata"]["uid"]},
            "status": {**status, "lastUpdateTime": zeropods.timestamp(_now_ns())},
        }
        self._resources.items[key] = zeropods.keep(await self._api.apply(f"{path}/status", body))
        entry.written, entry.seen = trio.current_time(), None

    async def _ask_why(self, containers: list[ContainerStatus], entry: Entry) -> None:
        """Ask for the reasons of all containers; what is not answered stays as it was."""
        entry.asked = trio.current_time()
        reasons = {}
        for each in containers:
            try:
                reasons[each.id] = await self._shims.why(each.id)
            except RpcError:
                reasons[each.id] = entry.reasons.get(each.id, [])
        entry.reasons = reasons


async def keep_zeropods(client: Client, shims: Shims, node: str) -> None:
    """Keep the custom resources of this node's pods until cancelled."""
    on_node = {"fieldSelector": f"spec.nodeName={node}"}
    labelled = {"labelSelector": f"{NODE_LABEL}={zeropods.label_value(node)}"}
    pods = Follower(client, path_of("v1", "pods"), zeropods.keep_pod, on_node)
    resources = Follower(client, path_of(GROUP_VERSION, PLURAL), zeropods.keep, labelled)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pods.run)
        nursery.start_soon(resources.run)
        nursery.start_soon(Controller(client, shims, pods, resources, node).run)


def _is(one: object, other: object) -> bool:
    return one is other


def _pair(reason: Mapping[str, str]) -> tuple[str, str, str]:
    return reason["kind"], reason["text"], reason.get("remedy", "")


def _annotated(pod: Pod) -> tuple[dict[str, Wanted], str]:
    """Return what a pod's annotation wants, and what is wrong with it."""
    try:
        return on_demand.from_annotation(pod.wanted), ""
    except on_demand.AnnotationError as error:
        return {}, str(error)


def _now_ns() -> int:
    """Return the time of day. Not trio's clock: people read it, beside times that the shims tell."""
    return time.time_ns()
