"""Many pods that sleep and wake at random, and whether the API says in the end what their shims say, at what cost.

30 pods for a minute; with --long, `./justw test-cluster-long`, 300 on two nodes for five, of which the figures go into
build/soak.json.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kube import Api, KubectlError, kubectl, until
from tests.cluster.pods import Place, annotations, ask, container, environment

PREFIX = "zeropod.ctrox.dev"
SYSTEM = "zeropod-system"
REQUESTS = {"cpu": "3m", "memory": "2Mi"}
LOWEST = {"cpu": "1m", "memory": "1Ki"}
NAPS = ("2s", "5s", "10s", "20s")
"""Idle times after which the pods of each group fall asleep."""
WRITES = 3
"""For each change of state. On top come the first event of each kind and container, which is written at once, and one
write for each pod that the changes before the measurement have left."""
MEMORY = 40 << 20
"""Bytes of a manager's working set, which is what `kubectl top` shows."""
REQUESTS_PER_SECOND = 5
SOURCE = Path("/src/tests/cluster/quiet_app.py").read_text()
FIGURES = Path("/src/build/soak.json")


class Cluster:
    """All nodes: what shims and managers say there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        nodes = "?labelSelector=app.kubernetes.io%2Fname%3Dzeropod"
        found = place.api.get("pods", namespace=SYSTEM, query=nodes)["items"]
        self.managers = {
            each["spec"]["nodeName"]: (each["metadata"]["name"], each["status"]["podIP"]) for each in found
        }

    def says(self) -> dict[str, dict[str, Any]]:
        """What all shims say of this test's containers, by pod; without the managers, which have it from them."""
        found = dict[str, dict[str, Any]]()
        for name, _ in self.managers.values():
            text = until(partial(_ps, name), f"all shims of {name} answer", 120)
            ours = [each for each in json.loads(text) if each["namespace"] == self._place.name and each["container"]]
            found |= {each["pod"]: each for each in ours if each["container"] == "main"}
        return found

    def metrics(self) -> dict[str, dict[str, float]]:
        """What each manager tells Prometheus, by node."""
        return {node: _metrics(address) for node, (_, address) in self.managers.items()}

    def writes(self) -> Counter[str]:
        """How often the managers wrote, by what and how it went."""
        found = Counter[str]()
        for metrics in self.metrics().values():
            for name, value in metrics.items():
                if name.startswith("zeropod_api_writes_total"):
                    found[name.partition("total")[2]] += int(value)
        return found

    def memory(self) -> dict[str, int]:
        """The working set of each manager in bytes, by node."""
        return {node: self._working_set(node, name) for node, (name, _) in self.managers.items()}

    def _working_set(self, node: str, name: str) -> int:
        summary = json.loads(self._place.api.text("GET", f"/api/v1/nodes/{node}/proxy/stats/summary"))
        (pod,) = (each for each in summary["pods"] if each["podRef"]["name"] == name)
        (found,) = (each for each in pod["containers"] if each["name"] == "manager")
        return int(found["memory"]["workingSetBytes"])

    def events(self) -> set[str]:
        """Names of the managers' events: there is one for each kind and container, which counts."""
        found = self._place.api.get("events", namespace=self._place.name)["items"]
        return {each["metadata"]["name"] for each in found if each.get("reportingComponent") == f"{PREFIX}/manager"}

    def differences(self) -> list[str]:
        """Where the API says something else than the shims: labels, requests and custom resources."""
        pods = {
            each["metadata"]["name"]: each for each in self._place.api.get("pods", namespace=self._place.name)["items"]
        }
        listed = f"/apis/runtime.zeropod.ctrox.dev/v1/namespaces/{self._place.name}/zeropods"
        resources = {
            each["metadata"]["name"]: each for each in json.loads(self._place.api.text("GET", listed))["items"]
        }
        says = self.says()
        assert says.keys() == pods.keys(), sorted(says.keys() ^ pods.keys())
        return [
            f"{name}: {what}: {found!r}, not {wanted!r}"
            for name, said in says.items()
            for what, found, wanted in _compared(said, pods[name], resources.get(name, {}))
            if found != wanted
        ]


def _ps(manager: str) -> str:
    """What `zeropod ps` prints, nothing where a shim does not answer in time: the machine is busy."""
    with suppress(KubectlError):
        return kubectl("-n", SYSTEM, "exec", manager, "-c", "manager", "--", "/zeropod/bin/zeropod.pyz", "ps", "--json")
    return ""


