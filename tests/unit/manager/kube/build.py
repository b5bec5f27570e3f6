"""Pods and statuses for tests, in the API's and the shims' words."""

import json
from typing import Any

from zeropod.manager.kube.client import Object
from zeropod.manager.kube.pods import Pod, read_pod
from zeropod.rpc.messages.status_pb2 import RUNNING, STANDBY, ContainerStatus, State

NOW = 1_800_000_000.0
"""Seconds since 1970, in all of these tests."""
REQUESTS = {"cpu": "100m", "memory": "64Mi"}
LOWEST = {"cpu": "1m", "memory": "1Ki"}


def container(name: str = "main", requests: dict[str, str] | None = None, **more: Any) -> Object:
    return {"name": name, "resources": {"requests": REQUESTS if requests is None else requests}, **more}


def pod_body(
    *containers: Object,
    name: str = "web",
    originals: dict[str, dict[str, str]] | None = None,
    labels: dict[str, str] | None = None,
    sidecars: tuple[Object, ...] = (),
    running: bool = True,
    **status: Any,
) -> Object:
    """A pod whose containers run, with ids `ID-NAME`."""
    chosen = containers or (container(),)
    annotations = {
        f"zeropod.ctrox.dev/{key}-requests": json.dumps(value, sort_keys=True, separators=(",", ":"))
        for key, value in (originals or {}).items()
    }
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{name}",
            "labels": {
                "app": name,
                **{f"status.zeropod.ctrox.dev/{key}": value for key, value in (labels or {}).items()},
            },
            "annotations": annotations,
        },
        "spec": {
            "nodeName": "node-1",
            "containers": list(chosen),
            "initContainers": [{"name": "init"}, *({**each, "restartPolicy": "Always"} for each in sidecars)],
        },
        "status": {
            "qosClass": "Burstable",
            "containerStatuses": [_running(each, running) for each in chosen],
            "initContainerStatuses": [_running(each, running) for each in sidecars],
            **status,
        },
    }


def _running(each: Object, running: bool) -> Object:
    return {
        "name": each["name"],
        "containerID": f"containerd://id-{each['name']}",
        "state": {"running": {}} if running else {"waiting": {}},
        "allocatedResources": each["resources"]["requests"],
    }


def pod(*containers: Object, **more: Any) -> Pod:
    return read_pod(pod_body(*containers, **more))


def status(state: State = RUNNING, name: str = "main", pod: str = "web", **more: Any) -> ContainerStatus:
    fields = {"may_sleep": True, **more}
    return ContainerStatus(
        id=f"id-{name}",
        pod_namespace="default",
        pod=pod,
        pod_uid=f"uid-{pod}",
        container=name,
        sandbox="s",
        state=state,
        **fields,
    )


def asleep(name: str = "main", **more: Any) -> ContainerStatus:
    return status(STANDBY, name, **more)


def saying(*statuses: ContainerStatus) -> dict[str, ContainerStatus]:
    return {each.container: each for each in statuses}
