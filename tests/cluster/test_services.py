"""Services in front of sleeping pods, and what the kubelet says of them."""

import json
import socket
import time
from collections import Counter

import pytest
from tests.cluster.kube import until
from tests.cluster.pods import NODE, SECONDS, Client, Place, Pod, annotations, ask, container, settle
from tests.integration.patience import patient

CHAIN = """
import http.server, socket, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.create_connection((sys.argv[1], 6379), timeout=30) as redis:
            redis.sendall(b"incr visits\\r\\n")
            body = redis.recv(100).strip(b":\\r\\n")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
"""A web server that asks the database at an address for each request."""


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_a_service_spreads_over_sleeping_pods(place: Place, kind: str) -> None:
    place.deployment("web", container(image="nginx", readinessProbe={"tcpSocket": {"port": 80}}), replicas=2)
    pods = place.ready_pods("web", 2)
    spec = place.service("web", 80, type=kind)
    address, port = (spec["clusterIP"], 80) if kind == "ClusterIP" else (NODE, int(spec["ports"][0]["nodePort"]))
    settle(address, port, count=5)
    for pod in pods:
        pod.until_asleep()
    before = {pod.name: pod.says()["restores"] for pod in pods}
    for _ in range(20):
        assert ask(address, port).status == 200
    until(lambda: all(pod.says()["restores"] > before[pod.name] for pod in pods), "both were asked")


def test_a_headless_service_has_the_pods_addresses(place: Place) -> None:
    place.deployment("web", replicas=2)
    pods = place.ready_pods("web", 2)
    assert place.service("web", clusterIP="None")["clusterIP"] == "None"
    for pod in pods:
        pod.until_asleep()
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{place.name}/endpointslices"

    def addresses() -> set[str]:
        items = json.loads(place.api.text("GET", slices))["items"]
        endpoints = [endpoint for item in items for endpoint in item.get("endpoints") or ()]
        return {endpoint["addresses"][0] for endpoint in endpoints if endpoint["conditions"]["ready"]}

    until(lambda: len(addresses()) == 2, "the Service has both")
    assert addresses() == {pod.ip for pod in pods}
    assert Counter(ask(address).text for address in addresses()) == {"nothing 1": 2}


def test_a_kept_connection_through_kube_proxy_outlives_sleeps(place: Place) -> None:
    redis = container(image="redis", readinessProbe={"tcpSocket": {"port": 6379}})
    pod = place.pod("data", redis)
    address = place.service("data", 6379)["clusterIP"]

    def connected() -> socket.socket | None:
        try:
            return socket.create_connection((address, 6379), timeout=5)
        except OSError:
            return None

    with until(connected, "the Service answers") as connection:
        connection.settimeout(patient(10))
        connection.sendall(b"set city Bern\r\n")
        assert connection.recv(100) == b"+OK\r\n"
        taken = []
        for _ in range(5):
            pod.until_asleep()
            begun = time.monotonic()
            connection.sendall(b"get city\r\n")
            assert connection.recv(100) == b"$4\r\nBern\r\n"
            taken.append((time.monotonic() - begun) * 1000)
            pod.until_awake()
    print("on the kept connection:", ", ".join(f"{each:.1f} ms" for each in taken))


def test_a_chain_that_is_asleep_as_a_whole(place: Place) -> None:
    data = place.pod("data", container(image="redis", readinessProbe={"tcpSocket": {"port": 6379}}))
    address = place.service("data", 6379)["clusterIP"]
    web = container(command=["python3", "-c", CHAIN, address], readinessProbe={"tcpSocket": {"port": 8080}})
    pod = place.pod("web", web)
    front = place.service("web")["clusterIP"]
    settle(front)
    before = int(ask(front).text)
    for turn in range(1, 4):
        pod.until_asleep()
        data.until_asleep()
        answer = ask(front)
        assert int(answer.text) == before + turn
        assert answer.seconds < patient(1)


def summary(place: Place, pod: Pod) -> dict[str, int]:
    """What the kubelet says of a pod's container: CPU nanoseconds and memory."""
    page = json.loads(place.api.text("GET", "/api/v1/nodes/node-1/proxy/stats/summary"))
    for each in page["pods"]:
        if each["podRef"]["namespace"] == place.name and each["podRef"]["name"] == pod.name:
            found = each["containers"][0]
            return {"cpu": int(found["cpu"]["usageCoreNanoSeconds"]), "memory": int(found["memory"]["workingSetBytes"])}
    return {}


# Not strict: the kubelet looks at a cgroup every ten seconds or so, and may miss that.
RESETS = pytest.mark.xfail(strict=False, reason="a restore makes a new cgroup, whose counters begin at 0")


@pytest.mark.parametrize(
    "standby", [pytest.param("true", id="standby"), pytest.param("false", id="cold", marks=RESETS)]
)
def test_figures_of_a_sleeping_pod(place: Place, standby: str) -> None:
    pod = place.pod("web", annotated=annotations(standby=standby))
    until(lambda: summary(place, pod).get("cpu"), "the kubelet has figures", SECONDS)
    counters = []
    for _ in range(3):
        pod.until_asleep()
        counters.append(summary(place, pod)["cpu"])
        with Client(pod.ip, 8080) as client:
            client.ask()
            counters.append(summary(place, pod)["cpu"])
    assert counters == sorted(counters)  # it only ever grows
    pod.until_asleep()
    metrics = place.api.text("GET", "/api/v1/nodes/node-1/proxy/metrics/resource")
    lines = [line for line in metrics.splitlines() if place.name in line]
    names = {line.split("{")[0] for line in lines}
    assert {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"} <= names
