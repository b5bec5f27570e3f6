"""What containerd and its users ask of a container in standby: it looks like one that runs.

It is woken only where it must be, and a signal is delivered to it.
"""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.integration import containerd, cri, node
from tests.integration.ctr import Ctr
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import NGINX, OURS, PREFIX, REDIS, App, Stage, Way, answers, python
from tests.integration.standby.helpers.looks import started

from zeropod.rpc.messages import runc_options_pb2

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])
COLD = {"standby": "false"}


def task(app: App) -> containerd.Container:
    assert isinstance(app.container, containerd.Container)
    return app.container


def nothing_is_left(*ids: str) -> None:
    """Of these containers and pods, a moment from now."""
    node.until(lambda: not any(map(node.leftovers, ids)), "nothing is left over of " + ", ".join(ids))


def container(app: App) -> cri.Container:
    assert isinstance(app.container, cri.Container)
    return app.container


@each_way
def test_exec_runs_in_the_container_and_reports_its_exit_code(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS)
    with app.connect() as session:
        session.redis("SET", "a", "b")
    for cycle in range(1, 3):
        app.standby()
        if way == "cri":
            executed = container(app).exec("sh", "-c", "redis-cli get a; echo oops >&2; exit 6")
            assert (executed.exit_code, executed.stdout, executed.stderr) == (6, b"b\n", b"oops\n")
        else:
            more = task(app).exec("more", "sh", "-c", "redis-cli get a; exit 6").run()
            assert (more.wait(), more.streams.stdout.end()) == (6, b"b\n")
            more.delete()
        if way == "cri":
            assert (app.standby().dozes, app.status.restores) == (cycle, 0)
        else:
            # Without a pod there are no others: what comes from within counts, and makes it stay awake; which is found
            # out after the exec has ended.
            app.awake()
            assert app.status.restores == cycle


