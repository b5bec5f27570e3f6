"""What a node leaves behind however it ends: nothing. Needs root, about two seconds a test:

build/venv/bin/python -m pytest tests/node
"""

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.node import cgroups
from tests.node.cache import CACHE, CHECKOUT
from tests.node.run import ENDING, lock_run, outcome, signals_raise

ENTER = str(CHECKOUT / "tests" / "node" / "enter")

# A container that something freezes again and again, then the word that it is so.
FROZEN = """
ctr run -d --runtime io.containerd.runc.v2 localhost/redis:test r1 >/dev/null 2>&1
setsid sh -c 'while :; do echo FROZEN >/sys/fs/cgroup/freezer/default/r1/freezer.state; sleep 0.01; done' &
ip netns add left-over
echo frozen
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")


def remains() -> set[str]:
    """What nodes that are not alive have left on this machine."""
    found = set()
    for run in CACHE.glob("run-*"):
        with lock_run(run) as dead:
            if dead:
                found.add(str(run))
    found |= {
        str(corner)
        for corner in cgroups.MOUNTS.glob("*/**/zeropod-node-*")
        if not (CACHE / corner.name.replace("zeropod-node-", "run-")).exists()
    }
    found |= {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
    found |= set(os.listdir("/run/netns")) if Path("/run/netns").exists() else set()
    return found | set(os.listdir("/sys/class/net"))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    before = remains()
    yield
    assert remains() - before == set()


def frozen_node(end: str) -> subprocess.Popen[str]:
    """A node whose container is frozen by now, and that goes on with ``end``."""
    # A shell's background job would ignore SIGINT, and so would we.
    node = subprocess.Popen(
        [ENTER, "sh", "-c", FROZEN + end],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert node.stdout is not None
    assert node.stdout.readline() == "frozen\n"
    return node


@pytest.mark.usefixtures("nothing_is_left")
def test_the_status_is_the_commands_even_when_a_frozen_container_stays_behind() -> None:
    with frozen_node("exit 7") as node:
        assert node.wait(timeout=30) == 7


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_takes_the_node_away(number: signal.Signals) -> None:
    with frozen_node("sleep 1000") as node:
        node.send_signal(number)
        assert node.wait(timeout=30) == 128 + number


@pytest.mark.usefixtures("nothing_is_left")
def test_the_next_node_takes_away_what_a_killed_one_left() -> None:
    with frozen_node("sleep 1000") as node:
        node.kill()
        node.wait(timeout=30)
        assert subprocess.run([ENTER, "true"], timeout=60, check=False).returncode == 0


@pytest.fixture
def others() -> Iterator[Path]:
    """A v2 cgroup that is not the node's business."""
    if not (cgroups.MOUNTS / cgroups.UNIFIED / "cgroup.procs").exists():
        pytest.skip("this host has no cgroup v2 beside v1")
    cgroup = cgroups.MOUNTS / cgroups.UNIFIED / f"zeropod-others-{os.getpid()}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        cgroup.rmdir()


@pytest.mark.usefixtures("nothing_is_left")
def test_of_cgroup_v2_a_node_has_its_own_corner(others: Path) -> None:
    # CRIU makes what it has seen of this hierarchy again whenever it restores.
    script = "mount -t cgroup2 none /mnt; mkdir /mnt/own; sleep 1000 & echo $! >/mnt/own/cgroup.procs; ls /mnt"
    node = subprocess.run([ENTER, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    seen = set(node.stdout.split())
    assert "own" in seen
    assert others.name not in seen
    assert not (others.parent / "own").exists()


@pytest.mark.usefixtures("nothing_is_left")
def test_on_ctrl_c_the_command_may_still_say_how_it_ends() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ENTER, [ENTER, "sh", "-c", "trap 'echo ends; exit 3' INT; echo up; sleep 1000 & wait"])
    said = read_until(terminal, lambda text: b"up\r\n" in text)
    os.write(terminal, b"\x03")
    said += read_until(terminal, lambda text: b"ends" in text)
    _, status = os.waitpid(pid, 0)
    assert (os.waitstatus_to_exitcode(status), b"ends" in said) == (3, True)
    os.close(terminal)


def test_a_status_that_comes_together_with_ctrl_c_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    read, handler = os.read, signal.getsignal(signal.SIGINT)

    def read_as_the_signal_comes(descriptor: int, most: int) -> bytes:
        report = read(descriptor, most)
        signal.raise_signal(signal.SIGINT)
        return report

    monkeypatch.setattr(os, "read", read_as_the_signal_comes)
    reader, writer = os.pipe()
    os.write(writer, b"3\n")
    try:
        signals_raise()
        assert outcome(reader) == 3
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is pending goes with it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, handler)
        os.close(reader)
        os.close(writer)


def read_until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    deadline, text = time.monotonic() + 30, b""
    while not enough(text):
        assert time.monotonic() < deadline, text
        text += os.read(terminal, 4096)
    return text


@pytest.mark.usefixtures("nothing_is_left")
def test_two_nodes_at_once_do_not_meet() -> None:
    with frozen_node("sleep 1000") as first:
        with frozen_node("exit 0") as second:
            assert second.wait(timeout=30) == 0
        assert first.poll() is None
        first.terminate()
        assert first.wait(timeout=30) == 128 + signal.SIGTERM
