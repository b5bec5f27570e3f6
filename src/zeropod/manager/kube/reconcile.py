"""Makes the API say of this node's pods what their shims say: labels, events and requests.

What there should be follows from what both say now, by `wanted`, without a memory of what has happened. So it does not
matter what was missed: after a gap, a restart or a refused write it is compared anew, and what differs is written.

Writes of a pod follow one another, annotations before the requests that they keep; no pod waits for another.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import trio

from zeropod.manager.kube import events, labels, resize
from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.events import Reporter, Told
from zeropod.manager.kube.follow import Follower, Key
from zeropod.manager.kube.pacing import Backoff
from zeropod.manager.kube.pods import Pod, Statuses, read_pod
from zeropod.manager.kube.resize import Notice
from zeropod.rpc.messages.status_pb2 import ContainerStatus

log = logging.getLogger(__name__)

_T = TypeVar("_T")

GATHER = 0.2
"""Seconds in which changes are gathered, to be compared together."""
RECHECK = 20.0
"""Seconds after which all pods are compared even if nothing has changed: some things depend on the time."""
AT_ONCE = 4
"""Pods that are written to at a time."""
FIRST_RETRY, LAST_RETRY = 0.5, 30.0
"""Seconds between attempts at a pod."""


class Node(Protocol):
    """What is known of the node's containers."""

    @property
    def containers(self) -> Sequence[ContainerStatus]:
        """Return the status of each."""

    @property
    def ready(self) -> bool:
        """Return whether all shims were heard of."""

    async def changed(self) -> None:
        """Return at the next change."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is written at all."""

    labels: bool = False
    events: bool = False
    resize: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written to a pod, and about it."""

    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    events: Sequence[Told] = ()
    """Those that there should be, whether there are or not."""
    notices: tuple[Notice, ...] = ()

    @property
    def is_any(self) -> bool:
        """Return whether there is something to write."""
        return bool(self.labels or self.annotations or self.requests or self.events)


def wanted(pod: Pod, statuses: Statuses, options: Options, now: float, refused: str = "") -> Changes:
    """Return what makes the API agree with the shims; `refused` is why the last resize was."""
    if pod.is_ending:
        return Changes()
    sizes = resize.wanted(pod, statuses, now) if options.resize else resize.Resize()
    notices = sizes.notices
    if refused:
        notices += tuple(Notice(name, "refused", f"its resize is refused: {refused}") for name in sizes.requests)
    return Changes(
        labels=labels.wanted(pod, statuses) if options.labels else {},
        annotations=sizes.annotations,
        requests=sizes.requests,
        events=tuple(events.wanted(pod, statuses, notices, now)) if options.events else (),
        notices=notices,
    )


@dataclass(slots=True)
class Work:
    """What is remembered of a pod between writes."""

    backoff: Backoff
    due: float = float("-inf")
    """When it may be written to again, by trio's clock."""
    is_busy: bool = False
    compared: tuple[object, ...] = ()
    """What was compared last, and left nothing to do."""
    told: dict[str, tuple[object, str]] = field(default_factory=dict)
    """Of each event that the API has: its mark, and when it was first told."""
    refused: str = ""
    notices: tuple[Notice, ...] = ()


