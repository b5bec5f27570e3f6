"""What falling asleep does besides: admission slot, priority, what an image leaves out, how short the way back is."""

import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import KINDS, NGINX, REDIS, App, Stage, answers, python
from tests.integration.standby.helpers.looks import resident

from zeropod import paths
from zeropod.kernel import libc
from zeropod.lifecycle.admission import AdmissionSlots

pytestmark = pytest.mark.timeout(90)

CALLS = 20
"""System calls of the shim between the arrival of a connection and the thaw: 6 when this was written."""


COLD = {"standby": "false"}


def test_a_small_tmpfs_stays_as_it_is_and_a_large_one_goes_to_the_image(stage: Stage) -> None:
    app = stage.task(REDIS, annotations=COLD)
    root = Path(f"/proc/{app.status.pid}/root")
    (root / "dev/shm/small").write_text("as it was")
    (root / "run/large").write_bytes(b"x" * (1 << 20))
    before = mounts(app.status.pid)
    for _ in range(3):
        app.cold()
        archives = [file.stat().st_size for file in Path(app.images).glob("tmpfs-*")]
        assert len(archives) == 1  # of /run
        with app.connect() as session:
            assert answers(session, REDIS)
        app.awake()
        root = Path(f"/proc/{app.status.pid}/root")
        assert (root / "dev/shm/small").read_text() == "as it was"
        assert (root / "run/large").stat().st_size == 1 << 20
        assert mounts(app.status.pid) == before
    assert node.mounts("zeropod/tmpfs") == []


def mounts(pid: int) -> list[tuple[str, str, str]]:
    """Place, options and kind of the mounts of a process. runc takes the node's /dev/null to hide files in /proc."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return sorted((line[4], line[5], line[line.index("-") + 1]) for line in lines if line[3] != "/null")


def test_what_was_dumped_in_the_background_runs_in_the_foreground(stage: Stage) -> None:
    app = stage.task(NGINX, annotations=COLD)
    before = shares(app.status.pid)
    for _ in range(2):
        app.cold()
        with app.connect() as session:
            assert answers(session, NGINX)
        assert shares(app.awake().pid) == before


def shares(pid: int) -> tuple[str, int]:
    """A process's nice value, and its class and priority at the disk."""
    nice = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16]
    return nice, libc.syscall("ioprio_get", 1, pid)


def test_memory_moves_out_in_turn_and_standby_does_not_wait_for_that(stage: Stage) -> None:
    slots = AdmissionSlots()
    taken = []
    while slot := slots.try_acquire():
        taken.append(slot)
    app = stage.task(python(8000, 40), scaledown="200ms")
    for cycle in range(1, 3):
        pid = app.standby().pid
        time.sleep(0.5)
        assert resident(pid) > 40 << 20
        with app.connect() as session:
            assert session.ask("count") == f"{cycle} 1"
    pid = app.standby().pid
    taken.pop().release()
    node.until(lambda: resident(pid) < 10 << 20, "its memory is out")
    for slot in taken:
        slot.release()


def test_between_a_connection_and_the_thaw_there_are_few_system_calls(stage: Stage, tmp_path: Path) -> None:
    app = stage.app("cri", KINDS["python"], scaledown="1s")
    for _ in range(2):
        app.standby()
        with app.connect() as session:
            assert answers(session, app.kind)
    app.standby()
    time.sleep(0.5)
    with traced(shim(app), tmp_path / "calls") as calls:
        time.sleep(0.3)
        with app.connect() as session:
            assert answers(session, app.kind)
        app.awake()
    lines = [line for line in calls.read_text().splitlines() if " = " in line]
    thaw = next(number for number, line in enumerate(lines) if re.search(r'write\(.*"(THAWED|0)"', line))
    # From the last sleep on: what strace has seen before was a look after children, or nothing.
    slept = max(number for number, line in enumerate(lines[:thaw]) if is_long(line))
    assert thaw - slept <= CALLS, "\n".join(lines[slept : thaw + 1])


def is_long(line: str) -> bool:
    """Whether this call has waited for something (strace -T: how long it took, in angle brackets)."""
    took = re.search(r"<([0-9.]+)>$", line)
    return "epoll_wait" in line and took is not None and float(took[1]) > 0.1


def shim(app: App) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        sandbox = app.spec["annotations"]["io.kubernetes.cri.sandbox-id"]
        client.connect(paths.status_socket("k8s.io", sandbox))
        return int(struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


@contextmanager
def traced(pid: int, output: Path) -> Iterator[Path]:
    """strace(1) on a process, from its first line on."""
    strace = subprocess.Popen(["strace", "-T", "-o", str(output), "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    try:
        assert "attached" in strace.stderr.readline()
        yield output
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate(timeout=patient(30))
