"""Idle pods fall asleep, and what comes for them through the Service is answered as if they had been awake."""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import pytest
from tests.cluster.kube import until
from tests.cluster.pods import NODE, Client, Place, Pod, annotations, ask, container, environment, settle
from tests.integration.patience import patient

WITHIN = patient(1.0)
"""Seconds that a request may take which finds its pod asleep."""


def two_ports(*names: str, first: int = 8080) -> list[dict[str, Any]]:
    """Containers that listen on a port each, in this order."""
    return [
        container(name, env=environment(PORTS=first + number), readinessProbe={"tcpSocket": {"port": first + number}})
        for number, name in enumerate(names)
    ]


def served(place: Place, pod: Pod, port: int = 8080) -> int:
    """A node port of the pod's that has been seen to work."""
    node_port = place.node_port(pod.name, port)
    settle(NODE, node_port)
    return node_port


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_dump": "true"}, {"standby": "false"}, {"disable_checkpointing": "true"}],
    ids=["standby", "pre-dump", "cold", "restarted"],
)
def test_a_request_finds_its_pod_asleep(place: Place, options: dict[str, str]) -> None:
    pod = place.pod("web", annotated=annotations(**options))
    port = served(place, pod)
    assert ask(NODE, port, body="kept").status == 200
    pod.until_asleep()
    answer = ask(NODE, port)
    assert answer.status == 200
    assert answer.seconds < WITHIN
    # What is ended and started afresh has forgotten it.
    assert answer.text.startswith("nothing" if "disable_checkpointing" in options else "kept")
    pod.until_asleep()
    assert pod.restarts() == 0


def test_wakes_are_quick(place: Place) -> None:
    pod = place.pod("web", container(image="nginx"), annotated=annotations(scaledown_duration="300ms"))
    address = place.service("web", 80)["clusterIP"]
    settle(address, 80)
    asked, woke = [], []
    for _ in range(15):
        pod.until_asleep()
        answer = ask(address, 80)
        assert (answer.status, answer.text) == (200, "hello from nginx\n")
        asked.append(answer.seconds * 1000)
        pod.until_awake()
        woke.append(float(pod.says()["last_restore_ms"]))
    print(f"through the Service {median(asked):.1f} ms ({min(asked):.1f} … {max(asked):.1f})")
    print(f"by the shim {median(woke):.1f} ms ({min(woke):.1f} … {max(woke):.1f})")
    # On a machine of its own 1 to 2 ms; others may keep this one busy.
    assert min(asked) < patient(10)


def test_requests_in_a_row_keep_it_awake(place: Place) -> None:
    pod = place.pod("web")
    port = served(place, pod)
    pod.until_asleep()
    before = pod.says()["restores"]
    taken = []
    for _ in range(20):
        taken.append(ask(NODE, port).seconds)
        time.sleep(0.2)
    assert pod.says()["restores"] == before + 1
    assert median(taken[1:]) < patient(0.05)


@pytest.mark.parametrize("annotated", [{}, annotations(scaledown_duration="0")], ids=["unconfigured", "disabled"])
def test_it_stays_awake(place: Place, annotated: dict[str, str]) -> None:
    pod = place.pod("web", annotated=annotated)
    pod.stays("RUNNING")
    assert ask(pod.ip).seconds < WITHIN


def test_dry_run_only_counts(place: Place) -> None:
    pod = place.pod("web", annotated=annotations(dry_run="true"))
    pod.stays("RUNNING", seconds=6)
    assert pod.says()["dry_run_asleep"]
    assert ask(pod.ip).seconds < WITHIN
    assert pod.says()["dry_run_sleeps"] >= 1


def test_two_containers_sleep(place: Place) -> None:
    pod = place.pod("web", *two_ports("first", "second"))
    port = served(place, pod, 8081)
    pod.until_asleep("first", "second")
    assert ask(NODE, port).seconds < WITHIN
    assert pod.state("first") == "STANDBY"


