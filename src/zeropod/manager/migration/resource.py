"""The custom resource migrations.runtime.zeropod.ctrox.dev: what it says, and each change that is made to it. Pure.

There is one for each pod that leaves, of its name. Its specification is what managers agree on: the source's writes
what leaves and what that needs, the target's that its pod takes over (`claim`), and where it is ready. Its status is
what has become of each container. Both are changed only as they were read (`resourceVersion`), so of two claims one
wins, and no change undoes another. installer/manifests/components/migration/crd.yaml is its schema.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.follow import Key
from zeropod.manager.migration.names import (
    COMPLETED,
    FAILED,
    FINAL,
    GROUP_VERSION,
    KIND,
    LONGEST_REASON,
    PENDING,
    RUNNING,
    UNCLAIMED,
)
from zeropod.manager.migration.pods import Pod, seconds
from zeropod.manager.units import duration


@dataclass(frozen=True, slots=True)
class Migration:
    """One as the API has it."""

    namespace: str
    name: str
    uid: str
    version: str
    created: float
    """Seconds since 1970."""
    owners: tuple[Object, ...] = ()
    spec: Object = field(default_factory=dict)
    status: Object = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def source_node(self) -> str:
        return str(self.spec.get("sourceNode") or "")

    @property
    def source_uid(self) -> str:
        return str(self.spec.get("sourcePodUID") or "")

    @property
    def target_node(self) -> str:
        return str(self.spec.get("targetNode") or "")

    @property
    def target_uid(self) -> str:
        return str(self.spec.get("targetPodUID") or "")

    @property
    def is_claimed(self) -> bool:
        return bool(self.target_uid)

    @property
    def by_name(self) -> bool:
        """Whether a person has asked for it."""
        return bool(self.spec.get("byName"))

    @property
    def parks(self) -> bool:
        """Whether what takes over comes only when the pod is gone."""
        return bool(self.spec.get("parked"))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the containers that move."""
        return tuple(each["name"] for each in self.spec.get("containers") or ())

    @property
    def is_final(self) -> bool:
        """Whether nothing becomes of any container any more."""
        return all(self.phase(name) in FINAL for name in self.names)

    @property
    def is_done(self) -> bool:
        """Whether, besides, no memory is on the way any more."""
        return self.is_final and not any(self.said(name).get("pagesToCome") for name in self.names)

    @property
    def is_open(self) -> bool:
        """Whether a pod may claim it."""
        return not self.is_claimed and any(self.phase(name) not in FINAL for name in self.names)

    @property
    def touched(self) -> float:
        """Return when something was last written to it."""
        return seconds(self.status.get("lastUpdateTime")) or self.created

    def wanted(self, name: str) -> Object:
        """Return what its specification says of a container; empty where it does not move."""
        return next((each for each in self.spec.get("containers") or () if each["name"] == name), {})

    def said(self, name: str) -> Object:
        """Return what its status says of a container."""
        return next((each for each in self.status.get("containers") or () if each["name"] == name), {})

    def phase(self, name: str) -> str:
        return str((self.said(name).get("condition") or {}).get("phase") or PENDING)

    def reason(self, name: str) -> str:
        """Return why a container does not move."""
        return str(self.said(name).get("reason") or "")


def keep(body: Object) -> Migration:
    """Return what matters of a Migration: not its managed fields."""
    metadata = body["metadata"]
    return Migration(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=str(metadata["resourceVersion"]),
        created=seconds(metadata.get("creationTimestamp")) or 0.0,
        owners=tuple(metadata.get("ownerReferences") or ()),
        spec=body.get("spec") or {},
        status=body.get("status") or {},
    )


def key_of_export(pod: Pod, container: str) -> str:
    """Return the name of the directory that a container leaves behind."""
    return f"{pod.uid}.{container}"


