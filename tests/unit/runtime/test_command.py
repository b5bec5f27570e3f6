"""Programs that are run to their end: real ones, of /bin/sh."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from zeropod.kernel import pidfd
from zeropod.runtime import command
from zeropod.runtime.command import RUNNING, Completed, run, spawn, wait


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def has_ended(pid: int) -> bool:
    """Whether a process is gone, reaped and all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_the_output_and_the_status_are_returned() -> None:
    assert await run(sh("echo out; echo err >&2; exit 3"), timeout=10, capture=True) == Completed(3, b"out\n")


async def test_output_that_nobody_wants_is_none() -> None:
    assert await run(sh("echo out"), timeout=10) == Completed(0, b"")


async def test_a_program_that_a_signal_ends_has_its_number_and_128() -> None:
    assert (await run(sh("kill -TERM $$"), timeout=10)).status == 128 + signal.SIGTERM


async def test_input_of_any_size_is_fed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    assert (await run(["/bin/cat"], timeout=10, input=data, capture=True)).output == data


async def test_its_children_are_as_likely_to_be_killed_for_memory_as_it_is_told() -> None:
    script = sh("read started; cat /proc/self/oom_score_adj")
    reader, writer = os.pipe()

    async def start() -> None:
        await trio.sleep(0.05)
        os.write(writer, b"\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        done = await run(script, timeout=10, stdin=reader, capture=True, oom_score_adj=987)
    os.close(reader)
    os.close(writer)
    assert done.output == b"987\n"


async def test_empty_input_is_an_end_of_file() -> None:
    assert await run(["/bin/cat"], timeout=10, input=b"", capture=True) == Completed(0, b"")


async def test_without_input_it_reads_nothing() -> None:
    assert (await run(sh("readlink /proc/self/fd/0"), timeout=10, capture=True)).output == b"/dev/null\n"


async def test_given_streams_are_the_programs_own(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    err = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT)
    await run(sh("echo out; echo err >&2"), timeout=10, stdout=writing, stderr=err)
    os.close(err)
    os.close(writing)
    assert os.read(reading, 100) == b"out\n"
    os.close(reading)
    assert (tmp_path / "err").read_bytes() == b"err\n"


async def test_the_place_and_the_environment_are_as_told(tmp_path: Path) -> None:
    done = await run(sh('pwd; echo "$COLOUR"'), timeout=10, capture=True, cwd=str(tmp_path), env={"COLOUR": "blue"})
    assert done.output.decode().split() == [str(tmp_path), "blue"]


async def test_a_program_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        await run(["/nonexistent/runc"], timeout=10)


async def test_one_that_takes_too_long_is_killed_and_reaped(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"/bin/sh -c did not end within 0\.05 s and was killed"):
        await run(sh(f"echo $$ >{tmp_path}/pid; exec sleep 1000"), timeout=0.05)
    assert time.monotonic() - began < 10
    assert has_ended(int((tmp_path / "pid").read_text()))
    assert not RUNNING


async def test_its_children_are_killed_with_it(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    process = spawn(["/bin/sh", "-c", f"(echo up; exec sleep 1000) >{fifo} & wait"])
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, process)
            await trio.lowlevel.wait_readable(reading)
            assert os.read(reading, 10) == b"up\n"
            nursery.cancel_scope.cancel()
        await trio.lowlevel.wait_readable(reading)
        assert os.read(reading, 10) == b""  # the last writer is gone, hence the child
    os.close(reading)


async def test_what_one_that_others_have_killed_has_started_is_gone_when_its_status_is_there(tmp_path: Path) -> None:
    pidfd.set_subreaper()
    try:
        script = f"sleep 1000 & echo $! >{tmp_path}/child; kill -KILL $$"
        with trio.fail_after(10):
            assert (await run(["/bin/sh", "-c", script], timeout=10)).status == 128 + signal.SIGKILL
        assert has_ended(int((tmp_path / "child").read_text()))
    finally:
        pidfd.set_subreaper(wanted=False)


async def test_what_one_that_has_ended_by_itself_has_started_lives_on(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/child; exit 3"
    assert (await run(["/bin/sh", "-c", script], timeout=10)).status == 3
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


async def test_one_that_is_no_longer_wanted_is_killed_and_reaped() -> None:
    process = spawn(["/bin/sleep", "1000"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, process)
        await trio.testing.wait_all_tasks_blocked()
        assert process.pid in RUNNING
        nursery.cancel_scope.cancel()
    assert process.returncode == 128 + signal.SIGKILL
    assert has_ended(process.pid)
    assert not RUNNING


async def test_one_that_ends_just_before_it_is_given_up_is_reaped_by_the_same_task() -> None:
    process = spawn(sh("exit 3"))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - ends at once
    with trio.CancelScope() as scope:
        scope.cancel()
        await wait(process)
    assert process.returncode == 3
    assert not RUNNING


async def test_each_of_many_gets_its_own_status() -> None:
    statuses: dict[int, int] = {}

    async def one(number: int) -> None:
        statuses[number] = (await run(sh(f"exit {number}"), timeout=10)).status

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert statuses == {number: number for number in range(20)}


async def test_no_descriptor_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    await run(sh("cat"), timeout=10, input=b"x", capture=True)
    with pytest.raises(TimeoutError):
        await run(["/bin/sleep", "1000"], timeout=0.01, input=b"x", capture=True)
    with pytest.raises(FileNotFoundError):
        await run(["/nonexistent"], timeout=1, input=b"x", capture=True)
    assert os.listdir("/proc/self/fd") == before


def test_nothing_is_running_between_the_tests() -> None:
    assert set() == command.RUNNING


async def test_one_that_misses_the_death_of_a_child_it_needs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MISSED", 0.02)
    script = "import os, time; os.fork() or os._exit(0); time.sleep(1000)"
    with trio.fail_after(10), pytest.raises(TimeoutError, match="missed the death of its child and was killed"):
        await command.run([sys.executable, "-c", script], timeout=1000, needs_children=True)


async def test_one_that_needs_its_children_ends_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MISSED", 0.001)
    done = await command.run(["/bin/sh", "-c", "/bin/true; exit 3"], timeout=10, needs_children=True)
    assert done.status == 3


async def test_one_that_has_not_had_the_time_to_look_at_its_children_is_given_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "MISSED", 0.01)
    busy = "end = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass"
    script = f"import os, time\nos.fork() or os._exit(0)\n{busy}\nos.wait()\nos._exit(3)"
    done = await command.run([sys.executable, "-c", script], timeout=10, needs_children=True)
    assert done.status == 3


async def test_one_that_cannot_be_waited_for_is_ended_and_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    started: list[int] = []
    try:
        with trio.fail_after(10), pytest.raises(OSError, match="too many open files"):
            await run(["/bin/sleep", "1000"], timeout=1000, started=started.append)
        assert has_ended(started[0])
        assert set() == command.RUNNING
    finally:
        if not has_ended(started[0]):
            os.kill(started[0], signal.SIGKILL)
            os.waitpid(started[0], 0)  # noqa: ASYNC222 - it was killed
        RUNNING.clear()