@each_way
def test_sigterm_lets_the_application_shut_down_in_order(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    app.standby()
    if way == "cri":
        container(app).stop(10)
    else:
        task(app).kill(signal.SIGTERM)
    assert app.exit_code() == 143
    node.until(lambda: app.output().split("\n")[-2] == "got SIGTERM", "it has noticed its end")


def test_the_exit_after_a_sigterm_is_announced_once_and_nothing_is_left(stage: Stage) -> None:
    app = stage.task(python())
    with stage.client.events() as events:
        app.standby()
        task(app).kill(signal.SIGTERM)
        assert task(app).wait() == 143
        seen = events.until(app.id, "exit")
        assert [(event.topic, event.message.exit_status) for event in seen] == [("exit", 143)]
        assert task(app).delete().exit_status == 143
        assert [event.topic for event in events.until(app.id, "delete")] == ["exit", "delete"]
    nothing_is_left(f"{app.id}/")


@each_way
def test_sigkill_ends_it_without_letting_it_run(stage: Stage, way: Way) -> None:
    app = stage.app(way, python())
    pid = app.standby().pid
    if way == "cri":
        container(app).stop(0)
    else:
        task(app).kill(signal.SIGKILL)
    assert app.exit_code() == 137
    assert not node.alive(pid)
    assert "got SIGTERM" not in app.output()
    if way == "ctr":  # CRI has removed the task by now
        assert app.status.restores == 0


def test_another_signal_wakes_and_is_delivered(stage: Stage) -> None:
    app = stage.task(python())
    for number in range(1, 4):
        app.standby()
        task(app).kill(signal.SIGUSR1)
        task(app).streams.stdout.until(b"got SIGUSR1\n" * number)
        assert app.status.restores == number


@pytest.mark.parametrize("in_order", [True, False])
@each_way
def test_sigterm_wakes_a_cold_container_only_if_it_is_to_shut_down_in_order(
    stage: Stage, way: Way, in_order: bool
) -> None:
    app = stage.app(way, python(), annotations={**COLD, "wake-on-stop": str(in_order).lower()})
    app.cold()
    if way == "cri":
        container(app).stop(10)
    else:
        task(app).kill(signal.SIGTERM)
    assert app.exit_code() == 143
    if in_order:
        node.until(lambda: "got SIGTERM" in app.output(), "it has noticed its end")
    else:
        assert "got SIGTERM" not in app.output()
        if way == "ctr":
            assert app.status.restores == 0


def test_sigkill_never_wakes_a_cold_container(stage: Stage) -> None:
    app = stage.task(python(), annotations={**COLD, "wake-on-stop": "true"})
    app.cold()
    task(app).kill(signal.SIGKILL)
    assert app.exit_code() == 137
    assert app.status.restores == 0


@each_way
def test_removing_it_leaves_nothing(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS)
    pid = app.standby().pid
    if way == "cri":
        other = stage.add(container(app).pod, python(), name="other")
        container(app).remove()
        with other.connect() as session:
            assert session.ask("count") == "1 1"
    else:
        task(app).kill(signal.SIGKILL)
        task(app).wait()
        task(app).delete()
    assert not node.alive(pid)
    nothing_is_left(app.id)


def test_a_pod_in_standby_can_be_removed_as_it_is(stage: Stage) -> None:
    pod = stage.pod()
    apps = [stage.add(pod, kind) for kind in (REDIS, NGINX, python())]
    for app in apps:
        app.standby()
    assert pod.remove() == []
    nothing_is_left(pod.id, *(app.id for app in apps))


def test_a_pause_holds_until_it_is_resumed(stage: Stage) -> None:
    app = stage.task(python())
    app.standby()
    task(app).pause()
    assert task(app).status() == "PAUSED"
    with app.connect() as session:
        session.send(b"count\n")
        time.sleep(0.6)  # longer than it takes to fall asleep
        assert app.state == "PAUSED"
        task(app).resume()
        assert session.line() == "1 1"
    app.standby()
    assert task(app).status() == "RUNNING"


def test_limits_that_are_changed_hold_at_once_and_after_the_next_wakes(stage: Stage) -> None:
    app = stage.task(NGINX)
    app.standby()
    task(app).update({"memory": {"limit": 128 << 20}, "cpu": {"shares": 333}})
    assert app.state == "STANDBY"
    for _ in range(3):
        assert task(app).cgroup_file("memory", "memory.limit_in_bytes", "memory.max") == str(128 << 20)
        assert task(app).cgroup_file("cpu", "cpu.shares", "cpu.weight") in containerd.SHARES_333
        with app.connect() as session:
            session.get()
        app.standby()


def test_statistics_answer_in_standby_and_never_go_back(stage: Stage) -> None:
    app = stage.add(stage.pod("500ms", cgroup_parent="/sleepers"), python(8000, 80))

    def cpu() -> int:
        return int(container(app).stats.cpu.usage_core_nano_seconds.value)

    seen = []
    for _ in range(3):
        with app.connect() as session:
            session.ask("burn 200000")
            seen.append(cpu())
        app.standby()
        seen += [cpu(), cpu()]
        node.until(lambda: container(app).stats.memory.working_set_bytes.value < 40 << 20, "its memory is out")
        assert stage.kubelet.pod_sandbox_stats(container(app).pod.id).linux.containers
        assert app.state == "STANDBY"
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[3] < seen[6]


def test_containerd_lists_the_task_and_its_processes(stage: Stage) -> None:
    app = stage.task(NGINX)
    pid = app.standby().pid
    assert task(app).metrics().value
    processes = [process.pid for process in task(app).pids()]
    assert pid in processes
    assert all(map(node.alive, processes))
    listed = Ctr(OURS)("task", "ls").stdout
    assert [line.split() for line in listed.splitlines() if app.id in line] == [[app.id, str(pid), "RUNNING"]]
    assert app.state == "STANDBY"


def test_a_checkpoint_that_containerd_takes(stage: Stage) -> None:
    app = stage.task(REDIS)
    with app.connect() as session:
        session.redis("SET", "a", "b")
    app.standby()
    assert list(task(app).checkpoint(runc_options_pb2.CheckpointOptions()))
    assert task(app).status() == "RUNNING"
    for _ in range(2):
        with app.connect() as session:
            assert session.redis("GET", "a") == b"b"
        app.standby()


def test_input_wakes_and_arrives(stage: Stage) -> None:
    kind = replace(python(), args=(*python().args, "stdin"))
    app = stage.task(kind, stdin=True)
    stdin, stdout = task(app).streams.stdin, task(app).streams.stdout
    assert stdin is not None
    app.standby()
    stdin.write(b"one\n")
    stdout.until(b"stdin: one\n")
    assert app.status.restores == 1
    app.standby()
    stdin.close()
    task(app).close_io()
    stdout.until(b"stdin ended")


def test_to_containerd_nothing_happens(stage: Stage) -> None:
    app = stage.task(REDIS)
    with stage.client.events() as events:
        for _ in range(3):
            app.standby()
            assert task(app).status() == "RUNNING"
            with app.connect() as session:
                assert session.redis("PING") == b"PONG"
        assert events.of(app.id) == []


def test_a_restart_of_containerd_leaves_it_in_standby(stage: Stage) -> None:
    app = stage.app("cri", python())
    with app.connect() as kept:
        assert kept.ask("count") == "1 1"
        birth = started(app.standby().pid)
        node.start_containerd(*node.stop_containerd())
        assert app.running()
        assert started(app.standby().pid) == birth
        assert kept.ask("count") == "2 2"
        app.standby()
        line, environment = node.stop_containerd()
        assert kept.ask("count") == "3 3"
        app.standby()
        node.start_containerd(line, environment)
        assert app.running()
        assert kept.ask("count") == "4 4"
        assert container(app).exec("true").exit_code == 0


def test_a_task_can_be_made_anew_after_it_was_killed_in_standby(stage: Stage) -> None:
    annotations = {f"{PREFIX}scaledown-duration": "300ms"}
    with stage.client.container(*REDIS.argv, runtime=OURS, annotations=annotations) as box:
        for _ in range(2):
            app = App(REDIS, box.run()).ready()
            with app.connect() as session:
                assert session.redis("INCR", "n") == 1
            app.standby()
            box.kill(signal.SIGKILL)
            assert box.wait() == 137
            box.delete()


@pytest.mark.parametrize("asked", ["exec", "pause", "signal", "stats"])
def test_what_is_asked_in_the_very_instant_of_a_wake_happens_and_so_does_the_wake(stage: Stage, asked: str) -> None:
    """The container is thawed before the shim does anything else about a wake: what comes in between finds it running,
    and in a state that still says STANDBY."""
    app, chance = stage.task(python()), random.Random(5)

    def come() -> bool:
        with app.connect() as session:
            return answers(session, app.kind)

    with ThreadPoolExecutor(1) as somebody:
        for number in range(1, 16):
            app.standby()
            answered = somebody.submit(come)
            time.sleep(chance.uniform(0, 0.003))
            match asked:
                case "exec":
                    assert task(app).exec(f"more-{number}", "true").run().wait() == 0
                case "pause":
                    task(app).pause()
                    assert task(app).status() == "PAUSED"
                    task(app).resume()
                case "signal":
                    task(app).kill(signal.SIGUSR1)
                    task(app).streams.stdout.until(b"got SIGUSR1\n" * number)
                case _:
                    task(app).metrics()
            assert answered.result(patient(10))
            assert app.running()
    assert app.status.restore_errors == app.status.checkpoint_errors == 0
