"""What makes pods, and the kinds of pods it makes: Deployments, Jobs, init containers, sidecars, shared namespaces."""

import time
from typing import Any

import pytest
from tests.cluster.kube import Object, until
from tests.cluster.pods import ASLEEP, SECONDS, Place, annotations, ask, container, environment, settle, template
from tests.integration.patience import patient


def scale(place: Place, name: str, replicas: int) -> None:
    place.api.patch("deployments", name, {"spec": {"replicas": replicas}}, place.name)


def test_a_rollout_of_sleeping_pods(place: Place) -> None:
    rolling = {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}
    place.deployment("web", replicas=2, deployment=rolling)
    before = {pod.name for pod in place.ready_pods("web", 2)}
    address = place.service("web")["clusterIP"]
    settle(address)
    for pod in place.pods("web"):
        pod.until_asleep()
    change = {"spec": {"template": {"metadata": {"labels": {"release": "two"}}}}}
    place.api.patch("deployments", "web", change, place.name)

    def is_done() -> bool:
        status = place.api.get("deployments", "web", place.name)["status"]
        return (status.get("updatedReplicas"), status.get("readyReplicas"), status["replicas"]) == (2, 2, 2)

    deadline = time.monotonic() + patient(60)
    while not is_done():
        assert time.monotonic() < deadline
        assert ask(address).status == 200  # none is lost meanwhile
        time.sleep(0.3)
    until(lambda: not before & {pod.name for pod in place.pods("web")}, "the old ones are gone")
    for pod in place.pods("web"):
        pod.until_asleep()
    assert ask(address).status == 200


def test_to_zero_and_back(place: Place) -> None:
    place.deployment("web")
    (first,) = place.ready_pods("web", 1)
    first.until_asleep()
    scale(place, "web", 0)
    first.until_gone()
    scale(place, "web", 2)
    for pod in place.ready_pods("web", 2):
        pod.until_asleep()
        assert ask(pod.ip).text == "nothing 1"


def job(place: Place, name: str, *containers: Object, **spec: Any) -> None:
    place.create("jobs", name, spec={"template": template(*containers, restartPolicy="Never"), **spec})


def finished(place: Place, name: str) -> Object | None:
    conditions = place.api.get("jobs", name, place.name)["status"].get("conditions", ())
    return next((each for each in conditions if each["type"] in ("Complete", "Failed")), None)


def test_jobs_come_to_their_end(place: Place) -> None:
    # What listens on nothing does not sleep, however long it takes.
    job(place, "works", container(command=["sh", "-c", "sleep 4; echo done"]), completions=2, parallelism=2)
    job(place, "fails", container(command=["sh", "-c", "sleep 2; exit 3"]), backoffLimit=0)
    assert until(lambda: finished(place, "works"), "the job has ended", 60)["type"] == "Complete"
    assert until(lambda: finished(place, "fails"), "the job has ended", 60)["type"] == "Failed"


def test_a_job_that_serves_may_sleep_and_still_end(place: Place) -> None:
    serves = "nc -l -p 8080 -e cat; echo served"
    job(place, "serves", container(command=["sh", "-c", serves]))
    found = place.api.get
    pods = until(lambda: found("pods", namespace=place.name)["items"], "there is a pod")
    name = pods[0]["metadata"]["name"]
    until(lambda: place.states.of(place.name, name, "main").get("state") in ASLEEP, "it sleeps", SECONDS)
    address = found("pods", name, place.name)["status"]["podIP"]
    place.kubectl("run", "client", "--image=localhost/python:test", "--image-pull-policy=Never", "--restart=Never",
                  "--command", "--", "sh", "-c", f"echo hello | nc {address} 8080")  # fmt: skip
    assert until(lambda: finished(place, "serves"), "the job has ended", 60)["type"] == "Complete"


def test_init_containers_and_sidecars(place: Place) -> None:
    first = container("first", command=["sh", "-c", "sleep 3; echo from-init >/shared/file"])
    probe = {"tcpSocket": {"port": 8081}, "periodSeconds": 1, "failureThreshold": 120}
    sidecar = container("sidecar", env=environment(PORTS=8081), restartPolicy="Always", startupProbe=probe)
    main = container()
    for each in (first, sidecar, main):
        each["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
    pod = place.pod("web", main, initContainers=[first, sidecar], volumes=[{"name": "shared", "emptyDir": {}}])
    pod.until_asleep("main", "sidecar")
    assert ask(pod.ip, path="/file/shared/file").text == "from-init\n"
    assert ask(pod.ip, 8081).status == 200
    pod.until_asleep("main", "sidecar")
    assert (pod.restarts("main"), pod.restarts("sidecar"), pod.restarts("first")) == (0, 0, 0)
    pod.delete(10)
    pod.until_gone()


def test_a_shared_process_namespace(place: Place) -> None:
    second = container("second", env=environment(PORTS=8081), readinessProbe={"tcpSocket": {"port": 8081}})
    pod = place.pod("web", container(), second, shareProcessNamespace=True)
    pod.until_asleep("main", "second")
    assert ask(pod.ip).status == 200
    pod.until_awake("main")
    seen = pod.exec("sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep PORTS", container="second")
    assert "PORTS=8081" in seen
    pod.until_asleep("main", "second")
    assert ask(pod.ip, 8081).status == 200


def test_the_hosts_network(place: Place) -> None:
    """It stays awake, and everything about it works."""
    served = container(env=environment(PORTS=18080), readinessProbe={"tcpSocket": {"port": 18080}})
    pod = place.pod("web", served, hostNetwork=True)
    pod.stays("RUNNING", seconds=4)
    assert ask(pod.ip, 18080).status == 200
    assert "host" in str(pod.says()["why"])


@pytest.mark.parametrize("runtime", [None, "zeropod"])
def test_a_stateful_set_keeps_its_name(place: Place, runtime: str | None) -> None:
    labels = {"app": "data"}
    spec = {"serviceName": "data", "selector": {"matchLabels": labels}, "replicas": 2}
    place.create("statefulsets", "data", spec={**spec, "template": template(labels=labels, runtime=runtime)})
    pods = place.ready_pods("data", 2, 60)
    assert sorted(pod.name for pod in pods) == ["data-0", "data-1"]
    if runtime:
        for pod in pods:
            pod.until_asleep()
    for pod in pods:
        assert pod.exec("hostname").strip() == pod.name


def test_pods_that_do_not_configure_it_run_beside(place: Place) -> None:
    pod = place.pod("web", runtime=None, annotated=annotations())
    assert ask(pod.ip).status == 200
    assert pod.says() == {}
