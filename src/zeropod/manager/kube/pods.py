"""The manager's view of a pod: only the fields that it uses of a large object."""

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
"""The shims' statuses of a pod's containers, by name."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container that runs as long as its pod: one of `containers`, or a sidecar."""

    name: str
    requests: Mapping[str, str]
    allocated: Mapping[str, str]
    """Resources that the kubelet has allocated."""
    restarts_for: frozenset[str]
    """Resources whose change would restart the container."""
    is_sidecar: bool
    runs: bool
    """Whether a container of this name runs now."""


@dataclass(frozen=True, slots=True)
class PendingResize:
    """A resize that the kubelet has not carried out yet."""

    reason: str
    """Deferred or Infeasible."""
    message: str
    since: str
    """As the API writes times; empty if unknown."""

    @property
    def text(self) -> str:
        """Return a description, as half a sentence."""
        return f"its resize is {self.reason.lower()}: {self.message or 'the kubelet does not say why'}"

    @property
    def remedy(self) -> str:
        """Return what to do; empty for a reason that this version does not know."""
        return _REMEDIES.get(self.reason, "")


_REMEDIES = {
    "Deferred": "Wait for free resources on its node, or free some: the kubelet tries again. Until then the pod runs "
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
    """Not compared: others also write to fields that are not kept here."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Only zeropod's labels, by container name."""
    originals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By resource and container."""
    containers: tuple[Container, ...] = ()
    qos: str = ""
    has_own_resources: bool = False
    """Whether the pod as a whole has resources."""
    is_static: bool = False
    """Whether it comes from a file on the node, which alone can change it."""
    is_ending: bool = False
    is_deleted: bool = False
    pending: PendingResize | None = None
    ready: frozenset[str] = frozenset()
    """Names of the containers that are ready."""
    annotated: Mapping[str, Wanted] = field(default_factory=dict)
    """The states wanted by the annotation, by container name; "" for all others."""
    problem: str = ""
    """What is wrong with that annotation."""

    @property
    def key(self) -> Key:
        """Return namespace and name."""
        return self.namespace, self.name

    @property
    def path(self) -> tuple[str, str, str, str]:
        """Return the arguments of `path_of`."""
        return ("v1", "pods", self.namespace, self.name)

    def statuses(self, among: Iterable[ContainerStatus]) -> dict[str, ContainerStatus]:
        """Return the newest status of each container name in this very pod, sorted by name, without the sandbox."""
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
    """Return the kept fields of a pod. Malformed ones count as missing."""
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
    """Return the states wanted by an annotation, and what is wrong with it."""
    try:
        return on_demand.from_annotation(text), ""
    except on_demand.AnnotationError as error:
        return {}, str(error)


def _quantities(values: Object) -> dict[str, str]:
    return {key: value for key, value in values.items() if key in RESOURCES and _is_quantity(value)}


def _original(text: str) -> dict[str, str]:
    """Return the content of an annotation, which users may have changed."""
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
    """Return the resize in a pod's status that the kubelet has not carried out yet."""
    for each in status.get("conditions") or ():
        if each.get("type") == "PodResizePending" and each.get("status") == "True":
            since = each.get("lastTransitionTime") or ""
            return PendingResize(each.get("reason", ""), each.get("message", ""), since)
    # The form of versions before 1.33.
    if (told := status.get("resize")) in ("Deferred", "Infeasible"):
        return PendingResize(told, "", "")
    return None