class Reconciler:
    """Follows the node's pods, and writes what is not as it should be."""

    def __init__(
        self,
        client: Client,
        node: Node,
        options: Options,
        reporter: Reporter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._node, self._options, self._reporter, self._now = client, node, options, reporter, now
        query = {"fieldSelector": f"spec.nodeName={reporter.node}"}
        self.pods = Follower(client, path_of("v1", "pods"), read_pod, query)
        self.writes: Counter[tuple[str, str]] = Counter()
        """By what was written (metadata, resize, event), and ok, conflict, throttled, refused or failed."""
        self._works: dict[Key, Work] = {}
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._wake = trio.Event()
        self._recheck = float("-inf")

    @property
    def notices(self) -> list[tuple[Key, Notice]]:
        """Return why requests are not what they would be, by pod."""
        return [(key, notice) for key, work in self._works.items() for notice in work.notices]

    async def run(self) -> None:
        """Reconcile until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, self.pods.changed)
            nursery.start_soon(self._forward, self._node.changed)
            nursery.start_soon(self.pods.run)
            while True:
                await trio.sleep(GATHER)
                self._wake = trio.Event()
                is_recheck = trio.current_time() >= self._recheck
                if is_recheck:
                    self._recheck = trio.current_time() + RECHECK
                if self.pods.ready and self._node.ready:
                    self._compare(nursery, is_recheck)
                with trio.move_on_at(min([self._recheck, *self._times()])):
                    await self._wake.wait()

    async def _forward(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await changed()
            self._wake.set()

    def _times(self) -> list[float]:
        """Return when pods are due that have to wait."""
        now = trio.current_time()
        return [work.due for work in self._works.values() if work.due > now]

    def _compare(self, nursery: trio.Nursery, is_recheck: bool) -> None:
        """Start writing to each pod that is not as it should be; to look at those without a change too is a recheck."""
        now, clock = self._now(), trio.current_time()
        by_id = {status.id: status for status in self._node.containers}
        for key in self._works.keys() - self.pods.items.keys():
            del self._works[key]
        for key, pod in self.pods.items.items():
            statuses, work = pod.statuses(by_id), self._works.get(key)
            if work is None:
                if not statuses and not pod.labels:
                    continue
                work = self._works[key] = Work(Backoff(FIRST_RETRY, LAST_RETRY))
            if work.is_busy or clock < work.due:
                continue
            compared = (pod, *statuses.values())
            if not is_recheck and _are_same(compared, work.compared):
                continue
            work.compared = compared
            if self._changes(pod, statuses, work, now).is_any:
                work.is_busy, work.compared = True, ()
                nursery.start_soon(self._write, key, work)

    def _changes(self, pod: Pod, statuses: Statuses, work: Work, now: float) -> Changes:
        """Return what is to be written, without the events that are there."""
        changes = wanted(pod, statuses, self._options, now, work.refused)
        work.notices = changes.notices
        fresh = [told for told in changes.events if work.told.get(told.name, (None,))[0] != told.mark]
        return replace(changes, events=fresh)

    async def _write(self, key: Key, work: Work) -> None:
        """Write what there is to write once it is this pod's turn."""
        failures: list[ApiError] = []
        try:
            async with self._limiter:
                if pod := self.pods.items.get(key):
                    statuses = pod.statuses({status.id: status for status in self._node.containers})
                    failures = await self._write_all(pod, work, self._changes(pod, statuses, work, self._now()))
        finally:
            work.is_busy = False
        if failures:
            # A pod that is gone is not worth a word; the watch tells.
            if not work.backoff.failures and failures[0].reason != "NotFound":
                log.warning("cannot update %s, trying again: %s", "/".join(key), failures[0])
            work.due = trio.current_time() + work.backoff.failed(max(failure.retry_after for failure in failures))
        else:
            work.backoff.succeeded()
        self._wake.set()

    async def _write_all(self, pod: Pod, work: Work, changes: Changes) -> list[ApiError]:
        """Write everything that can be written; return what went wrong."""
        failures: list[ApiError] = []
        path = path_of(*pod.path)
        latest: Pod | None = pod
        if changes.labels or changes.annotations:
            metadata: Object = {"uid": pod.uid}
            metadata |= {"labels": dict(changes.labels)} if changes.labels else {}
            metadata |= {"annotations": dict(changes.annotations)} if changes.annotations else {}
            patch = self._client.merge_patch(path, {"metadata": metadata})
            latest = await self._attempt("metadata", patch, self.pods.learn, failures)
        if changes.requests and latest and _requests(latest) == _requests(pod):
            before = len(failures)
            patch = self._client.strategic_patch(f"{path}/resize", resize.patch_of(latest, changes.requests))
            await self._attempt("resize", patch, self.pods.learn, failures)
            answers = failures[before:]
            work.refused = next((each.message for each in answers if each.status in (403, 404, 422)), "")
        elif not changes.requests:
            work.refused = ""
        for told in changes.events:
            await self._tell(told, pod, work, failures)
        return failures

    async def _tell(self, told: Told, pod: Pod, work: Work, failures: list[ApiError]) -> None:
        """Make an event be there, unless it is: a manager that has just started does not know."""
        path = path_of("v1", "events", pod.namespace, told.name)
        if told.name not in work.told:
            try:
                stored = await self._client.get(path)
                work.told[told.name] = (events.mark_of(stored, told), str(stored.get("firstTimestamp") or ""))
            except ApiError as error:
                if error.status != 404:
                    failures.append(error)
                    return
        mark, first = work.told.get(told.name, (None, ""))
        if mark == told.mark:
            return
        body = events.body_of(told, pod, self._reporter, first)
        if await self._attempt("event", self._client.apply(path, body), dict, failures) is not None:
            work.told[told.name] = (told.mark, body["firstTimestamp"])

    async def _attempt(
        self, kind: str, write: Awaitable[Object], take: Callable[[Object], _T], failures: list[ApiError]
    ) -> _T | None:
        """Return what `take` makes of the answer, None where the write has failed."""
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
        return stored


def _are_same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether these are the same objects: each change makes new ones."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _requests(pod: Pod) -> list[Mapping[str, str]]:
    return [container.requests for container in pod.containers]
