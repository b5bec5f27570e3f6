"""What a machine passes through, and what it leaves behind however it ends: nothing. Needs root.

Ten seconds a test and two minutes for the first, so only where it is asked for: ZEROPOD_TEST_VM=1.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.cache import CACHE, CHECKOUT
from tests.node.run import lock_run

ENTER = (str(CHECKOUT / "tests" / "node" / "enter"), "--vm")
LIMIT = 580

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or "ZEROPOD_TEST_VM" not in os.environ, reason="a machine needs root, and to be asked for"
)


def remains() -> set[str]:
    """What machines that have ended left on this one."""
    found = set(Path("/proc/mounts").read_text().splitlines())
    for run in CACHE.glob("run-*"):
        with lock_run(run) as dead:
            if dead:
                found.add(str(run))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "qemu-system" in line and str(CACHE) in line:
            found.add(f"{process.name}: {line}")
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = remains()
    yield
    assert remains() - before == set()


def started(script: str) -> subprocess.Popen[str]:
    """A machine in which the script has said `up`."""
    # A shell's background job would ignore SIGINT, and so would we.
    machine = subprocess.Popen(
        [*ENTER, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert machine.stdout is not None
    assert machine.stdout.readline() == "up\n"
    return machine


def test_input_outputs_and_status_pass_through() -> None:
    script = "cat; echo wrong >&2; exit 7"
    done = subprocess.run(
        [*ENTER, "sh", "-c", script], input="x" * 300_000, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (7, "x" * 300_000)
    assert [line for line in done.stderr.splitlines() if not line.startswith("node: ")] == ["wrong"]


def test_it_is_a_machine_as_users_have_it() -> None:
    script = (
        "set -e; stat -fc %T /sys/fs/cgroup; readlink -f /proc/1/exe; systemctl is-active containerd; nproc >/dev/null"
    )
    done = subprocess.run([*ENTER, "sh", "-c", script], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.split() == ["cgroup2fs", "/usr/lib/systemd/systemd", "active"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_machine_away(number: signal.Signals) -> None:
    with started("echo up; exec sleep 1000") as machine:
        machine.send_signal(number)
        assert machine.wait(timeout=30) == 128 + number


def test_on_ctrl_c_the_command_may_still_say_how_it_ends() -> None:
    with started("trap 'echo ends; exit 3' INT; echo up; sleep 1000 & wait") as machine:
        machine.send_signal(signal.SIGINT)
        assert machine.communicate(timeout=60)[0] == "ends\n"
        assert machine.returncode == 3


def test_a_machine_ends_with_a_killed_run_and_the_next_one_takes_away_the_rest() -> None:
    with started("echo up; exec sleep 1000") as machine:
        machine.kill()
        machine.wait(timeout=30)
    assert subprocess.run([*ENTER, "true"], timeout=LIMIT, check=False).returncode == 0


def test_a_command_that_takes_too_long_is_ended() -> None:
    command = [ENTER[0], "--vm", "--timeout", "2", "sleep", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 125
    assert "has not ended in time" in done.stderr
