"""What the manager writes to Kubernetes of pods that sleep and wake: labels, events, and requests."""

import json
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.cluster import services
from tests.cluster.impersonation import patch_as_a_manager
from tests.cluster.kube import Api, KubectlError, kubectl, until
from tests.cluster.pods import Place, Pod, States, annotations, ask, container, environment

PREFIX = "status.zeropod.ctrox.dev"
SYSTEM = "zeropod-system"
WITHIN = 20.0
"""Seconds for what is right at once on an idle machine."""
REQUESTS = {"cpu": "100m", "memory": "100Mi"}
LOWEST = {"cpu": "1m", "memory": "1Ki"}


def labels(pod: Pod) -> dict[str, str]:
    found: Mapping[str, str] = pod.now["metadata"].get("labels", {})
    return {key.partition("/")[2]: value for key, value in found.items() if key.startswith(f"{PREFIX}/")}


def until_labelled(pod: Pod, seconds: float = WITHIN, **wanted: str) -> None:
    until(lambda: labels(pod) == wanted or None, f"{pod.name} is labelled {wanted}", seconds)


def events(pod: Pod) -> dict[str, Any]:
    """Ours of a pod, by their reasons."""
    uid = pod.now["metadata"]["uid"]
    found = pod.place.api.get("events", namespace=pod.place.name, query=f"?fieldSelector=involvedObject.uid%3D{uid}")
    ours = [each for each in found["items"] if each.get("reportingComponent") == "zeropod.ctrox.dev/manager"]
    assert len({each["reason"] for each in ours}) == len(ours), ours
    return {each["reason"]: each for each in ours}


def requests(pod: Pod, name: str = "main") -> dict[str, str]:
    spec = pod.now["spec"]
    (found,) = [each for each in [*spec["containers"], *spec.get("initContainers", ())] if each["name"] == name]
    wanted: dict[str, str] = found["resources"]["requests"]
    return wanted


def until_requested(pod: Pod, wanted: Mapping[str, str], seconds: float = WITHIN, name: str = "main") -> None:
    """Until the pod asks for this, and the kubelet has granted it."""

    def granted() -> bool:
        return requests(pod, name) == wanted and pod.status(name).get("allocatedResources") == wanted

    until(granted, f"{pod.name} requests {wanted}", seconds)


def resize(pod: Pod, **wanted: str) -> None:
    """As a person or an autoscaler does it."""
    body = {"spec": {"containers": [{"name": "main", "resources": {"requests": wanted}}]}}
    pod.place.api.patch("pods", pod.name, body, pod.place.name, "resize")


def manager(api: Api) -> Pod:
    (found,) = api.get("pods", namespace=SYSTEM, query="?fieldSelector=spec.nodeName%3Dnode-1")["items"]
    return Pod(Place(api, States(), SYSTEM), found["metadata"]["name"])


