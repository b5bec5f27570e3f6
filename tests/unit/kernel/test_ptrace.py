"""ptrace(2)'s tables, and its calls on a real thread; what `injection` builds of them is tested there."""

import errno
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from zeropod.kernel import ptrace
from zeropod.kernel.ptrace import Stop

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64's registers")


def negative(number: int) -> int:
    return (1 << 64) - number


def wait(tid: int) -> Stop:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        stop = ptrace.next_stop(tid)
        if stop is not None:
            return stop
        os.sched_yield()
    raise TimeoutError


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        until = time.monotonic() + 5
        while time.monotonic() < until and "nanosleep" not in Path(f"/proc/{process.pid}/wchan").read_text():
            os.sched_yield()
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def stopped(sleeper: int) -> Iterator[int]:
    ptrace.seize(sleeper)
    ptrace.interrupt(sleeper)
    assert wait(sleeper).trap
    yield sleeper
    with suppress(ProcessLookupError):
        ptrace.detach(sleeper)


def test_both_architectures_are_described_alike() -> None:
    tables = ptrace._ARCHITECTURES
    assert {name: 8 * len(table.registers) for name, table in tables.items()} == {"x86_64": 216, "aarch64": 272}
    assert len({frozenset(table.calls) for table in tables.values()}) == 1
    for table in tables.values():
        used = {
            *table.arguments,
            table.result,
            table.counter,
            table.number,
            *(item[0] for item in table.eintr.values() if item),
        }
        assert used <= set(table.registers)
        assert len(table.arguments) == 6


def test_an_unknown_architecture_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="vax"):
        ptrace.architecture.__wrapped__()


def test_what_a_stop_is_for() -> None:
    interrupted = Stop(signal.SIGTRAP, 128)
    assert (interrupted.trap, interrupted.group, interrupted.syscall) == (True, False, False)
    held = Stop(signal.SIGSTOP, 128)
    assert (held.trap, held.group, held.syscall) == (True, True, False)
    delivered = Stop(signal.SIGSTOP, 0)
    assert (delivered.trap, delivered.group, delivered.syscall) == (False, False, False)
    call = Stop(signal.SIGTRAP | 0x80, 0)
    assert (call.trap, call.group, call.syscall) == (False, False, True)


@x86
@pytest.mark.parametrize(
    ("call", "timeout", "again"),
    [
        (232, -1, True),  # epoll_wait for ever
        (232, 0xFFFFFFFF, True),  # as an int, too
        (232, 50, False),
        (232, 0, False),
        (281, -1, True),  # epoll_pwait
        (281, 0, False),
        (441, 0, True),  # epoll_pwait2 takes a pointer
        (441, 0x7FFF0000, False),
        (220, 0, True),  # semtimedop, too
        (220, 0x7FFFFFFFFFFF, False),
        (65, 77, True),  # semop waits for ever
        (0, 0, False),  # read
    ],
)
def test_a_call_is_made_again_only_if_it_waits_for_ever(call: int, timeout: int, again: bool) -> None:
    own = dict.fromkeys(ptrace.architecture().registers, 0)
    own |= {"orig_rax": call, "rax": negative(errno.EINTR), "r10": timeout & ptrace.EVERY_SIGNAL}
    changed = ptrace.without_spurious_eintr(own)
    assert changed == (own | {"rax": negative(514)} if again else own)
    for result in (0, 1, negative(errno.EAGAIN)):
        assert ptrace.without_spurious_eintr(own | {"rax": result})["rax"] == result


@x86
def test_a_thread_in_user_mode_is_in_no_call() -> None:
    own = dict.fromkeys(ptrace.architecture().registers, 0)
    assert ptrace.in_syscall(own)
    assert not ptrace.in_syscall(own | {"orig_rax": negative(1)})


@x86
def test_registers_come_back_as_they_were(stopped: int) -> None:
    own = ptrace.registers(stopped)
    assert tuple(own) == ptrace.architecture().registers
    assert ptrace.in_syscall(own)
    assert own["rax"] == negative(516)
    ptrace.set_registers(stopped, own | {"r15": 0xDEADBEEF})
    assert ptrace.registers(stopped) == own | {"r15": 0xDEADBEEF}
    ptrace.set_in_no_call(stopped, own)
    assert not ptrace.in_syscall(ptrace.registers(stopped))
    ptrace.set_registers(stopped, own)
    assert ptrace.registers(stopped) == own


def test_the_signal_mask_comes_back_as_it_was(stopped: int) -> None:
    own = ptrace.signal_mask(stopped)
    ptrace.set_signal_mask(stopped, ptrace.EVERY_SIGNAL)
    unblockable = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1
    assert ptrace.signal_mask(stopped) == ptrace.EVERY_SIGNAL & ~unblockable
    ptrace.set_signal_mask(stopped, own)
    assert ptrace.signal_mask(stopped) == own


def test_where_the_kernel_looks_is_told(stopped: int) -> None:
    area = ptrace.rseq(stopped)
    if area is None:
        pytest.skip("this C library, or this kernel, has no restartable sequences")
    assert area.size >= 32
    assert area.address % 32 == 0
    assert area.signature == (0x53053053 if platform.machine() == "x86_64" else 0xD428BC00)
    assert not ptrace.dispatches_syscalls(stopped)


@x86
def test_a_system_call_is_seen_at_both_ends(stopped: int) -> None:
    own = ptrace.registers(stopped)
    ptrace.set_options(stopped, ptrace.SYSGOOD | ptrace.EXITKILL)
    at = own["rip"] - 2
    ptrace.prepare_call(stopped, own, at, "close", (12345,))
    for result in (negative(errno.ENOSYS), negative(errno.EBADF)):
        ptrace.resume_to_syscall(stopped)
        assert wait(stopped).syscall
        assert ptrace.registers(stopped)["rax"] == result
    # What says "interrupted" goes back at a trap.
    ptrace.interrupt(stopped)
    ptrace.set_in_no_call(stopped, own)
    ptrace.resume(stopped)
    assert wait(stopped).trap
    ptrace.set_registers(stopped, own)
    ptrace.set_options(stopped, 0)


def test_a_tracee_has_one_tracer_and_must_be_stopped(sleeper: int) -> None:
    with pytest.raises(ProcessLookupError):
        ptrace.detach(sleeper)
    ptrace.seize(sleeper)
    with pytest.raises(PermissionError):
        ptrace.seize(sleeper)
    with pytest.raises(ProcessLookupError):
        ptrace.registers(sleeper)
    assert ptrace.next_stop(sleeper) is None
    ptrace.interrupt(sleeper)
    assert wait(sleeper).trap
    ptrace.detach(sleeper)


def test_the_end_of_a_tracee_is_left_to_its_parent() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    ptrace.seize(process.pid)
    process.kill()
    with pytest.raises(ChildProcessError):
        wait(process.pid)
    assert process.wait() == -signal.SIGKILL
