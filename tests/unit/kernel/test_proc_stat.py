"""What the kernel says of a process, whatever that calls itself."""

import os
import resource
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import pidfd, proc_stat

TEXT = "41 (a) (b)) D 1 41 41 0 -1 4194304 " + " ".join(map(str, range(10, 53))) + "\n"


def test_it_is_read_whatever_the_name() -> None:
    stat = proc_stat.parse(TEXT)
    assert (stat.name, stat.state, stat.parent, stat.flags) == ("a) (b)", "D", 1, 4194304)
    assert (stat.start, stat.number(52)) == (22, 52)


def test_a_process_and_a_thread_are_read() -> None:
    found = []

    def named() -> None:
        pidfd.set_name("a) R (b")
        found.append(proc_stat.read(os.getpid(), threading.get_native_id()))

    thread = threading.Thread(target=named)
    thread.start()
    thread.join()
    assert (found[0].name, found[0].state) == ("a) R (b", "R")
    own = proc_stat.read("self")
    assert own == proc_stat.read(os.getpid()) or own.start == proc_stat.read(os.getpid()).start
    assert own.parent == os.getppid()
    with pytest.raises(FileNotFoundError):
        proc_stat.read(1 << 30)


@given(st.text())
def test_another_text_is_refused_by_a_value_error(text: str) -> None:
    with suppress(ValueError):
        proc_stat.parse(text)


def test_a_process_that_waits_has_a_status_a_place_and_a_limit() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            pid, until = process.pid, time.monotonic() + 10
            while "nanosleep" not in proc_stat.wchan(pid, pid) and time.monotonic() < until:
                os.sched_yield()
            assert proc_stat.status(pid)["PPid"] == proc_stat.status(pid, pid)["PPid"] == str(os.getpid())
            assert "nanosleep" in proc_stat.wchan(pid, pid)
            assert proc_stat.descriptor_limit(pid) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        finally:
            process.kill()
    assert proc_stat.wchan(pid, pid) == ""
    assert proc_stat.descriptor_limit(pid) == 0


def test_a_thread_that_runs_waits_nowhere() -> None:
    assert proc_stat.wchan(os.getpid(), threading.get_native_id()) == ""
