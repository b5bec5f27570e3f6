"""Carry out requests to sleep and wake a pod's containers, each once, and keep the outcomes until they are written to
the custom resource. `on_demand` decides which requests there are."""

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
"""Seconds for a shim to report a state that was requested: it collects changes."""

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
    """The node's containers, and the calls that their shims support."""

    def by_pod(self) -> Mapping[str, Sequence[ContainerStatus]]:
        """Return the statuses of all containers, by the pods' uids."""

    @property
    def ready(self) -> bool:
        """Whether all shims have reported."""

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
    """The requests for the containers of one pod."""

    _acting: set[str] = field(default_factory=set)
    """Containers that a task is putting to sleep or waking."""
    _outcomes: dict[str, list[Object]] = field(default_factory=dict)
    """Outcomes of requests by container, whether they are written or not."""

    def carry_out(
        self,
        pod: Pod,
        statuses: Statuses,
        resource: Resource | None,
        shims: Shims,
        nursery: trio.Nursery,
        done: Callable[[], None],
    ) -> None:
        """Start all requests that are not carried out yet; `done` is called at each outcome.

        Nothing is started without a custom resource: its outcome could not be recorded.
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
                continue  # asleep, it would never become ready
            self._acting.add(name)
            nursery.start_soon(self._act, status, left[0], shims, done)

    def records(self, pod: Pod, name: str, spec: Mapping[str, Any], written: Iterable[Object]) -> list[Object]:
        """Return the outcomes of the container's requests that still stand."""
        requests = on_demand.wanted_of(name, spec, pod.annotated)
        return on_demand.standing(requests, [*self._outcomes.get(name, ()), *written])

    def has_news(self, statuses: Statuses, resource: Resource) -> bool:
        """Return whether an outcome is not written yet: a user may be waiting for it."""
        written = _recorded(resource)
        return any(each not in written.get(name, ()) for name in statuses for each in self._outcomes.get(name, ()))

    async def _act(self, status: ContainerStatus, request: Request, shims: Shims, done: Callable[[], None]) -> None:
        outcome, reason = Outcome.DONE, ""
        try:
            await (shims.sleep if request.wanted is Wanted.ASLEEP else shims.wake)(status.id)
            # Clients that wait for the outcome see the new state with it.
            with trio.move_on_after(TOLD):
                while not _is_so(shims, status, request.wanted):
                    await shims.changed()
        except RpcError as error:
            outcome = on_demand.outcome_of(error.code)
            reason = error.message.replace(status.id, status.container)[: zeropods.LONGEST_TEXT]
        # Not trio's clock: users see it beside times of the shims.
        at = zeropods.timestamp(time.time_ns())
        self._outcomes.setdefault(status.container, []).append(on_demand.record(request, outcome, reason, at))
        self._acting.discard(status.container)
        log.info(
            "%s/%s/%s: %s requested: %s%s",
            status.pod_namespace, status.pod, status.container, request.wanted, outcome, reason and f": {reason}",
        )  # fmt: skip
        done()


def _is_so(shims: Shims, status: ContainerStatus, wanted: Wanted) -> bool:
    """Return whether a container's reported state is as requested, or missing."""
    states = [each.state for each in shims.by_pod().get(status.pod_uid, ()) if each.id == status.id]
    return all((state in ASLEEP) == (wanted is Wanted.ASLEEP) for state in states)


def _recorded(resource: Resource) -> dict[str, list[Object]]:
    return {name: each.get("requests") or [] for name, each in resource.containers.items()}
