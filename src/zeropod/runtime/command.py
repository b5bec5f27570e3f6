"""Runs one program to its end, without threads and without taking the exit status of other children.

trio's own ``run_process`` forks in a worker thread and reaps elsewhere. A shim is a child subreaper: containers, runc
and criu are all its children, and each must be reaped by exactly the task that waits for it. So each child is waited
for through its pidfd, and its pid is in `RUNNING` while it lives, which the reaper of orphans skips.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import trio

from zeropod.kernel import pidfd
from zeropod.runtime.cgroups.tasks import tasks_of

RUNNING: set[int] = set()
"""Process ids of the commands that are running now."""

MISSED = 1.0
"""Seconds between checks of the children of a command that needs them; each takes some 0.1 ms."""

_REAP_POLL = 0.005
"""Seconds between checks of a killed process without a pidfd."""

KILLED = 128
"""Exit statuses above this are 128 plus the number of the signal that killed the program."""

LET_GO = 5.0
"""Seconds within which the children of a killed program must be gone; they take milliseconds."""

FileDescriptor = int | IO[bytes]

Started = Callable[[int], None]
"""Is called with the pid of a program as soon as it has started."""


def nothing(_: int) -> None:
    """Ignore the pid."""


@dataclass(frozen=True, slots=True)
class Completed:
    status: int
    """Exit code, or 128 plus the signal's number."""
    output: bytes
    """What it wrote to its standard output, if that was captured."""


def spawn(
    argv: Sequence[str],
    *,
    stdin: FileDescriptor | None = None,
    stdout: FileDescriptor | None = None,
    stderr: FileDescriptor | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program; streams that are not given are /dev/null. Blocks for vfork and exec, about a millisecond.

    Raises OSError when the program cannot be executed.
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        cwd=cwd,
        env=env,
        process_group=0,
    )


async def wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a spawned program and return its status; when cancelled, kill and reap it.

    Its children are killed with it, and also when another process has killed the program: a CRIU that outlived the runc
    which started it would stop, and much later kill, a container that runs again. Raises OSError if no pidfd can be
    opened; the program is killed then.
    """
    RUNNING.add(process.pid)
    handle = None
    try:
        handle = os.pidfd_open(process.pid)
        status = await pidfd.wait_exit(handle)
    except trio.Cancelled:
        # Not Popen.kill(): it reaps a process that has ended meanwhile, whose status is then lost. The pid cannot have
        # been reused, since only this task reaps it.
        await _end(process, handle)
        raise
    except OSError:
        if handle is None:
            await _end(process, handle)
        raise
    finally:
        if handle is not None:
            os.close(handle)
        RUNNING.discard(process.pid)
    process.returncode = status.code
    if status.code > KILLED:
        await _end_children(process.pid)
    return status.code


async def _end(process: "subprocess.Popen[bytes]", handle: int | None) -> None:
    """Kill a program with its children and reap it, through its pidfd if there is one."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True):
        if handle is not None:
            process.returncode = (await pidfd.wait_exit(handle)).code
        else:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG) is None:  # noqa: ASYNC110, ASYNC222 - WNOHANG
                await trio.sleep(_REAP_POLL)
            process.returncode = KILLED + signal.SIGKILL
        await _end_children(process.pid)


async def _end_children(group: int) -> None:
    """Kill the remaining children of a program that was killed, and return when they have ended.

    Where this process is the subreaper, they are its own children by then.
    """
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with trio.CancelScope(shield=True), trio.move_on_after(LET_GO):
        for pid in [pid for pid in pidfd.children("self") if _group_of(pid) == group]:
            with suppress(OSError), pidfd.opened(pid) as handle:  # it is gone, or reaped elsewhere
                await pidfd.wait_exit(handle)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


async def run(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes | None = None,
    capture: bool = False,
    stdin: FileDescriptor | None = None,
    stdout: FileDescriptor | None = None,
    stderr: FileDescriptor | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    needs_children: bool = False,
    started: Started = nothing,
    oom_score_adj: int | None = None,
) -> Completed:
    """Run a program to its end, for at most `timeout` seconds.

    `input` is fed through an unlinked file, not a pipe, which would have to be written to while it runs. With
    `needs_children` the program is also killed when it does not notice the death of a child. `started` is called with
    its pid, which is also its process group; if it raises, the program is killed. Its children inherit `oom_score_adj`.
    Raises TimeoutError after killing it, OSError when it cannot be executed.
    """
    captured = os.memfd_create("output") if capture else None
    fed = os.memfd_create("input") if input is not None else None
    try:
        if fed is not None and input is not None:
            os.write(fed, input)
            os.lseek(fed, 0, os.SEEK_SET)
        process = spawn(
            argv,
            stdin=fed if fed is not None else stdin,
            stdout=captured if captured is not None else stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
        )
        try:
            started(process.pid)
        except BaseException:
            with trio.CancelScope() as scope:
                scope.cancel()
                await wait(process)  # which kills it
            raise
        if oom_score_adj is not None:
            _score(process.pid, oom_score_adj)
        status = None
        with trio.move_on_after(timeout) as deadline:
            status = await (_wait_with_children(process) if needs_children else wait(process))
        if status is None:
            why = f"did not end within {timeout:g} s" if deadline.cancelled_caught else "missed the death of its child"
            raise TimeoutError(f"{' '.join(argv[:2])} {why} and was killed")
        output = b"" if captured is None else os.pread(captured, os.fstat(captured).st_size, 0)
        return Completed(status, output)
    finally:
        for descriptor in (captured, fed):
            if descriptor is not None:
                os.close(descriptor)


def _score(pid: int, oom_score_adj: int) -> None:
    with suppress(OSError):  # it has ended, or ours is higher and lowering it is not permitted
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(oom_score_adj))


async def _wait_with_children(process: "subprocess.Popen[bytes]") -> int | None:
    """Return its status; None if it was killed because it left a dead child unreaped at two checks in a row.

    A CRIU that is killed may leave a child that holds the socket on which runc waits for CRIU's answer.
    """
    status = None

    async def waited() -> None:
        nonlocal status
        status = await wait(process)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waited)
        before: set[tuple[int, int]] = set()
        while True:
            await trio.sleep(MISSED)
            dead = set(pidfd.dead_children(process.pid))
            # On a busy node the program may not have been scheduled since.
            if dead & before and all(task.state == "S" for task in tasks_of([process.pid])):
                nursery.cancel_scope.cancel()
            before = dead
    return status
