"""Pods on two nodes: `./justw cluster 2 python3 -m pytest tests/cluster/test_two_nodes.py`. Of the second one's shims
there is nothing to be seen from here, so that its pods are asked through the API.
"""

import time

import pytest
from tests.cluster.kube import Api, until
from tests.cluster.pods import Place, Pod, ask, container, settle

NODES = {"node-1", "node-2"}


@pytest.fixture(autouse=True)
def both(api: Api) -> None:
    if len(api.get("nodes")["items"]) < len(NODES):
        pytest.skip("this cluster has one node")


@pytest.fixture
def pods(place: Place) -> dict[str, Pod]:
    """One pod on each node, by the node's name, behind one Service."""
    pair = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}  # fmt: skip
    place.deployment("web", replicas=2, affinity=pair)
    made = {pod.now["spec"]["nodeName"]: pod for pod in place.ready_pods("web", 2)}
    assert made.keys() == NODES
    return made


def until_frozen(pod: Pod) -> None:
    """Wait until the kubelet's figures say that a pod on any node has used no CPU for a while."""
    node, uid = pod.now["spec"]["nodeName"], pod.now["metadata"]["uid"]

    def spent() -> float:
        page = pod.place.api.text("GET", f"/api/v1/nodes/{node}/proxy/metrics/resource")
        lines = [line for line in page.splitlines() if line.startswith("container_cpu") and pod.name in line]
        return float(lines[0].split()[1]) if lines else time.monotonic()

    def rests() -> bool:
        before = spent()
        time.sleep(2)
        return spent() == before

    until(rests, f"{pod.name} of {uid} rests", 60)


def test_a_service_reaches_sleeping_pods_on_both(place: Place, pods: dict[str, Pod]) -> None:
    address = place.service("web")["clusterIP"]
    settle(address)
    for pod in pods.values():
        until_frozen(pod)
    assert {ask(pod.ip).status for pod in pods.values()} == {200}
    for _ in range(10):
        assert ask(address).status == 200


def test_commands_on_the_other_node(place: Place, pods: dict[str, Pod]) -> None:
    other = pods["node-2"]
    until_frozen(other)
    assert other.exec("hostname").strip() == other.name
    assert "listening" in other.logs()


def test_a_drained_node_hands_its_pods_over(place: Place) -> None:
    place.deployment("web", container(), replicas=2)
    before = {pod.name for pod in place.ready_pods("web", 2)}
    for pod in place.pods("web"):
        until_frozen(pod)
    try:
        place.kubectl("drain", "node-2", "--ignore-daemonsets", "--timeout=60s", timeout=90)
        pods = place.ready_pods("web", 2, 60)
        assert {pod.now["spec"]["nodeName"] for pod in pods} == {"node-1"}
        assert {pod.name for pod in pods} != before
        for pod in pods:
            pod.until_asleep()
    finally:
        place.kubectl("uncordon", "node-2")
