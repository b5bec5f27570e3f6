"""kubectl's commands on pods that sleep."""

import os
import pty
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.cluster.kube import until
from tests.cluster.pods import Place, Pod, annotations, ask, container
from tests.integration.patience import patient


@contextmanager
def running(place: Place, *arguments: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A kubectl that goes on until the end of the block."""
    process = subprocess.Popen(
        ["kubectl", "-n", place.name, *arguments],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str], text: str) -> str:
    """The next line with this text in it."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"kubectl has ended and not said {text}")


def test_exec(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    assert pod.exec("cat", stdin="through it\n") == "through it\n"
    pod.until_asleep()
    failing = subprocess.run(["kubectl", "-n", place.name, "exec", "web", "--", "sh", "-c", "exit 7"], timeout=60)
    assert failing.returncode == 7
    pod.until_asleep()


def test_exec_with_a_terminal(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    ours, theirs = pty.openpty()
    with running(place, "exec", "-it", "web", "--", "sh", stdin=theirs) as process:
        os.write(ours, b"echo $((6 * 7)); exit\n")
        assert line_of(process, "42").strip() == "42"
        assert process.wait(patient(20)) == 0
    os.close(ours)
    os.close(theirs)
    pod.until_asleep()


def test_a_long_exec_keeps_it_awake(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    with running(place, "exec", "web", "--", "sh", "-c", "echo begun; sleep 1000") as process:
        line_of(process, "begun")
        pod.until_awake()
        pod.stays("RUNNING", seconds=4)
    pod.exec("sh", "-c", "kill $(ps | grep 'sleep 1000' | grep -v grep | sed 's/^ *//; s/ .*//') || true")
    pod.until_asleep()


def test_cp(place: Place, tmp_path: Path) -> None:
    # It runs tar in the container, which is kubectl's own requirement.
    pod = place.pod("web").until_asleep()
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_text("carried\n" * 1000)
    place.kubectl("cp", str(there), "web:/tmp/file")
    pod.until_asleep()
    place.kubectl("cp", "web:/tmp/file", str(back))
    assert back.read_text() == there.read_text()
    assert ask(pod.ip, path="/file/tmp/file").text == there.read_text()


def test_attach(place: Place) -> None:
    pod = place.pod("web", container(stdin=True)).until_asleep()
    with running(place, "attach", "-i", "web", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert line_of(process, "heard") == "heard hello\n"
    pod.until_asleep()
    assert "heard hello" in pod.logs()


def test_logs_are_followed(place: Place) -> None:
    ticking = "i=0; while :; do i=$((i+1)); echo tick $i; nc -l -p 8080 -e echo hello; done"
    pod = place.pod("web", container(command=["sh", "-c", ticking])).until_asleep()
    with running(place, "logs", "-f", "web") as process:
        line_of(process, "tick 1")
        assert pod.state() == "STANDBY"
        with socket.create_connection((pod.ip, 8080), timeout=patient(10)) as connection:
            assert connection.recv(100) == b"hello\n"
        line_of(process, "tick 2")
    pod.until_asleep()


def test_port_forward(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    with running(place, "port-forward", "pod/web", ":8080") as process:
        port = int(line_of(process, "Forwarding from 127.0.0.1").split("127.0.0.1:")[1].split()[0])
        pod.until_asleep()
        assert ask("127.0.0.1", port).status == 200
        pod.until_asleep()
        assert ask("127.0.0.1", port).status == 200


def debugged(place: Place, name: str, script: str) -> None:
    """An ephemeral container in the namespace of the pod's processes."""
    options = ["--image=localhost/python:test", "--image-pull-policy=Never", "--target=main", f"-c={name}"]
    place.kubectl("debug", "web", *options, "--profile=general", "--", "sh", "-c", script)


def is_in(pod: Pod, container: str, state: str) -> bool:
    """Whether the kubelet says so of a container."""
    return state in pod.status(container).get("state", {})


def test_debug_reaches_the_processes_after_sleeps(place: Place) -> None:
    pod = place.pod("web").until_asleep()
    for turn in range(2):  # the second one comes after a wake
        debugged(place, f"debugger-{turn}", "cat /proc/1/cmdline | tr '\\0' ' ' | head -c 10; exit 0")
        until(partial(is_in, pod, f"debugger-{turn}", "terminated"), "it has ended", 40)
        assert pod.logs(f"debugger-{turn}").startswith("python3 -c"), pod.status(f"debugger-{turn}")
        ask(pod.ip)
        pod.until_asleep()


def test_a_debugger_lives_while_its_target_sleeps(place: Place) -> None:
    pod = place.pod("web", annotated=annotations(container_names="main")).until_asleep()
    debugged(place, "debugger", "i=0; while :; do i=$((i+1)); echo alive $i; sleep 1; done")
    until(partial(is_in, pod, "debugger", "running"), "the debugger runs", 40)
    pod.until_asleep()
    before = pod.logs("debugger").count("alive")
    time.sleep(3)
    assert pod.logs("debugger").count("alive") > before
    assert pod.state() == "STANDBY"
    assert ask(pod.ip).status == 200
    pod.until_asleep()
    assert "running" in pod.status("debugger")["state"]


def test_the_pod_of_a_debugger_is_deleted(place: Place) -> None:
    pod: Pod = place.pod("web").until_asleep()
    debugged(place, "debugger", "sleep 1000")
    until(partial(is_in, pod, "debugger", "running"), "the debugger runs", 40)
    pod.delete()
    pod.until_gone()
