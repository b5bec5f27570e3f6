"""Timeouts of frozen workers: real processes, stopped by SIGSTOP as the freezer stops them.

What a worker reports is on a pipe, so that the tests wait for that and never sleep.
"""

import ctypes
import mmap
import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import pending_timeouts
from zeropod.kernel.pending_timeouts import expire, expired, lengthen, lengthened

LONG = 30
"""Seconds that no test takes."""
PATIENCE = 10.0

pytestmark = pytest.mark.skipif(
    platform.machine() not in pending_timeouts._CALLS, reason="no system calls are known for this machine"
)

# Says READY, waits for LONG seconds in a system call, says that it goes on. The master waits in the same way.
PROCESSES = f"""
import ctypes, os, select, sys, threading, time
kind, workers = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None)
def wait():
    if kind == "ppoll":
        class Time(ctypes.Structure):
            _fields_ = [("seconds", ctypes.c_long), ("rest", ctypes.c_long)]
        left = Time({LONG}, 0)
        libc.syscall({73 if platform.machine() != "x86_64" else 271}, None, 0, ctypes.byref(left), None, 0)
    elif kind == "forever":
        select.select([stays], [], [])
    elif kind == "thread":
        thread = threading.Thread(target=select.select, args=([stays], [], [], {LONG}))
        thread.start()
        thread.join()
    elif kind == "poll":
        poll = select.poll()
        poll.register(stays)
        poll.poll({LONG * 1000})
    else:
        select.select([stays], [], [], {LONG})
stays, _ = os.pipe()
def say(words):
    os.write(1, words.encode() + b"\\n")
for number in range(workers):
    if not os.fork():
        say(f"{{os.getpid()}}")
        wait()
        say("went on")
        os._exit(0)
say(f"{{os.getpid()}}")
wait()
say("the master went on")
"""


