"""The kubelet's probes: those of a sleeping pod are answered without waking it, and mean what they mean awake."""

from typing import Any

import pytest
from tests.cluster.kube import until
from tests.cluster.pods import Place, annotations, ask, container, environment

EVERY = {"periodSeconds": 1, "timeoutSeconds": 5}
PATIENT = {"failureThreshold": 120}
"""For one that is to succeed: the application may take its time to start."""
HTTP = {"httpGet": {"port": 8080, "path": "/"}}
TCP = {"tcpSocket": {"port": 8080}}


def probed(kind: str, probe: dict[str, Any], **more: Any) -> dict[str, Any]:
    probes: dict[str, Any] = {"readinessProbe": TCP | {"periodSeconds": 1}, kind: PATIENT | probe | EVERY}
    return container(**probes, **more)


@pytest.mark.parametrize("kind", ["livenessProbe", "readinessProbe"])
@pytest.mark.parametrize(
    "probe",
    [HTTP, TCP, {"httpGet": {"port": 8080, "path": "/" + "x" * 1100}}],
    ids=["http", "tcp", "large"],
)
def test_a_probe_lets_it_sleep(place: Place, kind: str, probe: dict[str, Any]) -> None:
    large = {"probe_buffer_size": "2048"} if len(str(probe)) > 1000 else {}
    pod = place.pod("web", probed(kind, probe), annotated=annotations(**large)).until_asleep()
    wakes = pod.says()["restores"]
    pod.stays("STANDBY", seconds=8)
    said = pod.says()
    assert said["restores"] == wakes
    assert said["probes_answered"] > 0
    answer = ask(pod.ip)
    assert answer.status == 200
    pod.until_asleep()
    assert pod.is_ready()
    assert pod.restarts() == 0


@pytest.mark.parametrize("kind", ["livenessProbe", "readinessProbe", "startupProbe"])
def test_a_command_as_a_probe(place: Place, kind: str) -> None:
    pod = place.pod("web", probed(kind, {"exec": {"command": ["true"]}, "periodSeconds": 1}))
    pod.until_asleep()
    # Each runs in the container, which dozes for it and goes on sleeping.
    pod.stays("STANDBY", "DOZING", "CHECKPOINTING", "RUNNING", seconds=5)
    pod.until_asleep()
    assert pod.is_ready()
    assert pod.restarts() == 0


def test_a_startup_probe_of_a_slow_start(place: Place) -> None:
    slow = probed("startupProbe", HTTP, env=environment(START_SECONDS=4))
    pod = place.pod("web", slow).until_asleep()
    assert pod.restarts() == 0
    assert ask(pod.ip).status == 200


def test_a_failing_liveness_probe_restarts_it(place: Place) -> None:
    failing = probed("livenessProbe", {"exec": {"command": ["test", "!", "-e", "/tmp/broken"]}, "failureThreshold": 2})
    pod = place.pod("web", failing).until_asleep()
    pod.exec("touch", "/tmp/broken")
    until(lambda: pod.restarts() >= 1, "it is restarted", 60)
    pod.until_ready().until_asleep()
    assert ask(pod.ip).status == 200


def test_a_failing_readiness_probe_takes_it_out_of_the_service(place: Place) -> None:
    # By a command: what it asks for changes while nothing else happens.
    command = {"exec": {"command": ["test", "!", "-e", "/tmp/broken"]}, "failureThreshold": 1}
    pod = place.pod("web", container(readinessProbe=command | EVERY)).until_asleep()
    pod.exec("touch", "/tmp/broken")
    until(lambda: not pod.is_ready(), "it is not ready any more")
    pod.exec("rm", "/tmp/broken")
    pod.until_ready().until_asleep()
    assert pod.restarts() == 0


def test_an_answer_is_not_older_than_an_exec(place: Place) -> None:
    """What an exec changes in the container, the next probe over HTTP sees."""
    file = {"httpGet": {"port": 8080, "path": "/file/tmp/ready"}, "failureThreshold": 1}
    pod = place.pod("web", container(readinessProbe=file | EVERY), ready=False)
    pod.until_awake(seconds=40)
    pod.exec("touch", "/tmp/ready")
    pod.until_ready().until_asleep()
    pod.exec("rm", "/tmp/ready")
    until(lambda: not pod.is_ready(), "it is not ready any more")
    pod.exec("touch", "/tmp/ready")
    pod.until_ready()


def test_probes_over_ipv6_ports_are_no_traffic(place: Place) -> None:
    pod = place.pod("web", probed("livenessProbe", TCP)).until_asleep()
    before = pod.says()["restores"]
    assert ask(pod.ip).status == 200
    pod.until_asleep()
    assert pod.says()["restores"] == before + 1


def test_traffic_is_traffic_although_probes_go_on(place: Place) -> None:
    pod = place.pod("web", probed("livenessProbe", HTTP)).until_asleep()
    for turn in range(1, 4):
        # Its own count leaves the kubelet's requests out.
        assert ask(pod.ip).text == f"nothing {turn}"
        pod.until_asleep()
