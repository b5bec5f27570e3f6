"""What the kubelet changes in a sleeping pod's volumes is there when it wakes, however it is mounted."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kube import until
from tests.cluster.pods import Place, Pod, annotations, ask, container
from tests.cluster.test_endings import ended, kept

STANDBY = annotations()
COLD = annotations(standby="false")
CLASSES = pytest.mark.parametrize("annotated", [STANDBY, COLD], ids=["standby", "cold"])


def mount(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **more}


def shows(pod: Pod, path: str, text: str) -> bool:
    """Whether the application sees this in a file."""
    return ask(pod.ip, path=f"/file{path}").text == text


def until_changed(pod: Pod, volume: str) -> None:
    """Wait until the kubelet has written `after` to `key` in one of the pod's volumes."""
    key = Path("/var/lib/kubelet/pods", pod.now["metadata"]["uid"], f"volumes/kubernetes.io~{volume}", "key")
    until(lambda: key.read_text() == "after", f"{volume} is changed", 60)


def test_everything_that_is_projected(place: Place) -> None:
    place.create("configmaps", "config", data={"key": "before"})
    place.create("secrets", "secret", stringData={"key": "before"})
    labels = {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}
    volumes = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "secret", "secret": {"secretName": "secret"}},
        {"name": "downward", "downwardAPI": labels},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "config"}}, {"secret": {"name": "secret"}}, {"downwardAPI": labels},
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}},
    ]  # fmt: skip
    mounts = [mount(str(volume["name"]), f"/{volume['name']}") for volume in volumes]
    mounts.append(mount("config", "/sub/key", subPath="key"))
    pod = place.pod("web", container(volumeMounts=mounts), volumes=volumes).until_asleep()
    assert ask(pod.ip, path="/file/config/key").text == "before"
    pod.until_asleep()
    place.api.patch("configmaps", "config", {"data": {"key": "after"}}, place.name)
    place.api.patch("secrets", "secret", {"stringData": {"key": "after"}}, place.name)
    place.api.patch("pods", "web", {"metadata": {"labels": {"new": "one"}}}, place.name)
    until_changed(pod, "projected/all")
    assert pod.state() == "STANDBY"
    until(lambda: ask(pod.ip, path="/file/config/key").text == "after", "it sees the change")
    until(lambda: ask(pod.ip, path="/file/secret/key").text == "after", "it sees the change")
    until(lambda: 'new="one"' in ask(pod.ip, path="/file/downward/labels").text, "it sees the change")
    assert ask(pod.ip, path="/file/sub/key").text == "before"  # as everywhere: a subPath does not follow
    assert pod.exec("sh", "-c", "cat /all/key; wc -c </all/token").startswith("after")
    pod.until_asleep()
    assert pod.restarts() == 0


@CLASSES
def test_a_sub_path_of_what_has_changed(place: Place, annotated: dict[str, str]) -> None:
    """The file that is mounted is deleted by the change, and stays mounted through every later sleep."""
    place.create("configmaps", "config", data={"key": "before"})
    mounts = [mount("config", "/sub/key", subPath="key"), mount("config", "/whole")]
    volumes = [{"name": "config", "configMap": {"name": "config"}}]
    pod = place.pod("web", container(volumeMounts=mounts), volumes=volumes, annotated=annotated).until_asleep()
    for change in ("first", "second"):
        place.api.patch("configmaps", "config", {"data": {"key": change}}, place.name)
        until(partial(shows, pod, "/whole/key", change), "it is changed", 60)
        pod.until_asleep()
        assert ask(pod.ip, path="/file/sub/key").text == "before"
        pod.until_asleep()
    assert pod.restarts() == 0


@pytest.mark.parametrize("holds", ["open", "cwd"])
def test_what_holds_a_part_of_a_changed_config_map(place: Place, holds: str) -> None:
    """To go COLD would end it: it stays where it is, and goes on."""
    place.create("configmaps", "config", data={"key": "before"})
    script = {"open": "exec 9</config/key", "cwd": "cd /config/..data/."}[holds]
    serve = f"{script}; while :; do nc -l -p 8080 -e cat /config/key; done"
    web = container(command=["sh", "-c", serve], volumeMounts=[mount("config", "/config")])
    volumes = [{"name": "config", "configMap": {"name": "config"}}]
    pod = place.pod("web", web, volumes=volumes, annotated=annotations(standby_duration="3s")).until_asleep()
    place.api.patch("configmaps", "config", {"data": {"key": "after"}}, place.name)
    until_changed(pod, "configmap/config")
    for _ in range(2):
        until(lambda: pod.state() == "COLD" or pod.says()["why_kept"], f"it is COLD, or says why not: {pod.says()}", 40)
        pod.exec("true")
        assert pod.restarts() == 0
        pod.until_asleep()
    assert pod.restarts() == 0


def test_an_empty_directory_outlives_a_restart(place: Place) -> None:
    volumes = [{"name": "kept", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [mount("kept", "/kept"), mount("memory", "/memory")]
    pod = place.pod("web", container(volumeMounts=mounts), volumes=volumes).until_asleep()
    pod.exec("sh", "-c", "echo kept >/kept/file; echo kept >/memory/file")
    ask(pod.ip)
    pod.exec("kill", "-TERM", "1")
    until(lambda: pod.restarts() == 1, "it is restarted")
    pod.until_ready().until_asleep()
    assert ask(pod.ip, path="/file/kept/file").text == "kept\n"
    assert ask(pod.ip, path="/file/memory/file").text == "kept\n"


def test_a_message_of_its_end_that_is_written_asleep(place: Place) -> None:
    ends = "trap 'echo said at the end >&3; exit 0' TERM"
    said = f"exec 3>/dev/termination-log; {ends}; while :; do nc -l -p 8080 -e cat & wait $!; done"
    pod = kept(place, container(command=["sh", "-c", said])).until_asleep()
    pod.delete(10)
    assert ended(pod)["message"] == "said at the end\n"