def _metrics(address: str) -> dict[str, float]:
    lines = ask(address, path="/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def _compared(said: Any, pod: Any, resource: Any) -> Iterator[tuple[str, object, object]]:
    sleeps = said["state"] in ("STANDBY", "COLD")
    yield "label", pod["metadata"]["labels"].get(f"status.{PREFIX}/main"), "SCALED_DOWN" if sleeps else "RUNNING"
    wanted = LOWEST if sleeps else REQUESTS
    yield "requests", pod["spec"]["containers"][0]["resources"]["requests"], wanted
    yield "granted", pod["status"]["containerStatuses"][0].get("allocatedResources"), wanted
    status = resource.get("status", {})
    (own,) = status.get("containers") or [{}]
    yield "state", (own.get("state"), own.get("containerID")), (said["state"], said["id"])
    yield "counts", (status.get("sleeps"), status.get("wakes")), (said["checkpoints"], said["restores"])


def until_right(cluster: Cluster, seconds: float) -> float:
    """Wait until the API says what the shims say; return how long that took."""
    begun, last = time.monotonic(), [""]

    def right() -> bool:
        last[:] = cluster.differences()
        return not last

    try:
        until(right, "the API says what the shims say", seconds)
    except TimeoutError:
        pytest.fail(f"{len(last)} differences: {last[:10]}")
    return time.monotonic() - begun


@pytest.mark.alone
@pytest.mark.timeout(2400)
def test_many_pods_that_sleep_and_wake_at_random(place: Place, api: Api, request: pytest.FixtureRequest) -> None:
    is_long = request.config.getoption("--long")
    count, seconds = (request.config.getoption("--soak-pods"), 300.0) if is_long else (30, 60.0)
    program = container(
        command=["python3", "-S", "-E", "-c", SOURCE], env=environment(PORTS="8080"), resources={"requests": REQUESTS}
    )
    for number, nap in enumerate(NAPS):
        chosen = {**annotations(scaledown_duration=nap, standby_memory="resident")}
        replicas = (count + number) // len(NAPS)
        place.deployment(f"web-{number}", program, replicas=replicas, annotated=chosen)
    begun = time.monotonic()

    def started() -> list[Any]:
        found = api.get("pods", namespace=place.name)["items"]
        ready = [each for each in found if (each["status"].get("containerStatuses") or [{}])[0].get("started")]
        return ready if len(ready) == count else []

    pods = until(started, f"{count} pods run", 60 + 6 * count)
    addresses = [each["status"]["podIP"] for each in pods]
    print(f"{count} pods run after {time.monotonic() - begun:.0f} s", flush=True)
    cluster = Cluster(place)
    # What a pod costs before it has slept and woken is none of what a change of state costs.
    until(lambda: all(each["checkpoints"] for each in cluster.says().values()), "all have slept", 60 + count)
    for address in addresses:
        with suppress(OSError):
            ask(address)
    until(lambda: all(each["restores"] for each in cluster.says().values()), "all were woken", 60 + count)
    until_right(cluster, 120)

    def changes() -> int:
        return sum(each["checkpoints"] + each["restores"] for each in cluster.says().values())

    chance = random.Random(1)
    before, told_before, writes, figures = changes(), cluster.events(), cluster.writes(), cluster.metrics()
    begun, asked, failed = time.monotonic(), 0, 0
    while time.monotonic() < begun + seconds:
        try:
            failed += ask(chance.choice(addresses)).status != 200
        except OSError:
            failed += 1
        asked += 1
        time.sleep(max(0.0, begun + asked / REQUESTS_PER_SECOND - time.monotonic()))
    took = time.monotonic() - begun
    after = cluster.metrics()
    settled = until_right(cluster, 120)
    changed = changes() - before
    cpu = {node: (now["process_cpu_seconds_total"] - figures[node]["process_cpu_seconds_total"]) / took
           for node, now in after.items()}  # fmt: skip
    written, first = cluster.writes() - writes, len(cluster.events() - told_before)
    memory = cluster.memory()
    told = {
        "pods": count, "seconds": round(took), "requests": asked, "failed": failed, "changes": changed,
        "writes": written, "first_events": first, "writes_per_change": round(written.total() / changed, 2),
        "cpu": {node: f"{value:.2%}" for node, value in cpu.items()},
        "memory_mib": {node: round(value / (1 << 20), 1) for node, value in memory.items()},
        "right_after_seconds": round(settled, 1),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    if is_long:
        FIGURES.write_text(json.dumps(told, indent=1) + "\n")
    assert failed == 0
    assert changed >= count
    assert written.total() <= WRITES * changed + first + count
    assert max(memory.values()) <= MEMORY