def metrics(api: Api) -> dict[str, float]:
    lines = ask(manager(api).ip, path="/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_each_container_has_a_label(place: Place) -> None:
    pod = place.pod("web", container("one"), container("two", env=environment(PORTS="8081")))
    pod.until_asleep("one", "two")
    until_labelled(pod, one="SCALED_DOWN", two="SCALED_DOWN")
    assert ask(pod.ip).status == 200
    until_labelled(pod, one="RUNNING", two="SCALED_DOWN")
    until_labelled(pod, one="SCALED_DOWN", two="SCALED_DOWN")
    selected = place.api.get("pods", namespace=place.name, query=f"?labelSelector={PREFIX}/one%3DSCALED_DOWN")
    assert [each["metadata"]["name"] for each in selected["items"]] == ["web"]


def test_a_container_that_has_ended_loses_its_label(place: Place) -> None:
    short = container("short", command=["python3", "-c", "import time; time.sleep(2)"])
    pod = place.pod("job", container(), short, ready=False, restartPolicy="Never")
    until(lambda: labels(pod).get("short"), "the short one is labelled")
    until(lambda: "short" not in labels(pod), "the short one has ended")
    assert labels(pod)["main"]


def test_an_event_counts_what_happens_again(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    assert ask(pod.ip).status == 200
    until(lambda: set(events(pod)) == {"Scaled down", "Running"}, "both are told", WITHIN)
    for _ in range(3):
        pod.until_asleep()
        assert ask(pod.ip).status == 200
    pod.until_asleep()
    restores = int(pod.says()["restores"])
    until(lambda: events(pod).get("Running", {}).get("count") == restores, f"it was woken {restores} times", WITHIN)
    told = events(pod)
    assert set(told) == {"Scaled down", "Running"}
    assert told["Running"]["message"].startswith("Restored container main in ")
    assert told["Scaled down"]["message"].startswith("Scaled down container main in ")
    assert told["Running"]["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert told["Running"]["firstTimestamp"] < told["Running"]["lastTimestamp"]
    assert told["Running"]["source"] == {"component": "zeropod.ctrox.dev/manager", "host": "node-1"}


def test_a_dry_run_is_told(place: Place) -> None:
    pod = place.pod("web", annotated=annotations(dry_run="true"))
    until(lambda: "Dry run" in events(pod), "the dry run is told", 40)
    assert labels(pod) == {"main": "RUNNING"}


def test_a_sleeping_container_requests_next_to_nothing(place: Place) -> None:
    pod = place.pod("web", container(resources={"requests": REQUESTS})).until_asleep()
    until_requested(pod, LOWEST)
    kept = pod.now["metadata"]["annotations"]
    assert kept["zeropod.ctrox.dev/cpu-requests"] == '{"main":"100m"}'
    assert kept["zeropod.ctrox.dev/memory-requests"] == '{"main":"100Mi"}'
    assert pod.now["status"]["qosClass"] == "Burstable"
    with_traffic = time.monotonic() + 3
    while time.monotonic() < with_traffic:
        assert ask(pod.ip).status == 200
    until_requested(pod, REQUESTS)
    until_requested(pod.until_asleep(), LOWEST)
    assert pod.restarts() == 0


def test_a_request_that_a_person_changes_stays_changed(place: Place) -> None:
    pod = place.pod("web", container(resources={"requests": REQUESTS, "limits": {"memory": "200Mi"}})).until_asleep()
    until_requested(pod, LOWEST)
    resize(pod, cpu="150m", memory="120Mi")
    until_requested(pod, LOWEST)
    assert pod.now["metadata"]["annotations"]["zeropod.ctrox.dev/cpu-requests"] == '{"main":"150m"}'
    assert ask(pod.ip, path="/").status == 200
    until(lambda: requests(pod) == {"cpu": "150m", "memory": "120Mi"}, "it has what it was given", WITHIN)


def test_a_guaranteed_pod_keeps_its_requests_and_says_why(place: Place) -> None:
    pod = place.pod("web", container(resources={"limits": REQUESTS})).until_asleep()
    until(lambda: "Requests kept" in events(pod), "it is told", WITHIN)
    assert "Guaranteed" in events(pod)["Requests kept"]["message"]
    assert requests(pod) == REQUESTS
    assert "Resize refused" not in events(pod)


def test_a_container_that_would_be_restarted_keeps_its_request(place: Place) -> None:
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    pod = place.pod("web", container(resources={"requests": REQUESTS}, resizePolicy=policy)).until_asleep()
    until_requested(pod, {"cpu": "100m", "memory": "1Ki"})
    until(lambda: "resizePolicy" in events(pod).get("Requests kept", {}).get("message", ""), "it is told", WITHIN)
    assert pod.restarts() == 0


def test_a_sidecar_sleeps_and_requests_less_as_well(place: Place) -> None:
    sidecar = container("side", env=environment(PORTS="8081"), restartPolicy="Always", resources={"requests": REQUESTS})
    pod = place.pod("web", container(resources={"requests": REQUESTS}), initContainers=[sidecar])
    pod.until_asleep("main", "side")
    until_labelled(pod, main="SCALED_DOWN", side="SCALED_DOWN")
    until_requested(pod, LOWEST)
    until_requested(pod, LOWEST, name="side")


def test_a_refused_resize_is_told_and_hinders_nothing_else(place: Place) -> None:
    place.create("limitranges", "low", spec={"limits": [{"type": "Container", "min": {"cpu": "50m"}}]})
    pod = place.pod("web", container(resources={"requests": REQUESTS})).until_asleep()
    until_labelled(pod, main="SCALED_DOWN")
    until(lambda: "Resize refused" in events(pod), "it is told", WITHIN)
    assert "minimum cpu usage" in events(pod)["Resize refused"]["message"]
    place.api.delete("limitranges", "low", place.name)
    until_requested(pod, LOWEST, 60)


@pytest.mark.parametrize(
    ("verb", "resource", "may"),
    [
        ("list", "pods", True),
        ("patch", "pods", True),
        ("patch", "pods/resize", True),
        ("patch", "events", True),
        ("update", "pods", False),
        ("delete", "pods", False),
        ("create", "pods/exec", False),
        ("list", "events", False),
        ("get", "secrets", False),
        ("get", "nodes", False),
        ("patch", "deployments.apps", False),
    ],
)
def test_the_manager_may_do_what_it_does_and_no_more(verb: str, resource: str, may: bool) -> None:
    account = f"--as=system:serviceaccount:{SYSTEM}:zeropod-node"
    resource, _, part = resource.partition("/")
    parts = [f"--subresource={part}"] if part else []
    try:
        answer = kubectl("auth", "can-i", verb, resource, *parts, account, "-n", "default")
    except KubectlError as error:
        answer = str(error)
    assert ("yes" in answer) == may, answer


def pod_path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.place.name}/pods/{pod.name}"


def test_a_manager_is_held_to_its_own_pods_and_to_what_it_writes(place: Place) -> None:
    resources = {"requests": REQUESTS, "limits": {"memory": "200Mi"}}
    pod = place.pod("web", container(resources=resources), annotated=annotations(scaledown_duration="600s"))
    until_labelled(pod, main="RUNNING")
    ours = {"metadata": {"labels": {f"{PREFIX}/other": "RUNNING"}}}
    assert patch_as_a_manager(pod_path(pod), "node-1", ours) == ""
    assert "its own node" in patch_as_a_manager(pod_path(pod), "node-2", ours)
    assert "changes labels" in patch_as_a_manager(pod_path(pod), "node-1", {"metadata": {"labels": {"app": "another"}}})
    assert "changes labels" in patch_as_a_manager(pod_path(pod), "node-1", {"metadata": {"labels": {"app": None}}})
    wrong = {"metadata": {"annotations": {"zeropod.ctrox.dev/scaledown-duration": "1s"}}}
    assert "changes the annotations" in patch_as_a_manager(pod_path(pod), "node-1", wrong)
    assert "finalizers" in patch_as_a_manager(pod_path(pod), "node-1", {"metadata": {"finalizers": ["example.com/x"]}})
    image = {"spec": {"containers": [{"name": "main", "image": "localhost/redis:test"}]}}
    assert "requests alone" in patch_as_a_manager(pod_path(pod), "node-1", image)
    limit = {"spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "300Mi"}}}]}}
    assert "no limits" in patch_as_a_manager(f"{pod_path(pod)}/resize", "node-1", limit)


@pytest.mark.alone
def test_another_pod_takes_the_room_of_one_that_sleeps(place: Place) -> None:
    wanted = {"cpu": "1200m", "memory": "64Mi"}
    pod = place.pod("first", container(resources={"requests": wanted})).until_asleep()
    until_requested(pod, LOWEST)
    other = place.pod(
        "second", container(resources={"requests": wanted}), annotated=annotations(scaledown_duration="600s")
    )
    stop = time.monotonic() + 40
    while "Resize deferred" not in events(pod):
        assert ask(pod.ip).status == 200
        assert time.monotonic() < stop
        time.sleep(0.2)
    told = events(pod)["Resize deferred"]
    assert told["type"] == "Warning"
    assert "cpu" in told["message"]
    assert requests(pod) == wanted
    assert pod.status()["allocatedResources"]["cpu"] == "1m"

    def reasons() -> list[Any]:
        query = f"/apis/runtime.zeropod.ctrox.dev/v1/namespaces/{place.name}/zeropods/first"
        (said,) = json.loads(place.api.text("GET", query))["status"]["containers"]
        return [each for each in said["reasons"] if each["kind"] == "resize"]

    (reason,) = until(reasons, "kubectl zeropod why says so", WITHIN)
    assert "Its resize is deferred: " in reason["text"]
    assert "Wait for free resources" in reason["remedy"]
    other.delete(0)
    stop = time.monotonic() + 60
    while pod.status()["allocatedResources"] != wanted:
        assert ask(pod.ip).status == 200
        assert time.monotonic() < stop
        time.sleep(0.2)


@pytest.mark.alone
def test_nothing_is_written_that_has_not_changed(place: Place, api: Api) -> None:
    pod = place.pod("web", container(resources={"requests": REQUESTS})).until_asleep()
    until_requested(pod, LOWEST)
    until(lambda: "Scaled down" in events(pod), "it is told", WITHIN)

    def writes() -> float:
        return sum(value for name, value in metrics(api).items() if name.startswith("zeropod_api_writes_total"))

    begun = writes()
    time.sleep(30)
    assert writes() == begun
    assert metrics(api)["zeropod_api_followed"] == 1
    memory = metrics(api)["process_resident_memory_bytes"]
    print(f"manager: {memory / (1 << 20):.1f} MiB of memory, {begun:.0f} writes so far")
    # Most of it is the interpreter's and the libraries'; modules that the test image has not compiled add to it.
    assert memory <= 48 << 20
    # One of the label, one of the requests, one of the custom resource; and the first event of a wake.
    assert ask(pod.ip).status == 200
    pod.until_awake()
    until_labelled(pod, main="RUNNING")
    pod.until_asleep()
    until_requested(pod, LOWEST)
    time.sleep(5)
    assert writes() - begun <= 7


@pytest.mark.alone
def test_all_is_right_soon_after_the_api_server_was_away(place: Place) -> None:
    asleep = place.pod("asleep", container(resources={"requests": REQUESTS})).until_asleep()
    awake = place.pod(
        "awake", container(resources={"requests": REQUESTS}), annotated=annotations(scaledown_duration="600s")
    )
    until_requested(asleep, LOWEST)
    address, slept_at, restores = awake.ip, asleep.ip, asleep.says()["restores"]
    with services.stopped("kube-apiserver", signal.SIGKILL):
        assert ask(address).status == 200
        assert asleep.says()["restores"] == restores
        assert ask(slept_at).status == 200
        asleep.until_asleep()
        assert asleep.says()["restores"] == restores + 1
        time.sleep(5)
    until_labelled(asleep, 60, main="SCALED_DOWN")
    until_labelled(awake, 60, main="RUNNING")
    until_requested(asleep, LOWEST, 60)
    until(
        lambda: events(asleep).get("Running", {}).get("count") == asleep.says()["restores"], "each wake is counted", 60
    )


@pytest.mark.alone
def test_all_is_right_soon_after_the_manager_was_away(place: Place, api: Api) -> None:
    pod = place.pod("web", container(resources={"requests": REQUESTS})).until_asleep()
    until_requested(pod, LOWEST)
    until(lambda: "Scaled down" in events(pod), "it is told", WITHIN)
    old = manager(api)
    kubectl("label", "node", "node-1", "zeropod.ctrox.dev/node-")
    try:
        old.until_gone(60)
        assert ask(pod.ip).status == 200
        assert ask(pod.ip).status == 200
        pod.until_asleep()
        assert "Running" not in events(pod)
    finally:
        kubectl("label", "node", "node-1", "zeropod.ctrox.dev/node=true")
    kubectl("-n", SYSTEM, "rollout", "status", "daemonset/zeropod-node", "--timeout=120s", timeout=130)
    restores = pod.says()["restores"]
    until(lambda: events(pod).get("Running", {}).get("count") == restores, "what happened meanwhile is told", 60)
    until_labelled(pod, 60, main="SCALED_DOWN")
    until_requested(pod, LOWEST, 60)
