"""What happens to a node while pods sleep on it: each of these runs by itself."""

import signal
import time
from pathlib import Path

import pytest
from tests.cluster import services
from tests.cluster.kube import until
from tests.cluster.pods import Place, Pod, all_asleep, annotations, ask, container

pytestmark = pytest.mark.alone


def is_ready(place: Place) -> bool:
    conditions = place.api.get("nodes", "node-1")["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture
def pods(place: Place) -> list[Pod]:
    """Asleep in both ways, one with a probe, and one that is awake."""
    probe = {"httpGet": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 40}
    place.pod("probed", container(livenessProbe=probe), ready=False)
    place.pod("cold", annotated=annotations(standby="false"), ready=False)
    place.pod("awake", annotated=annotations(scaledown_duration="0"), ready=False)
    made = [Pod(place, name) for name in ("probed", "cold", "awake")]
    for pod in made:
        pod.until_ready()
        ask(pod.ip, body="kept")
    all_asleep(made[:2])
    return made


def go_on(pods: list[Pod]) -> None:
    """Asserts that nothing was lost, that they wake, and that they sleep again."""
    for pod in pods:
        assert ask(pod.ip).text.startswith("kept")
        assert pod.restarts() == 0
    all_asleep(pods[:2])


@pytest.mark.parametrize("service", ["kubelet", "containerd"])
def test_a_restart(place: Place, pods: list[Pod], service: str) -> None:
    services.restart(service)
    until(lambda: is_ready(place), "the node is ready", 60)
    time.sleep(5)  # the kubelet looks at all pods, and their probes begin anew
    go_on(pods)
    pods[0].exec("true")
    assert "listening" in pods[1].logs()
    extra = place.pod("new").until_asleep()
    assert ask(extra.ip).status == 200


@pytest.mark.parametrize("service", ["kubelet", "containerd"])
def test_pods_wake_while_it_is_away(place: Place, pods: list[Pod], service: str) -> None:
    addresses = [pod.ip for pod in pods]
    with services.stopped(service):
        for address in addresses:
            assert ask(address).text.startswith("kept")
        all_asleep(pods[:2])
    until(lambda: is_ready(place), "the node is ready", 60)
    go_on(pods)


def test_the_api_server_is_away(place: Place, pods: list[Pod]) -> None:
    addresses = [pod.ip for pod in pods]
    with services.stopped("kube-apiserver", signal.SIGKILL):
        for address in addresses:
            assert ask(address).text.startswith("kept")
        all_asleep(pods[:2])
    until(lambda: is_ready(place), "the node is ready", 60)
    go_on(pods)


def test_a_drain(place: Place) -> None:
    place.deployment("web", replicas=2)
    drained = place.ready_pods("web", 2)
    all_asleep(drained)
    try:
        place.kubectl("cordon", "node-1")
        time.sleep(2)  # the scheduler hears of it by another watch than of the pods that take their place
        place.kubectl("drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                      "--pod-selector=app=web", "--timeout=60s", timeout=90)  # fmt: skip
        assert not {pod.name for pod in place.pods("web") if pod.is_ready()}
    finally:
        place.kubectl("uncordon", "node-1")
    all_asleep(place.ready_pods("web", 2))


def test_the_manager_is_replaced(place: Place, pods: list[Pod]) -> None:
    (manager,) = place.api.get("pods", namespace="zeropod-system")["items"]
    place.api.delete("pods", manager["metadata"]["name"], "zeropod-system")
    place.kubectl("-n", "zeropod-system", "rollout", "status", "daemonset/zeropod-node", "--timeout=90s", timeout=100)
    go_on(pods)


def test_installing_again_keeps_pods_of_the_older_handler(place: Place, pods: list[Pod]) -> None:
    """Nodes that were installed with the handler's older runtime type are changed over while pods sleep on them."""
    config = Path("/etc/containerd/conf.d/zeropod.toml")
    assert 'runtime_type = "io.containerd.runc.v2"' in config.read_text()
    current = config.read_text()
    config.write_text(current.replace("io.containerd.runc.v2", "io.containerd.zeropod.v2"))
    services.restart("containerd")
    older = place.pod("older").until_asleep()
    place.kubectl("-n", "zeropod-system", "rollout", "restart", "daemonset/zeropod-node")
    place.kubectl("-n", "zeropod-system", "rollout", "status", "daemonset/zeropod-node", "--timeout=90s", timeout=100)
    assert config.read_text() == current
    go_on(pods)
    assert ask(older.ip).status == 200
    assert older.exec("hostname").strip() == "older"
    older.until_asleep()
    older.delete()
    older.until_gone()
