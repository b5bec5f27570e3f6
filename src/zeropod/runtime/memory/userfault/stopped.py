"""Stops all threads of a process by ptrace.

Owns seizing them, waiting until they stop, and releasing them. `remote_calls` makes calls in one of them; `holding`
stops a whole container. The rules:

1. No instruction of the application runs between `seize` and `release`. A thread that is seized while its cgroup is
   frozen stops when it is thawed, before it runs an instruction; one that is released while its cgroup is frozen
   freezes. The caller owns the freezer.
2. The OS thread that seizes makes every other call. When it ends, the kernel detaches from everything that it still
   traces, which is the only way to release a thread that has not stopped. So run all of it in `own_thread`.

Traps:
- Every stop, also one for a signal or a system call, cancels a pending PTRACE_INTERRUPT: repeat that before resuming
  the thread, or it runs on.
- PTRACE_SEIZE of a thread that is both stopped by a signal and frozen (v1) blocks until it is thawed. Only its kernel
  function (wchan) tells such a thread from other frozen ones.
- Waiting for the end of a tracee takes its exit status away from a parent in the same process: wait for stops only.
- epoll_wait(2) and some others fail with EINTR because of the stop; those that wait for ever are restarted.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from zeropod.kernel import proc_stat, ptrace

STOP_WITHIN: Final = 2.0
"""Seconds within which all threads must stop. It takes some 100 µs; a thread that waits for a disk, or for a child to
exec (vfork), may never stop, and all others stand still meanwhile."""
LET_GO_WITHIN: Final = 0.5
"""Seconds to wait at the release for a thread that has not stopped yet; the end of our thread releases the rest."""

_SPINS: Final = 40
"""Checks of a tracee before sleeping in between: most calls take less time than a task switch and back."""
_PAUSE: Final = 0.00005

# Of field 9 of /proc/PID/stat. Source: include/linux/sched.h.
_EXITING: Final = 0x4
_KERNEL_THREAD: Final = 0x200000

T = TypeVar("T")


class Unsuitable(Exception):  # noqa: N818 - named for what was found
    """A process whose thread cannot be borrowed, with the reason. Its state is unchanged."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(f"process {pid} {reason}")
        self.pid = pid
        self.reason = reason


def own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a new OS thread; return its result, or raise its exception, after that thread has really ended.

    The kernel has then detached from everything that the thread traced.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    tid: list[int] = []

    def run() -> None:
        tid.append(threading.get_native_id())
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="injection", daemon=True)
    thread.start()
    thread.join()
    # join() returns a moment before the thread's end in the kernel, which is what detaches.
    while tid and os.path.exists(f"/proc/self/task/{tid[0]}"):
        time.sleep(_PAUSE)
    if failure:
        raise failure[0]
    return result[0]


