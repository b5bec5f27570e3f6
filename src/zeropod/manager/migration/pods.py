"""What of a pod matters for moving it: whose it is, of which revision, and how long it has. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.follow import key_of
from zeropod.manager.migration.names import LIVE, OFFLINE, REPLACES

_REVISIONS = {
    "ReplicaSet": "pod-template-hash",
    "StatefulSet": "controller-revision-hash",
    "DaemonSet": "controller-revision-hash",
}
"""Labels by which an owner tells its pods' revisions apart."""
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class Owner:
    """What makes a pod anew: its controller."""

    version: str
    """Of its API, with the group."""
    kind: str
    name: str
    uid: str

    @property
    def reference(self) -> Object:
        """Return what an ownerReference says."""
        return {"apiVersion": self.version, "kind": self.kind, "name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    uid: str
    node: str = ""
    owner: Owner | None = None
    revision: str = ""
    """What its owner calls the template that it was made from; empty where the owner has no name for that."""
    template_hash: str = ""
    offline: frozenset[str] = frozenset()
    live: frozenset[str] = frozenset()
    containers: Mapping[str, str] = field(default_factory=dict)
    """Their ids by their names; an id is empty before there is one."""
    phase: str = ""
    address: str = ""
    created: float = 0.0
    """Seconds since 1970, as all times here."""
    deadline: float | None = None
    """When it is killed; None unless it is being deleted."""
    grace: float = 0.0
    """Seconds from the deletion to that."""
    index: str = ""
    """Of an indexed Job's pod."""
    replaces: str = ""
    """Uid of the pod that it was made to take over from, if it was."""
    node_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of the node that containers may write to, by their names: what is there stays there."""
    empty_dirs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Volumes that are the pod's own, likewise: the pod that replaces it has empty ones."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def ordinal(self) -> str:
        """Return what sets it apart from other pods of its owner; empty if any of them may take its place."""
        return self.name if self.owner is None or self.owner.kind == "StatefulSet" else self.index

    @property
    def leaving(self) -> tuple[str, ...]:
        """Return the containers that its annotations let move."""
        return tuple(name for name in self.containers if name in self.offline | self.live)

    @property
    def is_active(self) -> bool:
        """Whether its owner counts it: it has not ended, and is not about to."""
        return self.deadline is None and self.phase not in ("Succeeded", "Failed")

    @property
    def may_claim(self) -> bool:
        """Whether none of its containers has begun, as far as the API says."""
        return self.deadline is None and self.phase == "Pending"

    @property
    def deleted_at(self) -> float:
        """Return when it was asked to go; for a pod that stays, never."""
        return float("inf") if self.deadline is None else self.deadline - self.grace


def read_pod(body: Object) -> Pod:
    """Return what matters of a pod."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    owner = owner_of(metadata)
    namespace, name = key_of(body)
    paths = {
        each["name"]: str(each["hostPath"].get("path")) for each in spec.get("volumes") or () if each.get("hostPath")
    }
    empty = {each["name"]: each["name"] for each in spec.get("volumes") or () if each.get("emptyDir") is not None}
    ids = {each["name"]: each.get("containerID") or "" for each in status.get("containerStatuses") or ()}
    return Pod(
        namespace=namespace,
        name=name,
        uid=str(metadata.get("uid", "")),
        node=str(spec.get("nodeName") or ""),
        owner=owner,
        revision=labels.get(_REVISIONS.get(owner.kind, ""), "") if owner else "",
        template_hash=labels.get("pod-template-hash", ""),
        offline=_names(annotations.get(OFFLINE, "")),
        live=_names(annotations.get(LIVE, "")),
        containers={
            each["name"]: ids.get(each["name"], "").rpartition("//")[2] for each in spec.get("containers") or ()
        },
        phase=str(status.get("phase") or ""),
        address=str(status.get("podIP") or ""),
        created=seconds(metadata.get("creationTimestamp")) or 0.0,
        deadline=seconds(metadata.get("deletionTimestamp")),
        grace=float(metadata.get("deletionGracePeriodSeconds") or 0),
        index=annotations.get(COMPLETION_INDEX, ""),
        replaces=annotations.get(REPLACES, ""),
        node_paths=_mounted(spec, paths),
        empty_dirs=_mounted(spec, empty),
    )


def _mounted(spec: Object, volumes: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return which of these volumes each container may write to, as they are called here."""
    found: dict[str, tuple[str, ...]] = {}
    for each in spec.get("containers") or () if volumes else ():
        mounts = [mount for mount in each.get("volumeMounts") or () if not mount.get("readOnly")]
        if names := tuple(volumes[mount["name"]] for mount in mounts if mount["name"] in volumes):
            found[each["name"]] = names
    return found


def owner_of(metadata: Object) -> Owner | None:
    """Return the controller of an object."""
    for each in metadata.get("ownerReferences") or ():
        if each.get("controller"):
            return Owner(each.get("apiVersion", ""), each.get("kind", ""), each.get("name", ""), each.get("uid", ""))
    return None


def seconds(stamp: str | None) -> float | None:
    """Return a time of the API's as seconds since 1970; None for what is none."""
    try:
        return datetime.fromisoformat(stamp).astimezone(UTC).timestamp() if stamp else None
    except ValueError:
        return None


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, (each.strip() for each in text.split(","))))