def body_of(
    pod: Pod, containers: Iterable[str], host: str, port: int, *, parks: bool = False, by_name: bool = False
) -> Object:
    """Return a new one for a pod that leaves, or is asked to.

    It ends with the pod, and with the pod that claims it; one that waits for a pod that comes later, with their owner.
    """
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    if parks and pod.owner:
        owner = pod.owner.reference
    spec: Object = {
        "sourcePod": pod.name,
        "sourcePodUID": pod.uid,
        "sourceNode": pod.node,
        "podTemplateHash": pod.template_hash,
        "liveMigration": bool(pod.live) or by_name,
        "restoreReady": False,
        "byName": by_name,
        "parked": parks,
        "ownerUID": pod.owner.uid if pod.owner else "",
        "revision": pod.revision,
        "ordinal": pod.ordinal,
        "containers": [_container(pod, name, host, port) for name in containers],
    }
    metadata: Object = {"name": pod.name, "namespace": pod.namespace}
    if pod.owner or not parks:
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _container(pod: Pod, name: str, host: str, port: int) -> Object:
    made: Object = {"name": name, "id": pod.containers.get(name, "")}
    return {**made, "imageServer": {"host": host, "port": port}} if host else made


def claim(migration: Migration, pod: Pod) -> Object:
    """Return the change by which a pod takes over. A second one is a conflict, and the schema refuses it, too."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    return {
        "metadata": {"resourceVersion": migration.version, "ownerReferences": [*migration.owners, owner]},
        "spec": {"targetPod": pod.name, "targetPodUID": pod.uid, "targetNode": pod.node},
    }


def container_change(migration: Migration, name: str, top: Mapping[str, Any] | None = None, **fields: Any) -> Object:
    """Return the change of what the specification says of a container, and of all."""
    containers = [
        {**each, **fields} if each["name"] == name else each for each in migration.spec.get("containers") or ()
    ]
    spec: Object = {"containers": containers, **(top or {})}
    spec["restoreReady"] = bool(containers) and all(each.get("restoreReady") for each in containers)
    return {"metadata": {"resourceVersion": migration.version}, "spec": spec}


def status_change(
    migration: Migration,
    names: Iterable[str],
    now: float,
    phase: str = "",
    reason: str = "",
    fields: Mapping[str, Any] | None = None,
    *,
    knows: bool = False,
) -> Object | None:
    """Return the change of what the status says of containers; None if it says so already.

    A container that has come to an end stays there, but for one thing: its target `knows` whether it runs, and what was
    said without knowing that may have been wrong. Figures may follow later.
    """
    asked = [name for name in names if migration.wanted(name)]
    containers = []
    for name in migration.names:
        before = migration.said(name)
        made = {"name": name, "condition": {"phase": PENDING}, **before}
        if name in asked:
            known = migration.phase(name)
            if phase and (known not in FINAL or (knows and phase in FINAL and phase != known)):
                made["condition"] = {"phase": phase}
                made.pop("reason", None)
                if reason:
                    made["reason"] = _cut(reason)
            made |= {key: value for key, value in (fields or {}).items() if value is not None}
            if (took := _took(made)) and made["condition"]["phase"] == COMPLETED:
                made["migrationDuration"] = took
        containers.append(made)
    if containers == (migration.status.get("containers") or []):
        return None
    status: Object = {
        "phase": overall(each["condition"]["phase"] for each in containers),
        "lastUpdateTime": timestamp(now),
        "containers": containers,
    }
    durations = [each["migrationDuration"] for each in containers if "migrationDuration" in each]
    status["duration"] = max(durations, key=milliseconds) if durations else None
    whys = [f"{each['name']}: {each['reason']}" for each in containers if each.get("reason")]
    status["reason"] = _cut("; ".join(whys)) if whys else None
    return {"metadata": {"resourceVersion": migration.version}, "status": status}


def overall(phases: Iterable[str]) -> str:
    """Return the phase of a pod whose containers are in these."""
    found = set(phases)
    for each in (RUNNING, PENDING, FAILED, UNCLAIMED, COMPLETED):
        if each in found:
            return each
    return PENDING


def timestamp(at: float) -> str:
    """Return a time as the API writes it, with milliseconds."""
    stamp = datetime.fromtimestamp(round(at * 1000) / 1000, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _took(container: Mapping[str, Any]) -> str:
    """Return how long a container has answered to nothing, as Go writes durations."""
    paused, restored = seconds(container.get("pausedAt")), seconds(container.get("restoredAt"))
    if paused is None or restored is None:
        return ""
    return duration(max(restored - paused, 0.0) * 1000)


def milliseconds(text: str) -> float:
    """Return what a duration says that was made here; 0 for another one."""
    number, factor = (text[:-2], 1.0) if text.endswith("ms") else (text.removesuffix("s"), 1000.0)
    try:
        return float(number) * factor
    except ValueError:
        return 0.0


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
