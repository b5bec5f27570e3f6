"""Pods move between two nodes with their memory, asleep and awake: `./justw cluster 2 python3 -m pytest THIS`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kube import Api, Object, kubectl, until
from tests.cluster.pods import PREFIX, Place, Pod, annotations, ask, container, environment, template
from tests.integration.patience import patient

from zeropod.__main__ import MODES
from zeropod.lifecycle import settings

MIGRATIONS = "/apis/runtime.zeropod.ctrox.dev/v1"
NODES = ("node-1", "node-2")
LIVE = {"live_migrate": "main", "scaledown_duration": "10m"}
OFFLINE = {"migrate": "main"}
GRACE = 180
"""Seconds: memory has to be out within them, on a machine that others keep busy as well."""

pytestmark = [
    pytest.mark.alone,  # nodes are cordoned
    pytest.mark.skipif(
        "exporter" not in MODES or "migrate" not in settings.KNOWN, reason="neither shims nor an exporter take part yet"
    ),
]


@pytest.fixture(autouse=True)
def both(api: Api) -> None:
    if len(api.get("nodes")["items"]) < 2:
        pytest.skip("this cluster has one node")
    if not api.answers(f"{MIGRATIONS}/migrations"):
        pytest.skip("this cluster has no component migration")


@pytest.fixture(scope="session", autouse=True)
def plugin() -> None:
    with suppress(FileExistsError):
        Path("/usr/local/bin/kubectl-zeropod").symlink_to("/src/build/zeropod.pyz")


@pytest.fixture
def only() -> Iterator[Callable[[str], None]]:
    """Has new pods come to one node alone."""

    def choose(node: str) -> None:
        for each in NODES:
            kubectl("uncordon" if each == node else "cordon", each)

    yield choose
    kubectl("uncordon", *NODES)


def deploy(place: Place, annotated: dict[str, Any], *containers: Object, memory: int = 0, kind: str = "") -> None:
    """A pod of the application; that of a StatefulSet for this kind."""
    inner = containers or (container(env=environment(MEMORY_MIB=memory)),)
    options: dict[str, Any] = {"terminationGracePeriodSeconds": GRACE, "annotated": annotations(**annotated)}
    if not kind:
        place.deployment("web", *inner, **options)
        return
    labels = {"app": "web"}
    spec = {"replicas": 1, "serviceName": "web", "selector": {"matchLabels": labels}}
    place.create("statefulsets", "web", spec={**spec, "template": template(*inner, labels=labels, **options)})


def migration(place: Place, name: str) -> Object:
    found: Object = json.loads(place.api.text("GET", f"{MIGRATIONS}/namespaces/{place.name}/migrations/{name}"))
    return found


def ended(place: Place, name: str, seconds: float = 90.0) -> Object:
    def over() -> Object | None:
        found = migration(place, name)
        return found if found.get("status", {}).get("phase") in ("Completed", "Failed", "Unclaimed") else None

    return until(over, f"the migration of {name} is over", seconds)


def completed(place: Place, name: str) -> Object:
    found = ended(place, name)
    assert found["status"]["phase"] == "Completed", found["status"]
    return found


def has_all(place: Place, name: str) -> bool:
    """Whether no page of memory is at the source any more."""
    return not migration(place, name)["status"]["containers"][0].get("pagesToCome")


def moved(place: Place, pod: Pod, *, delete: bool = True) -> Pod:
    """The pod that has taken over from one, which is deleted."""
    uid = pod.now["metadata"]["uid"]
    if delete:
        pod.delete()

    def other() -> Pod | None:
        found = [each for each in place.pods("web") if each.now["metadata"]["uid"] != uid and each.is_ready()]
        return found[0] if found else None

    return until(other, "its replacement is ready", 240)


def states(place: Place, pod: Pod) -> dict[str, str]:
    """What the node's manager says of a pod's containers, on whichever node."""
    path = f"/apis/runtime.zeropod.ctrox.dev/v1/namespaces/{place.name}/zeropods/{pod.name}"
    if not place.api.answers(path):
        return {}
    found: Object = json.loads(place.api.text("GET", path))
    return {each["name"]: each["state"] for each in found.get("status", {}).get("containers", ())}


def until_asleep(place: Place, pod: Pod, *names: str) -> None:
    wanted = names or ("main",)
    until(lambda: all(states(place, pod).get(name) in ("STANDBY", "COLD") for name in wanted), "it sleeps", 60)


def other_node(pod: Pod, same: bool) -> str:
    here = str(pod.now["spec"]["nodeName"])
    return here if same else next(each for each in NODES if each != here)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("same", [True, False], ids=["same-node", "other-node"])
def test_asleep(place: Place, only: Callable[[str], None], same: bool) -> None:
    deploy(place, OFFLINE, memory=64)
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="before").status == 200
    checksum = ask(pod.ip, path="/sum").text
    pod.exec("sh", "-c", "echo kept > /containerdata")
    until_asleep(place, pod)
    only(node := other_node(pod, same))
    new = moved(place, pod)
    completed(place, pod.name)
    assert new.now["spec"]["nodeName"] == node
    # It comes back asleep, and stays so.
    time.sleep(patient(5))
    assert states(place, new)["main"] in ("STANDBY", "COLD")
    assert ask(new.ip).text.split()[0] == "before"
    assert ask(new.ip, path="/sum").text == checksum
    assert new.exec("cat", "/containerdata").strip() == "kept"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("same", "memory", "times"),
    [(True, 256, 3), (False, 256, 3), (False, 1024, 1)],
    ids=["same-node", "other-node", "other-node-1GiB"],
)
def test_awake(place: Place, only: Callable[[str], None], same: bool, memory: int, times: int) -> None:
    deploy(place, LIVE, memory=memory)
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="before").status == 200
    checksum = ask(pod.ip, path="/sum", timeout=60).text
    for _ in range(times):
        only(node := other_node(pod, same))
        before, pod = pod, moved(place, pod)
        found = completed(place, before.name)
        assert pod.now["spec"]["nodeName"] == node
        print(found["status"])
        assert ask(pod.ip).text.split()[0] == "before"
        assert ask(pod.ip, path="/sum", timeout=60).text == checksum
        until(partial(has_all, place, before.name), "all pages have come", 120)


def test_what_is_awake_and_may_only_move_asleep(place: Place) -> None:
    deploy(place, {**OFFLINE, "scaledown_duration": "10m"})
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="before").status == 200
    pod.delete()
    found = ended(place, pod.name)
    assert (found["status"]["phase"], "awake" in found["status"]["reason"]) == ("Failed", True)
    (new,) = place.ready_pods("web", 1)
    assert ask(new.ip).text.split()[0] == "nothing"


def test_without_its_data(place: Place, only: Callable[[str], None]) -> None:
    deploy(place, {**LIVE, "disable_migrate_data": "true"})
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="before").status == 200
    pod.exec("sh", "-c", "echo lost > /containerdata")
    only(other_node(pod, False))
    new = moved(place, pod)
    completed(place, pod.name)
    assert ask(new.ip).text.split()[0] == "before"
    assert new.exec("sh", "-c", "test -e /containerdata || echo gone").strip() == "gone"


def test_two_containers_each_as_it_is(place: Place, only: Callable[[str], None]) -> None:
    second = container("other", env=environment(PORTS=8081), readinessProbe={"tcpSocket": {"port": 8081}})
    deploy(
        place, {"migrate": "main,other", "live_migrate": "main,other", "scaledown_duration": "5s"}, container(), second
    )
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="one").status == 200
    until_asleep(place, pod, "main", "other")
    assert ask(pod.ip, 8081, body="two").status == 200
    only(other_node(pod, False))
    new = moved(place, pod)
    completed(place, pod.name)
    assert ask(new.ip).text.split()[0] == "one"
    assert ask(new.ip, 8081).text.split()[0] == "two"


def test_a_scale_down_waits_for_nothing(place: Place) -> None:
    deploy(place, LIVE)
    (pod,) = place.ready_pods("web", 1)
    begun = time.monotonic()
    place.kubectl("scale", "deployment/web", "--replicas=0")
    pod.until_gone()
    assert time.monotonic() - begun < patient(10)
    items = json.loads(place.api.text("GET", f"{MIGRATIONS}/namespaces/{place.name}/migrations"))["items"]
    assert items == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("annotated", [OFFLINE, LIVE], ids=["asleep", "awake"])
def test_a_stateful_set(place: Place, only: Callable[[str], None], annotated: dict[str, Any]) -> None:
    deploy(place, annotated, kind="StatefulSet")
    (pod,) = place.ready_pods("web", 1)
    assert pod.name == "web-0"
    assert ask(pod.ip, body="before").status == 200
    if annotated is OFFLINE:
        until_asleep(place, pod)
    only(node := other_node(pod, False))
    new = moved(place, pod)
    completed(place, "web-0")
    assert new.now["spec"]["nodeName"] == node
    assert ask(new.ip).text.split()[0] == "before"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("to", [True, False], ids=["to-a-node", "anywhere"])
def test_a_person_moves_a_pod(place: Place, only: Callable[[str], None], to: bool) -> None:
    deploy(place, {"scaledown_duration": "10m"})
    (pod,) = place.ready_pods("web", 1)
    assert ask(pod.ip, body="before").status == 200
    node = other_node(pod, False)
    if not to:
        only(node)
    chosen = ["--to", node] if to else []
    said = kubectl("zeropod", "migrate", pod.name, "-n", place.name, *chosen, timeout=120)
    assert f"on {node}" in said
    new = moved(place, pod, delete=False)
    assert new.now["spec"]["nodeName"] == node
    assert ask(new.ip).text.split()[0] == "before"
    pod.until_gone(90)
    assert [each.name for each in place.pods("web")] == [new.name]


def test_what_has_moved_is_told_on_both_pods(place: Place) -> None:
    deploy(place, LIVE)
    (pod,) = place.ready_pods("web", 1)
    new = moved(place, pod)
    completed(place, pod.name)
    told = partial(place.api.get, "events", namespace=place.name)

    def there() -> bool:
        events = {(each["involvedObject"]["name"], each["reason"]) for each in told()["items"]}
        return {(pod.name, "Migrated"), (new.name, "Migrated")} <= events

    until(there, f"{PREFIX} tells of it")
