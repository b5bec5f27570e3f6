"""Pods as their owners restrict them: quality of service, users, capabilities, file systems, namespaces."""

from typing import Any

import pytest
from tests.cluster.pods import Place, ask, container

MEMORY = {"memory": "128Mi", "cpu": "200m"}
SMALL = {"memory": "64Mi", "cpu": "50m"}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({"requests": MEMORY, "limits": MEMORY}, "Guaranteed"), ({"requests": SMALL, "limits": MEMORY}, "Burstable"),
     ({}, "BestEffort")],
    ids=lambda each: each if isinstance(each, str) else "",
)  # fmt: skip
def test_quality_of_service(place: Place, resources: dict[str, Any], expected: str) -> None:
    pod = place.pod("web", container(resources=resources)).until_asleep()
    assert pod.now["status"]["qosClass"] == expected
    for _ in range(2):
        assert ask(pod.ip).status == 200
        pod.until_asleep()
    limit = pod.exec("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
    assert (limit == str(128 << 20)) == bool(resources)


RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 3000,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_a_restricted_container(place: Place) -> None:
    pod = place.pod("web", container(securityContext=RESTRICTED), securityContext={"fsGroup": 2000}).until_asleep()
    for _ in range(2):
        status = ask(pod.ip, path="/file/proc/self/status").text
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["1000"] * 4
        assert fields["CapBnd"].strip("0") == ""
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        pod.until_asleep()
    assert "2000" in pod.exec("id", "-G").split()


def test_a_privileged_container(place: Place) -> None:
    pod = place.pod("web", container(securityContext={"privileged": True})).until_asleep()
    assert ask(pod.ip).status == 200
    pod.until_asleep()


def test_a_user_namespace(place: Place) -> None:
    pod = place.pod("web", hostUsers=False).until_asleep()
    for _ in range(2):
        assert ask(pod.ip, path="/file/proc/self/uid_map").text.split()[:2] != ["0", "0"]
        pod.until_asleep()
    assert pod.exec("id", "-u").strip() == "0"


def test_mounts_that_are_read_only_to_their_depth(place: Place) -> None:
    mounted = {"name": "data", "mountPath": "/data", "readOnly": True, "recursiveReadOnly": "Enabled"}
    pod = place.pod("web", container(volumeMounts=[mounted]), volumes=[{"name": "data", "emptyDir": {}}])
    pod.until_asleep()
    assert pod.status()["volumeMounts"][0]["recursiveReadOnly"] == "Enabled"
    assert ask(pod.ip).status == 200
    pod.until_asleep()


@pytest.mark.parametrize("namespace", ["hostPID", "hostIPC"])
def test_namespaces_of_the_node(place: Place, namespace: str) -> None:
    pod = place.pod("web", **{namespace: True}).until_asleep()
    assert ask(pod.ip).status == 200
    pod.until_asleep()
