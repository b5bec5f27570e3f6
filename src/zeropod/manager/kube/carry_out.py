"""Has a pod's containers sleep and wake where that is wanted, each request once, and keeps what became of it until a
custom resource says so. Which requests there are is up to `on_demand`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from zeropod.manager.kube import on_demand, zeropods
from zeropod.manager.kube.client import Object
from zeropod.manager.kube.on_demand import Outcome, Request, Wanted
from zeropod.manager.kube.pods import Pod, Statuses
from zeropod.manager.kube.resize import ASLEEP
from zeropod.manager.kube.zeropods import Resource
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.status import RpcError

log = logging.getLogger(__name__)

TOLD = 2.0
"""Seconds for a shim to tell of a state that it was asked for: it gathers what it tells."""

_ACTS_IN = (
    status_pb2.RUNNING,
    status_pb2.CHECKPOINTING,
    status_pb2.STANDBY,
    status_pb2.DOZING,
    status_pb2.COLD,
    status_pb2.RESTORING,
    status_pb2.PAUSED,
)


class Shims(Protocol):
    """The node's containers, and what their shims can be asked."""

    def by_pod(self) -> Mapping[str, Sequence[ContainerStatus]]:
        """Return what all shims say, by the pods' uids."""

    @property
    def ready(self) -> bool:
        """Whether all shims have been heard of."""

    async def changed(self) -> None:
        """Return at the next change."""

    async def why(self, id: str) -> list[zeropods.Reason]:
        """Return the reasons for what a container does. Raises RpcError, as these do."""

    async def sleep(self, id: str) -> None:
        """Put a container to sleep."""

    async def wake(self, id: str) -> None:
        """Wake a container."""


@dataclass(slots=True)
class Requests:
    """Those for the containers of one pod."""

    _acting: set[str] = field(default_factory=set)
    """Containers that a task puts to sleep or wakes."""
    _outcomes: dict[str, list[Object]] = field(default_factory=dict)
    """What became of requests, by container, whether it is written or not."""

    def carry_out(
        self,
        pod: Pod,
        statuses: Statuses,
        resource: Resource | None,
        shims: Shims,
        nursery: trio.Nursery,
        done: Callable[[], None],
    ) -> None:
        """Start what is wanted of the containers, and was not before; `done` is called at each outcome.

        Without a resource nothing is: it would not be known afterwards that it was carried out.
        """
        if resource is None:
            return
        before = _recorded(resource)
        for name, status in statuses.items():
            requests = on_demand.wanted_of(name, resource.spec, pod.annotated)
            outcomes = on_demand.standing(requests, self._outcomes.get(name, ()))
            self._outcomes[name] = outcomes
            left = on_demand.pending(requests, [*outcomes, *before.get(name, ())])
            if not left or name in self._acting or status.state not in _ACTS_IN:
                continue
            if left[0].wanted is Wanted.ASLEEP and status.may_sleep and name not in pod.ready:
                continue  # asleep it would never become ready
            self._acting.add(name)
            nursery.start_soon(self._act, status, left[0], shims, done)

    def records(self, pod: Pod, name: str, spec: Mapping[str, Any], written: Iterable[Object]) -> list[Object]:
        """Return what became of the requests for a container that still stand."""
        requests = on_demand.wanted_of(name, spec, pod.annotated)
        return on_demand.standing(requests, [*self._outcomes.get(name, ()), *written])

    def has_news(self, statuses: Statuses, resource: Resource) -> bool:
        """Whether something became of a request that is not written: a person waits for it."""
        written = _recorded(resource)
        return any(each not in written.get(name, ()) for name in statuses for each in self._outcomes.get(name, ()))

    async def _act(self, status: ContainerStatus, request: Request, shims: Shims, done: Callable[[], None]) -> None:
        outcome, reason = Outcome.DONE, ""
        try:
            await (shims.sleep if request.wanted is Wanted.ASLEEP else shims.wake)(status.id)
            # Who waits for the outcome sees the state with it.
            with trio.move_on_after(TOLD):
                while not _is_so(shims, status, request.wanted):
                    await shims.changed()
        except RpcError as error:
            outcome = on_demand.outcome_of(error.code)
            reason = error.message.replace(status.id, status.container)[: zeropods.LONGEST_TEXT]
        # Not trio's clock: people read it, beside times that the shims tell.
        at = zeropods.timestamp(time.time_ns())
        self._outcomes.setdefault(status.container, []).append(on_demand.record(request, outcome, reason, at))
        self._acting.discard(status.container)
        log.info(
            "%s/%s/%s: %s was wanted: %s%s",
            status.pod_namespace, status.pod, status.container, request.wanted, outcome, reason and f": {reason}",
        )  # fmt: skip
        done()


def _is_so(shims: Shims, status: ContainerStatus, wanted: Wanted) -> bool:
    """Whether the shim says by now that a container is as it is wanted, or says nothing of it."""
    states = [each.state for each in shims.by_pod().get(status.pod_uid, ()) if each.id == status.id]
    return all((state in ASLEEP) == (wanted is Wanted.ASLEEP) for state in states)


def _recorded(resource: Resource) -> dict[str, list[Object]]:
    return {name: each.get("requests") or [] for name, each in resource.containers.items()}
