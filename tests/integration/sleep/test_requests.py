"""What containerd and its users ask of a container that sleeps: it looks like one that runs.

It is woken only where it must be.
"""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.integration import containerd, cri, node
from tests.integration.cri import Container
from tests.integration.sleep.helpers.stage import NGINX, OURS, PREFIX, REDIS, App, Stage, Way, python

from zeropod.rpc.messages import runc_options_pb2
from zeropod.rpc.messages.status_pb2 import State

pytestmark = pytest.mark.timeout(60)

each_way = pytest.mark.parametrize("way", ["cri", "ctr"])


def task(app: App) -> containerd.Container:
    assert isinstance(app.container, containerd.Container)
    return app.container


def container(app: App) -> Container:
    assert isinstance(app.container, cri.Container)
    return app.container


@each_way
def test_exec_wakes_and_reports_its_exit_code(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS)
    with app.connect() as session:
        session.redis("SET", "a", "b")
    app.asleep()
    if way == "cri":
        executed = container(app).exec("sh", "-c", "redis-cli get a; echo oops >&2; exit 6")
        assert (executed.exit_code, executed.stdout, executed.stderr) == (6, b"b\n", b"oops\n")
    else:
        more = task(app).exec("more", "sh", "-c", "redis-cli get a; exit 6").run()
        assert (more.wait(), more.streams.stdout.end()) == (6, b"b\n")
        more.delete()
    assert app.status.restores == 1
    app.asleep()


@each_way
def test_a_container_stays_awake_while_an_exec_runs(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS, scaledown="100ms")
    app.asleep()

    def execute() -> int:
        if way == "cri":
            return container(app).exec("sleep", "1.2").exit_code
        return task(app).exec("more", "sleep", "1.2").run().wait()

    with ThreadPoolExecutor(1) as threads:
        executed = threads.submit(execute)
        app.awake()
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            status = app.status
            assert State.Name(status.state) == "RUNNING"
            assert status.restores == 1
            time.sleep(0.02)
        assert "exec" in app.status.why
        assert executed.result() == 0
    app.asleep()


@each_way
def test_a_container_stays_awake_while_what_an_exec_has_left_holds_its_output(stage: Stage, way: Way) -> None:
    app = stage.app(way, REDIS, scaledown="100ms")
    app.asleep()
    command = ("sh", "-c", "{ sleep 1.2; echo late; } & echo early")

    def execute() -> bytes:
        if way == "cri":
            return container(app).exec(*command).stdout
        more = task(app).exec("more", *command).run()
        more.wait()
        return more.streams.stdout.end()

    with ThreadPoolExecutor(1) as threads:
        executed = threads.submit(execute)
        node.until(lambda: "still has its output open" in app.status.why, "it says why it is awake", 1)
        assert executed.result(10) == b"early\nlate\n"
    app.asleep()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_sigkill_and_sigterm_end_a_sleeping_container_without_waking_it(stage: Stage, number: signal.Signals) -> None:
    app = stage.task(python(), annotations={"wake-on-stop": "false"})
    with stage.client.events() as events:
        app.asleep()
        task(app).kill(number)
        assert task(app).wait() == 128 + number
        assert app.state == "STOPPED"
        assert app.status.restores == 0
        seen = events.until(app.id, "exit")
        assert [(event.topic, event.message.exit_status) for event in seen] == [("exit", 128 + number)]
        assert task(app).delete().exit_status == 128 + number
        assert [event.topic for event in events.until(app.id, "delete")] == ["exit", "delete"]
    node.until(lambda: not node.leftovers(f"{app.id}/"), "nothing is left over")


@pytest.mark.parametrize(("grace", "code"), [(0, 137), (5, 143)])
def test_stopping_a_sleeping_container_of_a_pod_is_quick(stage: Stage, grace: int, code: int) -> None:
    app = stage.app("cri", python())
    app.asleep()
    began = time.monotonic()
    container(app).stop(grace)
    assert time.monotonic() - began < 2
    assert app.exit_code() == code
    container(app).remove()
    node.until(lambda: not node.leftovers(app.id), "nothing is left over")


def test_removing_a_sleeping_container_leaves_nothing(stage: Stage) -> None:
    app = stage.app("cri", REDIS)
    other = stage.add(container(app).pod, python(), name="other")
    app.asleep()
    stage.kubelet.remove_container(app.id)
    container(app).pod.containers.remove(container(app))
    node.until(lambda: not node.leftovers(app.id), f"nothing is left over: {node.leftovers(app.id)}")
    with other.connect() as session:
        assert session.ask("count") == "1 1"


def test_connections_that_wait_are_reset_when_a_sleeping_container_is_removed(stage: Stage) -> None:
    app = stage.app("cri", python())
    app.asleep()
    container(app).stop()
    with pytest.raises(OSError, match="refused"):
        app.connect()


def test_another_signal_wakes_and_is_delivered(stage: Stage) -> None:
    app = stage.task(python())
    app.asleep()
    task(app).kill(signal.SIGUSR1)
    task(app).streams.stdout.until(b"got SIGUSR1")
    assert app.status.restores == 1
    app.asleep()


