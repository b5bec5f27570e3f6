"""The resource requests of sleeping containers: lowered for the scheduler, and raised again at the wake.

Rules:
1. The requests of an awake container are recorded on the pod before they are lowered, so that no failure loses them.
2. A request that is neither the recorded one nor the lowest was set by a person or an autoscaler: it is recorded
instead. 3. A request is never lowered to zero, and limits never change: both would change the pod's QoS class, which
Kubernetes
   refuses. So a Guaranteed pod, whose requests must equal its limits, keeps them: with limits that low it could not run
   after a wake until they are raised.
4. No resize ever restarts a container.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.names import ORIGINALS
from zeropod.manager.kube.pods import RESOURCES, Container, Pod, Statuses
from zeropod.manager.kube.quantities import amount, same
from zeropod.rpc.messages.status_pb2 import COLD, DOZING, RUNNING, STANDBY

LOWEST = {"cpu": "1m", "memory": "1Ki"}
"""The requests of a sleeping container."""
RETRY_INFEASIBLE = 60.0
"""Seconds after which an infeasible raise is requested again, because the kubelet does not retry it."""

ASLEEP = (STANDBY, DOZING, COLD)


@dataclass(frozen=True, slots=True)
class Notice:
    """Why the requests of a container are not as they should be."""

    container: str
    kind: str
    """guaranteed, pod-level, static, restart-policy, deferred, infeasible or refused."""
    text: str

    @property
    def is_failure(self) -> bool:
        """Whether the cause is temporary, and not a property of the pod."""
        return self.kind in ("deferred", "infeasible", "refused")


@dataclass(frozen=True, slots=True)
class Resize:
    """The writes to make, annotations first."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Changed requests, by container."""
    notices: tuple[Notice, ...] = ()


def wanted(pod: Pod, statuses: Statuses, now: float) -> Resize:
    """Return the writes that adapt the requests to the containers' states; `now` in seconds since 1970."""
    if not any(status.may_sleep and not status.dry_run for status in statuses.values()):
        return Resize()
    if not any(container.requests for container in pod.containers):
        return Resize()
    if notice := _kept_as_a_whole(pod):
        sleepers = [container.name for container in pod.containers if container.name in statuses and container.requests]
        return Resize(notices=tuple(Notice(name, *notice) for name in sleepers))
    originals = {resource: dict(pod.originals.get(resource, {})) for resource in RESOURCES}
    requests: dict[str, dict[str, str]] = {}
    notices = []
    for container in pod.containers:
        status = statuses.get(container.name)
        for resource in RESOURCES:
            has, known = container.requests.get(resource, "0"), originals[resource].get(container.name)
            is_lowered = known is not None and amount(known) > 0 and same(has, LOWEST[resource])
            if known is None or not (is_lowered or same(has, known)):
                # Rule 2, and rule 1.
                known = originals[resource][container.name] = has
            if not status or not amount(has):
                continue
            if resource in container.restarts_for:
                if status.may_sleep:
                    text = f"its {resource} request stays: by its resizePolicy a change would restart the container"
                    notices.append(Notice(container.name, "restart-policy", text))
            elif status.state in ASLEEP or (status.state == RUNNING and _is_stuck(pod, container, resource, now)):
                if not same(has, LOWEST[resource]):
                    requests.setdefault(container.name, {})[resource] = LOWEST[resource]
            elif status.state == RUNNING and not same(has, known):
                requests.setdefault(container.name, {})[resource] = known
        if status and pod.pending:
            notices.append(Notice(container.name, pod.pending.reason.lower(), pod.pending.text))
    annotations = {
        ORIGINALS[resource]: json.dumps(values, sort_keys=True, separators=(",", ":"))
        for resource, values in originals.items()
        if values != pod.originals.get(resource, {})
    }
    return Resize(annotations, requests, tuple(notices))


def patch_of(pod: Pod, requests: Mapping[str, Mapping[str, str]]) -> Object:
    """Return the strategic patch of the subresource `resize`. It names the pod's version, so that a change causes a
    Conflict."""
    parts: dict[str, list[Object]] = {}
    for container in pod.containers:
        if changes := requests.get(container.name):
            kind = "initContainers" if container.is_sidecar else "containers"
            parts.setdefault(kind, []).append({"name": container.name, "resources": {"requests": dict(changes)}})
    return {"metadata": {"uid": pod.uid, "resourceVersion": pod.version}, "spec": parts}


def _kept_as_a_whole(pod: Pod) -> tuple[str, str] | None:
    """Return kind and text of the reason that forbids any resize of a pod."""
    if pod.is_static:
        return "static", "its requests stay: a static pod can be changed by its file alone"
    if pod.qos == "Guaranteed":
        text = (
            "its requests stay: in a Guaranteed pod limits would have to fall with them, and hold the container down "
            "when it wakes; give it a limit above its request to have them lowered"
        )
        return "guaranteed", text
    if pod.has_own_resources:
        return "pod-level", "its requests stay: the scheduler counts those of the pod as a whole"
    return None


def _is_stuck(pod: Pod, container: Container, resource: str, now: float) -> bool:
    """Return whether a raise was infeasible, and should be requested anew: after lowering it, which changes nothing for
    the container, because it still has the lowest requests."""
    if pod.pending is None or pod.pending.reason != "Infeasible":
        return False
    allocated = container.allocated.get(resource)
    if allocated is None or not same(allocated, LOWEST[resource]):
        return False
    try:
        since = datetime.fromisoformat(pod.pending.since).timestamp()
    except ValueError:
        return False
    return now - since >= RETRY_INFEASIBLE