class StoppedProcess:
    """One process whose threads are all stopped, until `release`."""

    def __init__(self, pid: int, *, even_stopped: bool = False) -> None:
        """Internal: use `seize` or `stop`."""
        self.pid = pid
        self.stops: dict[int, ptrace.Stop] = {}
        """The reason of each stopped thread's stop."""
        self.ended = False
        """Whether its first thread has ended, or the whole process is about to."""
        self._even_stopped = even_stopped
        self._tracer = threading.get_native_id()
        self._running: set[int] = set()
        """Threads that are seized and not stopped yet."""
        self._dead: set[int] = set()
        """Threads that have ended and are to be reaped."""
        self._released = False

    @classmethod
    def stop(
        cls,
        pid: int,
        *,
        deadline: float | None = None,
        even_stopped: bool = False,
        while_waiting: Callable[[], None] | None = None,
    ) -> "StoppedProcess":
        """Stop all threads of a process that is not frozen (v1), and return when they are.

        `deadline` is in seconds of time.monotonic(). `even_stopped` accepts a process stopped by a signal, which is in
        that stop again afterwards. Raises Unsuitable, OSError; then nothing is traced any more, except for a thread
        that could not be stopped, which stays traced until the calling OS thread ends (`own_thread`).
        """
        process = cls.seize(pid, even_stopped=even_stopped)
        try:
            process.wait_stopped(deadline, while_waiting)
        except BaseException:  # a cut, too: no thread stays stopped
            process.release()
            raise
        return process

    @classmethod
    def seize(cls, pid: int, *, even_stopped: bool = False) -> "StoppedProcess":
        """Make all threads of a process stop: now, or when it is thawed. Call `wait_stopped` or `release` next.

        Raises Unsuitable, OSError.
        """
        self = cls(pid, even_stopped=even_stopped)
        self._look(even_stopped)
        try:
            self._seize_new()
            if not self._running:
                raise Unsuitable(pid, "has ended")
        except BaseException:  # a cut, too: no thread stays stopped
            self.release(LET_GO_WITHIN if self._running else 0)
            raise
        return self

    def wait_stopped(self, deadline: float | None = None, while_waiting: Callable[[], None] | None = None) -> None:
        """Wait until all threads are stopped, including new ones. They must have been thawed (v1).

        `while_waiting` may raise in order to give up. Raises Unsuitable. Call `release` in any case.
        """
        self.check()
        until = time.monotonic() + STOP_WITHIN if deadline is None else deadline
        looks = 0
        while True:
            self._collect()
            if not self._running and not self._seize_new():
                break
            if time.monotonic() > until:
                self._unstoppable()
            if while_waiting is not None:
                while_waiting()
            pause(looks := looks + 1)
        self._check_borrowable()

    def release(self, patience: float = LET_GO_WITHIN) -> None:
        """Release all threads. They run on, or freeze if their cgroup is frozen.

        Idempotent, and never raises for a process that has ended. A thread that has not stopped within `patience`
        seconds is released by the end of the calling OS thread.
        """
        if self._released:
            return
        self._released = True
        until = time.monotonic() + patience
        looks = 0
        while True:
            self._let_go()
            self._reap()
            if (not self._running and not self._dead) or time.monotonic() > until:
                break
            pause(looks := looks + 1)
            self._collect()

    def check(self) -> None:
        """Raise RuntimeError after `release`, or in any thread but the one that has seized."""
        if self._released:
            raise RuntimeError(f"process {self.pid} has been released")
        if threading.get_native_id() != self._tracer:
            raise RuntimeError(f"process {self.pid} was seized by another thread")

    def _look(self, even_stopped: bool) -> None:
        """Raise Unsuitable for reasons that show without touching the process."""
        try:
            status = proc_stat.status(self.pid)
            flags = proc_stat.read(self.pid).flags
            threads = os.listdir(f"/proc/{self.pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            raise Unsuitable(self.pid, "has ended") from None
        if flags & _KERNEL_THREAD:
            raise Unsuitable(self.pid, "is a thread of the kernel")
        # Its first thread may have ended while others live on: those can be stopped, but not borrowed.
        if len(threads) == 1 and status["State"][0] in "ZX":
            raise Unsuitable(self.pid, "is a zombie")
        if len(threads) == 1 and flags & _EXITING:
            raise Unsuitable(self.pid, "is exiting")
        if status["TracerPid"] != "0":
            raise Unsuitable(self.pid, f"is traced by {status['TracerPid']}")
        if not even_stopped and status["State"][0] == "T":
            raise Unsuitable(self.pid, "is stopped by a signal")

    def _seize_new(self) -> bool:
        """Seize and interrupt threads that are not seized yet; return whether there were any."""
        found = False
        try:
            names = os.listdir(f"/proc/{self.pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            return False
        for tid in map(int, names):
            if tid in self._running or tid in self.stops:
                continue
            if proc_stat.wchan(self.pid, tid) == "do_signal_stop" and not self._even_stopped:
                raise Unsuitable(self.pid, "is stopped by a signal")
            try:
                ptrace.seize(tid)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                self._refused(tid, error)
                continue
            self._running.add(tid)
            found = True
            with suppress(ProcessLookupError):
                ptrace.interrupt(tid)
        return found

    def _refused(self, tid: int, error: OSError) -> None:
        """Raise Unsuitable with the reason why a thread cannot be seized, unless it has ended."""
        try:
            status = proc_stat.status(self.pid, tid)
        except (FileNotFoundError, ProcessLookupError):
            return
        if status["State"][0] in "ZX":
            return
        if status["TracerPid"] != "0":
            raise Unsuitable(self.pid, f"is traced by {status['TracerPid']}") from error
        raise Unsuitable(self.pid, f"cannot be traced: {error.strerror}") from error

    def _collect(self) -> None:
        """Record the threads that have stopped."""
        for tid in list(self._running):
            try:
                stop = ptrace.next_stop(tid)
                if stop is None:
                    continue
                if stop.trap:
                    self.stops[tid] = stop
                    self._running.discard(tid)
                    self._undo_interruption(tid)
                else:
                    # A signal was pending. The kernel sets up its handler's frame, and then the thread stops.
                    ptrace.interrupt(tid)
                    ptrace.resume(tid, stop.signal)
            except (ChildProcessError, ProcessLookupError):
                self.note_end(tid)

    def _undo_interruption(self, tid: int) -> None:
        with suppress(ptrace.OtherWidth):
            own = ptrace.registers(tid)
            changed = ptrace.without_spurious_eintr(own)
            if changed is not own:
                ptrace.set_registers(tid, changed)

    def _unstoppable(self) -> None:
        waits = ", ".join(f"{tid} in {proc_stat.wchan(self.pid, tid) or 'user mode'}" for tid in sorted(self._running))
        raise Unsuitable(self.pid, f"has threads that do not stop: {waits}" if waits else "starts threads all the time")

    def _check_borrowable(self) -> None:
        """Raise Unsuitable for reasons that show once all threads are stopped."""
        if self.pid not in self.stops:
            # Without it there is neither /proc/PID/mem nor pidfd_getfd(2).
            raise Unsuitable(self.pid, "has ended" if not self.stops else "has lost its first thread")
        if not self._even_stopped and any(stop.group for stop in self.stops.values()):
            raise Unsuitable(self.pid, "is stopped by a signal")
        try:
            ptrace.registers(self.pid)
            if ptrace.dispatches_syscalls(self.pid):
                raise Unsuitable(self.pid, "handles its system calls itself")
        except ptrace.OtherWidth:
            raise Unsuitable(self.pid, "is a 32-bit program") from None
        except ProcessLookupError:
            raise Unsuitable(self.pid, "has ended") from None

    def _let_go(self) -> None:
        for tid in list(self.stops):
            try:
                ptrace.detach(tid)
                del self.stops[tid]
            except ProcessLookupError:
                self.note_end(tid)

    def note_end(self, tid: int) -> None:
        """Record that a thread has ended, or that the process will end when it is released."""
        self.stops.pop(tid, None)
        self._running.discard(tid)
        self._dead.add(tid)
        if tid == self.pid:
            self.ended = True

    def _reap(self) -> None:
        """Reap ended threads: they, and their process, remain until their tracer has done that."""
        for tid in list(self._dead):
            with suppress(OSError, KeyError):
                # The exit status of our own child belongs to the task that waits for it.
                ours = tid == self.pid and proc_stat.status(tid)["PPid"] == str(os.getpid())
                if not ours and not ptrace.reap(tid):
                    continue
            self._dead.discard(tid)


def pause(looks: int) -> None:
    """Wait a moment before the next check of a tracee, after `looks` checks."""
    if looks < _SPINS:
        os.sched_yield()
    else:
        time.sleep(_PAUSE)