def test_a_sleeping_container_is_woken_to_be_paused_and_serves_when_resumed(stage: Stage) -> None:
    app = stage.task(python())
    app.asleep()
    task(app).pause()
    assert task(app).status() == "PAUSED"
    with app.connect() as session:
        session.send(b"count\n")
        time.sleep(0.6)  # longer than it takes to fall asleep
        assert app.state == "PAUSED"
        task(app).resume()
        assert session.line() == "1 1"
    app.asleep()
    assert task(app).status() == "RUNNING"


def test_limits_that_are_changed_hold_after_the_next_wake(stage: Stage) -> None:
    app = stage.task(NGINX)

    def limit() -> int:
        return int(task(app).cgroup_file("memory", "memory.limit_in_bytes", "memory.max"))

    task(app).update({"memory": {"limit": 192 << 20}})
    assert limit() == 192 << 20
    app.asleep()
    with app.connect() as session:
        session.get()
    assert limit() == 192 << 20
    app.asleep()
    task(app).update({"memory": {"limit": 128 << 20}, "cpu": {"shares": 333}})
    assert app.state == "COLD"
    with app.connect() as session:
        session.get()
    assert limit() == 128 << 20
    assert task(app).cgroup_file("cpu", "cpu.shares", "cpu.weight") in containerd.SHARES_333
    app.asleep()
    with app.connect() as session:
        session.get()
    assert limit() == 128 << 20


def test_statistics_answer_during_sleep_and_never_go_back(stage: Stage) -> None:
    app = stage.add(stage.pod("500ms", cgroup_parent="/sleepers"), python())

    def cpu() -> int:
        return int(container(app).stats.cpu.usage_core_nano_seconds.value)

    seen = []
    for _ in range(3):
        with app.connect() as session:
            session.ask("burn 200000")
            seen.append(cpu())
        app.asleep()
        seen += [cpu(), cpu()]
        assert container(app).stats.memory.working_set_bytes.value == 0
        assert stage.kubelet.pod_sandbox_stats(container(app).pod.id).linux.containers
        assert app.state == "COLD"
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[3] < seen[6]


def test_statistics_through_containerd_during_sleep(stage: Stage) -> None:
    app = stage.task(REDIS)
    app.asleep()
    assert task(app).metrics().value
    # Not none: a containerd that starts takes a shim without processes for one that was left behind.
    assert [process.pid for process in task(app).pids()] == [task(app).get().pid]
    assert app.state == "COLD"


def test_a_checkpoint_that_containerd_takes_of_a_sleeping_container(stage: Stage) -> None:
    app = stage.task(REDIS)
    with app.connect() as session:
        session.redis("SET", "a", "b")
    app.asleep()
    assert list(task(app).checkpoint(runc_options_pb2.CheckpointOptions()))
    assert task(app).status() == "RUNNING"
    with app.connect() as session:
        assert session.redis("GET", "a") == b"b"
    app.asleep()
    with app.connect() as session:
        assert session.redis("GET", "a") == b"b"


def test_input_wakes_and_arrives(stage: Stage) -> None:
    kind = replace(python(), args=(*python().args, "stdin"))
    app = stage.task(kind, stdin=True)
    stdin, stdout = task(app).streams.stdin, task(app).streams.stdout
    assert stdin is not None
    stdin.write(b"one\n")
    stdout.until(b"stdin: one\n")
    app.asleep()
    stdin.write(b"two\n")
    stdout.until(b"stdin: two\n")
    assert app.awake().restores == 1
    app.asleep()
    stdin.close()
    task(app).close_io()
    stdout.until(b"stdin ended")


@contextmanager
def watched(app: App) -> Iterator[set[str]]:
    """The states in which containerd sees the task, looked up all the time."""
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.002):
            seen.add(task(app).status())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_to_containerd_it_runs_all_the_time(stage: Stage) -> None:
    app = stage.task(REDIS)
    with stage.client.events() as events, watched(app) as seen:
        for _ in range(3):
            app.asleep()
            with app.connect() as session:
                assert session.redis("PING") == b"PONG"
        assert events.of(app.id) == []
    assert seen == {"RUNNING"}


def test_sleep_outlasts_a_restart_of_containerd(stage: Stage) -> None:
    app = stage.app("cri", python())
    with app.connect() as session:
        assert session.ask("say before") == "before"
    app.asleep()
    line, environment = node.stop_containerd()
    with app.connect() as session:
        assert session.ask("say meanwhile") == "meanwhile"
        assert session.ask("count") == "1 1"
    app.asleep()
    node.start_containerd(line, environment)
    assert app.running()
    assert container(app).exec("true").exit_code == 0
    with app.connect() as session:
        assert session.ask("say after") == "after"
        assert session.ask("count") == "2 1"
    node.until(lambda: "after" in app.output(), "the last line is in the log")
    assert [word for word in app.output().split() if word in ("before", "meanwhile", "after")] == [
        "before",
        "meanwhile",
        "after",
    ]


def test_a_task_can_be_made_anew_after_it_was_killed_asleep(stage: Stage) -> None:
    annotations = {f"{PREFIX}scaledown-duration": "300ms"}
    with stage.client.container(*REDIS.argv, runtime=OURS, annotations=annotations) as box:
        for _ in range(2):
            app = App(REDIS, box.run()).ready()
            with app.connect() as session:
                assert session.redis("INCR", "n") == 1
            app.asleep()
            box.kill(signal.SIGKILL)
            assert box.wait() == 137
            box.delete()
