"""Pods and their owners for tests of migration, in the API's words."""

import time
from datetime import UTC, datetime
from typing import Any

from zeropod.manager.kube.client import Object
from zeropod.manager.migration import resource
from zeropod.manager.migration.pods import Pod, read_pod
from zeropod.manager.migration.resource import Migration

BEGUN = float(int(time.time()))
"""Seconds since 1970 at which most of these tests begin."""

OWNERS = {"ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1"}


def stamp(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def pod_body(
    name: str = "web-1",
    *,
    uid: str = "",
    node: str = "node-1",
    owner: str = "ReplicaSet",
    owner_uid: str = "",
    revision: str = "r1",
    phase: str = "Running",
    created: float = BEGUN - 1000,
    deleted: float | None = None,
    grace: float = 30,
    containers: tuple[str, ...] = ("main",),
    offline: str = "",
    live: str = "",
    index: str = "",
    volumes: dict[str, Object] | None = None,
    read_only: bool = False,
    replaces: str = "",
) -> Object:
    """A pod of the owner `web` of this kind, of none for ""; `deleted` is when it was asked to go."""
    label = "pod-template-hash" if owner == "ReplicaSet" else "controller-revision-hash"
    annotations = {"zeropod.ctrox.dev/migrate": offline, "zeropod.ctrox.dev/live-migrate": live}
    if replaces:
        annotations["zeropod.ctrox.dev/replaces"] = replaces
    if index:
        annotations["batch.kubernetes.io/job-completion-index"] = index
    metadata: Object = {
        "namespace": "default",
        "name": name,
        "uid": uid or f"uid-{name}",
        "creationTimestamp": stamp(created),
        "labels": {label: revision} if revision and owner else {},
        "annotations": {key: value for key, value in annotations.items() if value},
    }
    if owner:
        of = owner_uid or f"uid-{owner}"
        controller = {"apiVersion": OWNERS.get(owner, "x/v1"), "kind": owner, "name": "web", "uid": of}
        metadata["ownerReferences"] = [{**controller, "controller": True}]
    if deleted is not None:
        metadata |= {"deletionTimestamp": stamp(deleted + grace), "deletionGracePeriodSeconds": int(grace)}
    mounts = [{"name": each, "mountPath": f"/{each}", "readOnly": read_only} for each in volumes or ()]
    ids = [{"name": each, "containerID": f"containerd://id-{each}"} for each in containers]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "containers": [{"name": each, "volumeMounts": mounts} for each in containers],
            "volumes": [{"name": each, **body} for each, body in (volumes or {}).items()],
        },
        "status": {"phase": phase, "podIP": "10.1.0.7", "containerStatuses": ids if phase == "Running" else []},
    }


def pod(name: str = "web-1", **more: Any) -> Pod:
    return read_pod(pod_body(name, **more))


def newcomer(name: str = "web-2", **more: Any) -> Pod:
    """One that has just been scheduled."""
    return pod(name, **{"phase": "Pending", "created": BEGUN, "node": "node-2", **more})


def migration_body(of: Pod, *containers: str, parks: bool = False, by_name: bool = False, **spec: Any) -> Object:
    body = resource.body_of(of, containers or tuple(of.containers), "10.0.0.1", 8090, parks=parks, by_name=by_name)
    body["metadata"] |= {"uid": f"uid-of-{of.name}", "resourceVersion": "7", "creationTimestamp": stamp(BEGUN)}
    body["spec"] |= spec
    return body


def migration(of: Pod, *containers: str, **more: Any) -> Migration:
    return resource.keep(migration_body(of, *containers, **more))