class Server:
    """A master and its workers, all stopped while they wait."""

    def __init__(self, kind: str, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", PROCESSES, kind, str(workers)], stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdout
        self._said = self._process.stdout
        self.master = self._process.pid
        self.pids = [int(self._said.readline()) for _ in range(workers + 1)]
        self.workers = [pid for pid in self.pids if pid != self.master]
        for pid in self.pids:
            until_blocked(pid, threads=2 if kind == "thread" else 1)

    def stop(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in self.pids:
            until(lambda pid=pid: all(state(pid, task) == "T" for task in os.listdir(f"/proc/{pid}/task")))

    def go_on(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def says(self, timeout: float) -> str:
        ready, _, _ = select.select([self._said], [], [], timeout)
        return self._said.readline().decode().strip() if ready else ""

    def end(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._said.close()


def until(holds: object) -> None:
    """Look until it holds."""
    assert callable(holds)
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def state(pid: int, task: str) -> str:
    with open(f"/proc/{pid}/task/{task}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def until_blocked(pid: int, threads: int) -> None:
    def blocked() -> bool:
        tasks = os.listdir(f"/proc/{pid}/task")
        return len(tasks) == threads and all(state(pid, task) == "S" for task in tasks)

    until(blocked)


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stopped(owned: ExitStack, kind: str, workers: int = 2) -> Server:
    server = Server(kind, workers)
    owned.callback(server.end)
    server.stop()
    return server


@pytest.mark.parametrize("kind", ["select", "ppoll", "thread"])
def test_workers_report_at_once_after_a_long_sleep_and_the_master_waits_on(owned: ExitStack, kind: str) -> None:
    server = stopped(owned, kind)
    assert expire(server.pids, server.master) == 2
    server.go_on()
    assert [server.says(PATIENCE), server.says(PATIENCE)] == ["went on", "went on"]
    assert not server.says(0)


def test_a_master_waits_longer_where_little_is_left(owned: ExitStack) -> None:
    server = stopped(owned, "select")
    assert lengthen(server.pids, server.master, LONG / 2) == 0
    assert lengthen(server.pids, server.master, 2 * LONG) == 1
    assert expire(server.pids, server.master) == 2
    server.go_on()
    assert [server.says(PATIENCE), server.says(PATIENCE)] == ["went on", "went on"]
    until_blocked(server.master, threads=1)
    os.kill(server.master, signal.SIGSTOP)
    until(lambda: state(server.master, str(server.master)) == "T")
    assert LONG < left(server.master) < 2 * LONG


@pytest.mark.parametrize("kind", ["forever", "poll"])
def test_a_master_that_waits_in_another_way_is_left_alone(owned: ExitStack, kind: str) -> None:
    server = stopped(owned, kind)
    assert lengthen(server.pids, server.master, 2 * LONG) == 0


@pytest.mark.parametrize(
    ("time", "at_least", "new"),
    [
        ((0, 200_000), 0.5, (0, 500_000)),
        ((0, 0), 1.25, (1, 250_000)),
        ((0, 500_000), 0.5, None),
        ((3, 0), 0.5, None),
        ((-1, 0), 0.5, None),
        ((0, 1_000_000), 5.0, None),
    ],
)
def test_a_time_is_lengthened(time: tuple[int, int], at_least: float, new: tuple[int, int] | None) -> None:
    assert lengthened(*time, 1_000_000, at_least) == new


def left(pid: int) -> float:
    """What is left of the timeout of a stopped process."""
    (pending,) = pending_timeouts.find([0, pid], 0, masters=False)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(pending.address)
        seconds, rest = pending_timeouts._TIME.unpack(memory.read(pending_timeouts._TIME.size))
    return float(seconds + rest / pending.parts)


def test_a_timeout_expires_once(owned: ExitStack) -> None:
    server = stopped(owned, "select", workers=1)
    (worker,) = server.workers
    assert LONG - PATIENCE < left(worker) < LONG
    assert expire(server.pids, server.master) == 1
    assert left(worker) == 0
    assert expire(server.pids, server.master) == 0


@pytest.mark.parametrize("kind", ["forever", "poll"])
def test_waits_without_a_timeout_to_shorten_are_left_alone(owned: ExitStack, kind: str) -> None:
    server = stopped(owned, kind)
    assert expire(server.pids, server.master) == 0


def test_a_lone_process_is_left_alone(owned: ExitStack) -> None:
    server = stopped(owned, "select", workers=0)
    assert expire(server.pids, server.master) == 0


def test_a_master_below_the_init_process_is_none_of_the_workers(owned: ExitStack) -> None:
    server = stopped(owned, "select")
    assert expire([1, *server.pids], 1) == 2
    assert left(server.master) > 0


def test_processes_that_are_gone_are_left_out(owned: ExitStack) -> None:
    server = stopped(owned, "select")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert expire([gone.pid, *server.pids, 0], server.master) == 2


def test_a_thread_that_runs_is_left_alone() -> None:
    assert list(pending_timeouts.find([0, os.getpid()], 0, masters=False)) == []


def test_a_page_that_is_not_there_is_not_waited_for(owned: ExitStack) -> None:
    memory = owned.enter_context(mmap.mmap(-1, 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    del view
    across = pending_timeouts.Pending(os.getpid(), address + mmap.PAGESIZE - 8, 1000)
    memory[: mmap.PAGESIZE] = b"\1" * mmap.PAGESIZE
    assert not pending_timeouts._change(across, lambda seconds, rest: expired(seconds, rest, 1000))
    memory[mmap.PAGESIZE - 8 : mmap.PAGESIZE + 8] = pending_timeouts._TIME.pack(3, 500)
    assert pending_timeouts._change(across, lambda seconds, rest: lengthened(seconds, rest, 1000, 4.25))
    assert pending_timeouts._TIME.unpack_from(memory, mmap.PAGESIZE - 8) == (4, 250)


@pytest.mark.parametrize(
    ("seconds", "rest", "new"),
    [
        *((3, 0, (0, 0)), (0, 1, (0, 0)), (10**9, 999_999, (0, 0))),
        *((0, 0, None), (-1, 0, None), (1, 1_000_000, None), (1, -1, None)),
    ],
)
def test_a_time_expires_unless_it_is_over_or_none(seconds: int, rest: int, new: tuple[int, int] | None) -> None:
    assert expired(seconds, rest, 1_000_000) == new


@given(st.binary(max_size=200))
def test_any_line_is_read(line: bytes) -> None:
    with suppress(ValueError):
        pending_timeouts._blocked(line, pending_timeouts._CALLS["x86_64"])


@pytest.mark.parametrize(
    "line",
    [
        b"running\n",
        b"-1 0x7ffd00000000 0x7f0000000000\n",
        b"23 0x1 0x2 0x3 0x0 0x0 0x0 0x7ffd00000000 0x7f0000000000\n",
        b"23 0x1 0x2 0x3 0x0 0xffff0000 0x0 0xfffe0000 0xf7000000\n",
        b"7 0x1 0x2 0x3 0x0 0x7ffd00000010 0x0 0x7ffd00000000 0x7f0000000000\n",
        b"",
    ],
)
def test_a_thread_that_is_not_blocked_with_such_a_timeout_is_none(line: bytes) -> None:
    assert pending_timeouts._blocked(line, pending_timeouts._CALLS["x86_64"]) is None
