"""Pods that are deleted, or whose containers end, while they sleep: the same grace as awake."""

import time
from typing import Any

import pytest
from tests.cluster.kube import ApiError, Object, until
from tests.cluster.pods import Place, Pod, annotations, container, environment
from tests.integration.patience import patient

KEPT = "tests.zeropod.ctrox.dev/kept"
"""A finalizer: the object outlives its containers, and says how they have ended."""


def kept(place: Place, *containers: Object, grace: int = 20, **more: Any) -> Pod:
    pod = place.pod("web", *containers, terminationGracePeriodSeconds=grace, **more)
    place.api.patch("pods", "web", {"metadata": {"finalizers": [KEPT]}}, place.name)
    return pod


def ended(pod: Pod, container: str = "main", seconds: float = 40) -> Object:
    """How a container of a kept pod has ended; the pod may go then."""

    def look() -> Object | None:
        found: Object | None = pod.status(container).get("state", {}).get("terminated")
        return found

    try:
        return until(look, f"{container} has ended", seconds)
    finally:
        pod.place.api.patch("pods", pod.name, {"metadata": {"finalizers": None}}, pod.place.name)


@pytest.mark.parametrize("standby", ["true", "false"], ids=["standby", "cold"])
def test_sigterm_arrives_asleep(place: Place, standby: str) -> None:
    pod = kept(place, container(), annotated=annotations(standby=standby)).until_asleep()
    begun = time.monotonic()
    pod.delete(20)
    end = ended(pod)
    assert end["exitCode"] == 0, end
    assert time.monotonic() - begun < patient(15)
    pod.until_gone()


def test_a_shutdown_longer_than_the_idle_time_comes_to_its_end(place: Place) -> None:
    pod = kept(place, container(env=environment(END_SECONDS=6))).until_asleep()
    pod.delete(20)
    until(lambda: "ending 1" in pod.logs(), "it is shutting down")
    pod.stays("RUNNING", seconds=2.5)
    end = ended(pod)
    assert end["exitCode"] == 0, end


def test_what_does_not_end_is_killed_after_its_grace(place: Place) -> None:
    deaf = "trap '' TERM; while :; do nc -l -p 8080 -e cat; done"
    pod = kept(place, container(command=["sh", "-c", deaf])).until_asleep()
    begun = time.monotonic()
    pod.delete(3)
    end = ended(pod)
    assert end["exitCode"] == 137, end
    assert 2.5 < time.monotonic() - begun < patient(20)


def test_a_pre_stop_command_runs_asleep(place: Place) -> None:
    """It takes longer than the idle time, and SIGTERM comes after it."""
    command = "for i in 1 2 3 4; do echo before $i >/proc/1/fd/1; sleep 1; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", command]}}}
    pod = kept(place, container(lifecycle=hook)).until_asleep()
    pod.delete(20)
    until(lambda: pod.status().get("state", {}).get("terminated"), "it has ended")
    logs = pod.logs()
    end = ended(pod)
    assert end["exitCode"] == 0, end
    assert logs.splitlines()[-2:] == ["before 4", "done"]


def test_a_pre_stop_request_reaches_it_asleep(place: Place) -> None:
    hook = {"preStop": {"httpGet": {"port": 8080, "path": "/slow/3"}}}
    pod = kept(place, container(lifecycle=hook)).until_asleep()
    begun = time.monotonic()
    pod.delete(20)
    end = ended(pod)
    assert end["exitCode"] == 0, end
    assert time.monotonic() - begun >= 3


def test_a_container_that_ends_is_restarted(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    pod.exec("sh", "-c", "kill -TERM 1")
    until(lambda: pod.restarts() == 1, "it is restarted")
    assert pod.status()["lastState"]["terminated"]["exitCode"] == 0
    pod.until_ready().until_asleep()


def test_an_eviction_asks_the_disruption_budget(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    selected = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    place.create("poddisruptionbudgets", "web", spec=selected)
    path = f"/api/v1/namespaces/{place.name}/pods/web/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}}

    def refused() -> bool:
        try:
            place.api.text("POST", path, {**eviction, "deleteOptions": {"dryRun": ["All"]}})
        except ApiError as error:
            return error.status == 429
        return False

    until(refused, "the budget is known", 20)
    assert pod.state() == "STANDBY"
    place.api.delete("poddisruptionbudgets", "web", place.name)
    until(lambda: not refused(), "the budget is gone", 20)
    place.api.text("POST", path, eviction)
    pod.until_gone()


def test_no_grace_at_all(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    pod.delete(0)
    until(lambda: not place.states.all_in(place.name), "its shim has forgotten it", 40)
