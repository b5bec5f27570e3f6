"""What the manager keeps of a pod: little of a large object, and nothing that is not looked at."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zeropod.manager.kube import on_demand
from zeropod.manager.kube.client import Object
from zeropod.manager.kube.crd import WANTED_ANNOTATION
from zeropod.manager.kube.follow import Key, key_of
from zeropod.manager.kube.names import ORIGINALS, STATUS_LABEL
from zeropod.manager.kube.on_demand import Wanted
from zeropod.manager.kube.quantities import amount
from zeropod.rpc.messages.status_pb2 import STOPPED, ContainerStatus

RESOURCES = tuple(ORIGINALS)

Statuses = Mapping[str, ContainerStatus]
"""What shims say of a pod's containers, by the containers' names."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod that runs as long as the pod: one of `containers`, or a sidecar."""

    name: str
    requests: Mapping[str, str]
    allocated: Mapping[str, str]
    """What the kubelet has granted."""
    restarts_for: frozenset[str]
    """Resources whose change would restart the container."""
    is_sidecar: bool
    runs: bool
    """Whether one of this name runs now."""


@dataclass(frozen=True, slots=True)
class PendingResize:
    """A resize that the kubelet has not carried out."""

    reason: str
    """Deferred or Infeasible."""
    message: str
    since: str
    """As the API writes times; empty if it does not say."""

    @property
    def text(self) -> str:
        """Return what it is, as half a sentence."""
        return f"its resize is {self.reason.lower()}: {self.message or 'the kubelet does not say why'}"

    @property
    def remedy(self) -> str:
        """Return what to do about it; empty for a reason that Kubernetes did not have when this was written."""
        return _REMEDIES.get(self.reason, "")


_REMEDIES = {
    "Deferred": "Wait for room on its node, or make some: the kubelet tries again by itself. Until then the pod runs "
    "with what it was granted before.",
    "Infeasible": "Its node can never grant this: request less, or have the pod created anew on a larger one. Until "
    "then it runs with what it was granted before.",
}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node."""

    namespace: str
    name: str
    uid: str
    version: str = field(compare=False)
    """Not compared: others write to what is not kept here."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Ours alone, by the containers' names."""
    originals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By resource and container."""
    containers: tuple[Container, ...] = ()
    qos: str = ""
    has_own_resources: bool = False
    """Whether resources are given for the pod as a whole."""
    is_static: bool = False
    """Whether it comes from a file of the node's, which alone can change it."""
    is_ending: bool = False
    is_deleted: bool = False
    pending: PendingResize | None = None
    ready: frozenset[str] = frozenset()
    """Names of the containers that are ready."""
    annotated: Mapping[str, Wanted] = field(default_factory=dict)
    """What the annotation wants of containers, by their names; "" is any other."""
    problem: str = ""
    """What is wrong with that annotation."""

    @property
    def key(self) -> Key:
        """Return namespace and name."""
        return self.namespace, self.name

    @property
    def path(self) -> tuple[str, str, str, str]:
        """Return what `path_of` takes."""
        return ("v1", "pods", self.namespace, self.name)

    def statuses(self, among: Iterable[ContainerStatus]) -> dict[str, ContainerStatus]:
        """Return the newest container of each name in this very pod, in order of their names, without its sandbox."""
        newest: dict[str, ContainerStatus] = {}
        for status in among:
            if status.pod_uid != self.uid or not self.uid or status.id == status.sandbox or not status.container:
                continue
            known = newest.get(status.container)
            if known is None or _age(status) > _age(known):
                newest[status.container] = status
        return dict(sorted(newest.items()))


def _age(status: ContainerStatus) -> tuple[bool, int]:
    return status.state != STOPPED, status.since.ToNanoseconds()


def read_pod(body: Object) -> Pod:
    """Return what is kept of a pod. Whatever is not as it should be counts as absent."""
    metadata, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    annotations = metadata.get("annotations", {})
    namespace, name = key_of(body)
    annotated, problem = _wanted(annotations.get(WANTED_ANNOTATION, ""))
    running = {each["name"]: each for kind in _STATUSES for each in status.get(kind) or ()}
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    containers = [_container(each, running.get(each["name"], {}), False) for each in spec.get("containers") or ()]
    containers += [_container(each, running.get(each["name"], {}), True) for each in sidecars]
    return Pod(
        namespace=namespace,
        name=name,
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        labels={
            key.partition("/")[2]: value
            for key, value in metadata.get("labels", {}).items()
            if key.startswith(f"{STATUS_LABEL}/")
        },
        originals={resource: _original(annotations.get(key, "")) for resource, key in ORIGINALS.items()},
        containers=tuple(containers),
        qos=status.get("qosClass", ""),
        has_own_resources=bool((spec.get("resources") or {}).get("requests")),
        is_static="kubernetes.io/config.mirror" in annotations,
        is_ending="deletionTimestamp" in metadata or status.get("phase") in ("Succeeded", "Failed"),
        is_deleted="deletionTimestamp" in metadata,
        pending=_pending(status),
        ready=frozenset(name for name, each in running.items() if each.get("ready")),
        annotated=annotated,
        problem=problem,
    )


_STATUSES = ("initContainerStatuses", "containerStatuses")


def _container(spec: Object, status: Object, is_sidecar: bool) -> Container:
    requests = (spec.get("resources") or {}).get("requests") or {}
    return Container(
        name=spec["name"],
        requests=_quantities(requests),
        allocated=_quantities(status.get("allocatedResources") or {}),
        restarts_for=frozenset(
            policy["resourceName"]
            for policy in spec.get("resizePolicy") or ()
            if policy.get("restartPolicy") == "RestartContainer"
        ),
        is_sidecar=is_sidecar,
        runs="running" in status.get("state", {}),
    )


def _wanted(text: str) -> tuple[dict[str, Wanted], str]:
    """Return what an annotation wants, and what is wrong with it."""
    try:
        return on_demand.from_annotation(text), ""
    except on_demand.AnnotationError as error:
        return {}, str(error)


def _quantities(values: Object) -> dict[str, str]:
    return {key: value for key, value in values.items() if key in RESOURCES and _is_quantity(value)}


def _original(text: str) -> dict[str, str]:
    """Return what an annotation says, in which a person may have written anything."""
    try:
        told = json.loads(text) if text else {}
    except ValueError:
        return {}
    return {key: value for key, value in told.items() if _is_quantity(value)} if isinstance(told, dict) else {}


def _is_quantity(value: Any) -> bool:
    try:
        return isinstance(value, str) and amount(value) >= 0
    except ValueError:
        return False


def _pending(status: Object) -> PendingResize | None:
    """Return what a pod's status says of a resize that the kubelet has not carried out."""
    for each in status.get("conditions") or ():
        if each.get("type") == "PodResizePending" and each.get("status") == "True":
            since = each.get("lastTransitionTime") or ""
            return PendingResize(each.get("reason", ""), each.get("message", ""), since)
    # What versions before 1.33 have instead.
    if (told := status.get("resize")) in ("Deferred", "Infeasible"):
        return PendingResize(told, "", "")
    return None
