"""In-place changes of a sleeping pod's resources."""

from tests.cluster.kube import Object, until
from tests.cluster.pods import Place, Pod, annotations, ask, container

MIB = 1 << 20
HOLDS = "import sys; held = bytes(b'x' * (100 << 20)); exec(sys.argv[1])"
"""Runs the tests' application beside 100 MiB that it needs."""


def resize(pod: Pod, **limits: str) -> None:
    body = {"spec": {"containers": [{"name": "main", "resources": {"limits": limits, "requests": limits}}]}}
    pod.place.api.patch("pods", pod.name, body, pod.place.name, part="resize")


def condition(pod: Pod, kind: str) -> Object:
    found = pod.now["status"].get("conditions", ())
    return next((each for each in found if each["type"] == kind), {})


def allocated(pod: Pod) -> Object:
    made: Object = pod.status().get("resources", {}).get("limits", {})
    return made


def test_more_of_everything_arrives(place: Place) -> None:
    limits = {"memory": "128Mi", "cpu": "200m"}
    pod = place.pod("web", container(resources={"limits": limits})).until_asleep()
    resize(pod, memory="256Mi", cpu="400m")
    until(lambda: allocated(pod) == {"memory": "256Mi", "cpu": "400m"}, f"it has got more: {pod.status()}", 60)
    assert ask(pod.ip).status == 200
    said = pod.exec("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    assert said.split() == [str(256 * MIB), "40000"]
    pod.until_asleep()
    assert pod.restarts() == 0


def test_less_memory_than_it_uses_does_not_kill_it(place: Place) -> None:
    """Its memory is out, so that the kubelet sees little of it; what does not fit is refused as it is awake."""
    app = container()["command"][2]
    big = container(command=["python3", "-c", HOLDS, app], resources={"limits": {"memory": "300Mi", "cpu": "1"}})
    big["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    pod = place.pod("web", big, annotated=annotations(standby_memory="store")).until_asleep()
    ask(pod.ip, body="kept")
    pod.until_asleep()
    until(lambda: (pod.says()["memory"] or {}).get("out_bytes", 0) > 90 * MIB, f"its memory is out: {pod.says()}", 30)
    resize(pod, memory="40Mi", cpu="1")
    # By the kubelet, if its figures are from before the sleep, or by the shim.
    refused = until(lambda: condition(pod, "PodResizeInProgress").get("message"), "it is refused", 40)
    assert "to come back from its sleep" in refused or "below current usage" in refused
    assert pod.state() == "STANDBY"
    assert ask(pod.ip).text.startswith("kept")
    pod.exec("python3", "-c", "pass")
    pod.until_asleep()
    assert pod.restarts() == 0
    assert ask(pod.ip).text.startswith("kept")