def test_chosen_containers_sleep_by_chosen_ports(place: Place) -> None:
    containers = two_ports("c1", "c2", "c3")
    containers[2]["startupProbe"] = {
        "httpGet": {"port": 8082, "path": "/"},
        "periodSeconds": 1,
        "failureThreshold": 120,
    }
    chosen = annotations(container_names="c1,c3", ports_map="c1=8080;c3=8082")
    pod = place.pod("web", *containers, annotated=chosen)
    port = served(place, pod, 8082)
    pod.until_asleep("c1", "c3")
    assert pod.state("c2") == "RUNNING"
    assert ask(NODE, port).seconds < WITHIN
    assert pod.state("c1") in ("STANDBY", "COLD")


@pytest.mark.parametrize("keeps_connection", [False, True], ids=["new connections", "kept connections"])
def test_requests_in_parallel(place: Place, keeps_connection: bool) -> None:
    pod = place.pod("web")
    port = served(place, pod)
    pod.until_asleep()
    before = pod.says()["restores"]

    def five(_: int) -> list[float]:
        if not keeps_connection:
            return [ask(NODE, port).seconds for _ in range(5)]
        with Client(NODE, port) as client:
            return [client.ask().seconds for _ in range(5)]

    with ThreadPoolExecutor(10) as threads:
        taken = [seconds for each in threads.map(five, range(10)) for seconds in each]
    assert len(taken) == 50
    assert max(taken) < WITHIN
    assert pod.says()["restores"] == before + 1


def test_a_kept_connection_goes_on(place: Place) -> None:
    pod = place.pod("web")
    address = place.service("web")["clusterIP"]
    settle(address)
    with Client(address, 8080) as client:
        client.ask(body="kept")
        for turn in range(3):
            pod.until_asleep()
            assert client.ask().text == f"kept {turn + 2}"  # the first was of the Service
            pod.until_awake()


def test_exec_finds_it_asleep(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    before = pod.says()["checkpoints"]
    assert pod.exec("date").strip()
    pod.until_asleep()
    said = pod.says()
    assert said["restores"] + said["dozes"] >= 1
    assert said["checkpoints"] + said["dozes"] > before


def test_deleted_after_a_wake(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    pod.exec("date")
    pod.delete()
    pod.until_gone()


def test_the_manager_counts_them(place: Place) -> None:
    awake = place.pod("awake", annotated=annotations(scaledown_duration="0"))
    asleep = place.pod("asleep").until_asleep()
    woken = place.pod("woken", annotated=annotations(scaledown_duration="3s")).until_asleep()
    ask(woken.ip)
    woken.until_awake()
    (manager,) = place.api.get("pods", namespace="zeropod-system")["items"][:1]

    def counted() -> str | None:
        # It hears of changes a moment later, several at once.
        page = ask(manager["status"]["podIP"], 8080, "/metrics").text
        lines = (line for line in page.splitlines() if f'"{woken.name}"' in line and f'"{place.name}"' in line)
        return page if any(line.startswith("zeropod_last_restore_time{") for line in lines) else None

    page = until(counted, "the manager has heard of the wake", 5)

    def value(metric: str, pod: Pod) -> float:
        line = next(line for line in page.splitlines() if line.startswith(metric) and f'"{pod.name}"' in line
                    and f'"{place.name}"' in line)  # fmt: skip
        return float(line.rsplit(" ", 1)[1])

    assert [value("zeropod_running{", pod) for pod in (awake, asleep, woken)] == [1, 0, 1]
    for pod in (asleep, woken):
        assert value("zeropod_last_checkpoint_time{", pod) > 0
        assert value("zeropod_checkpoint_duration_seconds_count{", pod) >= 1
        assert value("zeropod_checkpoint_errors_total{", pod) == 0
        assert value("zeropod_restore_errors_total{", pod) == 0
    assert value("zeropod_last_restore_time{", woken) > 0
    assert value("zeropod_restore_duration_seconds_count{", woken) >= 1
