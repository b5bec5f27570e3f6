"""Waiting for children: whose exit it was, with which code, and nobody else's status taken."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from zeropod.kernel import pidfd


@contextmanager
def child(code: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Python child with its pidfd, gone at the end whatever happened."""
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE) as process:
        handle = os.pidfd_open(process.pid)
        try:
            yield process, handle
        finally:
            os.close(handle)
            process.kill()


async def exit_of(code: str) -> int:
    with child(code) as (process, handle):
        with trio.fail_after(10):
            status = await pidfd.wait_exit(handle)
        assert status.pid == process.pid
        return status.code


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_an_exit_code_is_reported_as_it_is(code: int) -> None:
    assert await exit_of(f"import os; os._exit({code})") == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_signal_is_reported_as_128_more(number: signal.Signals) -> None:
    assert await exit_of(f"import os; os.kill(os.getpid(), {number.value})") == 128 + number


async def test_another_childs_status_is_left_alone() -> None:
    with child("input()") as (slow, slow_handle), child("import os; os._exit(3)") as (quick, _):
        os.waitid(os.P_PID, quick.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it ends by itself
        with trio.move_on_after(0.01):
            await pidfd.wait_exit(slow_handle)
        assert quick.wait() == 3
        assert slow.poll() is None


async def test_an_exit_somebody_else_reaped_is_an_error() -> None:
    with child("") as (process, handle):
        process.wait()
        with pytest.raises(ChildProcessError):
            await pidfd.wait_exit(handle)


def test_an_orphan_is_reaped_at_the_second_call_and_a_known_child_never() -> None:
    with child("") as (known, _), child("") as (orphan, _):
        for process in (known, orphan):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert pidfd.reap_orphans({known.pid}) == []
        assert pidfd.reap_orphans({known.pid}) == [orphan.pid]
        assert pidfd.reap_orphans({known.pid}) == []
        assert known.wait() == 0


def test_a_descriptor_of_another_process_is_duplicated() -> None:
    with child("input()") as (process, handle):
        assert process.stdin is not None
        copy = pidfd.getfd(handle, 0)
        try:
            process.stdin.write(b"through the pipe")
            process.stdin.flush()
            assert os.read(copy, 100) == b"through the pipe"
        finally:
            os.close(copy)


def test_a_descriptor_that_is_not_there_is_an_error() -> None:
    with child("input()") as (_, handle), pytest.raises(OSError, match="pidfd_getfd: Bad file descriptor"):
        pidfd.getfd(handle, 999)


def test_a_process_that_is_not_there_is_an_error() -> None:
    with child("") as (process, _):
        process.wait()
        with pytest.raises(ProcessLookupError):
            os.pidfd_open(process.pid)
