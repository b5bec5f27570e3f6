"""What a pod's annotations and its kind decide: which containers sleep, which never do and say why, and how."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.integration import node
from tests.integration.containerd import Container
from tests.integration.endpoint import Refused
from tests.integration.sleep.helpers import shims
from tests.integration.sleep.helpers.stage import NGINX, OURS, PREFIX, REDIS, Kind, Stage, Way, answers, python

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])


def never_sleeps(id: str, why: str, seconds: float = 1.5) -> None:
    """It runs, has not slept, and says why."""
    time.sleep(seconds)
    row = next(row for row in shims.ps() if row["id"] == id)
    assert (row["state"], row["checkpoints"], row["checkpoint_errors"]) == ("RUNNING", 0, 0)
    assert why in row["why"]


def test_only_the_named_containers_sleep(stage: Stage) -> None:
    pod = stage.pod("200ms", {"container-names": "redis, other"})
    named, not_named = stage.add(pod, REDIS), stage.add(pod, python())
    named.asleep()
    never_sleeps(not_named.id, "not among zeropod.ctrox.dev/container-names")


def test_a_container_without_a_pod_is_named_by_its_id(stage: Stage) -> None:
    named = stage.task(REDIS, "200ms", {"container-names": "sleeper"}, id="sleeper")
    not_named = stage.task(REDIS, "200ms", {"container-names": "sleeper"})
    named.asleep()
    never_sleeps(not_named.id, "not among")


def test_only_the_mapped_ports_count_and_wake(stage: Stage) -> None:
    app = stage.add(stage.pod("300ms", {"ports-map": "python=8000;other=1"}), python(8000, 0, 8001))

    def listens() -> bool:
        # It opens one port after the other, and may have been put to sleep in between.
        with app.connect() as session:
            session.ask("count")
        return "listening" in app.output()

    node.until(listens, "it listens on all of its ports")
    with app.connect(port=8001) as unmapped:
        for _ in range(100):
            if app.state != "RUNNING":
                break
            unmapped.ask("count")
            time.sleep(0.03)
        else:
            pytest.fail("a port that is not mapped kept it awake")
    app.asleep()
    restores = app.status.restores
    with app.connect(port=8001) as unmapped:
        unmapped.send(b"count\n")
        time.sleep(0.3)
        slept = app.status
        assert slept.restores == restores
        with app.connect() as session:
            assert session.ask("count")
        assert unmapped.line().endswith(" 1")


def test_a_duration_of_zero_never_sleeps(stage: Stage) -> None:
    app = stage.app("cri", REDIS, "0")
    never_sleeps(app.id, "scaledown-duration is 0")


def test_a_container_in_the_network_of_the_host_never_sleeps(stage: Stage) -> None:
    kind = python(18000)
    pod = stage.pod("200ms", host_network=True)
    made = pod.container("python", kind.image, args=kind.args)
    never_sleeps(made.id, "host's network")


@each_way
def test_a_container_that_listens_on_nothing_never_sleeps(stage: Stage, way: Way) -> None:
    if way == "cri":
        name = stage.pod("200ms").container("idle", REDIS.image, command=["sleep", "1000"]).id
    else:
        annotations = {f"{PREFIX}scaledown-duration": "200ms"}
        made = stage.client.container("sleep", "1000", runtime=OURS, annotations=annotations)
        name = stage.stack.enter_context(made).run().id
    never_sleeps(name, "nothing in it listens on a TCP port")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scaledown-duration", "soon"),
        ("scaledown-duration", "-1s"),
        ("ports-map", "redis=70000"),
        ("pre-dump", "perhaps"),
        ("disable-checkpointing", "2"),
        ("proxy-timeout", "5 minutes"),
    ],
)
def test_a_bad_value_fails_the_creation_and_is_named(stage: Stage, key: str, value: str) -> None:
    with stage.client.container(*REDIS.argv, runtime=OURS, annotations={PREFIX + key: value}) as box:
        with pytest.raises(Refused) as refused:
            box.create()
        assert PREFIX + key in refused.value.message
        assert value in refused.value.message
        assert node.left_over(f"{box.id}/") == []


RESTARTED = {"disable-checkpointing": "true"}


@pytest.mark.parametrize(
    ("way", "kind"),
    [("cri", REDIS), ("cri", NGINX), ("cri", python()), ("ctr", python())],
    ids=["redis-cri", "nginx-cri", "python-cri", "python-ctr"],
)
def test_a_container_that_is_not_checkpointed_is_started_on_demand(stage: Stage, way: Way, kind: Kind) -> None:
    app = stage.app(way, kind, annotations=RESTARTED)
    for _ in range(2):
        pid = app.status.pid
        app.asleep()
        assert not node.alive(pid)
        assert not os.path.exists(app.images) or not os.listdir(app.images)
        assert app.running()
        with app.connect() as session:
            assert answers(session, app.kind)
            if app.kind.name == "python":
                assert session.ask("count") == "1 1"
        assert app.awake().pid != pid
    assert app.status.restores == 2


def test_twenty_first_connections_at_once_to_a_container_that_is_started_on_demand(stage: Stage) -> None:
    app = stage.app("cri", python(), annotations=RESTARTED)

    def visit(number: int) -> str:
        with app.connect() as session:
            return session.ask(f"echo {number}")

    for _ in range(3):
        app.asleep()
        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(visit, range(20))) == list(map(str, range(20)))
        with app.connect() as session:  # later ones go straight to the application
            assert session.ask("peer") == session.own_address


def test_a_container_that_is_started_on_demand_logs_on_and_ends_like_any_other(stage: Stage) -> None:
    app = stage.task(python(), annotations=RESTARTED)
    app.asleep()
    with app.connect() as session:
        assert session.ask("say hello again") == "hello again"
    node.until(lambda: "hello again" in app.output(), "its output has arrived")
    assert app.output().splitlines() == ["listening", "got SIGTERM", "listening", "hello again"]
    app.asleep()
    assert isinstance(app.container, Container)
    more = app.container.exec("more", "true").run()
    assert more.wait() == 0
    more.delete()
    app.asleep()
    app.container.kill(signal.SIGTERM)
    assert app.exit_code() == 143


def test_a_pre_dump_is_taken_or_left_out_and_data_is_kept(stage: Stage) -> None:
    app = stage.app("cri", REDIS, annotations={"pre-dump": "true"})
    for number in range(1, 4):
        with app.connect() as session:
            assert session.redis("INCR", "n") == number
        assert app.asleep().checkpoint_errors == 0


def test_the_containers_of_a_pod_sleep_and_wake_each_on_its_own(stage: Stage) -> None:
    pod = stage.pod()
    first, second = stage.add(pod, REDIS), stage.add(pod, python())
    first.asleep()
    second.asleep()
    with first.connect() as session:
        assert session.redis("PING") == b"PONG"
        assert second.state == "COLD"
    with second.connect() as session:
        assert session.ask("count") == "1 1"
    assert (first.status.restores, second.status.restores) == (1, 1)


def test_a_container_wakes_another_one_of_its_pod_over_localhost(stage: Stage) -> None:
    pod = stage.pod()
    server, front = stage.add(pod, REDIS), stage.add(pod, python())
    for cycle in range(1, 3):
        server.asleep()
        front.asleep()
        with front.connect() as session:
            assert session.ask("ask 6379 INCR n") == f":{cycle}"
        assert (server.status.restores, front.status.restores) == (cycle, cycle)


def test_a_connection_between_two_containers_of_a_pod_survives_the_sleep_of_both(stage: Stage) -> None:
    pod = stage.pod()
    server, front = stage.add(pod, REDIS), stage.add(pod, python())
    with front.connect() as session:
        session.ask("keep 6379")
        assert session.ask("kept INCR n") == ":1"
    for cycle in range(2, 4):
        server.asleep()
        front.asleep()
        with front.connect() as session:
            assert session.ask("kept INCR n") == f":{cycle}"


def test_a_container_that_is_restarted_in_its_pod_starts_afresh(stage: Stage) -> None:
    pod = stage.pod()
    first = stage.add(pod, python())
    with first.connect() as session:
        session.ask("count")
    first.asleep()
    with first.connect() as session:
        assert session.ask("count") == "2 1"
        session.send(b"exit 3\n")
    assert first.exit_code() == 3
    second = stage.add(pod, python(), attempt=1)
    with second.connect() as session:
        assert session.ask("count") == "1 1"
    second.asleep()
    with second.connect() as session:
        assert session.ask("count") == "2 1"
    first.container.remove()
    node.until(lambda: not node.leftovers(first.id), "nothing is left over of the first")
    second.asleep()
    with second.connect() as session:
        assert session.ask("count") == "3 1"
